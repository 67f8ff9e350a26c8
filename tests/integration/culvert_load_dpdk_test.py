"""culvert-load on a DPDK port, where it is all clients and peers itself, against culvertd on one:
two processes joined by memif, whose frames no kernel sees. Nothing is lost over ChannelData and
Send indications, IPv4 and IPv6, from thousands of addresses that the relay has to learn by ARP and
neighbour discovery; floods from forged addresses leave the traffic whole, make no state and get no
more out of the relay than it promises. Then the tool alone on a port, AF_PACKET and AF_XDP on a
veth, against culvertd on the kernel's sockets.

Nothing here asserts a speed. The relay is memif's server: a client does not always survive its
server's end."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from dpdk_test import has_dpdk  # noqa: E402
from network import command, without_offloads  # noqa: E402
from relay import BUILD, KIND, PASSWORD, USER, Relay, need  # noqa: E402

RUNS_ALONE = "the relay polls"
LOAD = BUILD / "tools" / "culvert-load" / "culvert-load"
PORT = 3478
RELAY = {4: "10.79.0.1", 6: "fd79::1"}
TOOL = {4: "10.79.0.2", 6: "fd79::2"}
# 1022 and 1023 addresses, and as many again.
CLIENTS = {4: "10.79.4.0/22", 6: "fd79::4:0/118"}
PEERS = {4: "10.79.8.0/22", 6: "fd79::8:0/118"}
LOAD_SECONDS = 120
RATE = 1000
SECONDS = 2
FLOOD_RATE = 4000
# Beyond any network of the relay's: answers go to its gateway, which is the tool.
FORGED = {4: "198.18.0.0/15", 6: "2001:db8::/112"}
FORGED_PREFIX = "198.18.7.0/24"
# docs/limits.md, "Reply budget": an answer is at most 2.5 times its request; a /24 has 128 kB a
# second beyond what comes in, ten seconds of it saved up.
REPLY_RATIO = 2.5
PREFIX_BYTES_PER_SECOND = 128_000
SAVED_SECONDS = 10
SHORTEST_ALLOCATE = 56  # IP and UDP headers included


def eal(role, folder):
    """Memory without hugepages: whoever else runs on this machine has those. The longest rings, so
    that a process which a busy machine keeps waiting for seconds loses nothing."""
    return (f"--no-huge -m 256 --no-pci --no-telemetry --file-prefix=culvert{os.getpid()}{role} "
            f"--vdev=net_memif0,role={role},socket={folder}/memif.sock,socket-abstract=no,"
            "bsize=2048,rsize=14")


def at(family):
    return f"[{RELAY[6]}]:{PORT}" if family == 6 else f"{RELAY[4]}:{PORT}"


class OnMemif(unittest.TestCase):
    cores = 1

    @classmethod
    def setUpClass(cls):
        need(KIND == "culvert", "culvert: coturn has no ports of its own")
        need(has_dpdk(), "a culvertd built with DPDK (libdpdk-dev)")
        need(LOAD.exists(), f"{LOAD} (tools/build)")
        cls.relay = Relay(listen=list(RELAY.values()), port=PORT, allow_loopback_peers=False)
        cls.addClassCleanup(shutil.rmtree, cls.relay.folder, ignore_errors=True)
        cls.relay.options = [
            "--driver", "dpdk", "--cores", str(cls.cores),
            "--eal", eal("server", cls.relay.folder),
            "--port-address", f"{RELAY[4]}/16", "--port-address", f"{RELAY[6]}/64",
            "--gateway", TOOL[4], "--gateway", TOOL[6],
            "--allow-peer", "10.79.0.0/16", "--allow-peer", "fd79::/64"]
        # Not the kernel's port: nobody else has it.
        cls.relay.relay_ports = lambda: (49152, 65535)
        cls.addClassCleanup(cls.relay.stop)
        cls.relay.start()

    def tool(self, mode, *options, family=4, server=None, status=0):
        done = subprocess.run(
            [str(LOAD), mode, "--driver", "dpdk", "--eal", eal("client", self.relay.folder),
             "--port-address", f"{TOOL[4]}/16", "--port-address", f"{TOOL[6]}/64",
             "--queues", str(self.cores), "--server", server or at(family),
             *(["--family", "6"] if family == 6 else []),
             *map(str, options)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LOAD_SECONDS,
            check=False)
        self.assertEqual(done.returncode, status,
                         f"{mode} {options}: {done.stderr[-2000:]}\n{self.relay.log()[-2000:]}")
        return done

    def measured(self, mode, *options, family=4):
        credentials = ["--user", USER, "--password", PASSWORD]
        done = self.tool(mode, *credentials, *options, "--json", "-", family=family)
        return json.loads(done.stdout)

    def traffic(self, *options, family=4):
        return self.measured("relay", "--rate", RATE, "--sleep", "--duration", SECONDS,
                             "--warm-up", 0, *options, family=family)

    def assert_whole(self, result, sent=RATE * SECONDS):
        """Paced: what is due in the window is sent in it, to the datagram, and all of it comes."""
        flows = result["flows"].values()
        about = {name: result[name] for name in ("flows", "port", "generator", "errors", "strange")}
        about.update(relay=self.frames(), outcomes=self.relay.control("drops")["outcomes"])
        for flow in flows:
            self.assertEqual((flow["lost"], flow["duplicates"], flow["reordered"]), (0, 0, 0),
                             about)
        self.assertEqual(sum(flow["unique"] for flow in flows), sent, about)
        self.assertEqual(result["corrupt"], 0)
        self.assertNotIn("bad_udp_checksum", result["port"])
        self.assertNotIn("bad_ip_checksum", result["port"])

    def frames(self):
        return {f["frame"]: f["total"] for f in self.relay.control("drops")["frames"]}


class OneCore(OnMemif):
    def test_channels_lose_nothing(self):
        for family in (4, 6):
            with self.subTest(family=family):
                self.assert_whole(self.traffic(family=family))

    def test_send_indications_lose_nothing(self):
        for family in (4, 6):
            with self.subTest(family=family):
                self.assert_whole(self.traffic("--encoding", "send", family=family))

    def test_clients_reach_each_other(self):
        for family in (4, 6):
            with self.subTest(family=family):
                self.assert_whole(self.traffic("--topology", "client-client", family=family))

    def test_thousands_of_addresses_are_learned_and_lose_nothing(self):
        for family in (4, 6):
            with self.subTest(family=family):
                before = self.frames()
                result = self.traffic("--local", CLIENTS[family], "--clients", 1000,
                                      "--peer-address", PEERS[family], "--peers", 1000,
                                      family=family)
                self.assert_whole(result)
                answered = "arp_answered" if family == 4 else "nd_answered"
                # Each address has asked for the relay's link address, and was answered.
                self.assertGreaterEqual(self.frames()[answered] - before.get(answered, 0), 2000)
                self.assertGreaterEqual(result["port"]["neighbour_told"], 2000)


    def test_the_families_are_crossed(self):
        for server in (at(4), at(6)):
            with self.subTest(server=server):
                done = self.tool("relay", "--user", USER, "--password", PASSWORD, "--rate", RATE,
                                 "--sleep", "--duration", SECONDS, "--warm-up", 0, "--family",
                                 "cross", "--json", "-", server=server)
                self.assert_whole(json.loads(done.stdout))

    def test_a_search_ends_and_memory_can_be_held(self):
        result = self.measured("search", "--min-rate", 100, "--max-rate", 500, "--sleep", "--loss",
                               0.01, "--initial-trial", 0.2, "--final-trial", 0.4,
                               "--duration-sum", 0.8, "--max-time", 30, "--warm-up", 0.1)
        self.assertEqual(len(result["goals"]), 1)
        self.assertGreater(len(result["trials"]), 0)
        self.measured("idle", "--clients", 300, "--local", CLIENTS[4], "--channels", 2,
                      "--permissions", 1, "--duration", 1, "--warm-up", 0)
        self.assertEqual(self.allocations(), [])

    def test_what_does_not_fit_the_link_is_counted_as_such(self):
        result = self.traffic("--size", 1468, family=6)  # 1468 + 4 + 48 is more than 1500
        self.assertGreater(result["port"]["exceeds_mtu"], 0)

    def test_whole_allocations_come_and_go(self):
        result = self.measured("churn", "--rate", 200, "--duration", SECONDS, "--warm-up", 0,
                               "--local", CLIENTS[4], "--clients", 16)
        self.assertEqual(result["flows"]["to_peer"]["unique"], 200 * SECONDS, result)
        self.assertEqual(result["errors"], {})

    def test_bindings_are_answered(self):
        done = self.tool("binding", "--rate", RATE, "--clients", 200, "--local", CLIENTS[4],
                         "--duration", SECONDS, "--warm-up", 0, "--json", "-")
        flow = json.loads(done.stdout)["flows"]["to_peer"]
        self.assertEqual((flow["sent"], flow["unique"]), (RATE * SECONDS, RATE * SECONDS))

    def test_a_server_that_is_not_there_is_told_apart(self):
        done = self.tool("relay", "--user", USER, "--password", PASSWORD,
                         server="10.79.0.9:3478", status=1)
        self.assertIn("10.79.0.9 does not answer ARP", done.stderr)

    def allocations(self):
        return self.relay.control("allocations", "--limit", "10")["allocations"]

    def flooded(self, attack, forged, family=4, rate=FLOOD_RATE, seconds=SECONDS):
        """Traffic with a flood beside it; the flood's counts. No allocation outlives it."""
        result = self.measured("relay", "--rate", RATE, "--sleep", "--duration", seconds,
                               "--warm-up", 0, "--clients", 20, "--flood", attack, "--flood-rate",
                               rate, "--spoof", forged, family=family)
        self.assert_whole(result, RATE * seconds)
        flood = result["flood"]
        self.assertGreater(flood["sent"], rate * seconds / 2, result)
        self.assertLessEqual(flood["bytes"]["responses"], REPLY_RATIO * flood["bytes"]["requests"])
        self.assertEqual(self.allocations(), [])
        return flood

    def test_a_flood_of_forged_allocates_leaves_the_traffic_whole_and_no_state(self):
        for family in (4, 6):
            with self.subTest(family=family):
                flood = self.flooded("allocate", FORGED[family], family)
                # It was a flood: the relay answered it, by way of its gateway.
                self.assertGreater(flood["responses"], 1000, flood)

    def test_a_flood_of_noise_leaves_the_traffic_whole(self):
        self.flooded("malformed", FORGED[4])

    def test_what_one_prefix_can_be_made_to_receive_is_bounded(self):
        seconds = 6
        rate = 8000
        flood = self.flooded("allocate", FORGED_PREFIX, rate=rate, seconds=seconds)
        # Its answers would be this much longer than its requests, were all of them sent.
        self.assertGreater(flood["sent"] * SHORTEST_ALLOCATE * (REPLY_RATIO - 1.1),
                           PREFIX_BYTES_PER_SECOND * (SAVED_SECONDS + seconds))
        beyond = flood["bytes"]["responses"] - flood["bytes"]["requests"]
        self.assertLessEqual(beyond, PREFIX_BYTES_PER_SECOND * (SAVED_SECONDS + seconds + 1), flood)

    def test_hostile_mode_forges_addresses_and_is_bounded(self):
        done = self.tool("hostile", "--spoof", FORGED[4], "--count", 5000, "--rate", 4000,
                         "--duration", SECONDS, "--warm-up", 0, "--json", "-")
        result = json.loads(done.stdout)
        self.assertEqual(result["flows"]["to_peer"]["sent"], 5000, result)
        self.assertGreater(result["bytes"]["responses"], 0)
        self.assertEqual(self.allocations(), [])
        done = self.tool("hostile", "--spoof", FORGED[4], status=2)
        self.assertIn("bounded", done.stderr)


