"""Where the servers and the generator run.

Namespaces: each server in a network namespace of its own, joined to the generator's by a veth
pair, so that no server shares a port range, a socket table or a loopback device with another one,
and each may use its default ports. Both ends of a veth run on this machine's CPUs: what one end
sends, the kernel carries to the other end's socket in softirq, partly within the sender's system
call. That is the same for all servers, and it is why only ratios within one report mean something.
Needs root.

Loopback: all on 127.0.0.0/8, without privileges; ranges of ports are kept apart instead.
"""
import contextlib
import os
import pathlib
import signal
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "support"))
import network  # noqa: E402

CLIENT_ADDRESSES = 60  # more than a cell has rounds: coturn remembers a released client for a while


class Loopback:
    name = "loopback"
    note = "All servers and the generator on the loopback interface of one network namespace."
    peers = "127.0.0.0/8"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def join(self, server):
        """Prepares the place of one server; its address."""
        return "127.0.0.1"

    def port(self, server):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def relay_ports(self, index):
        """Ranges apart, all below or above the kernel's own ephemeral ones where there is room."""
        return [(21384, 37767), (49152, 65535), (10000, 20000)][index % 3]

    def server_prefix(self, server):
        return []

    def client_prefix(self):
        return []

    def client_address(self, server, number):
        return f"127.0.0.{2 + number % CLIENT_ADDRESSES}"

    @contextlib.contextmanager
    def inside_client(self):
        yield


class Namespaces:
    name = "namespaces"
    note = ("Each server in a network namespace of its own, joined to the generator's by a veth "
            "pair; all on the CPUs of this machine.")
    peers = "10.78.0.0/16"

    def __init__(self):
        self.stem = f"cvb{os.getpid()}"
        self.client = f"{self.stem}-load"
        self.made = []
        self.nets = {}

    def __enter__(self):
        try:
            self.make(self.client)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in reversed(self.made):
            with contextlib.suppress(RuntimeError):
                network.command("ip", "netns", "delete", name)
        self.made = []

    def make(self, name):
        network.command("ip", "netns", "add", name)
        self.made.append(name)
        network.command("ip", "-n", name, "link", "set", "lo", "up")

    def space(self, server):
        return f"{self.stem}-{server.replace(' ', '-')}"

    def join(self, server):
        if server not in self.nets:
            net = self.nets[server] = len(self.nets) + 1
            space = self.space(server)
            self.make(space)
            network.command("ip", "-n", self.client, "link", "add", f"to{net}", "type", "veth",
                            "peer", "name", "up0", "netns", space)
            ends = ((self.client, f"to{net}", [1, *range(10, 10 + CLIENT_ADDRESSES)]),
                    (space, "up0", [2]))
            for where, link, hosts in ends:
                for host in hosts:
                    network.command("ip", "-n", where, "addr", "add", f"10.78.{net}.{host}/24",
                                    "dev", link)
                network.command("ip", "-n", where, "link", "set", link, "up")
        return f"10.78.{self.nets[server]}.2"

    def port(self, server):
        return 3478

    def relay_ports(self, index):
        return 49152, 65535

    def server_prefix(self, server):
        return network.Network.exec(self.space(server))

    def client_prefix(self):
        return network.Network.exec(self.client)

    def client_address(self, server, number):
        return f"10.78.{self.nets[server]}.{10 + number % CLIENT_ADDRESSES}"

    @contextlib.contextmanager
    def inside_client(self):
        with network.inside(self.client):
            yield


def end_by_interrupt(*_):
    raise KeyboardInterrupt


def choose(wanted):
    """`auto`: namespaces where they can be made. From here on SIGTERM and SIGINT both end the
    program by KeyboardInterrupt, also where a shell has had SIGINT ignored, so that all is put
    back."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_by_interrupt)
    if wanted == "loopback" or (wanted == "auto" and os.geteuid() != 0):
        return Loopback()
    return Namespaces()
