"""The servers that are compared: how each is started, and why those settings are fair.

Each runs on loopback with one packet-handling thread, so that packets per CPU-second compare one
core's work, and without anything that costs a server time and is not the job: no TLS listener, no
log, no command-line interface. All have the same user and accept peers on loopback. A server is
ready when it answers a STUN Binding request, whatever it prints. Both have 16384 relayed ports, in
ranges apart, because all contenders of a cell live side by side and only one has traffic at a time.
"""
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

USER, PASSWORD, REALM = "bench", "bench-password", "bench.example"
READY_SECONDS = 15
STOP_SECONDS = 5


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers_binding(port, seconds):
    """True when 127.0.0.1:port answers a STUN Binding request within that time."""
    request = struct.pack("!HHI12s", 0x0001, 0, 0x2112A442, os.urandom(12))
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", port))
        probe.settimeout(0.1)
        while time.monotonic() < end:
            try:
                probe.send(request)
                if probe.recv(2048)[4:20] == request[4:20]:
                    return True
            except (ConnectionRefusedError, TimeoutError, socket.timeout):
                time.sleep(0.02)
    return False


class Contender:
    """One server process. `tool_options` is what culvert-load must be told to talk to it."""

    name = ""
    note = ""

    def __init__(self, places, taskset=None):
        self.places = places
        self.taskset = taskset
        self.process = None
        self.port = 0
        self.log = None

    def command(self):
        raise NotImplementedError

    def tool_options(self):
        return ["--user", USER, "--password", PASSWORD]

    def wait_ready(self):
        return answers_binding(self.port, READY_SECONDS)

    def start(self):
        self.port = free_port()
        self.log = tempfile.NamedTemporaryFile(prefix=f"{self.name}-", suffix=".log", delete=False)
        command = self.command()
        if self.taskset:
            command = ["taskset", "-c", self.taskset] + command
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        if not self.wait_ready():
            said = self.said()
            self.stop()
            raise RuntimeError(f"{self.name} did not begin to serve. It was started as\n  "
                               f"{' '.join(command)}\nand said:\n{said}")

    def said(self):
        with open(self.log.name, errors="replace") as file:
            return file.read()[-2000:].strip()

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT if self.name == "coturn" else signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.log:
            self.log.close()
            os.unlink(self.log.name)
            self.log = None
        self.process = None


class Coturn(Contender):
    name = "coturn"
    note = ("Debian's package, one relay thread, long-term credentials, no TLS, DTLS, CLI or RFC "
            "5780 listener, no log, no quota.")

    def command(self):
        return [
            self.places["coturn"], "-n", "--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1",
            "--listening-port", str(self.port), "--min-port", "21384", "--max-port", "37767",
            "--lt-cred-mech", "--user", f"{USER}:{PASSWORD}", "--realm", REALM,
            "--relay-threads", "1", "--allow-loopback-peers", "--no-tls", "--no-dtls", "--no-cli",
            "--no-rfc5780", "--no-software-attribute", "--log-file", "/dev/null",
            "--no-stdout-log", "--pidfile", "/dev/null", "--db", ":memory:",
        ]


class Culvert(Contender):
    name = "culvert"
    note = "The tree's own release build, socket driver, one fast core beside its control thread."

    def command(self):
        self.control = tempfile.mkdtemp(prefix="culvert-compare-")
        return [
            self.places["culvertd"], "--driver", "sockets", "--cores", "1",
            "--listen", f"127.0.0.1:{self.port}", "--relay-address", "127.0.0.1",
            "--relay-ports", "49152-65535", "--realm", REALM, "--user", f"{USER}:{PASSWORD}",
            "--allow-peer", "127.0.0.0/8", "--max-allocations", "4096",
            "--control-socket", os.path.join(self.control, "control.sock"),
        ]

    def stop(self):
        super().stop()
        shutil.rmtree(getattr(self, "control", ""), ignore_errors=True)


class KernelBound(Contender):
    """The bare loop: what the kernel leaves any relay on sockets. No TURN, so no allocations."""

    name = "kernel bound"
    note = ("bench/macro/kernel_bound: a loop that forwards and does nothing else, with the "
            "relay's sockets, options and control messages. In cells with "
            "interleaved flows it sends each datagram alone; a server that gathers a burst's "
            "datagrams by flow can pass it.")
    relay_port = 20000

    def __init__(self, places, taskset=None, mode="single", sockets=1000):
        super().__init__(places, taskset)
        self.mode = mode
        self.sockets = sockets

    def command(self):
        return [
            self.places["kernel_bound"], "--mode", self.mode, "--listen",
            f"127.0.0.1:{self.port}", "--sockets", str(self.sockets),
            "--relay-port", str(self.relay_port),
        ]

    def wait_ready(self):
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if "ready" in self.said():
                return True
            time.sleep(0.02)
        return False

    def tool_options(self):
        return ["--bare", f"127.0.0.1:{self.relay_port}"]


def versions(places):
    out = {}
    for name, key in (("coturn", "coturn"), ("culvert", "culvertd")):
        if not places.get(key):
            continue
        try:
            done = subprocess.run([places[key], "--version"], capture_output=True,
                                  text=True, timeout=10)
            lines = (done.stdout + done.stderr).strip().splitlines()
            out[name] = lines[0] if lines else "?"
        except (OSError, subprocess.TimeoutExpired):
            out[name] = "?"
    return out
