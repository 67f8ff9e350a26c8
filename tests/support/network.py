"""A network in a box: a client behind a NAT, the relay, and a peer, each in a network namespace of
its own, joined by veth pairs, with IPv4 and IPv6. Needs root. Everything made here is removed
again.

client 10.77.1.2 -- 10.77.1.1 nat 10.77.2.1 -- 10.77.2.2 relay 10.77.3.1 -- 10.77.3.2 peer fd77:1::2
fd77:1::1 fd77:2::1 fd77:2::2 fd77:3::1 fd77:3::2

The NAT masquerades what comes from the client, so the relay sees 10.77.2.1 and fd77:2::1."""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import socket
import struct
import subprocess

from relay import need

CLIENT = {4: "10.77.1.2", 6: "fd77:1::2"}
NAT_OUTSIDE = {4: "10.77.2.1", 6: "fd77:2::1"}
RELAY_NEAR_CLIENT = {4: "10.77.2.2", 6: "fd77:2::2"}
RELAY_NEAR_PEER = {4: "10.77.3.1", 6: "fd77:3::1"}
PEER = {4: "10.77.3.2", 6: "fd77:3::2"}

MASQUERADE = """
table inet culvert_test {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname "outside" masquerade
  }
}
"""

SIOCETHTOOL = 0x8946
# ETHTOOL_STXCSUM, STSO, SGSO, SGRO of linux/ethtool.h: the kernel's end must send frames as a wire
# carries them, with their checksums filled in.
ETHTOOL_SGRO = 0x2c
OFFLOADS = (0x17, 0x1f, 0x24, ETHTOOL_SGRO)

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def command(*words, text=None):
    done = subprocess.run(words, input=text, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout.strip()}")


@contextlib.contextmanager
def inside(namespace):
    """The calling thread in a namespace; sockets made there stay there."""
    with open("/proc/thread-self/ns/net", "rb") as home, \
            open(f"/run/netns/{namespace}", "rb") as there:
        if LIBC.setns(there.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if LIBC.setns(home.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns back")


def without_offloads(namespace, name):
    """Frames that leave by this device carry their checksums, as on a wire."""
    with inside(namespace):
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with probe:
        for offload in OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", offload, 0))
            request = struct.pack("16sP", name.encode(), ctypes.addressof(value))
            with contextlib.suppress(OSError):
                fcntl.ioctl(probe, SIOCETHTOOL, request)


def receive_in_thread(namespace, name):
    """What arrives at this device is delivered by a kernel thread of its own (threaded NAPI). Else
    whoever sends to it does that work within the system call: on one host a server would pay for
    its client's kernel."""
    with inside(namespace):
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with probe:
        on = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_SGRO, 1))  # veth: NAPI with GRO
        fcntl.ioctl(probe, SIOCETHTOOL, struct.pack("16sP", name.encode(), ctypes.addressof(on)))
    command("ip", "netns", "exec", namespace, "sh", "-c",
            f"echo 1 > /sys/class/net/{name}/threaded")
    # As prompt as the interrupt that it stands for: a veth's ring holds 256 frames.
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "comm").read_text().startswith(f"napi/{name}-"):
                os.sched_setscheduler(int(folder.name), os.SCHED_FIFO, os.sched_param(1))


class Namespaces:
    """Network namespaces that are gone after the block."""

    def __init__(self):
        need(os.geteuid() == 0, "root, for network namespaces")
        self.made = []

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def build(self):
        raise NotImplementedError

    def add(self, *names):
        for name in names:
            command("ip", "netns", "add", name)
            self.made.append(name)
            command("ip", "-n", name, "link", "set", "lo", "up")

    def remove(self):
        for name in reversed(self.made):
            subprocess.run(["ip", "netns", "delete", name], check=False)
        self.made = []


def add_addresses(namespace, name, net, host):
    """`net`: the first three bytes of the IPv4 address, and what stands for them in IPv6."""
    ipv4, ipv6 = net
    command("ip", "-n", namespace, "addr", "add", f"{ipv4}.{host}/24", "dev", name)
    # nodad: an address is usable at once, not after the second that duplicate detection takes.
    command("ip", "-n", namespace, "addr", "add", f"{ipv6}::{host}/64", "dev", name, "nodad")


