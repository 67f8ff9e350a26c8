#!/usr/bin/env python3
"""culvert-load against what is known: a proxy that harms traffic by counted amounts, and the
servers that are here.

The proxy (culvert-impair) tells afterwards how many datagrams it lost, doubled and held back; the
tool must have seen exactly that many lost and doubled, as many reordered as could be (one held
back at the end of its flow has nobody behind it), and a delay that is never less than the one put
in. Runs against the bare loop of this tree, coturn and culvertd. Nothing here asserts a speed:
what a busy machine can delay has a lower bound that is exact and no upper one, or one far away
that is stated; the generator sleeps in between, or it would starve the server there.
Usage: culvert_load_test.py [BUILD_FOLDER], or CULVERT_BUILD in the environment.
"""
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
sys.path.insert(0, os.path.join(HERE, "..", "..", "bench", "compare"))
if __name__ == "__main__" and len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    os.environ["CULVERT_BUILD"] = os.path.abspath(sys.argv.pop(1))
import contenders  # noqa: E402
from network import AddressBook  # noqa: E402
from relay import BUILD, PASSWORD, USER, Relay, need  # noqa: E402
LOAD = os.path.join(BUILD, "tools/culvert-load/culvert-load")
IMPAIR = os.path.join(BUILD, "tools/culvert-load/culvert-impair")
PLACES = {
    "kernel_bound": os.path.join(BUILD, "bench/macro/kernel_bound"),
    "culvertd": os.path.join(BUILD, "tools/culvertd/culvertd"),
    "coturn": shutil.which("turnserver") or "",
}

LOSS, DUPLICATE, REORDER = 0.05, 0.03, 0.02
DELAY_US = 5000
HELD_US = 30000
# The least of thousands of delays may be above the one put in by what the busiest moment of all of
# them had in common, which is nothing; this much is not stated as an accuracy but told apart from
# the time for which datagrams are held back.
LEAST_DELAY_SLACK_US = 10000
CLIENTS = 4
# Low enough that a server with the kernel's own receive buffers (coturn) survives a pause of 0.2 s.
RATE = 1000
SECONDS = 4