class TwoCores(OnMemif):
    """The sender of a memif chooses the queue, and the relay's core n takes queue n."""

    cores = 2

    def handed(self):
        cores = self.relay.control("cores")["cores"]
        return sum(core["handed_in"] for core in cores)

    def handed_in_of(self, choice, family):
        before = self.handed()
        self.assert_whole(self.traffic("--clients", 20, "--queue-of", choice, family=family))
        return self.handed() - before

    def test_on_the_owner_s_queue_nothing_is_handed_over_and_on_another_everything(self):
        for family in (4, 6):
            with self.subTest(family=family):
                packets = RATE * SECONDS
                # Set-up comes by a hash: two requests of each client, before the owner is known.
                self.assertLess(self.handed_in_of("owner", family), packets / 10)
                self.assertGreaterEqual(self.handed_in_of("other", family), packets)
                self.assertGreater(self.handed_in_of("hash", family), packets / 10)


class WithKernelServer(unittest.TestCase):
    """The tool on a veth's end, where the kernel has no address, against culvertd on the kernel's
    sockets at the other."""

    @classmethod
    def setUpClass(cls):
        need(KIND == "culvert", "culvert: the tool's checks are of culvertd")
        need(has_dpdk(), "a culvert-load built with DPDK (libdpdk-dev)")
        need(os.geteuid() == 0, "root, for network namespaces and packet sockets")
        stem = f"culvert-{os.getpid()}-l"
        cls.server_space, cls.tool_space = f"{stem}-server", f"{stem}-tool"
        for name in (cls.server_space, cls.tool_space):
            command("ip", "netns", "add", name)
            cls.addClassCleanup(subprocess.run, ["ip", "netns", "delete", name], check=False)
            command("ip", "-n", name, "link", "set", "lo", "up")
        command("ip", "netns", "exec", cls.tool_space, "sysctl", "-qw",
                "net.ipv6.conf.default.disable_ipv6=1")
        command("ip", "-n", cls.server_space, "link", "add", "up0", "type", "veth", "peer", "name",
                "lab0", "netns", cls.tool_space)
        command("ip", "-n", cls.server_space, "addr", "add", f"{RELAY[4]}/16", "dev", "up0")
        command("ip", "-n", cls.server_space, "addr", "add", f"{RELAY[6]}/64", "dev", "up0",
                "nodad")
        command("ip", "-n", cls.server_space, "link", "set", "up0", "up")
        command("ip", "-n", cls.tool_space, "link", "set", "lab0", "up")
        without_offloads(cls.server_space, "up0")
        cls.relay = Relay(listen=list(RELAY.values()), port=PORT, allow_loopback_peers=False,
                          prefix=["ip", "netns", "exec", cls.server_space],
                          options=["--allow-peer", "10.79.0.0/16", "--allow-peer", "fd79::/64"])
        cls.addClassCleanup(shutil.rmtree, cls.relay.folder, ignore_errors=True)
        cls.addClassCleanup(cls.relay.stop)
        cls.relay.start()

    def traffic(self, device, family, *options):
        done = subprocess.run(
            ["ip", "netns", "exec", self.tool_space, str(LOAD), "relay", "--driver", "dpdk",
             "--eal", "--no-huge -m 256 --no-pci --no-telemetry "
             f"--file-prefix=culvert{os.getpid()}veth "
             f"--vdev={device}", "--port-address", f"{TOOL[4]}/16", "--port-address",
             f"{TOOL[6]}/64", "--server", at(family), "--family", str(family), "--user", USER,
             "--password", PASSWORD, "--rate", str(RATE), "--sleep", "--duration", str(SECONDS),
             "--warm-up", "0", "--json", "-", *options],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LOAD_SECONDS,
            check=False)
        self.assertEqual(done.returncode, 0, f"{done.stderr[-2000:]}\n{self.relay.log()[-2000:]}")
        result = json.loads(done.stdout)
        flows = result["flows"].values()
        self.assertEqual([flow["lost"] for flow in flows], [0, 0], result)
        self.assertEqual(sum(flow["unique"] for flow in flows), RATE * SECONDS, result)
        self.assertNotIn("bad_udp_checksum", result["port"])

    def every_way(self, device):
        for family in (4, 6):
            with self.subTest(family=family):
                self.traffic(device, family)
                # Fewer addresses than the kernel keeps neighbours (gc_thresh3).
                self.traffic(device, family, "--local", CLIENTS[family], "--clients", "200",
                             "--encoding", "send")

    def test_over_af_packet_nothing_is_lost(self):
        self.every_way("net_af_packet0,iface=lab0,blocksz=65536,framesz=2048,framecnt=2048")

    def test_over_af_xdp_nothing_is_lost(self):
        self.every_way("net_af_xdp0,iface=lab0")


class Calibration(unittest.TestCase):
    def test_the_port_s_own_cost_is_measured_against_a_reflector(self):
        need(has_dpdk(), "a culvert-load built with DPDK (libdpdk-dev)")
        done = subprocess.run([str(LOAD), "calibrate", "--driver", "dpdk", "--duration", "1",
                               "--warm-up", "0.2", "--json", "-"], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=LOAD_SECONDS, check=False)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        result = json.loads(done.stdout)
        self.assertGreater(result["received"], 0)
        self.assertGreater(result["generator"]["send_ns_each"], 0)
        self.assertGreater(result["generator"]["receive_ns_each"], 0)
        self.assertEqual(result["corrupt"], 0)


if __name__ == "__main__":
    unittest.main()
