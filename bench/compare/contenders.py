"""The servers that are compared: how each is started, and why those settings are fair.

Each has one packet-handling thread, so that packets per CPU-second compare one core's work, and
runs without anything that costs a server time and is not the job: no TLS listener, no log, no
command-line interface. All have the same user, the same number of relayed ports and accept the
generator's peers. A server is ready when it answers a STUN Binding request, whatever it prints.
sites.py says where they run.

A server that is not here: `compare --add NAME=COMMAND`; culvert-load talks to any. Those on ports
of their own (OnPort) are named by the cells that they run in.
"""
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

import sites

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Letters only: pion's example server takes no other passwords on its command line.
USER, PASSWORD, REALM = "bench", "benchpassword", "bench.example"
READY_SECONDS = 15
SAMPLE_SECONDS = 0.2
STOP_SECONDS = 5
GO_BUILD_SECONDS = 300


def free_port():
    return sites.Loopback().port("")


def answers_binding(site, address, port, seconds):
    """True when address:port answers a STUN Binding request of the generator within that time."""
    request = struct.pack("!HHI12s", 0x0001, 0, 0x2112A442, os.urandom(12))
    end = time.monotonic() + seconds
    with site.inside_client():
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with probe:
        probe.connect((address, port))
        probe.settimeout(0.1)
        while time.monotonic() < end:
            try:
                probe.send(request)
                if probe.recv(2048)[4:20] == request[4:20]:
                    return True
            except (OSError, TimeoutError):
                time.sleep(0.02)
    return False


