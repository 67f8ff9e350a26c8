"""Nothing is lost while the relay is operated: a full table recovers, reload and drain keep live
allocations, SIGTERM drains, a second signal ends at once, privileges are gone after start."""

import os
import pathlib
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from relay import PASSWORD, USER, Relay, wait_for
from turn_client import TurnClient

CHANNEL = 0x4000
# Long enough to look at a draining relay on a busy machine, and short enough to wait for.
GRACE_SECONDS = 4
INSUFFICIENT_CAPACITY = 508


class Lifecycle(unittest.TestCase):
    def relay(self, config="", **options):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="culvert-config-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        self.config = folder / "culvert.toml"
        self.config.write_text(f'stop_grace = "{GRACE_SECONDS}s"\n{config}', encoding="utf-8")
        # Readable by the account that the relay becomes, which reads it again on reload.
        folder.chmod(0o755)
        self.config.chmod(0o644)
        relay = Relay(listen=["127.0.0.1"], config=self.config, kind="culvert", **options)
        self.addCleanup(shutil.rmtree, relay.folder, ignore_errors=True)
        self.addCleanup(relay.stop)
        return relay.start()

    def client(self, relay):
        client = TurnClient(("127.0.0.1", relay.port), USER, PASSWORD)
        self.addCleanup(client.close)
        return client

    def call(self, relay):
        """A client with an allocation and a channel to a peer of its own."""
        client = self.client(relay)
        client.allocate()
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(peer.close)
        # Not the relay's own address: there only its relayed ports are peers.
        peer.bind(("127.0.0.2", 0))
        peer.settimeout(5)
        client.bind(CHANNEL, peer.getsockname())
        return client, peer

    def check_alive(self, call):
        client, peer = call
        client.send_channel(CHANNEL, b"there")
        data, source = peer.recvfrom(100)
        self.assertEqual((data, source), (b"there", client.relayed[0]))
        peer.sendto(b"back", client.relayed[0])
        self.assertEqual(client.receive(), (CHANNEL, b"back", None))

    def test_a_full_table_answers_508_and_takes_new_allocations_once_one_ends(self):
        relay = self.relay(options=["--max-allocations", "4", "--cores", "1"])
        clients = [self.client(relay) for _ in range(4)]
        for client in clients:
            client.allocate()
        late = self.client(relay)
        self.assertEqual(late.allocate(check=False).error, INSUFFICIENT_CAPACITY)
        clients[2].refresh(0)
        self.assertTrue(late.allocate().lifetime)
        another = self.client(relay)
        self.assertEqual(another.allocate(check=False).error, INSUFFICIENT_CAPACITY)

    def test_an_allocation_survives_a_reload_that_changes_a_live_key(self):
        relay = self.relay()
        call = self.call(relay)
        text = self.config.read_text(encoding="utf-8")
        self.config.write_text(text.replace(f'"{GRACE_SECONDS}s"', '"3s"'), encoding="utf-8")
        relay.control("reload")
        self.check_alive(call)
        self.assertTrue(call[0].refresh(600).lifetime)
        self.check_alive(self.call(relay))

    def test_a_reload_that_touches_a_restart_key_is_refused_whole(self):
        relay = self.relay()
        call = self.call(relay)
        text = self.config.read_text(encoding="utf-8")
        self.config.write_text(text + "cores = 3\n", encoding="utf-8")
        with self.assertRaisesRegex(AssertionError, "cores"):
            relay.control("reload")
        self.check_alive(call)

    def test_drain_refuses_new_allocations_and_keeps_live_ones(self):
        relay = self.relay()
        call = self.call(relay)
        relay.control("drain")
        late = self.client(relay)
        self.assertEqual(late.allocate(check=False).error, INSUFFICIENT_CAPACITY)
        self.check_alive(call)
        self.assertTrue(call[0].refresh(600).lifetime)
        self.assertIsNone(relay.process.poll(), "drain must not end the relay")

    def test_sigterm_drains_and_then_closes(self):
        relay = self.relay()
        call = self.call(relay)
        began = time.monotonic()
        relay.signal(signal.SIGTERM)
        late = self.client(relay)
        wait_for(lambda: late.allocate(check=False).error == INSUFFICIENT_CAPACITY or
                 late.refresh(0), 2, "new allocations get 508")
        self.check_alive(call)
        self.assertEqual(relay.wait(), 0)
        took = time.monotonic() - began
        self.assertGreater(took, GRACE_SECONDS - 0.5, "closed before its grace was over")
        self.assertLess(took, GRACE_SECONDS + 5)

    def test_a_drain_ends_early_when_the_last_allocation_ends(self):
        relay = self.relay(config="")
        self.config.write_text('stop_grace = "60s"\n', encoding="utf-8")
        relay.control("reload")
        client, _ = self.call(relay)
        relay.signal(signal.SIGTERM)
        client.refresh(0)
        self.assertEqual(relay.wait(15), 0)

    def test_a_second_signal_ends_it_at_once(self):
        relay = self.relay()
        self.config.write_text('stop_grace = "60s"\n', encoding="utf-8")
        relay.control("reload")
        call = self.call(relay)
        relay.signal(signal.SIGTERM)
        late = self.client(relay)
        wait_for(lambda: late.allocate(check=False).error == INSUFFICIENT_CAPACITY or
                 late.refresh(0), 2, "the drain has begun")
        self.check_alive(call)
        relay.signal(signal.SIGINT)
        relay.wait(5)

    @unittest.skipUnless(os.geteuid() == 0, "only root has privileges to drop")
    def test_privileges_are_gone_once_it_serves(self):
        relay = self.relay()
        call = self.call(relay)
        status = pathlib.Path(f"/proc/{relay.process.pid}/status").read_text(encoding="utf-8")
        for name in ("Uid", "Gid"):
            ids = re.search(rf"^{name}:\s+(.*)$", status, re.MULTILINE)[1].split()
            self.assertNotIn("0", ids, status)
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
            self.assertEqual(int(re.search(rf"^{name}:\s+(\w+)$", status, re.MULTILINE)[1], 16), 0,
                             name)
        self.assertEqual(re.search(r"^NoNewPrivs:\s+(\d)", status, re.MULTILINE)[1], "1")
        for thread in pathlib.Path(f"/proc/{relay.process.pid}/task").iterdir():
            text = (thread / "status").read_text(encoding="utf-8")
            self.assertEqual(int(re.search(r"^CapEff:\s+(\w+)$", text, re.MULTILINE)[1], 16), 0)
            self.assertNotRegex(text, r"(?m)^Uid:.*\b0\b")
        self.check_alive(call)

    def test_a_taken_port_is_said_and_ends_the_start(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            relay = Relay(listen=["127.0.0.1"], port=port, kind="culvert")
            self.addCleanup(shutil.rmtree, relay.folder, ignore_errors=True)
            self.addCleanup(relay.stop)
            try:
                relay.start()
            except AssertionError:
                pass
            self.assertNotEqual(relay.wait(10), 0)
            self.assertIn(f"127.0.0.1:{port}", relay.log())


if __name__ == "__main__":
    unittest.main()
