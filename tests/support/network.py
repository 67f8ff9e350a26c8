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
import socket
import struct
import subprocess
import unittest

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
OFFLOADS = (0x17, 0x1f, 0x24, 0x2c)

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


class Network:
    def __init__(self):
        if os.geteuid() != 0:
            raise unittest.SkipTest("network namespaces need root")
        stem = f"culvert-{os.getpid()}"
        self.client, self.nat = f"{stem}-client", f"{stem}-nat"
        self.relay, self.peer = f"{stem}-relay", f"{stem}-peer"
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
        for name in (self.client, self.nat, self.relay, self.peer):
            command("ip", "netns", "add", name)
            self.made.append(name)
            command("ip", "-n", name, "link", "set", "lo", "up")
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
            # nodad: an address is usable at once, not after the second that duplicate detection
            # takes.
            command("ip", "-n", namespace, "addr", "add", f"10.77.{net}.{host}/24", "dev", name)
            command("ip", "-n", namespace, "addr", "add", f"fd77:{net}::{host}/64", "dev", name,
                    "nodad")
            command("ip", "-n", namespace, "link", "set", name, "up")

    @staticmethod
    def default_route(namespace, ipv4, ipv6):
        command("ip", "-n", namespace, "route", "add", "default", "via", ipv4)
        command("ip", "-n", namespace, "-6", "route", "add", "default", "via", ipv6)

    def remove(self):
        for name in reversed(self.made):
            subprocess.run(["ip", "netns", "delete", name], check=False)
        self.made = []

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


class AddressBook:
    """One namespace whose loopback interface has several IPv6 addresses: a relay and its peers on
    one machine, each with an address of its own (the loopback network itself has only ::1)."""

    ADDRESSES = ("fd77:9::1", "fd77:9::2")

    def __init__(self):
        if os.geteuid() != 0:
            raise unittest.SkipTest("network namespaces need root")
        self.name = f"culvert-{os.getpid()}-lo"

    def __enter__(self):
        command("ip", "netns", "add", self.name)
        try:
            command("ip", "-n", self.name, "link", "set", "lo", "up")
            for address in self.ADDRESSES:
                command("ip", "-n", self.name, "addr", "add", f"{address}/128", "dev", "lo",
                        "nodad")
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def remove(self):
        subprocess.run(["ip", "netns", "delete", self.name], check=False)

    def prefix(self):
        return ["ip", "netns", "exec", self.name]


class Wire:
    """Two namespaces joined by one veth pair with an MTU of 1500: a server alone on one side, its
    client and peers on the other."""

    SERVER = {4: "10.77.8.1", 6: "fd77:8::1"}
    CLIENT = {4: "10.77.8.2", 6: "fd77:8::2"}
    CLIENT_INTERFACE = "wire1"

    def __init__(self, name):
        if os.geteuid() != 0:
            raise unittest.SkipTest("network namespaces need root")
        stem = f"culvert-{os.getpid()}-{name}"
        self.server, self.client = f"{stem}-server", f"{stem}-client"

    def __enter__(self):
        try:
            for name in (self.server, self.client):
                command("ip", "netns", "add", name)
                command("ip", "-n", name, "link", "set", "lo", "up")
            command("ip", "-n", self.server, "link", "add", "wire0", "type", "veth", "peer", "name",
                    self.CLIENT_INTERFACE, "netns", self.client)
            for namespace, device, hosts in ((self.server, "wire0", self.SERVER),
                                             (self.client, self.CLIENT_INTERFACE, self.CLIENT)):
                command("ip", "-n", namespace, "addr", "add", f"{hosts[4]}/24", "dev", device)
                command("ip", "-n", namespace, "addr", "add", f"{hosts[6]}/64", "dev", device,
                        "nodad")
                command("ip", "-n", namespace, "link", "set", device, "up")
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def remove(self):
        for name in (self.server, self.client):
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)

    @staticmethod
    def exec(namespace):
        return ["ip", "netns", "exec", namespace]
