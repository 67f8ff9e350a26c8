"""The relay on ports of its own (driver dpdk): client, relay and peer in three network namespaces,
the relay on two net_af_packet ports over veth, whose addresses no kernel knows. Neighbours are
resolved, ping is answered, turnutils_uclient loses nothing, over IPv4 and IPv6, with one core and
with several, wherever the kernel's fanout puts a datagram.

CULVERT_DPDK_HUGE=1 takes hugepages instead of --no-huge."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "interop"))
import chromium_test
from network import Namespaces, ThreeHosts, add_addresses, command, inside, without_offloads
from relay import BUILD, KIND, PASSWORD, USER, Relay, need, need_program, wait_for
from turn_client import Refused, TurnClient
from turnutils import with_channels

RUNS_ALONE = "the relay polls"
PORT = 3478
CLIENT = {4: "10.78.1.2", 6: "fd78:1::2"}
RELAY_NEAR_CLIENT = {4: "10.78.1.1", 6: "fd78:1::1"}
RELAY_NEAR_PEER = {4: "10.78.2.1", 6: "fd78:2::1"}
PEER = {4: "10.78.2.2", 6: "fd78:2::2"}
KINDS = {4: socket.AF_INET, 6: socket.AF_INET6}
CLIENT_SECONDS = 60
MESSAGES = 100


def port(number, interface, queues):
    return (f"--vdev=net_af_packet{number},iface={interface},qpairs={queues},blocksz=65536,"
            "framesz=2048,framecnt=2048")


class OnPorts(unittest.TestCase):
    """One relay and its network for the tests of a class."""

    cores = 1
    queues = 1
    telemetry = "--no-telemetry"
    relayed = RELAY_NEAR_PEER  # where relayed ports are
    more_options = ()
    port_to_peer = 1

    @classmethod
    def network(cls):
        return ThreeHosts(78)

    @classmethod
    def devices(cls):
        return f"{port(0, 'to_client', cls.queues)} {port(1, 'to_peer', cls.queues)}"

    @classmethod
    def join(cls):
        """What needs the relay's ports to be there."""

    @classmethod
    def setUpClass(cls):
        need(KIND == "culvert", "culvert: coturn has no ports of its own")
        need(has_dpdk(), "a culvertd built with DPDK (libdpdk-dev)")
        cls.bench = cls.enterClassContext(cls.network())
        memory = "--in-memory" if os.environ.get("CULVERT_DPDK_HUGE") else "--no-huge -m 256"
        eal = (f"{memory} --no-pci {cls.telemetry} --file-prefix=culvert{os.getpid()} "
               + cls.devices())
        options = ["--driver", "dpdk", "--cores", str(cls.cores), f"--eal={eal}",
                   "--allow-peer", "10.78.2.2/32", "--allow-peer", "fd78:2::2/128"]
        for near, number in ((RELAY_NEAR_CLIENT, 0), (RELAY_NEAR_PEER, cls.port_to_peer)):
            options += ["--port-address", f"{near[4]}/24@{number}",
                        "--port-address", f"{near[6]}/64@{number}"]
        options += cls.more_options
        cls.relay = Relay(listen=list(RELAY_NEAR_CLIENT.values()),
                          relay=list(cls.relayed.values()), options=options,
                          prefix=["ip", "netns", "exec", cls.bench.relay], port=PORT,
                          allow_loopback_peers=False)
        cls.addClassCleanup(shutil.rmtree, cls.relay.folder, ignore_errors=True)
        cls.addClassCleanup(cls.relay.stop)
        cls.relay.start()
        cls.join()
        for family in (4, 6):
            cls.meet(cls.bench.peer, family, RELAY_NEAR_PEER[family])

    @classmethod
    def meet(cls, namespace, family, address):
        """A host resolves the relay's address, and so the relay learns the host's."""
        with inside(namespace):
            probe = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6,
                                  socket.SOCK_DGRAM)
        with probe:
            probe.sendto(b"?", (address, 9))
        wait_for(lambda: re.search("lladdr", neighbours(namespace, address)), 10,
                 f"{namespace} resolves {address}")

    def frames(self):
        return {f["frame"]: f["total"] for f in self.relay.control("drops")["frames"]}

    def outcomes(self):
        return {o["outcome"]: o["total"] for o in self.relay.control("drops")["outcomes"]}

    @contextlib.contextmanager
    def echo(self, family):
        """turnutils_peer in the peer's namespace."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.bench.peer, need_program("turnutils_peer", "coturn"),
             "-L", PEER[family], "-p", "3480"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            def bound():
                done = subprocess.run(["ip", "netns", "exec", self.bench.peer, "ss", "-Hlun",
                                       "sport", "=", ":3480"], text=True, capture_output=True,
                                      check=False)
                return done.stdout.strip()
            wait_for(bound, 10, "turnutils_peer listens")
            yield
        finally:
            process.terminate()
            process.wait()

    def uclient(self, family, *options, clients=1, environment=None):
        uclient = ["ip", "netns", "exec", self.bench.client,
                   need_program("turnutils_uclient", "coturn"), "-u", USER, "-w", PASSWORD,
                   "-p", str(PORT), "-m", str(clients), "-n", str(MESSAGES), "-e", PEER[family],
                   "-r", "3480", *(["-x"] if family == 6 else []), *options,
                   RELAY_NEAR_CLIENT[family]]
        with self.echo(family):
            done = subprocess.run(uclient, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  text=True, stderr=subprocess.STDOUT, timeout=CLIENT_SECONDS,
                                  check=False, env=environment or os.environ)
        tail = "\n".join(done.stdout.splitlines()[-15:])
        lost = re.findall(r"Total lost packets (\d+)", done.stdout)
        moved = re.findall(r"tot_send_bytes ~ (\d+), tot_recv_bytes ~ (\d+)", done.stdout)
        if done.returncode != 0 or not lost or not moved:
            self.fail(f"{' '.join(uclient)} ended with {done.returncode}:\n{tail}\n"
                      f"--- the relay\n{self.relay.log()[-3000:]}\n{self.frames()}")
        sent, received = (int(count) for count in moved[-1])
        self.assertGreaterEqual(sent, MESSAGES * 100 * clients, tail)
        self.assertEqual(received, sent, tail)
        self.assertEqual(int(lost[-1]), 0, tail)


def neighbours(namespace, address):
    return subprocess.run(["ip", "-n", namespace, "neigh", "show", address], text=True,
                          capture_output=True, check=True).stdout


def has_dpdk():
    culvertd = BUILD / "tools" / "culvertd" / "culvertd"
    need(culvertd.exists(), f"{culvertd} (tools/build)")
    done = subprocess.run([str(culvertd), "--driver", "dpdk", "--print-config"], text=True,
                          capture_output=True, check=False)
    return "is not in this build" not in done.stderr


class Moving:
    """A client whose NAT gives it another address again and again, wherever each address's core
    is (RFC 8656 section 3: an allocation belongs to a 5-tuple)."""

    MOVES = 6

    def socket_in(self, namespace, family):
        with inside(namespace):
            made = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6,
                                 socket.SOCK_DGRAM)
        self.addCleanup(made.close)
        made.settimeout(10)
        return made

    def test_a_client_that_moves_is_served_from_each_address_and_its_old_allocations_live_on(self):
        for family in (4, 6):
            with self.subTest(family=family):
                self.move_about(family)

    def move_about(self, family):
        peer = self.socket_in(self.bench.peer, family)
        peer.bind((PEER[family], 0))
        server = (RELAY_NEAR_CLIENT[family], PORT)
        clients = []
        for number in range(self.MOVES):
            client = TurnClient(server, USER, PASSWORD, self.socket_in(self.bench.client, family))
            # Nothing of the old address's is the new one's: not its channel, not its allocation.
            before = self.outcomes()["no_allocation"]
            client.send_channel(0x4000, b"stray")
            wait_for(lambda: self.outcomes()["no_allocation"] == before + 1, 10, "it is refused")
            with self.assertRaises(Refused) as refused:
                client.refresh(600)
            self.assertEqual(refused.exception.code, 437)
            client.allocate(family=family)
            client.bind(0x4000, (PEER[family], peer.getsockname()[1]))
            clients.append(client)
            for one, each in enumerate(clients):
                self.both_ways(each, peer, f"{number} {one}".encode())

    def both_ways(self, client, peer, words):
        client.send_channel(0x4000, words)
        got, relayed = peer.recvfrom(2048)
        self.assertEqual((got, relayed[:2]), (words, tuple(client.relayed[0])[:2]))
        peer.sendto(words + b" back", relayed)
        channel, data, _ = client.receive()
        self.assertEqual((channel, data), (0x4000, words + b" back"))


class OneCore(Moving, OnPorts):
    def test_neighbours_are_resolved_both_ways_and_strangers_are_counted(self):
        for family in (4, 6):
            self.meet(self.bench.client, family, RELAY_NEAR_CLIENT[family])
        frames = self.frames()
        self.assertGreaterEqual(frames["arp_answered"], 2)
        self.assertGreaterEqual(frames["nd_answered"], 2)
        self.assertGreaterEqual(frames["not_ours"], 4)  # the datagrams to port 9

    def test_ping_is_answered(self):
        ping = need_program("ping", "iputils-ping")
        for family in (4, 6):
            subprocess.run(["ip", "netns", "exec", self.bench.client, ping, "-n", "-q", "-c", "3",
                            "-i", "0.2", "-W", "5", "-s", "1000", RELAY_NEAR_CLIENT[family]],
                           check=True, stdout=subprocess.DEVNULL)
        self.assertGreaterEqual(self.frames()["echo_answered"], 6)

    def test_a_client_loses_nothing_over_channels(self):
        for family in (4, 6):
            with self.subTest(family=family):
                self.uclient(family, environment=with_channels())

    def test_a_client_loses_nothing_by_send_indications(self):
        for family in (4, 6):
            with self.subTest(family=family):
                self.uclient(family, "-s")

    def test_twenty_clients_lose_nothing(self):
        for family in (4, 6):
            with self.subTest(family=family):
                self.uclient(family, clients=20, environment=with_channels())

    def test_the_counters_are_on_the_metrics_page_and_add_up(self):
        for core in self.relay.control("cores")["cores"]:
            outcomes = {o["outcome"]: o["cores"][core["core"]]
                        for o in self.relay.control("drops", "--per-core")["outcomes"]}
            self.assertEqual(core["received_packets"] + core["hairpin_passes"] + core["handed_in"],
                             sum(outcomes.values()))

    def turn_client(self, family):
        with inside(self.bench.client):
            sock = socket.socket(KINDS[family], socket.SOCK_DGRAM)
        client = TurnClient((RELAY_NEAR_CLIENT[family], PORT), USER, PASSWORD, sock)
        self.addCleanup(client.close)
        client.allocate(family)
        return client

    def peer_socket(self, family):
        with inside(self.bench.peer):
            sock = socket.socket(KINDS[family], socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.settimeout(10)
        sock.bind((PEER[family], 0))
        return sock

    def test_large_datagrams_are_put_together_and_cut(self):
        # net_af_packet asks the kernel to put IPv4 fragments together before they come here, as
        # long as they fit its framesz; IPv6 fragments come as they are.
        for family, size in ((4, 1600), (6, 20000)):
            text = os.urandom(size)
            client, peer = self.turn_client(family), self.peer_socket(family)
            client.permit(peer.getsockname()[:2])
            client.send(peer.getsockname()[:2], text)
            data, source = peer.recvfrom(65536)
            self.assertEqual((data, source[:2]), (text, client.relayed[0]))
            peer.sendto(text, client.relayed[0])
            self.assertEqual(client.receive(10)[:2], (peer.getsockname()[:2], text))
        frames = self.frames()
        self.assertGreaterEqual(frames["reassembled"], 2)
        self.assertGreaterEqual(frames["cut"], 4)

    def test_a_peers_kernel_learns_what_fits(self):
        """It sends as much as its own link carries, with DF: too much with TURN's framing."""
        for family, level, discover, mtu, size in ((4, socket.IPPROTO_IP, 10, 14, 1472),
                                                   (6, socket.IPPROTO_IPV6, 23, 24, 1452)):
            client, peer = self.turn_client(family), self.peer_socket(family)
            client.permit(peer.getsockname()[:2])
            peer.setsockopt(level, discover, 2)  # IP_PMTUDISC_DO, IPV6_PMTUDISC_DO
            peer.connect(client.relayed[0])
            self.assertEqual(peer.getsockopt(level, mtu), 1500)
            peer.send(bytes(size))
            wait_for(lambda: peer.getsockopt(level, mtu) == 1452, 10, "the path's MTU is 1452")
            with self.assertRaises(OSError) as refused:
                peer.send(bytes(size))
            self.assertEqual(refused.exception.errno, errno.EMSGSIZE)
            with contextlib.suppress(OSError):  # what is left of the error
                peer.send(b"")
            fits = os.urandom(size - 48)
            peer.send(fits)
            received = client.receive(10)
            while received[1] == b"":
                received = client.receive(10)
            self.assertEqual(received[1], fits)
        self.assertGreaterEqual(self.frames()["too_big_told"], 2)

    def test_privileges_are_gone(self):
        status = pathlib.Path(f"/proc/{self.daemon()}/task")
        for task in status.iterdir():
            text = (task / "status").read_text()
            name = re.search(r"^Name:\s+(.*)$", text, re.MULTILINE).group(1)
            self.assertNotIn("Uid:\t0\t", text, name)
            self.assertRegex(text, r"(?m)^CapEff:\s+0+$", name)

    def daemon(self):
        """`ip netns exec` becomes the daemon."""
        return self.relay.process.pid


