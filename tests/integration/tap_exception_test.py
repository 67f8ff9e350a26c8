"""The kernel beside the relay's ports (dpdk.kernel): the relay's traffic and the kernel's go to one
address, and neither hurts the other.

"tap": the relay on a net_memif port that no kernel can see, with a TAP interface for the rest.
dpdk-testpmd carries frames between the memif and a Linux bridge, on which client, peer and a router
are hosts in network namespaces. "beside": the relay on net_af_packet ports over interfaces whose
addresses are the kernel's, which is kept from the relay's datagrams by a filter.

While turnutils_uclient loses nothing: ping, curl and a TCP session to the relay's own address. The
relay follows what the kernel learns: changed link addresses, routes that come and go."""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "interop"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import chromium_test
import dpdk_test
from network import Namespaces, command, inside, without_offloads
from relay import KIND, PASSWORD, USER, Relay, need, need_program, wait_for
from turn_client import TurnClient
from turnutils import with_channels

RUNS_ALONE = "the relay polls"
PORT = 3478
RELAY = {4: "10.79.1.1", 6: "fd79:1::1"}
CLIENT = {4: "10.79.1.2", 6: "fd79:1::2"}
# Behind the peer's namespace, which routes for it.
FAR = {4: "10.79.9.9", 6: "fd79:9::9"}
FAR_NETWORK = {4: "10.79.9.0/24", 6: "fd79:9::/64"}
LENGTH = {4: 24, 6: 64}
HTTP_PORT = 8080
CLIENT_SECONDS = 60
DOWNLOAD_BYTES = 3_000_000


def execute(namespace, *words, seconds=60, check=True, environment=None):
    done = subprocess.run(["ip", "netns", "exec", namespace, *words], text=True, check=False,
                          env=environment or os.environ,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=seconds)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: {done.stdout}")
    return done.stdout


class Hosts(Namespaces):
    """Client and peer, each in a namespace with one interface, up0."""

    def __init__(self):
        super().__init__()
        stem = f"culvert-{os.getpid()}-t"
        self.client, self.relay, self.peer, self.wire = (
            f"{stem}-{n}" for n in ("client", "relay", "peer", "wire"))

    def host(self, namespace, addresses, other_end, other_namespace):
        command("ip", "-n", namespace, "link", "add", "up0", "type", "veth", "peer", "name",
                other_end, "netns", other_namespace)
        for family, address in addresses.items():
            command("ip", "-n", namespace, "addr", "add", f"{address}/{LENGTH[family]}", "dev",
                    "up0", *(["nodad"] if family == 6 else []))
        command("ip", "-n", namespace, "link", "set", "up0", "up")
        command("ip", "-n", other_namespace, "link", "set", other_end, "up")
        without_offloads(namespace, "up0")


