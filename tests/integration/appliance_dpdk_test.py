"""The relay on DPDK ports as an appliance: its numbers on DPDK's telemetry socket and in top, cores
that sleep when idle, steering explained, datagrams traced, and fast cores that take nothing
from the heap under load. Driver sockets is held to the same, where it is the same."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import unittest

import dpdk_test
import operations_test

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from network import command, inside
from relay import BUILD, PASSWORD, USER, Relay, need, need_program, wait_for
from turn_client import TurnClient

RUNS_ALONE = "the relay polls"
CULVERT_LOAD = BUILD / "tools" / "culvert-load" / "culvert-load"
LOAD_SECONDS = 60

# Takes memory on a fast core's thread, as a faulty driver would.
FAULT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/socket.h>
int recvmmsg(int fd, struct mmsghdr* to, unsigned int count, int flags, struct timespec* wait) {
  static int (*real)(int, struct mmsghdr*, unsigned int, int, struct timespec*);
  if (!real) *(void**)&real = dlsym(RTLD_NEXT, "recvmmsg");
  void* volatile taken = malloc(48);
  free(taken);
  return real(fd, to, count, flags, wait);
}
"""


def load(server, peer, *options, prefix=(), mode="relay"):
    """culvert-load; its result."""
    need(CULVERT_LOAD.exists(), f"{CULVERT_LOAD} (tools/build)")
    line = [*prefix, str(CULVERT_LOAD), mode, "--server", server, "--user", USER, "--password",
            PASSWORD, "--warm-up", "0.5", "--duration", "2", "--quiet", "--json", "-", "--sleep",
            *(["--peer-address", peer] if peer else []), *options]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, text=True, capture_output=True,
                          timeout=LOAD_SECONDS, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(line)} ended with {done.returncode}:\n"
                             f"{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return json.loads(done.stdout)


def heap_bytes(relay):
    """What each core has taken since its loop began, and how much it has received."""
    cores = relay.control("cores")["cores"]
    return [c["heap_bytes"] for c in cores], sum(c["received_packets"] for c in cores)