def load(*arguments, status=0):
    done = subprocess.run([LOAD, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    if done.returncode != status:
        raise AssertionError(f"{arguments} ended with {done.returncode}: {done.stderr}")
    return done


def load_json(*arguments):
    return json.loads(load(*arguments, "--json", "-").stdout)


class Proxy:
    def __init__(self, server_port, *harm):
        self.port = contenders.free_port()
        self.process = subprocess.Popen(
            [IMPAIR, "--listen", f"127.0.0.1:{self.port}", "--server", f"127.0.0.1:{server_port}",
             *map(str, harm)], stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            raise AssertionError("culvert-impair did not start")

    def counts(self):
        self.process.send_signal(signal.SIGTERM)
        return json.loads(self.process.communicate(timeout=10)[0])

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class AgainstServer:
    """The cases, for each kind of server."""

    def make(self):
        raise NotImplementedError

    def setUp(self):
        self.server = self.make()
        self.server.start()
        self.addCleanup(self.server.stop)

    def relay(self, port, *more, rate=("--rate", RATE)):
        return load_json(
            "relay", "--server", f"127.0.0.1:{port}", *self.server.tool_options(), "--clients",
            CLIENTS, *rate, "--sleep", "--duration", SECONDS, "--warm-up", 0, "--server-pid",
            self.server.process.pid, *more)

    def test_an_unharmed_path_loses_nothing_and_every_datagram_is_counted(self):
        result = self.relay(self.server.port)
        for flow in result["flows"].values():
            # Paced: what is due in the window is sent in it, to the datagram.
            self.assertEqual(flow["sent"], RATE * SECONDS / 2)
            self.assertEqual(flow["unique"], flow["sent"])
            self.assertEqual((flow["lost"], flow["duplicates"], flow["reordered"]), (0, 0, 0))
            self.assertEqual(flow["latency_us"]["samples"], flow["unique"])
        self.assertEqual(result["corrupt"], 0)
        self.assertGreater(result["server"]["cpu_s"], 0)
        self.assertEqual([s["second"] for s in result["series"]], list(range(SECONDS)))
        for second in result["series"]:
            self.assertEqual((second["sent"], second["unique"]), (RATE, RATE), second)

    def test_injected_loss_duplication_reordering_and_delay_are_recovered(self):
        proxy = Proxy(self.server.port, "--loss", LOSS, "--duplicate", DUPLICATE,
                      "--reorder", REORDER, "--reorder-us", HELD_US, "--delay-us", DELAY_US)
        self.addCleanup(proxy.close)
        result = self.relay(proxy.port)
        counts = proxy.counts()
        for name, harmed in (("to_peer", counts["to_server"]), ("to_client", counts["to_client"])):
            flow = result["flows"][name]
            with self.subTest(name, harmed=harmed, flow=flow):
                self.assertGreater(harmed["lost"], 0)
                self.assertEqual(flow["lost"], harmed["lost"])
                self.assertEqual(flow["duplicates"], harmed["duplicated"])
                # Those held back at the very end: 30 ms of 500 a second, 2 % of them, is 0.3; and
                # of one flow's datagrams 8 ms apart, all the others are overtaken. A stall of the
                # machine in which a flow sends nothing can hide a few more.
                self.assertLessEqual(flow["reordered"], harmed["held_back"])
                self.assertGreaterEqual(flow["reordered"], harmed["held_back"] * 0.9 - 5)
                latency = flow["latency_us"]
                self.assertGreaterEqual(latency["p50"], DELAY_US)
                self.assertGreaterEqual(latency["min"], DELAY_US)
                self.assertLess(latency["min"], DELAY_US + LEAST_DELAY_SLACK_US)
                self.assertGreaterEqual(latency["p99.9"], HELD_US)

    def test_each_second_s_losses_add_up_to_what_the_proxy_lost(self):
        proxy = Proxy(self.server.port, "--loss", LOSS)
        self.addCleanup(proxy.close)
        result = self.relay(proxy.port, rate=("--ramp", "200:1800"))
        counts = proxy.counts()
        lost = [second["lost"] for second in result["series"]]
        self.assertEqual(sum(lost), counts["to_server"]["lost"] + counts["to_client"]["lost"])
        # Evenly from 200 to 1800 in four seconds: 400, 800, 1200 and 1600 are due.
        sent = [second["sent"] for second in result["series"]]
        for due, was in zip((400, 800, 1200, 1600), sent):
            self.assertAlmostEqual(due, was, delta=4)
        self.assertEqual(sum(sent), sum(f["sent"] for f in result["flows"].values()))
        self.assertEqual(sum(s["unique"] for s in result["series"]),
                         sum(f["unique"] for f in result["flows"].values()))

    def test_the_search_finds_a_known_limit(self):
        # The proxy lets through `limit` datagrams a second and 0.2 s of them at once, by their
        # arrival times. In a trial of 1.5 s, of which 1 % may be lost, that is (4500 + 600) / 1.5 /
        # 0.99 = 1.145 of the limit, and the bounds lie 5 % apart. Below it only pauses of this
        # machine that are longer than 0.2 s cost anything; one that has them in most trials finds
        # less, down to the half that is stated here.
        limit = 3000
        proxy = Proxy(self.server.port, "--rate-limit", limit, "--burst-s", 0.2)
        self.addCleanup(proxy.close)
        result = load_json("search", "--server", f"127.0.0.1:{proxy.port}",
                           *self.server.tool_options(), "--clients", CLIENTS, "--min-rate", 500,
                           "--max-rate", 12000, "--loss", 0.01, "--width", 0.05,
                           "--initial-trial", 0.4, "--final-trial", 1.5, "--duration-sum", 3,
                           "--warm-up", 0.1, "--max-time", 90, "--sleep")
        goal = result["goals"][0]
        self.assertTrue(goal["reached"], result["goals"])
        self.assertLess(goal["conditional_throughput"], limit * 1.15)
        self.assertGreater(goal["upper"], limit / 2)
        self.assertGreater(goal["conditional_throughput"], goal["upper"] * 0.94)
        self.assertLessEqual(goal["upper"] - goal["lower"], 0.05 * goal["upper"])
        self.assertGreater(proxy.counts()["to_server"]["policed"], 0)
        lengths = [trial["duration_s"] for trial in result["trials"]]
        self.assertEqual((lengths[0], lengths[-1]), (0.4, 1.5))

    def test_runs_and_gso_arrive_whole(self):
        for more in (["--run-length", 8], ["--run-length", 8, "--gso"]):
            with self.subTest(more):
                result = self.relay(self.server.port, *more)
                for flow in result["flows"].values():
                    self.assertEqual(flow["sent"], flow["unique"])
                self.assertEqual(result["corrupt"], 0)


class BareLoop(AgainstServer, unittest.TestCase):
    def make(self):
        need(os.path.exists(PLACES["kernel_bound"]), "kernel_bound (tools/build)")
        server = contenders.KernelBound(PLACES, sockets=CLIENTS)
        server.relay_port = contenders.free_port() // 2 + 10000  # away from 0 and from 65535
        return server


class TurnCases(AgainstServer):
    def test_send_indications_and_client_to_client_lose_nothing(self):
        for more in (["--encoding", "send"], ["--topology", "client-client"],
                     ["--topology", "client-client", "--encoding", "send"]):
            with self.subTest(more):
                result = self.relay(self.server.port, *more)
                for flow in result["flows"].values():
                    self.assertEqual((flow["lost"], flow["duplicates"]), (0, 0))
                self.assertGreater(result["flows"]["to_peer"]["unique"], 0)

    def test_several_channels_of_a_client_are_flows_of_their_own(self):
        result = self.relay(self.server.port, "--channels", 4, "--peers", 4)
        for flow in result["flows"].values():
            self.assertEqual(flow["sent"], RATE * SECONDS / 2)
            self.assertEqual((flow["lost"], flow["duplicates"], flow["reordered"]), (0, 0, 0))
        self.assertEqual(result["strange"], 0)

    def test_churn_completes_allocations_without_an_error(self):
        result = load_json("churn", "--server", f"127.0.0.1:{self.server.port}",
                           *self.server.tool_options(), "--clients", 8, "--rate", 200,
                           "--duration", 2, "--warm-up", 0)
        self.assertEqual(result["flows"]["to_peer"]["sent"], 400)
        self.assertEqual(result["flows"]["to_peer"]["unique"], 400)
        self.assertEqual(result["errors"], {})

    def test_a_wrong_password_is_told_apart_from_a_missing_server(self):
        done = load("relay", "--server", f"127.0.0.1:{self.server.port}", "--user", contenders.USER,
                    "--password", "wrong", "--duration", 1, status=1)
        self.assertIn("401", done.stderr)
        self.assertIn("--password", done.stderr)

    def test_bindings_are_answered_and_counted(self):
        result = load_json("binding", "--server", f"127.0.0.1:{self.server.port}", "--rate", 500,
                           "--duration", 2, "--warm-up", 0)
        self.assertEqual(result["flows"]["to_peer"]["sent"], 1000)
        self.assertEqual(result["flows"]["to_peer"]["unique"], 1000)


class WithCoturn(TurnCases, unittest.TestCase):
    def make(self):
        need(PLACES["coturn"], "turnserver (Debian package coturn)")
        return contenders.Coturn(PLACES)


class WithCulvert(TurnCases, unittest.TestCase):
    def make(self):
        need(os.path.exists(PLACES["culvertd"]), "culvertd (tools/build)")
        return contenders.Culvert(PLACES)


class AcrossFamilies(unittest.TestCase):
    """IPv6 to the server, behind it, or both; in a namespace that has two IPv6 addresses of its
    own."""

    @classmethod
    def setUpClass(cls):
        need(os.geteuid() == 0, "root, for a network namespace")
        cls.book = AddressBook()
        cls.book.__enter__()
        cls.addClassCleanup(cls.book.remove)
        v6, cls.peer_v6 = AddressBook.ADDRESSES
        cls.server_v6 = v6
        cls.relay = Relay(listen=("127.0.0.1", v6), prefix=cls.book.prefix(),
                          options=["--allow-peer", f"{v6}/128", "--allow-peer",
                                   f"{cls.peer_v6}/128"])
        cls.addClassCleanup(shutil.rmtree, cls.relay.folder, ignore_errors=True)
        cls.addClassCleanup(cls.relay.stop)
        cls.relay.start()

    def check(self, *arguments):
        done = subprocess.run(
            [*self.book.prefix(), LOAD, "relay", "--user", USER, "--password", PASSWORD,
             "--clients", "4", "--rate", "1000", "--sleep", "--duration", "1", "--warm-up", "0",
             "--json", "-", *arguments], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        flows = json.loads(done.stdout)["flows"]
        self.assertEqual(sum(f["sent"] for f in flows.values()), 1000, flows)
        for flow in flows.values():
            self.assertEqual((flow["lost"], flow["duplicates"]), (0, 0), flows)

    def test_both_encodings_in_every_pair_of_families_lose_nothing(self):
        v4, v6 = f"127.0.0.1:{self.relay.port}", f"[{self.server_v6}]:{self.relay.port}"
        for server, family, peer in ((v6, "6", self.peer_v6), (v4, "cross", self.peer_v6),
                                     (v6, "cross", "127.0.0.2"), (v4, "4", "127.0.0.2")):
            for encoding in ("channel", "send"):
                with self.subTest(server=server, family=family, encoding=encoding):
                    self.check("--server", server, "--family", family, "--peer-address", peer,
                               "--encoding", encoding)

    def test_clients_talk_to_clients_over_ipv6(self):
        for encoding in ("channel", "send"):
            with self.subTest(encoding):
                self.check("--server", f"[{self.server_v6}]:{self.relay.port}", "--family", "6",
                           "--topology", "client-client", "--encoding", encoding)


class CommandLine(unittest.TestCase):
    def test_on_a_terminal_a_line_shows_how_far_it_is_and_goes_away(self):
        reader, writer = pty.openpty()
        process = subprocess.Popen([LOAD, "calibrate", "--duration", "1.2", "--warm-up", "0",
                                    "--rate", "1000"], stdout=subprocess.PIPE, stderr=writer)
        os.close(writer)
        shown = b""
        while True:
            try:
                got = os.read(reader, 4096)
            except OSError:  # Linux says EIO when the other end is closed
                break
            if not got:
                break
            shown += got
        os.close(reader)
        self.assertEqual(process.wait(30), 0)
        process.stdout.close()
        self.assertRegex(shown.decode(), r"\r +1 of 1 s   sent +\d+/s   received +\d+/s")
        self.assertTrue(shown.endswith(b"\r\033[K"), shown)

    def test_without_a_terminal_no_line_is_shown(self):
        done = load("calibrate", "--duration", 1.2, "--warm-up", 0, "--rate", 1000)
        self.assertEqual(done.stderr, "")
        self.assertIn("ceiling", done.stdout)

    def test_the_manual_and_the_completions_know_every_mode_and_option(self):
        root = os.path.dirname(os.path.dirname(HERE))
        modes = re.findall(r"^  ([a-z]+) {2,}", load("--help").stdout.split("Subcommands:")[1],
                           re.MULTILINE)
        self.assertGreaterEqual(set(modes), {"relay", "search", "churn", "idle", "binding",
                                             "hostile", "calibrate"})
        texts = {}
        for path in ("man/culvert-load.1", "completions/culvert-load.bash",
                     "completions/_culvert-load", "completions/culvert-load.fish"):
            with open(os.path.join(root, "packaging", path), encoding="utf-8") as file:
                texts[path] = file.read().replace("\\-", "-")
        for mode in modes:
            options = set(re.findall(r"--[a-z][a-z0-9-]+", load(mode, "--help").stdout))
            options.discard("--help")
            for path, text in texts.items():
                known = set(re.findall(r"--[a-z][a-z0-9-]+", text))
                known |= {f"--{o}" for o in re.findall(r" -l ([a-z0-9-]+)", text)}  # fish
                with self.subTest(path, mode=mode):
                    self.assertIn(mode, text)
                    self.assertFalse(options - known)

    def test_what_is_not_built_is_refused_with_a_sentence(self):
        for more, said in ((["--driver", "dpdk"], "needs a port"),
                           (["--queues", "2"], "--driver dpdk"),
                           (["--transport", "tls"], "not built"),
                           (["--transport", "derp"], "not built"),
                           (["--driver", "x"], "no driver")):
            done = subprocess.run([LOAD, "relay", "--server", "127.0.0.1:9", "--user", "u",
                                   "--password", "p", *more], capture_output=True, text=True)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(said, done.stderr)

    def test_wrong_usage_ends_with_status_2_and_the_remedy(self):
        for arguments, said in ((["--size", "3"], "--size must be"),
                                (["--gso"], "--run-length"),
                                (["--family", "6"], "--family 4"),
                                (["--ramp", "10"], "--ramp"),
                                (["--tick-us", "1000"], "--rate"),
                                (["--run-length", "64", "--gso", "--size", "1400"], "GSO")):
            done = load("relay", "--server", "127.0.0.1:9", "--user", "u", "--password", "p",
                        *arguments, status=2)
            self.assertIn(said, done.stderr)
        self.assertIn("--user", load("churn", "--server", "127.0.0.1:9", status=2).stderr)

    def test_calibration_ends_with_the_generator_s_own_cost(self):
        result = load_json("calibrate", "--duration", 0.5, "--warm-up", 0.2)
        self.assertGreater(result["generator"]["send_ns_each"], 0)
        self.assertGreater(result["generator"]["receive_ns_each"], 0)
        self.assertGreater(result["received"], 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
