"""culvert-load on a DPDK port, where it is all clients and peers itself, against culvertd on one:
two processes joined by memif, whose frames no kernel sees. Nothing is lost over ChannelData and
Send indications, IPv4 and IPv6, from thousands of addresses that the relay has to learn by ARP and
neighbour discovery.

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
from relay import BUILD, KIND, PASSWORD, USER, Relay, need  # noqa: E402

LOAD = BUILD / "tools" / "culvert-load" / "culvert-load"
PORT = 3478
RELAY = {4: "10.79.0.1", 6: "fd79::1"}
TOOL = {4: "10.79.0.2", 6: "fd79::2"}
# 1022 and 1023 addresses, and as many again.
CLIENTS = {4: "10.79.4.0/22", 6: "fd79::4:0/118"}
PEERS = {4: "10.79.8.0/22", 6: "fd79::8:0/118"}
LOAD_SECONDS = 120
RATE = 2000
SECONDS = 2


def eal(role, folder):
    """Memory without hugepages: whoever else runs on this machine has those."""
    return (f"--no-huge -m 256 --no-pci --no-telemetry --file-prefix=culvert{os.getpid()}{role} "
            f"--vdev=net_memif0,role={role},socket={folder}/memif.sock,socket-abstract=no,"
            "bsize=2048,rsize=10")


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
            "--allow-peer", "10.79.0.0/16", "--allow-peer", "fd79::/64"]
        # Not the kernel's port: nobody else has it.
        cls.relay.relay_ports = lambda: (49152, 65535)
        cls.addClassCleanup(cls.relay.stop)
        cls.relay.start()

    def tool(self, mode, *options, family=4, status=0):
        done = subprocess.run(
            [str(LOAD), mode, "--driver", "dpdk", "--eal", eal("client", self.relay.folder),
             "--port-address", f"{TOOL[4]}/16", "--port-address", f"{TOOL[6]}/64",
             "--server", at(family), *(["--family", "6"] if family == 6 else []),
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
        for flow in flows:
            self.assertEqual((flow["lost"], flow["duplicates"], flow["reordered"]), (0, 0, 0),
                             result)
        self.assertEqual(sum(flow["unique"] for flow in flows), sent, result)
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


if __name__ == "__main__":
    unittest.main()