class OnPorts(dpdk_test.OnPorts):
    cores = 2
    telemetry = ""
    more_options = ("--allow-peer", "10.78.1.2/32", "--max-allocations", "4000")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # culvert-load's peers are in the client's namespace, its own side of the relay.
        command("ip", "-n", cls.bench.client, "route", "add", "10.78.2.0/24", "via",
                dpdk_test.RELAY_NEAR_CLIENT[4])

    def telemetry_socket(self):
        path = f"/var/run/dpdk/culvert{os.getpid()}/dpdk_telemetry.v2"
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(client.close)
        client.settimeout(10)
        client.connect(path)
        greeting = json.loads(client.recv(16384))
        self.assertEqual(greeting["pid"], self.relay.process.pid)

        def ask(command):
            client.send(command.encode())
            return json.loads(client.recv(16384))[command.split(",")[0]]
        return ask

    def test_the_telemetry_socket_tells_what_the_control_socket_tells(self):
        self.uclient(4, "-s")
        ask = self.telemetry_socket()
        commands = ask("/")
        for name in ("cores", "core", "outcomes", "frames", "ports", "port"):
            self.assertIn(f"/culvert/{name}", commands)
        self.assertEqual(ask("/culvert/cores"), [0, 1])
        self.assertEqual(ask("/culvert/outcomes"), self.outcomes())
        told = [ask(f"/culvert/core,{core}")["received_packets"] for core in (0, 1)]
        self.assertEqual(told, [c["received_packets"]
                                for c in self.relay.control("cores")["cores"]])
        self.assertGreater(sum(told), 100)
        self.assertEqual(ask("/culvert/outcomes,1")["challenged"] +
                         ask("/culvert/outcomes,0")["challenged"], self.outcomes()["challenged"])
        self.assertEqual(set(ask("/culvert/frames")), set(self.frames()))
        self.assertEqual(ask("/culvert/ports"), ["net_af_packet0", "net_af_packet1"])
        self.assertGreater(ask("/culvert/port,0")["received_packets"], 0)
        for wrong in ("/culvert/core", "/culvert/core,2", "/culvert/core,-1", "/culvert/core,x",
                      "/culvert/port,9", "/culvert/outcomes,7"):
            self.assertIsNone(ask(wrong), wrong)

    def test_ports_are_in_status_and_top(self):
        self.meet(self.bench.client, 4, dpdk_test.RELAY_NEAR_CLIENT[4])
        wait_for(lambda: any(p["received_packets"] for p in self.relay.control("status")["ports"]),
                 10, "the ports' counters move")
        port = self.relay.control("status")["ports"][0]
        self.assertEqual((port["name"], port["driver"], port["link_up"]),
                         ("net_af_packet0", "net_af_packet", 1))
        for name in ("missed", "no_buffer", "receive_errors", "send_errors"):
            self.assertIn(name, port)

        def idle():
            """Nothing to do: the adaptive core sleeps, and its loop goes on turning."""
            view = self.relay.control("top", "--once", "--interval", "0.5")
            good = all(c["moves"] and c["sleep_share"] > 0.2 for c in view["cores"])
            return view if good else None
        view = wait_for(idle, 30, "both cores move and sleep")
        self.assertEqual([p["name"] for p in view["ports"]], ["net_af_packet0", "net_af_packet1"])

    def explain(self, datagram):
        """Until the core has a CPU for it: they are pinned, and tests are not alone."""
        return wait_for(lambda: self.relay.control("explain", datagram, check=False), 30, datagram)

    def test_explain_names_the_core_that_a_client_belongs_to(self):
        listener = f"{dpdk_test.RELAY_NEAR_CLIENT[4]}:{dpdk_test.PORT}"
        seen = set()
        for port in range(5000, 5040):
            told = self.explain(f"10.78.1.2:{port} -> {listener} channel 16384")
            self.assertEqual(told["steered_by"], "hash of addresses and ports")
            seen.add(told["steered_to_core"])
        self.assertEqual(seen, {0, 1})
        # And so it is: the core that explain names holds the client's allocation.
        for _ in range(4):
            with inside(self.bench.client):
                own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with TurnClient((dpdk_test.RELAY_NEAR_CLIENT[4], dpdk_test.PORT), USER, PASSWORD,
                            own) as client:
                client.allocate()
                near = "10.78.1.2:%d" % own.getsockname()[1]
                told = self.explain(f"{near} -> {listener} channel 16384")
                listed = self.relay.control("allocations", "--client", near)["allocations"]
                self.assertEqual([a["core"] for a in listed], [told["steered_to_core"]])
                client.refresh(0)
        low = self.relay.first_relay_port
        told = self.explain(f"10.78.2.2:9 -> {dpdk_test.RELAY_NEAR_PEER[4]}:{low}")
        self.assertEqual(told["steered_by"], "relayed port")

    def test_under_load_nothing_is_taken_from_the_heap(self):
        server = f"{dpdk_test.RELAY_NEAR_CLIENT[4]}:{dpdk_test.PORT}"
        prefix = ["ip", "netns", "exec", self.bench.client]
        before = heap_bytes(self.relay)[1]
        load(server, "10.78.1.2", "--clients", "100", "--rate", "4000", prefix=prefix)
        load(server, "10.78.1.2", "--clients", "20", "--rate", "2000", "--encoding", "send",
             prefix=prefix)
        self.uclient(6, "-s")
        heap, received = heap_bytes(self.relay)
        self.assertGreater(received - before, 8000)
        self.assertEqual(heap, [0, 0])

    def test_traced_datagrams_lose_nothing(self):
        with subprocess.Popen([str(operations_test.CULVERTCTL), "--socket",
                               str(self.relay.control_socket), "trace", "--json", "--count", "40",
                               "--client", "10.78.1.2", "--outcome", "relayed_send_to_peer"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) as trace:
            self.assertIn("watching", trace.stderr.readline())
            self.uclient(4, "-s")
            lines = [json.loads(line) for line in trace.stdout]
            self.assertEqual(trace.wait(10), 0)
        received = [r for r in lines if r["kind"] == "client"]
        sent = {(r["core"], r["number"]): r for r in lines if r["kind"] == "sent"}
        self.assertEqual(len(received), 40)
        for record in received:
            went = sent[record["core"], record["number"]]
            self.assertTrue(went["to"].startswith(f"{dpdk_test.PEER[4]}:348"), went)
            self.assertLess(went["length"], record["length"])


class SocketsUnderLoad(unittest.TestCase):
    """Driver sockets, by the same counter."""

    def relay(self, **options):
        relay = Relay(listen=["127.0.0.1"], kind="culvert",
                      options=["--cores", "2", "--max-allocations", "4000"], **options)
        self.addCleanup(shutil.rmtree, relay.folder, ignore_errors=True)
        self.addCleanup(relay.stop)
        return relay.start()

    def test_under_load_nothing_is_taken_from_the_heap(self):
        relay = self.relay()
        server = f"127.0.0.1:{relay.port}"
        load(server, None, "--clients", "100", "--rate", "8000")
        load(server, None, "--clients", "20", "--rate", "4000", "--encoding", "send")
        heap, received = heap_bytes(relay)
        self.assertGreater(received, 10000)
        self.assertEqual(heap, [0, 0])

    def test_the_counter_sees_a_core_that_takes_memory(self):
        library = pathlib.Path(self.enterContext(operations_test.tempfile.TemporaryDirectory()))
        library.chmod(0o755)
        source = library / "fault.c"
        source.write_text(FAULT, encoding="utf-8")
        subprocess.run([need_program("gcc", "g++"), "-O1", "-fPIC", "-shared", "-o",
                        str(library / "fault.so"), str(source), "-ldl"], check=True)
        relay = self.relay(prefix=["env", f"LD_PRELOAD={library / 'fault.so'}"], port=None)
        load(f"127.0.0.1:{relay.port}", None, "--clients", "20", "--rate", "2000")
        heap, _ = heap_bytes(relay)
        self.assertGreater(sum(heap), 48 * 1000)
        status = subprocess.run([str(operations_test.CULVERTCTL), "--socket",
                                 str(relay.control_socket), "top", "--once", "--interval", "0.2"],
                                text=True, capture_output=True, check=True)
        self.assertRegex(status.stdout, r"ok, heap \d")


if __name__ == "__main__":
    unittest.main()
