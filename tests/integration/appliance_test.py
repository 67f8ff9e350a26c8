"""What makes the relay an appliance: the live table from the stats segment, and a core that stands
still is noticed by everyone who should notice."""

import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import pty
import re
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
import unittest

import operations_test
from operations_test import CHANNEL, CULVERTCTL, OK, REFUSED, UNREACHABLE

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from relay import free_udp_port, need, wait_for

# kCoreStall is 2 s; the rest is for a busy machine.
STALL_SECONDS = 10
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000


@contextlib.contextmanager
def frozen(pid, thread_name):
    """One thread of a process stands still, as under a debugger; the others go on."""
    need(os.geteuid() == 0, "root, to stop one thread of another process")
    tid = thread(pid, thread_name)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long

    def trace(request):
        if libc.ptrace(request, tid, None, None) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"ptrace {request:#x}: {os.strerror(error)}")
    trace(PTRACE_SEIZE)
    trace(PTRACE_INTERRUPT)
    os.waitpid(tid, WALL)
    try:
        yield tid
    finally:
        trace(PTRACE_DETACH)


def thread(pid, name):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            return int(task.name)
    raise AssertionError(f"process {pid} has no thread {name}")


class Top(operations_test.OperationsCase):
    def top(self, relay, *arguments):
        status, out, err = self.ctl(relay, "top", "--once", "--interval", "0.3", "--json",
                                    *arguments)
        self.assertEqual((status, err), (OK, ""))
        return json.loads(out)

    def stats_file(self, relay):
        return relay.control_socket.with_suffix(".stats")

    def test_the_segment_is_readable_for_the_daemons_account_and_gone_at_the_end(self):
        relay = self.relay()
        about = self.stats_file(relay).stat()
        self.assertEqual(stat.S_IMODE(about.st_mode), 0o640)
        self.assertEqual(about.st_uid, relay.control_socket.stat().st_uid)
        self.assertEqual(about.st_gid, relay.control_socket.stat().st_gid)
        self.assertEqual([p.name for p in relay.control_socket.parent.iterdir()
                          if p.name.startswith("control.stats")], ["control.stats"])
        relay.signal(signal.SIGTERM)
        self.assertEqual(relay.wait(), 0)
        self.assertFalse(self.stats_file(relay).exists())
        self.refuses(relay, "is culvertd running there", "top", "--once", status=UNREACHABLE)

    def test_a_second_daemon_does_not_take_the_segment_of_the_first(self):
        relay = self.relay()
        before = self.stats_file(relay).stat().st_ino
        second = operations_test.Relay(listen=["127.0.0.1"], kind="culvert")
        second.control_socket = relay.control_socket
        self.addCleanup(second.stop)
        with contextlib.suppress(AssertionError):
            second.start()
        self.assertEqual(second.wait(), 1)
        self.assertEqual(self.stats_file(relay).stat().st_ino, before)

    def test_rates_drops_and_cycles_are_those_of_the_traffic(self):
        relay = self.relay(options=["--cores", "2"])
        client, peer = call = self.call(relay)
        with subprocess.Popen([str(CULVERTCTL), "--socket", str(relay.control_socket), "top",
                               "--json", "--interval", "0.2"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True) as top:
            sent, seen = 0, []
            deadline = time.monotonic() + 20
            while not seen or sum(v["total"]["in_per_second"] for v in seen) == 0 \
                    or not seen[-1]["drops"]:
                self.assertLess(time.monotonic(), deadline, seen)
                for _ in range(20):
                    self.check_alive(call)
                    sent += 2
                client.sock.sendto(bytes([0x4F, 0xFF, 0, 0]), ("127.0.0.1", relay.port))
                seen.append(json.loads(top.stdout.readline()))
            top.send_signal(signal.SIGINT)
            self.assertEqual(top.wait(5), 0)
        view = seen[-1]
        self.assertEqual([d["name"] for d in view["drops"]], ["no_channel"])
        busiest = max(view["cores"], key=lambda core: core["in_per_second"])
        self.assertGreater(busiest["cycles_per_packet"], 100)
        self.assertTrue(0 < busiest["busy_share"] < 1, busiest)
        self.assertEqual(view["total"]["allocations"], 1)
        self.assertEqual((view["state"], view["pid"]), ("ready", relay.process.pid))
        self.assertEqual({c["heap_bytes"] for c in view["cores"]}, {0})
        idle = self.top(relay)
        self.assertTrue(all(core["sleep_share"] > 0.5 for core in idle["cores"]), idle)

    def test_on_a_terminal_it_fits_and_q_gives_the_terminal_back(self):
        relay = self.relay()
        screen, inside = pty.openpty()
        self.addCleanup(os.close, screen)
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 8, 40, 0, 0))
        before = termios.tcgetattr(inside)
        with subprocess.Popen([str(CULVERTCTL), "--socket", str(relay.control_socket), "top",
                               "--interval", "0.1"], stdin=inside, stdout=inside,
                              stderr=inside) as top:
            text = b""
            while text.count(b"\x1b[H") < 2:
                text += os.read(screen, 4096)
            os.write(screen, b"q")
            self.assertEqual(top.wait(5), 0)
            text += os.read(screen, 65536)
        self.assertEqual(termios.tcgetattr(inside), before)
        os.close(inside)
        self.assertTrue(text.endswith(b"\x1b[?25h\x1b[?1049l"), text[-60:])
        frame = text.split(b"\x1b[H")[1].split(b"\x1b[J")[0].replace(b"\x1b[K", b"")
        lines = frame.decode().split("\r\n")
        self.assertLessEqual(len(lines), 8)
        self.assertLessEqual(max(map(len, lines)), 40)
        self.assertTrue(lines[0].startswith("culvertd "), lines)

    def test_it_works_while_control_is_stuck_and_says_so(self):
        relay = self.relay()
        call = self.call(relay)
        # The control thread is the process's first.
        with frozen(relay.process.pid, "culvertd"):
            view = wait_for(lambda: (lambda v: v["control_silent_ms"] > 2000 and v)(
                self.top(relay)), STALL_SECONDS, "control is seen to be silent")
            self.assertTrue(all(core["moves"] for core in view["cores"]))
            status, out, _ = self.ctl(relay, "top", "--once", "--interval", "0.1")
            self.assertEqual(status, OK)
            self.assertIn("CONTROL IS SILENT", out)
            self.check_alive(call)  # the cores relay on
        wait_for(lambda: self.top(relay)["control_silent_ms"] < 2000, STALL_SECONDS, "alive again")


