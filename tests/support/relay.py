"""A relay under test: started on free ports of its own with one account, waited for, and stopped by
its pid.

CULVERT_BUILD names the build folder with culvertd (default build/gcc-release).
CULVERT_TEST_SERVER=coturn starts Debian's coturn instead: the tests of the clients must pass
against it too, which shows that they test the protocol and not one server."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CULVERT_BUILD", ROOT / "build" / "gcc-release"))
KIND = os.environ.get("CULVERT_TEST_SERVER", "culvert")
CI = os.environ.get("CI") == "true"

READY_SECONDS = 15
# Longer than culvertd's default stop_grace of 10 s, so that a stop that hangs is told from a drain.
STOP_SECONDS = 20

USER = "demo"
PASSWORD = "interop-secret"
REALM = "culvert.local"


def need(condition, what):
    """Skips loudly without `what`; in CI, where everything is installed, that is a failure."""
    if condition:
        return
    if CI:
        raise AssertionError(f"missing in CI: {what}")
    raise unittest.SkipTest(f"missing: {what}")


def need_program(name, package):
    path = shutil.which(name)
    need(path, f"{name} (Debian package {package})")
    return path


def free_udp_port(addresses=("127.0.0.1", "::1")):
    """A port that is free on each of the addresses right now."""
    for _ in range(100):
        port = random.randrange(20000, 32000)
        try:
            for address in addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.bind((address, port))
        except OSError:
            continue
        return port
    raise RuntimeError(f"no free UDP port on {addresses}")


def bracketed(address):
    return f"[{address}]" if ":" in address else address


def wait_for(condition, seconds, what, interval=0.02):
    """Polls until condition() is true and returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(interval)


class Relay:
    """One server process. `prefix` is a command that runs it elsewhere (ip netns exec NAME)."""

    def __init__(self, listen=("127.0.0.1", "::1"), relay=None, options=(), prefix=(), port=None,
                 kind=KIND, allow_loopback_peers=True, config=None):
        self.kind = kind
        self.addresses = list(listen)
        self.relay_addresses = list(relay or listen)
        self.options = list(options)
        self.prefix = list(prefix)
        self.port = port or free_udp_port(() if prefix else self.addresses)
        self.allow_loopback_peers = allow_loopback_peers
        self.config = config
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="culvert-test-"))
        self.control_socket = self.folder / "control.sock"
        self.log_path = self.folder / "server.log"
        self.ready = threading.Event()
        # The kernel's own ephemeral range starts at 32768: relayed ports stay below it.
        self.first_relay_port = 2 * random.randrange(5000, 8500)
        self.process = None

    def relay_ports(self):
        return self.first_relay_port, self.first_relay_port + 1999

    def culvert_command(self):
        culvertd = BUILD / "tools" / "culvertd" / "culvertd"
        need(culvertd.exists(), f"{culvertd} (tools/build)")
        low, high = self.relay_ports()
        command = [str(culvertd), "--realm", REALM, "--user", f"{USER}:{PASSWORD}",
                   "--relay-ports", f"{low}-{high}", "--control-socket", str(self.control_socket)]
        if self.config:
            command += ["--config", str(self.config)]
        for address in self.addresses:
            command += ["--listen", f"{bracketed(address)}:{self.port}"]
        for address in self.relay_addresses:
            command += ["--relay-address", address]
        if self.allow_loopback_peers:
            command += ["--allow-peer", "127.0.0.0/8", "--allow-peer", "::1/128"]
        return command + self.options

    def coturn_command(self):
        low, high = self.relay_ports()
        command = [need_program("turnserver", "coturn"), "-n", "-c", "/dev/null",
                   "--listening-port", str(self.port), "--min-port", str(low),
                   "--max-port", str(high), "--user", f"{USER}:{PASSWORD}", "--realm", REALM,
                   "--lt-cred-mech", "--no-tls", "--no-dtls", "--no-tcp", "--no-cli",
                   "--log-file", "stdout", "--simple-log",
                   "--pidfile", str(self.folder / "pid"), "--userdb", str(self.folder / "db")]
        for address in self.addresses:
            command += ["--listening-ip", address]
        for address in self.relay_addresses:
            command += ["--relay-ip", address]
        if self.allow_loopback_peers:
            command += ["--allow-loopback-peers"]
        return command

    def start(self):
        command = self.culvert_command() if self.kind == "culvert" else self.coturn_command()
        # A pipe to a thread, so that "ready" is an event and a full pipe never stalls the server.
        self.process = subprocess.Popen(self.prefix + command, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        env={**os.environ, "NOTIFY_SOCKET": ""})
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()
        if not self.ready.wait(READY_SECONDS):
            self.stop()
            raise AssertionError(f"{self.kind} did not become ready; its log:\n{self.log()}")
        if self.process.poll() is not None:
            raise AssertionError(f"{self.kind} ended at its start; its log:\n{self.log()}")
        return self

    def read_log(self):
        # coturn's last line before it serves names its database.
        sign = b"ready" if self.kind == "culvert" else b"SQLite DB connection success"
        with open(self.log_path, "wb", buffering=0) as out:
            for line in self.process.stdout:
                out.write(line)
                if sign in line:
                    self.ready.set()
        self.ready.set()

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=STOP_SECONDS):
        """Waits for the end and returns the exit status."""
        return self.process.wait(seconds)

    def stop(self):
        """Ends it at once: the second signal skips the drain. Returns the exit status."""
        if self.process and self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                # A server without allocations ends by the first.
                self.process.wait(0.5)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGTERM)
                try:
                    self.process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
        if self.process:
            self.reader.join(5)
            self.process.stdout.close()
        return self.process.returncode if self.process else None

    def control(self, *arguments, check=True):
        """culvertctl with --json: returns what it printed, parsed."""
        culvertctl = BUILD / "tools" / "culvertctl" / "culvertctl"
        need(culvertctl.exists(), f"{culvertctl} (tools/build)")
        done = subprocess.run([str(culvertctl), "--control-socket", str(self.control_socket),
                               "--json", *arguments], stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=20, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"culvertctl {' '.join(arguments)} failed: "
                                 f"{done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class RelayCase(unittest.TestCase):
    """A test class with one relay for all its tests; a failing test shows the relay's log."""

    relay_options = {}

    @classmethod
    def setUpClass(cls):
        cls.relay = Relay(**cls.relay_options).start()
        cls.addClassCleanup(shutil.rmtree, cls.relay.folder, ignore_errors=True)
        cls.addClassCleanup(cls.relay.stop)

    def fail_with_log(self, message):
        self.fail(f"{message}\n--- the relay's log\n{self.relay.log()[-3000:]}")