class ThreeHosts(Namespaces):
    """A client and a peer, each joined to the relay: 10.NET.1.2 -- .1 relay .1 -- 10.NET.2.2, and
    fdNET:1::2 likewise. The relay's ends have addresses and IPv6 of the kernel's only with
    `relay_addresses`. Frames carry their checksums, as on a wire."""

    def __init__(self, net, queues=1, relay_addresses=False):
        super().__init__()
        stem = f"culvert-{os.getpid()}-{net}"
        self.client, self.relay, self.peer = (f"{stem}-{n}" for n in ("client", "relay", "peer"))
        self.net, self.queues, self.relay_addresses = net, queues, relay_addresses

    def build(self):
        self.add(self.client, self.relay, self.peer)
        several = ["numrxqueues", str(self.queues), "numtxqueues", str(self.queues)]
        if not self.relay_addresses:
            # The relay's ports are not the kernel's: it must say nothing on them.
            command("ip", "netns", "exec", self.relay, "sysctl", "-qw",
                    "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        for host, name, number in ((self.client, "to_client", 1), (self.peer, "to_peer", 2)):
            command("ip", "-n", host, "link", "add", "up0", *several, "type", "veth", "peer",
                    "name", name, *several, "netns", self.relay)
            net = f"10.{self.net}.{number}", f"fd{self.net}:{number}"
            add_addresses(host, "up0", net, 2)
            if self.relay_addresses:
                add_addresses(self.relay, name, net, 1)
            for namespace, device in ((host, "up0"), (self.relay, name)):
                command("ip", "-n", namespace, "link", "set", device, "up")
            without_offloads(host, "up0")


class Network(Namespaces):
    def __init__(self):
        super().__init__()
        stem = f"culvert-{os.getpid()}"
        self.client, self.nat = f"{stem}-client", f"{stem}-nat"
        self.relay, self.peer = f"{stem}-relay", f"{stem}-peer"

    def build(self):
        self.add(self.client, self.nat, self.relay, self.peer)
        self.link(self.client, "up0", self.nat, "inside", 1)
        self.link(self.nat, "outside", self.relay, "near_client", 2, first=1, second=2)
        self.link(self.relay, "near_peer", self.peer, "up0", 3, first=1, second=2)
        for option in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            command("ip", "netns", "exec", self.nat, "sysctl", "-qw", option)
        command("ip", "netns", "exec", self.nat, "nft", "-f", "-", text=MASQUERADE)
        self.default_route(self.client, "10.77.1.1", "fd77:1::1")
        self.default_route(self.peer, "10.77.3.1", "fd77:3::1")

    def link(self, one, one_name, other, other_name, net, first=2, second=1):
        command("ip", "-n", one, "link", "add", one_name, "type", "veth", "peer", "name",
                other_name, "netns", other)
        for namespace, name, host in ((one, one_name, first), (other, other_name, second)):
            add_addresses(namespace, name, (f"10.77.{net}", f"fd77:{net}"), host)
            command("ip", "-n", namespace, "link", "set", name, "up")

    @staticmethod
    def default_route(namespace, ipv4, ipv6):
        command("ip", "-n", namespace, "route", "add", "default", "via", ipv4)
        command("ip", "-n", namespace, "-6", "route", "add", "default", "via", ipv6)

    def udp(self, namespace, family, bind=None):
        """A UDP socket in a namespace; family is 4 or 6."""
        with inside(namespace):
            sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6,
                                 socket.SOCK_DGRAM)
        if bind:
            sock.bind(bind)
        return sock

    @staticmethod
    def exec(namespace):
        return ["ip", "netns", "exec", namespace]


class AddressBook(Namespaces):
    """One namespace whose loopback interface has several IPv6 addresses: a relay and its peers on
    one machine, each with an address of its own (the loopback network itself has only ::1)."""

    ADDRESSES = ("fd77:9::1", "fd77:9::2")

    def __init__(self):
        super().__init__()
        self.name = f"culvert-{os.getpid()}-lo"

    def build(self):
        self.add(self.name)
        for address in self.ADDRESSES:
            command("ip", "-n", self.name, "addr", "add", f"{address}/128", "dev", "lo", "nodad")

    def prefix(self):
        return ["ip", "netns", "exec", self.name]


class Wire(Namespaces):
    """Two namespaces joined by one veth pair with an MTU of 1500: a server alone on one side, its
    client and peers on the other."""

    SERVER = {4: "10.77.8.1", 6: "fd77:8::1"}
    CLIENT = {4: "10.77.8.2", 6: "fd77:8::2"}
    CLIENT_INTERFACE = "wire1"

    def __init__(self, name):
        super().__init__()
        stem = f"culvert-{os.getpid()}-{name}"
        self.server, self.client = f"{stem}-server", f"{stem}-client"

    def build(self):
        self.add(self.server, self.client)
        command("ip", "-n", self.server, "link", "add", "wire0", "type", "veth", "peer", "name",
                self.CLIENT_INTERFACE, "netns", self.client)
        for namespace, device, host in ((self.server, "wire0", 1),
                                        (self.client, self.CLIENT_INTERFACE, 2)):
            add_addresses(namespace, device, ("10.77.8", "fd77:8"), host)
            command("ip", "-n", namespace, "link", "set", device, "up")

    @staticmethod
    def exec(namespace):
        return ["ip", "netns", "exec", namespace]