def read_pcapng(data):
    """(link type, [(inbound, packet bytes, original length, comment)]) of a little-endian file."""
    at, link, packets = 0, None, []
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        body = data[at + 8:at + length - 4]
        assert length % 4 == 0 and struct.unpack_from("<I", data, at + length - 4)[0] == length
        if kind == 1:
            link = struct.unpack_from("<H", body)[0]
        elif kind == 6:
            taken, original = struct.unpack_from("<II", body, 12)
            packet, rest, options = body[20:20 + taken], 20 + (taken + 3) // 4 * 4, {}
            while rest + 4 <= len(body):
                code, size = struct.unpack_from("<HH", body, rest)
                options[code] = body[rest + 4:rest + 4 + size]
                rest += 4 + (size + 3) // 4 * 4
            packets.append((options[2][0] == 1, packet, original, options[1].decode()))
        at += length
    return link, packets


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xffff:
        total = (total & 0xffff) + (total >> 16)
    return total


class Manual(unittest.TestCase):
    def test_every_command_is_in_the_manual_and_in_each_completion(self):
        need(CULVERTCTL.exists(), f"{CULVERTCTL} (tools/build)")
        packaging = pathlib.Path(__file__).resolve().parents[2] / "packaging"

        def words(*arguments):
            text = subprocess.run([str(CULVERTCTL), *arguments, "--help"], text=True,
                                  capture_output=True, check=True).stdout
            return (re.findall(r"^  (\w+)  ", text.partition("Subcommands:")[2], re.MULTILINE),
                    set(re.findall(r"^  (?:-\w,)?--([\w-]+)", text, re.MULTILINE)) - {"help"})
        commands = words()[0]
        self.assertIn("capture", commands)
        for path in ("man/culvertctl.1", "completions/_culvertctl",
                     "completions/culvertctl.bash", "completions/culvertctl.fish"):
            text = (packaging / path).read_text(encoding="utf-8")
            text = re.sub(r"\\f[BRI]", "", text).replace("\\-", "-")  # roff's fonts and hyphens
            for command in commands:
                self.assertRegex(text, rf"\b{command}\b", path)
            for command in ("top", "trace", "capture"):
                for option in words(command)[1] - words()[1]:
                    self.assertRegex(text, rf"(--|-l ){option}\b", path)


