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
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "support"))
import network  # noqa: E402

HUGE_PAGES = 300  # free, for two processes of 256 MiB
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


class Wire:
    """What joins a server on a port of its own with the generator on another: no kernel addresses,
    the tool is all hosts. Both are told by EAL's arguments where their end is. The first CPU is the
    server's, the second the generator's."""

    name = ""
    server_address = "10.79.0.1"
    network = 16
    tool_address = "10.79.0.2"
    clients = "10.79.16.0-10.79.31.255"
    peers = "10.79.32.0-10.79.32.255"
    forged = "10.79.128.0/17"
    allowed = "10.79.0.0/16"
    queues = 1
    swap = "5tswap"  # testpmd's forwarding mode

    def __init__(self):
        self.cpus = sorted(os.sched_getaffinity(0))[:2]
        self.folder = None

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="compare-port-")
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def eal(self, role):
        """Memory without hugepages unless HUGE_PAGES are free: both ends alike."""
        free = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
        huge = free.exists() and int(free.read_text()) >= HUGE_PAGES
        memory = ["--in-memory"] if huge else ["--no-huge", "-m", "256"]
        return [*memory, "--no-pci", "--no-telemetry",
                f"--file-prefix=compare{os.getpid()}{role}", *self.devices(role)]

    def devices(self, role):
        raise NotImplementedError

    def clear(self):
        """Puts away what a server that was ended by a signal has left."""

    def prefix(self, role):
        """Commands before the server's or the tool's own."""
        cpu = self.cpus[0 if role == "server" else -1]
        return ["taskset", "-c", str(cpu)]

    def tool_options(self):
        return ["--driver", "dpdk", "--eal", " ".join(self.eal("client")), "--port-address",
                f"{self.tool_address}/{self.network}", "--local", self.clients]


class Memif(Wire):
    """Shared memory between two processes. The server is memif's server too: a client does not
    always survive the end of its server."""

    name = "memif"

    def __init__(self, queues=1):
        super().__init__()
        self.queues = queues

    def devices(self, role):
        return [f"--vdev=net_memif0,role={role},socket={self.folder}/memif.sock,"
                "socket-abstract=no,bsize=2048,rsize=11"]

    def clear(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.folder}/memif.sock")


class Xdp(Wire):
    """A veth pair between two namespaces, an AF_XDP socket at each end (native mode, copied by the
    kernel). Needs root."""

    name = "AF_XDP on veth"
    swap = "macswap"

    def __init__(self):
        super().__init__()
        self.spaces = {role: f"cvx{os.getpid()}-{role}" for role in ("server", "client")}

    def __enter__(self):
        super().__enter__()
        try:
            for space in self.spaces.values():
                network.command("ip", "netns", "add", space)
                network.command("ip", "netns", "exec", space, "sysctl", "-qw",
                                "net.ipv6.conf.default.disable_ipv6=1")
            network.command("ip", "-n", self.spaces["client"], "link", "add", "x0", "type", "veth",
                            "peer", "name", "x0", "netns", self.spaces["server"])
            for space in self.spaces.values():
                network.command("ip", "-n", space, "link", "set", "x0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for space in self.spaces.values():
            with contextlib.suppress(RuntimeError):
                network.command("ip", "netns", "delete", space)
        super().__exit__()

    def devices(self, role):
        return ["--vdev=net_af_xdp0,iface=x0"]

    def clear(self):
        # Those that have given up their rights leave their program attached.
        for space in self.spaces.values():
            subprocess.run(["ip", "-n", space, "link", "set", "x0", "xdp", "off"], check=False,
                           stderr=subprocess.DEVNULL)

    def prefix(self, role):
        return network.Network.exec(self.spaces[role]) + super().prefix(role)


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