class KernelBeside:
    """What holds for a port with a kernel beside it, whichever way."""

    peer = {4: "10.79.1.3", 6: "fd79:1::3"}

    @classmethod
    def start_relay(cls, options, relay=None):
        cls.relay = Relay(listen=list(RELAY.values()), relay=relay, options=options,
                          prefix=["ip", "netns", "exec", cls.hosts.relay], port=PORT,
                          allow_loopback_peers=False)
        cls.addClassCleanup(shutil.rmtree, cls.relay.folder, ignore_errors=True)
        cls.addClassCleanup(cls.relay.stop)
        # turnutils_uclient with channel numbers of RFC 8656.
        cls.channels = with_channels()
        cls.relay.start()

    @classmethod
    def peers_allowed(cls):
        return [word for network in (*cls.peer.values(), *FAR.values(), *RELAY.values())
                for word in ("--allow-peer", network)]

    def frames(self):
        return {f["frame"]: f["total"] for f in self.relay.control("drops")["frames"]}

    @contextlib.contextmanager
    def process(self, namespace, *words, ready):
        process = subprocess.Popen(["ip", "netns", "exec", namespace, *words],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            wait_for(ready, 10, " ".join(words))
            yield process
        finally:
            process.terminate()
            process.wait()

    def listens(self, namespace, kind, port):
        return lambda: execute(namespace, "ss", "-Hnl", f"-{kind}", "sport", "=", f":{port}")

    def echo(self, family, address=None):
        return self.process(self.hosts.peer, need_program("turnutils_peer", "coturn"), "-L",
                            address or self.peer[family], "-p", "3480",
                            ready=self.listens(self.hosts.peer, "u", 3480))

    def uclient(self, family, *options, messages=100, clients=2):
        words = [need_program("turnutils_uclient", "coturn"), "-u", USER, "-w", PASSWORD,
                 "-p", str(PORT), "-m", str(clients), "-n", str(messages), "-e", self.peer[family],
                 "-r", "3480", *(["-x"] if family == 6 else []), *options, RELAY[family]]
        output = execute(self.hosts.client, *words, seconds=CLIENT_SECONDS,
                         environment=self.channels)
        tail = "\n".join(output.splitlines()[-15:])
        lost = re.findall(r"Total lost packets (\d+)", output)
        moved = re.findall(r"tot_send_bytes ~ (\d+), tot_recv_bytes ~ (\d+)", output)
        self.assertTrue(lost and moved, tail)
        sent, received = (int(count) for count in moved[-1])
        self.assertGreaterEqual(sent, messages * 100 * clients, tail)
        self.assertEqual(received, sent, f"{tail}\n{self.frames()}")
        self.assertEqual(int(lost[-1]), 0, tail)

    def ping(self, namespace, address, count=10):
        output = execute(namespace, need_program("ping", "iputils-ping"), "-n", "-q", "-c",
                         str(count), "-i", "0.2", "-W", "5", "-s", "1000", address)
        self.assertIn(f"{count} received", output)

    @contextlib.contextmanager
    def web_server(self, family):
        """A file, served by an ordinary program on the relay's own address."""
        folder = self.relay.folder / f"www{family}"
        folder.mkdir(exist_ok=True)
        content = os.urandom(DOWNLOAD_BYTES)
        (folder / "file").write_bytes(content)
        with self.process(self.hosts.relay, sys.executable, "-m", "http.server", str(HTTP_PORT),
                          "--bind", RELAY[family], "--directory", str(folder),
                          ready=self.listens(self.hosts.relay, "t", HTTP_PORT)):
            yield hashlib.sha256(content).hexdigest()

    def download(self, family):
        to = self.relay.folder / "download"
        host = f"[{RELAY[family]}]" if family == 6 else RELAY[family]
        execute(self.hosts.client, need_program("curl", "curl"), "-sS", "--fail", "-m", "50",
                "-o", str(to), f"http://{host}:{HTTP_PORT}/file")
        return hashlib.sha256(to.read_bytes()).hexdigest()

    def test_the_kernel_serves_its_own_while_the_relay_is_loaded_and_nothing_is_lost(self):
        for family in (4, 6):
            with self.subTest(family=family), self.echo(family), self.web_server(family) as digest:
                failures = []

                def load(family=family, failures=failures):
                    try:
                        self.uclient(family, "-z", "10", messages=400, clients=4)
                        self.uclient(family, "-s", messages=100)
                    except Exception as failure:  # shown by the test's own thread
                        failures.append(failure)
                thread = threading.Thread(target=load)
                thread.start()
                try:
                    self.ping(self.hosts.client, RELAY[family])
                    self.assertEqual(self.download(family), digest)
                    self.ping(self.hosts.peer, self.near_peer()[family])
                finally:
                    thread.join()
                self.assertEqual(failures, [])

    # ---- what the kernel learns

    @contextlib.contextmanager
    def relayed(self, family, peer):
        """A client with an allocation and a channel to (peer, port), and the peer's socket."""
        with inside(self.hosts.client):
            sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6,
                                 socket.SOCK_DGRAM)
        with inside(self.hosts.peer):
            other = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6,
                                  socket.SOCK_DGRAM)
        other.bind((peer, 0))
        to = (peer, other.getsockname()[1])
        with other, TurnClient((RELAY[family], PORT), USER, PASSWORD, sock) as client:
            client.allocate(family)
            client.bind(0x4000, to)
            try:
                yield client, other
            finally:
                client.refresh(0)

    def arrives(self, client, other, text):
        """Whether what goes out by the channel reaches the peer's socket."""
        client.send_channel(0x4000, text)
        other.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                if other.recvfrom(2000)[0] == text:
                    return True
        return False

    def link_address(self, namespace):
        return re.search(r"link/ether (\S+)", execute(namespace, "ip", "link", "show", "up0"))[1]

    def test_a_peer_whose_link_address_changes_is_followed(self):
        for family in (4, 6):
            with self.subTest(family=family), \
                    self.relayed(family, self.peer[family]) as (client, other):
                wait_for(lambda: self.arrives(client, other, b"before"), 10, "the peer hears us")
                old = self.link_address(self.hosts.peer)
                new = f"02:00:00:00:09:0{family}"
                self.assertNotEqual(old, new)
                self.addCleanup(self.change_link_address, old)
                self.change_link_address(new)
                wait_for(lambda: self.arrives(client, other, b"after"), 15,
                         f"datagrams go to {new}")
                self.assertIn(new, execute(self.hosts.relay, "ip", "neigh", "show",
                                           self.peer[family]))

    def change_link_address(self, link):
        """The peer's. It says so by asking for the relay, as hosts do after such a change."""
        command("ip", "-n", self.hosts.peer, "link", "set", "up0", "address", link)
        execute(self.hosts.peer, "ip", "neigh", "flush", "dev", "up0")
        for family in (4, 6):
            self.ping(self.hosts.peer, self.near_peer()[family], count=2)

    def test_routes_that_come_and_go_are_followed(self):
        interface = self.interface_to_peer()
        for family in (4, 6):
            execute(self.hosts.peer, "ip", "addr", "replace",
                    f"{FAR[family]}/{32 if family == 4 else 128}", "dev", "lo")
            route = ["ip", f"-{family}", "route", "replace", FAR_NETWORK[family], "via",
                     self.peer[family], "dev", interface]
            with self.subTest(family=family), self.relayed(family, FAR[family]) as (client, other):
                no_route = self.frames()["no_route"]
                self.assertFalse(self.arrives(client, other, b"nowhere"))
                self.assertGreater(self.frames()["no_route"], no_route)
                execute(self.hosts.relay, *route)
                wait_for(lambda: self.arrives(client, other, b"through the gateway"), 10,
                         "the route is followed")
                route[3] = "delete"
                execute(self.hosts.relay, *route)
                wait_for(lambda: not self.arrives(client, other, b"gone"), 10,
                         "the route's end is followed")