class Traces(operations_test.OperationsCase):
    @contextlib.contextmanager
    def running(self, relay, *arguments):
        """A trace or capture; what it printed, once it has ended."""
        output = {}
        with subprocess.Popen([str(CULVERTCTL), "--socket", str(relay.control_socket), *arguments],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            self.assertIn(b"watching", process.stderr.readline())
            yield output
            output["out"], output["err"] = process.communicate(timeout=20)
            output["status"] = process.returncode

    def test_each_datagram_is_shown_with_its_outcome_and_where_it_went(self):
        relay = self.relay(options=["--cores", "2"])
        client, peer = call = self.call(relay)
        near, far = self.address(client), "127.0.0.2:%d" % peer.getsockname()[1]
        listener, relayed = f"127.0.0.1:{relay.port}", "%s:%d" % client.relayed[0]
        with self.running(relay, "trace", "--json", "--count", "3", "--client", near) as output:
            self.check_alive(call, b"x" * 30)
            client.sock.sendto(bytes([0x4F, 0xFF, 0, 0]), ("127.0.0.1", relay.port))
        self.assertEqual((output["status"], output["err"]), (OK, b""))
        records = [json.loads(line) for line in output["out"].splitlines()]
        seen = [(r["kind"], r["from"], r["to"], r["length"], r.get("outcome")) for r in records]
        self.assertEqual(seen, [
            ("client", near, listener, 34, "relayed_channel_to_peer"),
            ("sent", relayed, far, 30, None),
            ("peer", far, relayed, 30, "relayed_peer_to_channel"),
            ("sent", listener, near, 34, None),
            ("client", near, listener, 4, "no_channel")])
        self.assertEqual([r["number"] for r in records], [1, 1, 2, 2, 3])
        self.assertEqual({r["bytes"] for r in records}, {""})

    def test_filters_narrow_and_text_says_the_same(self):
        relay = self.relay()
        first, second = self.call(relay), self.call(relay)
        filters = {
            ("--outcome", "no_channel"): 1,
            ("--peer", "127.0.0.2:%d" % second[1].getsockname()[1]): 2,
            ("--relay", str(second[0].relayed[0][1])): 2,
            ("--client", self.address(second[0]), "--outcome", "relayed_peer_to_channel"): 1,
            ("--client", "192.0.2.77"): 0}
        for arguments, expected in filters.items():
            with self.subTest(filter=arguments):
                with self.running(relay, "trace", "--seconds", "2", *arguments) as output:
                    self.check_alive(first)
                    self.check_alive(second)
                    first[0].sock.sendto(bytes([0x4F, 0xFF, 0, 0]), ("127.0.0.1", relay.port))
                lines = [x for x in output["out"].decode().splitlines() if "   sent " not in x]
                self.assertEqual(len(lines), expected, output)
                self.assertEqual(b"nothing that matches" in output["err"], expected == 0)
                for line in lines:
                    self.assertRegex(line, r"^[\d:.]+ core 0 #\d+ from (client|peer) \S+ -> \S+ "
                                           r"\d+ bytes ttl \d+: [a-z_]+$")

    def test_control_answers_are_shown_and_it_costs_no_one_a_datagram(self):
        relay = self.relay()
        with self.running(relay, "trace", "--json", "--count", "1000", "--seconds",
                          "3") as output:
            call = self.call(relay)
            for _ in range(50):
                self.check_alive(call)
        records = [json.loads(line) for line in output["out"].splitlines()]
        self.assertEqual(sum(r.get("outcome") == "relayed_channel_to_peer" for r in records), 50)
        self.assertGreaterEqual(sum(r["number"] == 0 for r in records), 2)  # Allocate, ChannelBind
        self.assertEqual(output["status"], OK)

    def test_a_capture_has_headers_only_unless_it_is_asked_for_more(self):
        relay = self.relay()
        client, peer = call = self.call(relay)
        secret = b"what users say" * 3
        for more in ([], ["--payload"]):
            file = self.folder() / "call.pcapng"
            with self.running(relay, "capture", str(file), "--count", "2", *more) as output:
                self.check_alive(call, secret)
            self.assertEqual(output["status"], OK, output)
            self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
            data = file.read_bytes()
            self.assertEqual(secret in data, bool(more))
            link, packets = read_pcapng(data)
            self.assertEqual((link, [p[0] for p in packets]), (101, [True, False, True, False]))
            comments = [p[3] for p in packets]
            self.assertEqual(comments[0], "core 0 #1 relayed_channel_to_peer")
            self.assertEqual(comments[2], "core 0 #2 relayed_peer_to_channel")
            for _, packet, original, _ in packets:
                self.assertEqual(packet[0], 0x45)
                self.assertEqual(checksum(packet[:20]), 0xffff)
                self.assertEqual(struct.unpack_from(">H", packet, 2)[0], original)
            first = packets[0]
            self.assertEqual(struct.unpack_from(">HHH", first[1], 20),
                             (client.sock.getsockname()[1], relay.port, 8 + 4 + len(secret)))
            self.assertEqual(first[1][28:32], struct.pack(">HH", CHANNEL, len(secret)))
            self.assertEqual(len(first[1]), first[2] if more else 32)
            self.assertEqual(packets[1][1][28:], secret if more else b"")
            if more:
                for _, packet, original, _ in packets:
                    pseudo = packet[12:20] + struct.pack(">HH", 17, original - 20)
                    self.assertEqual(checksum(pseudo + packet[20:]), 0xffff)
            self.refuses(relay, "File exists", "capture", str(file))
            file.unlink()
        tcpdump = subprocess.run(["which", "tcpdump"], capture_output=True, check=False)
        if tcpdump.returncode == 0:
            with self.running(relay, "capture", str(file), "--count", "1") as output:
                self.check_alive(call)
            done = subprocess.run(["tcpdump", "-nr", str(file)], text=True, capture_output=True,
                                  check=False)
            self.assertIn(f"127.0.0.1.{client.sock.getsockname()[1]} > 127.0.0.1.{relay.port}",
                          done.stdout)

    def test_wrong_questions_are_refused_and_a_signal_ends_it(self):
        relay = self.relay()
        self.refuses(relay, "no outcome is called", "trace", "--outcome", "vanished")
        self.refuses(relay, "must be an address", "trace", "--client", "nobody")
        self.assertEqual(self.ctl(relay, "trace", "--count", "0")[0], 2)
        with subprocess.Popen([str(CULVERTCTL), "--socket", str(relay.control_socket), "trace"],
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as trace:
            self.assertIn(b"watching", trace.stderr.readline())
            self.refuses(relay, "under way", "trace", "--seconds", "1")
            trace.send_signal(signal.SIGINT)
            self.assertEqual(trace.wait(5), 0)
        self.assertEqual(self.ctl(relay, "trace", "--seconds", "1")[0], OK)


class StuckCore(operations_test.ServiceManager):
    """A fast core that stands still, really."""

    # Its helpers, not its tests again.
    test_it_says_ready_reloading_watchdog_and_stopping = None
    test_a_start_that_fails_never_says_ready = None
    get = operations_test.Watching.get
    watched = operations_test.Watching.watched

    def test_everyone_who_should_know_is_told(self):
        relay = self.watched(options=["--cores", "2"], port=free_udp_port(["127.0.0.1"]),
                             prefix=[*self.environment, "WATCHDOG_USEC=600000"])
        self.message("WATCHDOG=1")
        self.assertEqual(self.ctl(relay, "health")[0], OK)
        with frozen(relay.process.pid, "culvert-core1"):
            wait_for(lambda: self.ctl(relay, "health")[0] == REFUSED, STALL_SECONDS, "health: 1")
            self.assertEqual(relay.control("health", check=False)["stalled_cores"], [1])
            self.assertIn("STANDS STILL: core 1", self.ctl(relay, "health")[1])
            self.assertEqual(self.get("/healthz")[0], 503)
            self.assertIn('culvert_core_stalled{core="1"} 1', self.get("/metrics")[1])
            self.assertIn('culvert_core_stalled{core="0"} 0', self.get("/metrics")[1])
            self.assertRegex(relay.log(), r'error core stands still core=1 thread="t ')
            status, out, _ = self.ctl(relay, "top", "--once", "--interval", "0.3", "--json")
            self.assertEqual((status, [c["moves"] for c in json.loads(out)["cores"]]),
                             (OK, [True, False]))
            # What was sent before is read away; then the service manager hears nothing more.
            self.notify.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.notify.recv(4096)
            with self.assertRaisesRegex(AssertionError, "no WATCHDOG=1"):
                self.message("WATCHDOG=1", seconds=1.5)
        wait_for(lambda: self.ctl(relay, "health")[0] == OK, STALL_SECONDS, "health: 0 again")
        self.message("WATCHDOG=1")
        self.assertIn("core moves again core=1", relay.log())
        self.check_alive(self.call(relay))


if __name__ == "__main__":
    unittest.main()
