#!/usr/bin/env python3
"""A hostile soak of a whole culvertd on several cores: ordinary calls, clients that end in every
way, floods of malformed datagrams, mutated and authenticated nonsense, reloads, drains and
operators' commands, all at once. Afterwards everything must be as before: no allocation,
permission, channel, reservation or port left, no descriptor more, every received datagram in
exactly one outcome, a clean exit and no line of a sanitizer.

Usage: soak_test.py [--seconds N] [--cores N]; CULVERT_BUILD names the build (best with ASan and
UBSan, or TSan). The seed is printed."""

import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import turn_client as turn
from relay import BUILD, PASSWORD, USER, Relay, need_program, wait_for
from turn_client import TurnClient

SECONDS = float(os.environ.get("CULVERT_SOAK_SECONDS", "20"))
CORES = int(os.environ.get("CULVERT_SOAK_CORES", "2"))
SEED = int(os.environ.get("CULVERT_SOAK_SEED", random.SystemRandom().randrange(1 << 32)))

# The shortest that may be configured, so that allocations also end by themselves.
LIFETIME_SECONDS = 10
# After the last request: the last lifetime, a reservation's 32 s at most, and a slow machine.
SETTLE_SECONDS = 90
FLOOD_RATE = 3000
# A prefix of its own: its share of the reply budget runs out, and that must harm nobody else.
FLOOD_FROM = "127.9.9.9"
# As here: a host that fails to authenticate too often is not listened to for a while.
FAILS_FROM = "127.9.8.8"
EVEN_PORT, TOKEN, ADDITIONAL_FAMILY = 0x0018, 0x0022, 0x8000
CONFIG = """
stop_grace = "{grace}s"
[limits]
default_lifetime = "{lifetime}s"
max_lifetime = "20s"
total_bandwidth = "{total}MB/s"
[[realm]]
name = "culvert.local"
users = {{ {user} = "{password}", other = "other-secret" }}
user_quota = {quota}
user_bandwidth = "{bandwidth}MB/s"
"""
SANITIZER_SIGNS = ("Sanitizer", "runtime error:", "invariant broken")


class Worker(threading.Thread):
    """Repeats one thing until told to stop; its first unexpected exception fails the test."""

    def __init__(self, name, step, stop):
        super().__init__(name=name, daemon=True)
        self.step, self.stop, self.rounds, self.error = step, stop, 0, None
        self.random = random.Random(f"{SEED} {name}")

    def run(self):
        while not self.stop.is_set() and self.error is None:
            try:
                self.step(self.random)
                self.rounds += 1
            except turn.Refused:
                self.rounds += 1  # quota, drain, a closed allocation: all legal here
            except Exception as error:  # pylint: disable=broad-except
                self.error = f"{self.name}: {type(error).__name__}: {error}"


