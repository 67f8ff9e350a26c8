#!/usr/bin/env python3
"""culvert-load against what is known: a proxy that harms traffic by counted amounts, and the
servers that are here.

The proxy (culvert-impair) tells afterwards how many datagrams it lost, doubled and held back; the
tool must have seen exactly that many lost and doubled, as many reordered as could be (one held back
at the end of its flow has nobody behind it), and a delay that is never less than the one put in.
Runs against the bare loop of this tree, and against coturn and culvertd where they are.
Usage: culvert_load_test.py [BUILD_FOLDER], or CULVERT_BUILD in the environment.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "bench", "compare"))
import contenders  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.abspath(os.environ.get("CULVERT_BUILD") or os.path.join(ROOT, "build"))
if __name__ == "__main__" and len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    BUILD = os.path.abspath(sys.argv.pop(1))
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
CLIENTS = 4
RATE = 4000
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

    def relay(self, port, *more):
        return load_json(
            "relay", "--server", f"127.0.0.1:{port}", *self.server.tool_options(), "--clients",
            CLIENTS, "--rate", RATE, "--duration", SECONDS, "--warm-up", 0, "--server-pid",
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
                # Those held back at the very end: 30 ms of 2000 a second, 2 % of them, is 1.2; and
                # of one flow's datagrams 2 ms apart, all the others are overtaken. A stall of the
                # machine in which a flow sends nothing can hide a few more.
                self.assertLessEqual(flow["reordered"], harmed["held_back"])
                self.assertGreaterEqual(flow["reordered"], harmed["held_back"] * 0.9 - 5)
                latency = flow["latency_us"]
                self.assertGreaterEqual(latency["min"], DELAY_US)
                self.assertLess(latency["min"], DELAY_US + 1000)
                self.assertGreaterEqual(latency["p99.9"], HELD_US)

    def test_runs_and_gso_arrive_whole(self):
        for more in (["--run-length", 8], ["--run-length", 8, "--gso"]):
            with self.subTest(more):
                result = self.relay(self.server.port, *more)
                for flow in result["flows"].values():
                    self.assertEqual(flow["sent"], flow["unique"])
                self.assertEqual(result["corrupt"], 0)


class BareLoop(AgainstServer, unittest.TestCase):
    def make(self):
        if not os.path.exists(PLACES["kernel_bound"]):
            self.skipTest("the build has no kernel_bound")
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
        if not PLACES["coturn"]:
            self.skipTest("coturn is not installed")
        return contenders.Coturn(PLACES)


class WithCulvert(TurnCases, unittest.TestCase):
    def make(self):
        if not os.path.exists(PLACES["culvertd"]):
            self.skipTest("the build has no culvertd")
        return contenders.Culvert(PLACES)


class CommandLine(unittest.TestCase):
    def test_what_is_not_built_is_refused_with_a_sentence(self):
        for more, said in ((["--driver", "dpdk"], "not built"),
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