def memory():
    return "--in-memory" if os.environ.get("CULVERT_DPDK_HUGE") else "--no-huge -m 256"


class TapBesideMemif(KernelBeside, chromium_test.Caller):
    @staticmethod
    def interface_to_peer():
        return "culvert0"

    @staticmethod
    def near_peer():
        return RELAY

    @classmethod
    def setUpClass(cls):
        need(KIND == "culvert", "culvert: coturn has no ports of its own")
        need(dpdk_test.has_dpdk(), "a culvertd built with DPDK (libdpdk-dev)")
        cls.testpmd = need_program("dpdk-testpmd", "dpdk-dev")
        cls.hosts = Hosts()
        cls.addClassCleanup(cls.hosts.remove)
        cls.hosts.add(cls.hosts.client, cls.hosts.relay, cls.hosts.peer, cls.hosts.wire)
        wire = cls.hosts.wire
        command("ip", "netns", "exec", wire, "sysctl", "-qw",
                "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        command("ip", "-n", wire, "link", "add", "bridge0", "type", "bridge", "mcast_snooping", "0")
        command("ip", "-n", wire, "link", "set", "bridge0", "up")
        for host, addresses, end in ((cls.hosts.client, CLIENT, "client"),
                                     (cls.hosts.peer, cls.peer, "peer")):
            cls.hosts.host(host, addresses, end, wire)
            command("ip", "-n", wire, "link", "set", end, "master", "bridge0")
        command("ip", "-n", wire, "link", "add", "relay", "type", "veth", "peer", "name", "out")
        command("ip", "-n", wire, "link", "set", "relay", "master", "bridge0", "up")
        command("ip", "-n", wire, "link", "set", "out", "up")
        cls.start_memif_relay()
        cls.start_bridge()
        for family in (4, 6):  # the memif's ends have found each other
            wait_for(lambda family=family: "1 received" in execute(
                cls.hosts.client, need_program("ping", "iputils-ping"), "-n", "-q", "-c", "1",
                "-W", "1", RELAY[family], check=False), 20, f"{RELAY[family]} answers ping")

    @classmethod
    def start_memif_relay(cls):
        memif = pathlib.Path("/tmp") / f"culvert-memif-{os.getpid()}.sock"
        cls.addClassCleanup(memif.unlink, missing_ok=True)
        cls.memif = memif
        eal = (f"{memory()} --no-pci --no-telemetry --file-prefix=culvert{os.getpid()} "
               f"--vdev=net_memif0,role=server,socket={memif},socket-abstract=no")
        options = ["--driver", "dpdk", "--kernel", "tap", f"--eal={eal}", *cls.peers_allowed()]
        for family in (4, 6):
            options += ["--port-address", f"{RELAY[family]}/{LENGTH[family]}"]
        cls.start_relay(options)

    @classmethod
    def start_bridge(cls):
        """Frames between the memif and the bridge, unchanged."""
        log = cls.relay.folder / "testpmd.log"
        words = [cls.testpmd, "--lcores", "0@0,1@0", "--no-huge", "-m", "128", "--no-pci",
                 "--no-telemetry", f"--file-prefix=bridge{os.getpid()}",
                 "--vdev=net_af_packet0,iface=out,blocksz=65536,framesz=2048,framecnt=8192",
                 f"--vdev=net_memif0,role=client,socket={cls.memif},socket-abstract=no",
                 "--", "--auto-start", "--forward-mode=io", "--total-num-mbufs=8192"]
        with open(log, "wb") as output:
            process = subprocess.Popen(["ip", "netns", "exec", cls.hosts.wire, *words],
                                       stdin=subprocess.PIPE, stdout=output,
                                       stderr=subprocess.STDOUT)

        def end():
            process.terminate()
            process.wait()
            process.stdin.close()
        cls.addClassCleanup(end)

    def test_a_relay_only_call_goes_through(self):
        self.browse_from(self.hosts.client)
        for family in (4, 6):
            with self.subTest(family=family):
                self.check_call(RELAY[family])

    def test_what_is_not_the_relays_went_through_the_tap(self):
        for family in (4, 6):
            self.ping(self.hosts.client, RELAY[family], count=2)
        with inside(self.hosts.client):
            probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with probe:  # nobody has this port: the kernel says so, as on any host
            probe.connect((RELAY[4], 9))
            probe.settimeout(5)
            probe.send(b"?")
            with self.assertRaises(ConnectionRefusedError):
                probe.recv(10)
        frames = self.frames()
        for name in ("punted_neighbour", "punted_icmp", "punted_other", "from_kernel"):
            self.assertGreater(frames[name], 0, frames)
        self.assertEqual(frames["arp_answered"] + frames["echo_answered"], 0)
        self.assertEqual(frames["punt_full"], 0)

    def test_after_a_flood_of_pings_the_relay_loses_nothing(self):
        ping = need_program("ping", "iputils-ping")
        before = self.frames()
        output = execute(self.hosts.client, ping, "-n", "-q", "-f", "-c", "8000", "-W", "1",
                         RELAY[4], check=False)
        self.assertIn("8000 packets transmitted", output)
        with self.echo(6):
            self.uclient(6)
        self.assertGreater(self.frames()["punted_icmp"], before["punted_icmp"])


FILTER = """
table netdev culvert {{
  set ours {{ type ipv4_addr; elements = {{ {v4} }} }}
  set ours6 {{ type ipv6_addr; elements = {{ {v6} }} }}
  chain from_client {{
    type filter hook ingress device "to_client" priority 0;
    ip daddr @ours udp dport {{ {ports} }} drop
    ip6 daddr @ours6 udp dport {{ {ports} }} drop
  }}
  chain from_peer {{
    type filter hook ingress device "to_peer" priority 0;
    ip daddr @ours udp dport {{ {ports} }} drop
    ip6 daddr @ours6 udp dport {{ {ports} }} drop
  }}
}}
"""
RELAY_NEAR_PEER = {4: "10.79.2.1", 6: "fd79:2::1"}


class BesidePacketSockets(KernelBeside, unittest.TestCase):
    """Client and peer on different networks: the relay's kernel has both interfaces."""

    peer = {4: "10.79.2.3", 6: "fd79:2::3"}

    @staticmethod
    def interface_to_peer():
        return "to_peer"

    @staticmethod
    def near_peer():
        return RELAY_NEAR_PEER

    @classmethod
    def setUpClass(cls):
        need(KIND == "culvert", "culvert: coturn has no ports of its own")
        need(dpdk_test.has_dpdk(), "a culvertd built with DPDK (libdpdk-dev)")
        need_program("nft", "nftables")
        hosts = cls.hosts = Hosts()
        cls.addClassCleanup(hosts.remove)
        hosts.add(hosts.client, hosts.relay, hosts.peer)
        hosts.host(hosts.client, CLIENT, "to_client", hosts.relay)
        hosts.host(hosts.peer, cls.peer, "to_peer", hosts.relay)
        ends = (("to_client", 0, RELAY), ("to_peer", 1, RELAY_NEAR_PEER))
        options = ["--driver", "dpdk", "--kernel", "beside", *cls.peers_allowed()]
        eal = f"{memory()} --no-pci --no-telemetry --file-prefix=culvert{os.getpid()}"
        for interface, number, addresses in ends:
            without_offloads(hosts.relay, interface)
            eal += " " + dpdk_test.port(number, interface, 1)
            for family, address in addresses.items():
                command("ip", "-n", hosts.relay, "addr", "add", f"{address}/{LENGTH[family]}",
                        "dev", interface, *(["nodad"] if family == 6 else []))
                options += ["--port-address", f"{address}/{LENGTH[family]}@{number}"]
        cls.start_relay([*options, f"--eal={eal}"], relay=list(RELAY_NEAR_PEER.values()))
        low, high = cls.relay.relay_ports()
        command("ip", "netns", "exec", hosts.relay, "nft", "-f", "-", text=FILTER.format(
            v4=f"{RELAY[4]}, {RELAY_NEAR_PEER[4]}", v6=f"{RELAY[6]}, {RELAY_NEAR_PEER[6]}",
            ports=f"{PORT}, {low}-{high}"))

    def test_the_kernel_answers_and_the_relay_does_not(self):
        self.ping(self.hosts.client, RELAY[4], count=2)
        self.ping(self.hosts.client, RELAY[6], count=2)
        frames = self.frames()
        self.assertGreater(frames["left_to_kernel"], 0)
        for name in ("arp_answered", "nd_answered", "echo_answered", "from_kernel"):
            self.assertEqual(frames[name], 0, frames)

    def test_the_kernel_sends_no_errors_for_the_relays_datagrams(self):
        for family in (4, 6):
            with self.subTest(family=family), self.relayed(family, self.peer[family]) as (c, other):
                # An unreachable port would come back to the peer as an error on its socket.
                wait_for(lambda: self.arrives(c, other, b"there"), 10, "the peer hears us")
                relayed = c.relayed[0]
                other.connect(relayed)
                other.settimeout(1)
                other.send(b"and back")
                self.assertEqual(c.receive()[:2], (0x4000, b"and back"))
                with self.assertRaises(TimeoutError):
                    other.recv(10)


if __name__ == "__main__":
    unittest.main()