class Call(OnPorts, chromium_test.Caller):
    """Chromium in the client's namespace; both ends of the call are relayed."""

    more_options = ("--allow-peer", "10.78.2.1/32", "--allow-peer", "fd78:2::1/128")

    def test_a_relay_only_call_goes_through(self):
        self.browse_from(self.bench.client)
        for family in (4, 6):
            with self.subTest(family=family):
                self.check_call(RELAY_NEAR_CLIENT[family])


class TwoCoresOneQueue(Moving, OnPorts):
    """Every datagram arrives on core 0: half of the clients and of the ports are core 1's."""

    cores = 2

    def test_what_belongs_to_the_other_core_is_handed_over_and_nothing_is_lost(self):
        for family in (4, 6):
            self.uclient(family, clients=20, environment=with_channels())
            self.uclient(family, "-s", clients=4)
        cores = self.relay.control("cores")["cores"]
        self.assertGreater(cores[1]["handed_in"], 100)
        self.assertGreater(self.outcomes()["handoff"], 100)
        self.assertEqual(self.outcomes()["handoff_full"], 0)


class FourCoresTwoQueues(Moving, OnPorts):
    """The kernel's fanout spreads flows over two queues by a hash of its own."""

    cores = 4
    queues = 2

    def test_nothing_is_lost_wherever_datagrams_arrive(self):
        for family in (4, 6):
            self.uclient(family, clients=20, environment=with_channels())
            self.uclient(family, "-s", clients=4)
        cores = self.relay.control("cores")["cores"]
        self.assertTrue(all(core["handed_in"] > 0 for core in cores[2:]), cores)


class OneHost(Namespaces):
    """All in one namespace."""

    def __init__(self):
        super().__init__()
        self.client = self.relay = self.peer = f"culvert-{os.getpid()}-one"

    def build(self):
        self.add(self.client)


class OnTap(OnPorts):
    """One port, whose other end is an interface of the kernel's: client and peer are on it."""

    port_to_peer = 0

    @classmethod
    def network(cls):
        return OneHost()

    @classmethod
    def devices(cls):
        return "--vdev=net_tap0,iface=wire0"

    @classmethod
    def join(cls):
        for number in (1, 2):
            add_addresses(cls.bench.client, "wire0", (f"10.78.{number}", f"fd78:{number}"), 2)
        without_offloads(cls.bench.client, "wire0")
        command("ip", "-n", cls.bench.client, "link", "set", "wire0", "up")

    def test_clients_lose_nothing(self):
        self.uclient(4, clients=5, environment=with_channels())
        self.uclient(6, "-s", clients=5)


if __name__ == "__main__":
    unittest.main()