def mutated(rng, data):
    """The message with a few bytes changed, cut or repeated; often with its length put right."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        way = rng.randrange(5)
        at = rng.randrange(len(data))
        if way == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[at] = rng.choice((0, 1, 0x7f, 0x80, 0xff))
        elif way == 2 and len(data) > 4:
            del data[at:at + rng.choice((1, 4, 8))]
        elif way == 3:
            data[at:at] = data[at:at + 4 * rng.randrange(16)]
        else:
            data[at:at] = rng.randbytes(4)
        if not data:
            data = bytearray(b"\0")
    if len(data) >= 20 and rng.random() < 0.7:
        del data[len(data) - len(data) % 4:]
        data[2:4] = struct.pack("!H", (len(data) - 20) & 0xffff)
        data[4:8] = struct.pack("!I", turn.MAGIC)
    return bytes(data)


class Soak(unittest.TestCase):
    def setUp(self):
        print(f"soak: seed {SEED}, {SECONDS:.0f} s, {CORES} cores, build {BUILD}", flush=True)
        folder = pathlib.Path(tempfile.mkdtemp(prefix="culvert-soak-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        self.config = folder / "culvert.toml"
        self.write_config(quota=0, bandwidth=50)
        self.relay = Relay(config=self.config, kind="culvert", options=["--cores", str(CORES)])
        # The account stands in the file: flags of the same meaning would hide it.
        command = self.relay.culvert_command()
        for flag in ("--realm", "--user"):
            at = command.index(flag)
            del command[at:at + 2]
        self.relay.culvert_command = lambda: command
        self.addCleanup(shutil.rmtree, self.relay.folder, ignore_errors=True)
        self.addCleanup(self.relay.stop)
        self.relay.start()
        self.stop = threading.Event()
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.peer.close)
        # Not the relay's own address: there only its relayed ports are peers.
        self.peer.bind(("127.0.0.2", 0))

    def write_config(self, quota, bandwidth, grace=2):
        text = CONFIG.format(grace=grace, lifetime=LIFETIME_SECONDS, user=USER, password=PASSWORD,
                             quota=quota, bandwidth=bandwidth, total=4 * bandwidth)
        self.config.write_text(text, encoding="utf-8")
        self.config.chmod(0o644)

    def client(self, rng, user=USER, password=PASSWORD):
        server = rng.choice(("127.0.0.1", "127.0.0.1", "::1"))
        return TurnClient((server, self.relay.port), user, password)

    # --- what happens at once ---------------------------------------------------------------------

    def call(self, rng):
        """A call that carries data both ways and ends in one of four ways."""
        other = rng.random() < 0.3
        with self.client(rng, *(("other", "other-secret") if other else ())) as client:
            client.allocate(family=4)
            peer = self.peer.getsockname()
            client.bind(0x4000 + rng.randrange(0x1000), peer)
            for _ in range(rng.randrange(20)):
                client.send_channel(0x4000 + rng.randrange(0x1000), rng.randbytes(64))
                client.send(peer, rng.randbytes(rng.randrange(1200)))
                self.peer.sendto(rng.randbytes(rng.randrange(1400)), client.relayed[0])
            end = rng.randrange(4)
            if end == 0:
                client.refresh(0)
            elif end == 1:
                client.refresh(600)
                client.refresh(0)
            elif end == 2:  # the answer is not waited for
                client.sock.sendto(turn.message(turn.REFRESH, turn.REQUEST, os.urandom(12), [
                    (turn.LIFETIME, b"\0\0\0\0"), *self.credentials(client)], client.key),
                    client.server)
            # else: it is left to expire

    def dual(self, rng):
        """Both families; one ends first, or none."""
        with self.client(rng) as client:
            client.allocate(attributes=[(ADDITIONAL_FAMILY, b"\x02\0\0\0")])
            client.permit(("127.0.0.2", 0), ("::1", 0), check=False)
            for family in rng.sample((1, 2), rng.randrange(3)):
                client.request(turn.REFRESH, [(turn.LIFETIME, b"\0\0\0\0"),
                                              (turn.FAMILY, bytes([family, 0, 0, 0]))], False)
            client.permit(("127.0.0.2", 0), check=False)
            client.bind(0x4001, ("::1", 9), check=False)

    def reservation(self, rng):
        """EVEN-PORT with a reservation that is used by another client, used twice, or left."""
        with self.client(rng) as first, self.client(rng) as second, self.client(rng) as third:
            answer = first.allocate(attributes=[(EVEN_PORT, b"\x80")])
            token = answer.get(TOKEN)
            users = rng.choice(((), (second,), (second, third)))
            for client in users:
                client.allocate(attributes=[(TOKEN, token)], check=False)
                if client.relayed:
                    client.bind(0x4002, self.peer.getsockname())
                    client.send_channel(0x4002, b"x")
            for client in rng.sample((first, *users), rng.randrange(1 + len(users) + 1)):
                client.refresh(0, check=False)

    def hairpin(self, rng):
        """Two clients reach each other through their relayed addresses, on any two cores."""
        with self.client(rng) as a, self.client(rng) as b:
            a.allocate(family=4)
            b.allocate(family=4)
            a.permit(b.relayed[0])
            b.bind(0x4003, a.relayed[0])
            for _ in range(10):
                a.send(b.relayed[0], rng.randbytes(200))
                b.send_channel(0x4003, rng.randbytes(200))
            a.bind(0x4003, b.relayed[0])
            for client in rng.sample((a, b), rng.randrange(3)):
                client.refresh(0)

    def crossing(self, rng):
        """Requests that cross: retransmissions, deletion and refresh without waiting."""
        with self.client(rng) as client:
            client.binding()
            client.request(turn.REFRESH, check=False)  # 401 or 437
            client.request(turn.ALLOCATE, [(turn.TRANSPORT, b"\x11\0\0\0")], check=False)
            credentials = self.credentials(client)
            allocate = turn.message(turn.ALLOCATE, turn.REQUEST, os.urandom(12), [
                (turn.TRANSPORT, b"\x11\0\0\0"), *credentials], client.key)
            burst = [allocate] * 2
            for seconds in (0, 20, 0):
                burst.append(turn.message(turn.REFRESH, turn.REQUEST, os.urandom(12), [
                    (turn.LIFETIME, struct.pack("!I", seconds)), *credentials], client.key))
            tid = os.urandom(12)
            burst.append(turn.message(turn.CREATE_PERMISSION, turn.REQUEST, tid, [
                (turn.PEER, turn.xor_address(("127.0.0.2", 1), tid)), *credentials], client.key))
            for _ in range(20):
                client.sock.sendto(rng.choice(burst), client.server)

    @staticmethod
    def credentials(client):
        return [(turn.USERNAME, client.user.encode()), (turn.REALM, client.realm),
                (turn.NONCE, client.nonce)]

    def nonsense(self, rng):
        """Authenticated requests of random attributes, and mutations of valid messages."""
        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        own.bind((FAILS_FROM, 0))
        with TurnClient(("127.0.0.1", self.relay.port), USER, PASSWORD, own) as client:
            client.allocate()
            peer = self.peer.getsockname()
            types = [turn.LIFETIME, turn.PEER, turn.CHANNEL_NUMBER, turn.TRANSPORT, turn.FAMILY,
                     EVEN_PORT, TOKEN, ADDITIONAL_FAMILY, 0x001A, 0x001B, 0x0024, 0x7ABC, 0x8002]
            peers = [peer, client.relayed[0], ("::1", 5), ("::ffff:127.0.0.2", 7), ("0.0.0.0", 0),
                     ("127.0.0.1", self.relay.port), ("255.255.255.255", 9), ("10.0.0.1", 1)]
            valid = []
            for _ in range(100):
                tid = rng.randbytes(12)
                attributes = []
                for _ in range(rng.randrange(6)):
                    kind = rng.choice(types)
                    value = rng.randbytes(rng.choice((0, 1, 4, 4, 4, 8, 20)))
                    if kind == turn.PEER and rng.random() < 0.8:
                        value = turn.xor_address(rng.choice(peers), tid)
                    if kind == turn.CHANNEL_NUMBER and rng.random() < 0.8:
                        value = struct.pack("!HH", 0x4000 + rng.randrange(4), 0)
                    attributes.append((kind, value))
                method = rng.choice((turn.ALLOCATE, turn.REFRESH, turn.CREATE_PERMISSION,
                                     turn.CHANNEL_BIND, turn.CHANNEL_BIND, turn.BINDING, 0x0A))
                data = turn.message(method, turn.REQUEST, tid,
                                    attributes + self.credentials(client), client.key)
                valid.append(data)
                client.sock.sendto(data, client.server)
                client.send(rng.choice(peers), rng.randbytes(8))
                client.send_channel(0x4000 + rng.randrange(4), b"data")
            for data in valid:
                client.sock.sendto(mutated(rng, data), client.server)
                self.peer.sendto(mutated(rng, data), client.relayed[0])
            # Right user and nonce, wrong integrity.
            wrong = turn.message(turn.REFRESH, turn.REQUEST, os.urandom(12),
                                 self.credentials(client), b"no such key")
            for _ in range(50):
                client.sock.sendto(wrong, client.server)

    def uclient(self, rng):
        self.run_tool([need_program("turnutils_uclient", "coturn"), "-y", "-u", USER, "-w",
                       PASSWORD, "-p", str(self.relay.port), "-n", "20", "-m", "2", "-l",
                       str(rng.choice((20, 200, 1200))), "-z", "5", "-c", "127.0.0.1"])

    def flood(self, rng):
        self.run_tool([str(BUILD / "tools" / "culvert-load" / "culvert-load"), "hostile",
                       "--server", f"127.0.0.1:{self.relay.port}", "--quiet", "--local",
                       FLOOD_FROM, "--attack",
                       rng.choice(("allocate", "binding", "malformed")), "--count",
                       str(FLOOD_RATE * 2), "--rate", str(FLOOD_RATE)])

    def run_tool(self, command):
        """Not waited for longer than the soak lasts: the tool may starve on a busy machine."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if self.stop.wait(0.05):
                process.kill()
        process.wait()

    def operate(self, rng):
        """Every command of an operator; each must answer, and a refusal must be a legal one."""
        control = self.relay.control
        client = f"127.0.0.1:{rng.randrange(1024, 65536)}"
        for arguments in (
                ["status"], ["allocations"], ["drops"], ["cores"], ["close", "--user", "other"],
                ["explain", f"udp {client} -> 127.0.0.1:{self.relay.port} channel 0x4000"],
                ["close", "--client", client], ["drain"], ["drain", "--off"]):
            control(*arguments, check=arguments[0] in ("status", "allocations", "drops", "cores"))
        live = control("allocations")["allocations"]
        for allocation in rng.sample(live, min(3, len(live))):
            control("close", allocation["id"], check=False)
        self.write_config(quota=rng.choice((0, 200)), bandwidth=rng.choice((1, 50)),
                          grace=rng.choice((1, 2)))
        control("reload")
        self.stop.wait(1)

    # --- and what must be left --------------------------------------------------------------------

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.relay.process.pid}/fd"))

    def settled(self):
        status = self.relay.control("status")
        cores = self.relay.control("cores")["cores"]
        left = {"allocations": status["allocations"],
                "reservations": status["turn"]["reservations"],
                "ports": status["ports_total"] - status["ports_free"]}
        for core in cores:
            for gauge in ("allocations", "permissions", "channels", "open_ports"):
                left[gauge] = left.get(gauge, 0) + core[gauge]
        self.left = {name: count for name, count in left.items() if count}
        return not self.left

    def check_conservation(self):
        cores = self.relay.control("cores")["cores"]
        outcomes = self.relay.control("drops", "--all", "--per-core")["outcomes"]
        for index, core in enumerate(cores):
            entered = core["received_packets"] + core["hairpin_passes"] + core["handed_in"]
            self.assertEqual(entered, sum(o["cores"][index] for o in outcomes),
                             f"datagrams without an outcome on core {index}")

    def test_everything_at_once_leaves_nothing_behind(self):
        wait_for(lambda: all(core["sleeps"] for core in self.relay.control("cores")["cores"]), 10,
                 "every core runs")
        before = self.descriptors()
        steps = [self.call, self.call, self.dual, self.reservation, self.hairpin, self.crossing,
                 self.nonsense, self.uclient, self.flood, self.operate]
        workers = [Worker(f"{step.__name__}-{i}", step, self.stop) for i, step in enumerate(steps)]
        for worker in workers:
            worker.start()
        ended = time.monotonic() + SECONDS
        while time.monotonic() < ended:
            if self.relay.process.poll() is not None or any(w.error for w in workers):
                break
            self.stop.wait(0.2)
        self.stop.set()
        for worker in workers:
            worker.join(60)
            print(f"  {worker.name}: {worker.rounds} rounds", flush=True)
        log = self.relay.log()
        self.assertFalse([line for line in log.splitlines()
                          if any(sign in line for sign in SANITIZER_SIGNS)], log[-5000:])
        self.assertIsNone(self.relay.process.poll(), f"culvertd ended:\n{log[-5000:]}")
        self.assertEqual([w.error for w in workers if w.error], [], log[-2000:])
        for worker in workers:
            self.assertGreater(worker.rounds, 0, f"{worker.name} did nothing")
        try:
            wait_for(self.settled, SETTLE_SECONDS, "everything ended", interval=0.5)
        except AssertionError:
            self.fail(f"left behind: {self.left}")
        self.check_conservation()
        wait_for(lambda: self.descriptors() <= before, 5, "descriptors are closed")
        print(f"  {self.relay.control('status')['turn']}", flush=True)
        # A last ordinary call, then an ordered end.
        self.relay.control("drain", "--off")
        with TurnClient(("127.0.0.1", self.relay.port), USER, PASSWORD) as client:
            client.allocate(family=4)
            client.refresh(0)
        status = self.relay.stop()
        self.assertEqual(status, 0, self.relay.log()[-5000:])
        log = self.relay.log()
        self.assertFalse([line for line in log.splitlines()
                          if any(sign in line for sign in SANITIZER_SIGNS)], log[-5000:])


if __name__ == "__main__":
    for flag in ("--seconds", "--cores"):
        if flag in sys.argv:
            place = sys.argv.index(flag)
            if flag == "--seconds":
                SECONDS = float(sys.argv[place + 1])
            else:
                CORES = int(sys.argv[place + 1])
            del sys.argv[place:place + 2]
    unittest.main()