class Contender:
    """One server process. `tool_options` is what culvert-load must be told to talk to it."""

    name = ""
    note = ""
    on_port = False  # a port of its own, without the kernel
    index = 0  # of its range of ports, where servers share an address

    def __init__(self, places, taskset=None, site=None):
        self.places = places
        self.taskset = taskset
        self.site = site or sites.Loopback()
        self.process = None
        self.address = "127.0.0.1"
        self.port = 0
        self.log = None

    @classmethod
    def find(cls, places, build):
        """Puts the program's path into `places`; a sentence when there is none."""
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def tool_options(self):
        return ["--user", USER, "--password", PASSWORD]

    def target(self):
        return f"{self.address}:{self.port}"

    def wait_ready(self):
        return answers_binding(self.site, self.address, self.port, READY_SECONDS)

    def start(self):
        self.address = self.site.join(self.name)
        self.port = self.site.port(self.name)
        self.log = tempfile.NamedTemporaryFile(prefix="compare-", suffix=".log", delete=False)
        command = self.command()
        if self.taskset:
            command = ["taskset", "-c", self.taskset] + command
        # ip netns exec and taskset become the server: its process id is this one.
        self.process = subprocess.Popen(
            self.site.server_prefix(self.name) + command, stdout=self.log,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
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
            self.process.send_signal(signal.SIGTERM)
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

    @classmethod
    def find(cls, places, build):
        places["coturn"] = shutil.which("turnserver")
        return "" if places["coturn"] else "not installed (Debian: apt install coturn)"

    def command(self):
        low, high = self.site.relay_ports(self.index)
        loopback = ["--allow-loopback-peers"] if self.site.name == "loopback" else []
        return [
            self.places["coturn"], "-n", "--listening-ip", self.address, "--relay-ip",
            self.address, "--listening-port", str(self.port), "--min-port", str(low),
            "--max-port", str(high), "--lt-cred-mech", "--user", f"{USER}:{PASSWORD}", "--realm",
            REALM, "--relay-threads", "1", *loopback, "--no-tls", "--no-dtls", "--no-cli",
            "--no-rfc5780", "--no-software-attribute", "--log-file", "/dev/null",
            "--no-stdout-log", "--pidfile", "/dev/null", "--db", ":memory:",
        ]

    def stop(self):
        # Its handler of SIGTERM waits for its threads; SIGINT ends it at once.
        if self.alive():
            self.process.send_signal(signal.SIGINT)
        super().stop()


class Culvert(Contender):
    name = "culvert"
    note = "The tree's own release build, socket driver, one fast core beside its control thread."
    index = 1

    @classmethod
    def find(cls, places, build):
        if not places.get("culvertd"):
            places["culvertd"] = build("culvertd", "tools/culvertd/culvertd")
        return "" if places["culvertd"] else "this tree does not build it"

    def command(self):
        self.control = tempfile.mkdtemp(prefix="culvert-compare-")
        low, high = self.site.relay_ports(self.index)
        return [
            self.places["culvertd"], "--driver", "sockets", "--cores", "1",
            "--listen", self.target(), "--relay-address", self.address,
            "--relay-ports", f"{low}-{high}", "--realm", REALM, "--user", f"{USER}:{PASSWORD}",
            "--allow-peer", self.site.peers, "--max-allocations", "4096",
            "--control-socket", os.path.join(self.control, "control.sock"),
        ]

    def stop(self):
        super().stop()
        shutil.rmtree(getattr(self, "control", ""), ignore_errors=True)


class Pion(Contender):
    """Picked up when it is installed as `pion-turn-server`, or built when asked for by name."""

    name = "pion"
    note = ("pion/turn's own example server (examples/turn-server/simple) of the version that "
            "tests/interop/pion/go.mod pins; Go uses as many threads as there are CPUs.")
    index = 2

    @classmethod
    def find(cls, places, build):
        places["pion"] = shutil.which("pion-turn-server")
        return "" if places["pion"] else "not installed (--with pion builds it from its Go module)"

    @classmethod
    def build(cls, places, folder):
        program = os.path.join(folder, "pion-turn-server")
        done = subprocess.run(
            ["go", "build", "-mod=readonly", "-o", program,
             "github.com/pion/turn/v2/examples/turn-server/simple"],
            cwd=os.path.join(ROOT, "tests", "interop", "pion"), text=True, capture_output=True,
            env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": ""}, timeout=GO_BUILD_SECONDS)
        places["pion"] = program if done.returncode == 0 else None
        return "" if done.returncode == 0 else done.stderr[-500:]

    def command(self):
        return [self.places["pion"], "-public-ip", self.address, "-port", str(self.port),
                "-users", f"{USER}={PASSWORD}", "-realm", REALM]


class Added(Contender):
    """A server that the user names with its command."""

    note = "Started with the command that was given: see Commands."
    template = ""

    def command(self):
        values = {"address": self.address, "port": self.port, "user": USER, "password": PASSWORD,
                  "realm": REALM}
        return [word.format(**values) for word in shlex.split(self.template)]


class KernelBound(Contender):
    """The bare loop: what the kernel leaves any relay on sockets. No TURN, so no allocations."""

    name = "kernel bound"
    note = ("bench/macro/kernel_bound: a loop that forwards and does nothing else, with the "
            "relay's sockets, options and control messages. In cells with "
            "interleaved flows it sends each datagram alone; a server that gathers a burst's "
            "datagrams by flow can pass it.")
    relay_port = 16000

    def __init__(self, places, taskset=None, site=None, mode="single", sockets=1000):
        super().__init__(places, taskset, site)
        self.mode = mode
        self.sockets = sockets

    @classmethod
    def find(cls, places, build):
        places["kernel_bound"] = build("kernel_bound", "bench/macro/kernel_bound")
        return "" if places["kernel_bound"] else "this tree does not build it"

    def command(self):
        return [
            self.places["kernel_bound"], "--mode", self.mode, "--listen", self.target(),
            "--sockets", str(self.sockets), "--relay-port", str(self.relay_port),
        ]

    def wait_ready(self):
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if "ready" in self.said():
                return True
            time.sleep(0.02)
        return False

    def tool_options(self):
        return ["--bare", f"{self.address}:{self.relay_port}"]


class OnPort(Contender):
    """A program that polls a port of its own. It has a CPU for itself and is a new process in each
    round: two pollers must never share one."""

    on_port = True

    def __init__(self, places, wire, name=""):
        super().__init__(places)
        self.wire = wire
        self.name = name or self.name
        self.control = None

    def start(self):
        self.wire.clear()
        self.address, self.port = self.wire.server_address, 3478
        self.log = tempfile.NamedTemporaryFile(prefix="compare-", suffix=".log", delete=False)
        command = self.wire.prefix("server") + self.command()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL)
        if not self.wait_ready():
            said = self.said()
            self.stop()
            raise RuntimeError(f"{self.name} did not begin to serve. It was started as\n  "
                               f"{' '.join(command)}\nand said:\n{said}")

    def wait_ready(self):
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if self.ready_word in self.said():
                return True
            time.sleep(0.02)
        return False

    def extras(self):
        """What the server itself has counted, once a run is over."""
        return {}


class CulvertPort(OnPort):
    name = "culvert"
    note = ("On a port of its own: the tree's release build, driver dpdk, one fast core that never "
            "sleeps (dpdk.idle = busy) on the same CPU as its control thread.")
    ready_word = '"ready"'

    def __init__(self, places, wire, name="", cores=1):
        super().__init__(places, wire, name)
        self.cores = cores

    def command(self):
        self.control = tempfile.mkdtemp(prefix="culvert-compare-")
        config = os.path.join(self.control, "port.toml")
        idle = "busy" if self.cores == 1 else "adaptive"  # those that share a CPU must yield it
        with open(config, "w", encoding="utf-8") as file:
            file.write(f'[log]\nformat = "json"\n[dpdk]\nidle = "{idle}"\n')
        wire = self.wire
        return [self.places["culvertd"], "--config", config, "--driver", "dpdk", "--cores",
                str(self.cores), "--eal", " ".join(wire.eal("server")), "--port-address",
                f"{wire.server_address}/{wire.network}", "--listen", self.target(),
                "--relay-address", wire.server_address, "--relay-ports", "32768-65535", "--realm",
                REALM, "--user", f"{USER}:{PASSWORD}", "--allow-peer", wire.allowed,
                "--max-allocations", "16384", "--control-socket", self.socket()]

    def socket(self):
        return os.path.join(self.control, "control.sock")

    def extras(self):
        asked = {name: subprocess.run(
            [self.places["culvertctl"], "--control-socket", self.socket(), "--json", name],
            text=True, capture_output=True, timeout=10, check=False)
            for name in ("drops", "status")}
        if any(done.returncode != 0 for done in asked.values()):
            return {}
        drops, status = (json.loads(asked[name].stdout) for name in ("drops", "status"))
        outcomes = {o["outcome"]: o["total"] for o in drops["outcomes"]}
        return {"handoff": outcomes["handoff"] + outcomes["handoff_reservation"],
                "handoff_full": outcomes["handoff_full"],
                "packets": sum(outcomes.values()), "allocations_left": status["allocations"]}

    @contextlib.contextmanager
    def sampled(self):
        """What it counts, taken again and again until the block ends: (seconds, extras), ..."""
        samples, over = [], threading.Event()

        def sample():
            while not over.wait(SAMPLE_SECONDS):
                extras = self.extras()
                if extras:
                    samples.append((time.monotonic(), extras))
        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield samples
        finally:
            over.set()
            thread.join()

    def stop(self):
        super().stop()
        shutil.rmtree(self.control or "", ignore_errors=True)


def handed_over_in_traffic(samples):
    """Of the datagrams of the busy stretch between set-up and tear-down: percent handed over.
    None: too few samples to tell it apart."""
    steps = [(b[0] - a[0], b[1]["packets"] - a[1]["packets"], b[1]["handoff"] - a[1]["handoff"])
             for a, b in zip(samples, samples[1:])]
    most = max((packets / seconds for seconds, packets, _ in steps), default=0)
    # A step at either end may hold a part of the set-up.
    busy = [step for step in steps if step[1] / step[0] > most / 2][1:-1]
    packets = sum(step[1] for step in busy)
    return 100 * sum(step[2] for step in busy) / packets if packets else None


class SwapperPort(OnPort):
    name = "testpmd"
    note = ("dpdk-testpmd in 5tswap: exchanges link addresses, IP addresses and ports of each frame"
            " and sends it back, nothing else; what the port leaves any relay (on AF_XDP macswap: "
            "link addresses only). The generator takes it for a server that sends everything back "
            "(--reflector).")
    ready_word = "packet forwarding - ports="

    def command(self):
        cpu = self.wire.cpus[0]
        return ["stdbuf", "-oL", "dpdk-testpmd", "--lcores", f"0@{cpu},1@{cpu}", "--iova-mode=va",
                *self.wire.eal("server"), "--", "--auto-start",
                f"--forward-mode={self.wire.swap}",
                "--disable-link-check", "--no-flush-rx", "--port-topology=loop", "--burst=64",
                "--total-num-mbufs=16384", "--stats-period", "3600"]

    def tool_options(self):
        return ["--reflector"]


# In the order of their rounds. Program key in `places`, class.
KNOWN = {"coturn": Coturn, "culvertd": Culvert, "pion": Pion, "kernel_bound": KernelBound}


def add(name, template):
    """A class for a server of the user's."""
    return type(f"Added_{name}", (Added,), {"name": name, "template": template})


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
