"""Everything an operator does to a running relay, done to one: each culvertctl command against live
allocations, accounts and secrets that change under it, metrics, logs, the service manager's
messages, and every way in which a second daemon or a stranger must be turned away."""

import contextlib
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from relay import (BUILD, PASSWORD, REALM, USER, Relay, free_udp_port, need, need_program,
                   wait_for)
from turn_client import Refused, TurnClient

CULVERTCTL = BUILD / "tools" / "culvertctl" / "culvertctl"
CHANNEL = 0x4000
UNAUTHORIZED, QUOTA_REACHED, INSUFFICIENT_CAPACITY = 401, 486, 508
OK, REFUSED, WRONG_USAGE, UNREACHABLE = 0, 1, 2, 3
# Accounts that no Debian system has, for processes that are nobody's.
STRANGER, GROUP = 64321, 64322
# What the documentation promises for changes made to a database by another process, and a moment
# for a busy machine.
DATABASE_SECONDS = 2


def free_tcp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class OperationsCase(unittest.TestCase):
    """Starts relays with a configuration file, and clients; ends them all."""

    def folder(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="culvert-config-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        return folder

    def relay(self, config="", start=True, **options):
        self.config = self.folder() / "culvert.toml"
        self.write_config(config)
        relay = Relay(listen=["127.0.0.1"], config=self.config, kind="culvert", **options)
        # Strangers may look for the control socket, and the relay makes and owns its folder.
        relay.folder.chmod(0o755)
        relay.control_socket = relay.folder / "run" / "control.sock"
        self.addCleanup(shutil.rmtree, relay.folder, ignore_errors=True)
        self.addCleanup(relay.stop)
        return relay.start() if start else relay

    def write_config(self, text):
        self.config.write_text(text, encoding="utf-8")
        # Readable by the account that the relay becomes, which reads it again on reload.
        self.config.chmod(0o644)

    def client(self, relay, user=USER, password=PASSWORD):
        client = TurnClient(("127.0.0.1", relay.port), user, password)
        self.addCleanup(client.close)
        return client

    def allocated(self, relay, user=USER, password=PASSWORD):
        client = self.client(relay, user, password)
        client.allocate()
        return client

    def peer(self):
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(peer.close)
        # Not the relay's own address: there only its relayed ports are peers.
        peer.bind(("127.0.0.2", 0))
        peer.settimeout(5)
        return peer

    def call(self, relay):
        """A client with an allocation and a channel to a peer of its own."""
        client, peer = self.allocated(relay), self.peer()
        client.bind(CHANNEL, peer.getsockname())
        return client, peer

    def check_alive(self, call, data=b"there"):
        client, peer = call
        client.send_channel(CHANNEL, data)
        self.assertEqual(peer.recvfrom(2000), (data, client.relayed[0]))
        peer.sendto(data[::-1], client.relayed[0])
        self.assertEqual(client.receive(), (CHANNEL, data[::-1], None))

    def refused_with(self, code, relay, user, password):
        """An Allocate with these credentials is refused with this code."""
        client = self.client(relay, user, password)
        client.request(3, [(0x19, b"\x11\0\0\0")], check=False)  # takes the challenge
        return client.allocate(check=False).error == code

    @staticmethod
    def ctl(relay, *arguments, text=None, **process):
        """culvertctl as a person uses it: (exit status, standard output, standard error)."""
        need(CULVERTCTL.exists(), f"{CULVERTCTL} (tools/build)")
        done = subprocess.run([str(CULVERTCTL), "--socket", str(relay.control_socket), *arguments],
                              input=text or "", text=True, capture_output=True, timeout=20,
                              check=False, **process)
        return done.returncode, done.stdout, done.stderr

    def shows(self, relay, *arguments, text=None):
        """What a command prints for people; it must succeed and say nothing on standard error."""
        status, out, err = self.ctl(relay, *arguments, text=text)
        self.assertEqual((status, err), (OK, ""), arguments)
        return out

    def refuses(self, relay, expected, *arguments, text=None, status=REFUSED, **process):
        """The command fails with one sentence that matches, and prints nothing else."""
        got, out, err = self.ctl(relay, *arguments, text=text, **process)
        self.assertEqual((got, out), (status, ""), err)
        self.assertRegex(err, expected)
        self.assertTrue(err.startswith("culvertctl: "), err)
        return err

    @staticmethod
    def address(client):
        return "127.0.0.1:%d" % client.sock.getsockname()[1]


class Views(OperationsCase):
    def test_status_counts_what_happened_and_says_what_runs(self):
        relay = self.relay(options=["--cores", "2", "--max-allocations", "64"])
        call = self.call(relay)
        self.assertTrue(self.refused_with(UNAUTHORIZED, relay, USER, "wrong"))
        self.check_alive(call)
        status = relay.control("status")
        self.assertEqual(status["pid"], relay.process.pid)
        self.assertEqual((status["state"], status["healthy"]), ("ready", True))
        self.assertEqual((status["allocations"], status["max_allocations"]), (1, 64))
        self.assertEqual(status["ports_total"] - status["ports_free"], 1)
        self.assertEqual(status["turn"]["allocations_made"], 1)
        self.assertEqual(status["turn"]["channel_binds"], 1)
        self.assertGreaterEqual(status["turn"]["errors"]["401"], 1)
        self.assertEqual(status["listeners"],
                         [{"address": f"127.0.0.1:{relay.port}", "realm": REALM}])
        text = self.shows(relay, "status")
        for part in ("ready", "allocations 1 of 64", f"listens on 127.0.0.1:{relay.port}",
                     "relays on 127.0.0.1", "error responses  401: "):
            self.assertIn(part, text)

    def test_allocations_show_live_bytes_and_can_be_filtered(self):
        relay = self.relay(options=["--user", "eve:sleeps", "--cores", "2"])
        call, eve = self.call(relay), self.allocated(relay, "eve", "sleeps")

        def find(*filters):
            return relay.control("allocations", *filters)["allocations"]
        before = find("--user", USER)[0]
        self.check_alive(call, b"x" * 1000)
        after = find("--user", USER)[0]
        for direction in ("to_peer", "to_client"):
            self.assertEqual(after[f"packets_{direction}"], before[f"packets_{direction}"] + 1)
            self.assertEqual(after[f"bytes_{direction}"], before[f"bytes_{direction}"] + 1000)
        self.assertEqual((after["channels"], after["permissions"]), (1, 1))
        self.assertEqual(after["client"], self.address(call[0]))
        self.assertEqual(after["relayed_ipv4"], "%s:%d" % call[0].relayed[0])
        self.assertLess(after["expires_in_seconds"], 601)

        def users(*filters):
            return sorted(a["user"] for a in find(*filters))
        self.assertEqual(users(), [USER, "eve"])
        self.assertEqual(users("--client", "127.0.0.1"), [USER, "eve"])
        self.assertEqual(users("--client", self.address(eve)), ["eve"])
        self.assertEqual(users("--relay", "%s:%d" % eve.relayed[0]), ["eve"])
        self.assertEqual(users("--relay", "127.0.0.9"), [])
        self.assertEqual(users("--realm", REALM, "--user", "eve"), ["eve"])
        self.assertEqual(users("--realm", "elsewhere"), [])
        self.assertNotIn("bytes_to_peer", find("--no-counters")[0])
        self.assertIn("no allocations", self.shows(relay, "allocations", "--user", "nobody"))
        table = self.shows(relay, "allocations", "--user", USER)
        self.assertIn("1000 B", table)
        self.assertIn(self.address(call[0]), table)
        self.refuses(relay, "must be an address", "allocations", "--client", "everywhere")

    def test_allocations_come_in_pages_that_together_are_all(self):
        relay = self.relay(options=["--cores", "2"])
        clients = [self.allocated(relay) for _ in range(7)]
        ids, start = [], 0
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(5)
            raw.connect(str(relay.control_socket))
            lines = raw.makefile("rw", encoding="utf-8", newline="\n")
            while start is not None:
                lines.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "allocations",
                                        "params": {"from": start, "limit": 3}}) + "\n")
                lines.flush()
                page = json.loads(lines.readline())["result"]
                self.assertLessEqual(len(page["allocations"]), 3)
                ids += [a["id"] for a in page["allocations"]]
                start = page["next"]
        self.assertEqual(len(set(ids)), len(clients))
        self.assertEqual(len(ids), len(clients))
        some = relay.control("allocations", "--limit", "4")
        self.assertEqual(len(some["allocations"]), 4)
        self.assertIsNotNone(some["next"])
        self.assertIn("there are more", self.shows(relay, "allocations", "--limit", "4"))
        whole = relay.control("allocations", "--limit", "7")
        self.assertIsNone(whole["next"])

    def test_drops_count_each_datagram_that_went_nowhere(self):
        relay = self.relay(options=["--cores", "2"])
        self.assertIn("nothing was dropped", self.shows(relay, "drops"))
        client, peer = self.allocated(relay), self.peer()
        for _ in range(5):
            client.sock.sendto(b"\xff" * 40, client.server)
        peer.sendto(b"not permitted", client.relayed[0])
        outsider = self.peer()
        outsider.sendto(struct.pack("!HH", CHANNEL, 1) + b"x", client.server)

        def counts(*options):
            return {o["outcome"]: o for o in relay.control("drops", *options)["outcomes"]}
        wait_for(lambda: counts()["not_stun_nor_channel"]["total"] == 5 and
                 counts()["no_permission"]["total"] == 1 and
                 counts()["no_allocation"]["total"] == 1, 5, "all drops are counted")
        self.assertEqual(counts()["not_stun_nor_channel"]["severity"], "hostile")
        per_core = counts("--per-core")["not_stun_nor_channel"]
        self.assertEqual((len(per_core["cores"]), sum(per_core["cores"])), (2, 5))
        text = self.shows(relay, "drops")
        self.assertRegex(text, r"(?m)^ *5 +hostile +not_stun_nor_channel ")
        self.assertNotIn("challenged", text)
        self.assertIn("challenged", self.shows(relay, "drops", "--all"))
        self.assertIn("CORE 1", self.shows(relay, "drops", "--per-core"))

    def test_cores_add_up_to_the_status(self):
        relay = self.relay(options=["--cores", "2"])
        self.check_alive(self.call(relay))
        cores = relay.control("cores")["cores"]
        self.assertEqual([c["core"] for c in cores], [0, 1])
        self.assertEqual([c["stalled"] for c in cores], [False, False])
        for key in ("allocations", "permissions", "channels", "open_ports"):
            self.assertEqual(sum(c[key] for c in cores), 1, key)
        status = relay.control("status")
        self.assertLessEqual(sum(c["received_packets"] for c in cores),
                             status["traffic"]["received_packets"])
        self.assertRegex(self.shows(relay, "cores"), r"CORE +ALLOCS[^\n]*\n +0 [^\n]*\n +1 ")

    def test_explain_tells_the_fate_of_every_kind_of_datagram_and_sends_none(self):
        relay = self.relay(options=["--cores", "2"])
        (client, peer), stranger = self.call(relay), self.peer()
        permitted = self.peer()
        client.permit(permitted.getsockname())
        listener = f"127.0.0.1:{relay.port}"
        at = "%s:%d"
        relayed, near = at % client.relayed[0], self.address(client)
        before = relay.control("status")["traffic"]
        rows = (
            (f"udp {near} -> {listener} channel 0x4000", "relayed_channel_to_peer"),
            (f"{near} -> {listener} channel 16384", "relayed_channel_to_peer"),
            (f"udp {near} -> {listener} channel 0x4001", "no_channel"),
            (f"udp {near} -> {listener} peer {at % permitted.getsockname()}",
             "relayed_send_to_peer"),
            (f"udp {near} -> {listener} peer 127.0.0.77:9", "no_permission"),
            (f"udp {at % peer.getsockname()} -> {relayed}", "relayed_peer_to_channel"),
            (f"udp {at % permitted.getsockname()} -> {relayed}", "relayed_peer_to_data"),
            (f"udp 127.0.0.77:9 -> {relayed}", "no_permission"),
            (f"udp 127.0.0.1:9 -> {listener} channel 0x4000", "no_allocation"),
        )
        for datagram, outcome in rows:
            told = relay.control("explain", datagram)
            self.assertEqual(told["outcome"], outcome, datagram)
            self.assertIn(outcome, self.shows(relay, "explain", datagram))
            if outcome.startswith("relayed"):
                self.assertEqual(told["allocation"]["client"], near, datagram)
                self.assertEqual(told["allocation"]["user"], USER)
        told = relay.control("explain", rows[0][0])
        self.assertEqual(told["to"], at % peer.getsockname())
        self.assertEqual(told["from_relay"], relayed)
        self.assertEqual(told["channel"], CHANNEL)
        self.assertGreater(told["permission_remaining_seconds"], 200)
        self.assertGreater(told["channel_remaining_seconds"], 500)
        told = relay.control("explain", rows[5][0])
        self.assertEqual(told["to"], near)
        self.refuses(relay, "neither a listener nor a relayed address", "explain",
                     f"udp {near} -> 192.0.2.1:9")
        self.refuses(relay, "write ", "explain", "what happens to my packets?")
        self.refuses(relay, "0x4000 to 0x4FFF", "explain", f"{near} -> {listener} channel 7")
        self.assertEqual(relay.control("status")["traffic"], before, "explaining sends nothing")
        for silent in (peer, permitted, stranger):
            silent.setblocking(False)
            self.assertRaises(BlockingIOError, silent.recv, 100)

    def test_config_masks_secrets_and_limits_and_schema_describe_the_relay(self):
        relay = self.relay(options=["--secret", "swordfish"])
        text = self.shows(relay, "config")
        self.assertNotIn("swordfish", text)
        self.assertNotIn(PASSWORD, text)
        self.assertIn(USER, text)
        again = self.folder() / "again.toml"
        again.write_text(text, encoding="utf-8")
        self.assertEqual(relay.control("config")["toml"], text)
        limits = relay.control("limits")
        self.assertTrue(limits["ok"])
        self.assertEqual(limits["allocations"], relay.control("status")["ports_total"])
        self.assertIn(limits["binding_limit"], self.shows(relay, "limits"))
        schema = relay.control("schema")
        self.assertEqual(json.loads(self.shows(relay, "schema")), schema)
        self.assertLessEqual({"status", "close", "user.add", "mint"}, set(schema["methods"]))

    def test_every_command_prints_json_that_parses(self):
        relay = self.relay('[[realm]]\nname = "culvert.local"\nsecrets = ["s"]\n')
        client = self.allocated(relay)
        near = f"{self.address(client)} -> 127.0.0.1:{relay.port} peer 127.0.0.2:9"
        for arguments in (["status"], ["allocations"], ["drops", "--all", "--per-core"], ["cores"],
                          ["explain", near], ["config"], ["limits"], ["schema"], ["mint"],
                          ["mint", "--secret", "s"], ["drain"], ["drain", "--off"], ["reload"],
                          ["close", "--all"]):
            status, out, err = self.ctl(relay, "--json", *arguments)
            self.assertEqual((status, err), (OK, ""), arguments)
            self.assertIsInstance(json.loads(out), dict, arguments)


class Orders(OperationsCase):
    def test_drain_answers_508_and_off_takes_it_back(self):
        relay = self.relay()
        call = self.call(relay)
        self.assertEqual(self.shows(relay, "drain"), "draining, 1 allocations live\n")
        late = self.client(relay)
        self.assertEqual(late.allocate(check=False).error, INSUFFICIENT_CAPACITY)
        self.check_alive(call)
        self.assertIn("draining", self.shows(relay, "status"))
        self.assertEqual(self.shows(relay, "drain", "--off"), "ready, 1 allocations live\n")
        late.allocate()
        self.check_alive(call)

    def test_a_reload_applies_live_keys_while_datagrams_flow(self):
        relay = self.relay('[[realm]]\nname = "culvert.local"\nuser_quota = 0\n')
        client, peer = call = self.call(relay)
        stop, lost = threading.Event(), []

        def flow():
            while not stop.is_set():
                client.send_channel(CHANNEL, b"on")
                try:
                    peer.recv(100)
                except TimeoutError:
                    lost.append(1)
        thread = threading.Thread(target=flow)
        thread.start()
        try:
            for quota in (2, 3, 2):
                self.write_config(f'[[realm]]\nname = "culvert.local"\nuser_quota = {quota}\n')
                self.assertIn("user_quota", self.shows(relay, "reload"))
        finally:
            stop.set()
            thread.join()
        self.assertEqual(lost, [])
        self.check_alive(call)
        self.allocated(relay)
        self.assertEqual(self.client(relay).allocate(check=False).error, QUOTA_REACHED)

    def test_a_reload_that_touches_restart_keys_names_them_and_changes_nothing(self):
        relay = self.relay('[[realm]]\nname = "culvert.local"\nuser_quota = 0\n')
        call = self.call(relay)
        self.write_config('cores = 7\n[limits]\nmax_allocations = 77\n'
                          '[[realm]]\nname = "culvert.local"\nuser_quota = 1\n')
        said = self.refuses(relay, "cores", "reload")
        self.assertIn("limits.max_allocations", said)
        self.assertNotIn("user_quota", said)
        self.allocated(relay)  # the second: the quota of the refused file does not hold
        self.check_alive(call)
        self.assertIn("user_quota = 0", self.shows(relay, "config"))

    def test_a_reload_of_a_broken_file_names_the_line_and_the_old_one_goes_on(self):
        relay = self.relay("[limits]\n")
        call = self.call(relay)
        self.write_config('[limits]\nmax_lifetime = = "1h"\n')
        self.refuses(relay, r"culvert\.toml:2\b", "reload")
        self.write_config('[limits]\nmax_lifetme = "1h"\n')
        self.refuses(relay, "max_lifetime", "reload")
        self.config.unlink()
        self.refuses(relay, "culvert.toml", "reload")
        self.check_alive(call)
        self.allocated(relay)
        self.write_config('[limits]\nmax_lifetime = "20m"\n')
        self.shows(relay, "reload")
        self.assertEqual(call[0].refresh(3600).lifetime, 1200)

    def test_sighup_reloads_and_a_refused_one_ends_nothing(self):
        relay = self.relay()
        call = self.call(relay)
        self.write_config("cores = 7\n")
        relay.signal(signal.SIGHUP)
        wait_for(lambda: "reload refused" in relay.log(), 5, "the refusal is logged")
        self.write_config('software = "Other"\n')
        relay.signal(signal.SIGHUP)
        wait_for(lambda: "reload applied" in relay.log(), 5, "the reload is logged")
        self.check_alive(call)

    def test_close_ends_allocations_by_id_user_client_and_all(self):
        relay = self.relay(options=["--user", "eve:sleeps", "--cores", "2"])
        first, second, third = (self.allocated(relay) for _ in range(3))
        eve = self.allocated(relay, "eve", "sleeps")

        def live():
            return {a["client"] for a in relay.control("allocations")["allocations"]}
        chosen = next(a["id"] for a in relay.control("allocations")["allocations"]
                      if a["client"] == self.address(first))
        self.refuses(relay, "say which", "close")
        self.refuses(relay, "as `allocations` shows it", "close", "7")
        self.assertEqual(self.shows(relay, "close", chosen), "closed 1 allocations\n")
        wait_for(lambda: live() == {self.address(c) for c in (second, third, eve)}, 5, "closed")
        self.refuses(relay, f"no live allocation {re.escape(chosen)}", "close", chosen)
        self.assertEqual(relay.control("close", "--client", self.address(second))["closed"], 1)
        self.assertEqual(relay.control("close", "--user", "eve")["closed"], 1)
        wait_for(lambda: live() == {self.address(third)}, 5, "closed")
        self.assertEqual(relay.control("close", "--user", "eve")["closed"], 0)
        self.assertTrue(third.refresh(600).lifetime)
        self.assertEqual(second.refresh(600, check=False).error, 437)
        eve.allocate()  # its port and tuple are free again
        self.assertEqual(relay.control("close", "--all")["closed"], 2)
        wait_for(lambda: not live(), 5, "closed")
        status = relay.control("status")
        self.assertEqual(status["ports_free"], status["ports_total"])
        self.assertEqual(status["turn"]["ended"]["closed_by_operator"], 5)


class Credentials(OperationsCase):
    def minted(self, relay, *arguments):
        answer = relay.control("mint", *arguments)
        return answer["username"], answer["password"]

    def test_minted_credentials_allocate_by_sha1_and_sha256_with_and_without_the_daemon(self):
        relay = self.relay(options=["--secret", "swordfish"])
        for algorithm in ("sha1", "sha256"):
            by_daemon = self.minted(relay, "--user", "zoe", "--algorithm", algorithm)
            offline = self.minted(relay, "--user", "yan", "--algorithm", algorithm, "--secret",
                                  "swordfish")
            self.allocated(relay, *by_daemon)
            self.allocated(relay, *offline)
            wrong = self.minted(relay, "--user", "eve", "--algorithm", algorithm, "--secret", "cod")
            self.assertTrue(self.refused_with(UNAUTHORIZED, relay, *wrong))
        by_stdin = self.shows(relay, "mint", "--secret-stdin", "--user", "w", text="swordfish\n")
        name, password = (line.split(" ", 1)[1] for line in by_stdin.splitlines())
        self.allocated(relay, name, password)
        until = int(self.minted(relay, "--ttl", "60")[0].split(":")[0])
        self.assertLessEqual(abs(until - time.time() - 60), 5)

    def test_one_name_minted_by_both_hashes_works_with_both_at_once(self):
        relay = self.relay(options=["--secret", "swordfish"])
        name, by_sha1 = self.minted(relay, "--user", "zoe")
        until = int(name.split(":")[0])
        for _ in range(20):  # the same second of expiry, whichever second it is now
            ttl = str(until - int(time.time()))
            same, by_sha256 = self.minted(relay, "--user", "zoe", "--algorithm", "sha256", "--ttl",
                                          ttl)
            if same == name:
                break
        self.assertEqual(same, name)
        self.assertNotEqual(by_sha1, by_sha256)
        one, two = self.allocated(relay, name, by_sha1), self.allocated(relay, name, by_sha256)
        for client in (one, two, one):
            self.assertTrue(client.refresh(600).lifetime)
        self.assertTrue(self.refused_with(UNAUTHORIZED, relay, name, "neither"))

    def test_a_minted_credential_works_with_a_foreign_client(self):
        uclient = need_program("turnutils_uclient", "coturn")
        relay = self.relay(options=["--secret", "swordfish"])
        name, password = self.minted(relay, "--user", "zoe")
        # -y: clients are each other's peers; -c: no RTCP pair; -s: its channel numbers are not
        # always RFC 8656's, so Send indications.
        done = subprocess.run([uclient, "-y", "-c", "-s", "-n", "5", "-m", "1", "-u", name,
                               "-w", password, "-p", str(relay.port), "127.0.0.1"],
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stdout, r"tot_send_msgs=10, tot_recv_msgs=10\b")

    def test_secrets_are_rotated_without_a_restart_or_a_client_turned_away(self):
        def text(secrets):
            return f'[[realm]]\nname = "culvert.local"\nsecrets = {json.dumps(secrets)}\n'
        relay = self.relay(text(["old"]))
        before = self.minted(relay, "--user", "zoe")
        holder = self.allocated(relay, *before)
        self.write_config(text(["new", "old"]))
        self.shows(relay, "reload")
        self.assertTrue(holder.refresh(600).lifetime)
        self.allocated(relay, *before)
        after = self.minted(relay, "--user", "yan")
        self.assertEqual(self.minted(relay, "--user", "yan", "--secret", "new")[0].split(":")[1],
                         "yan")
        newcomer = self.allocated(relay, *after)
        self.write_config(text(["new"]))
        self.shows(relay, "reload")
        self.assertTrue(newcomer.refresh(600).lifetime)
        self.allocated(relay, *after)
        self.assertTrue(self.refused_with(UNAUTHORIZED, relay, *before))
        self.assertRaises((Refused, AssertionError), holder.refresh, 600)
        self.write_config(text(["new", "old", "older"]))
        self.refuses(relay, "secrets", "reload")

    def test_users_of_a_database_come_and_go_without_a_restart(self):
        database = self.folder() / "data"
        database.mkdir()
        database.chmod(0o777)  # of the account that the relay becomes
        file = database / "accounts.db"
        relay = self.relay(f'[[realm]]\nname = "culvert.local"\ndatabase = "{file}"\n')
        self.assertIn("accounts not read", relay.log())
        self.refuses(relay, "does not exist yet: `culvertctl user add` makes it", "user", "list")
        self.assertTrue(self.refused_with(UNAUTHORIZED, relay, "zoe", "opens-sesame"))

        def becomes(user, password, good):
            def tried():
                client = self.client(relay, user, password)
                return (client.allocate(check=False).error is None) == good
            wait_for(tried, DATABASE_SECONDS, f"{user} is {'let in' if good else 'refused'}")
        self.assertEqual(self.shows(relay, "user", "add", "zoe", "--password-stdin",
                                    text="opens-sesame\n"), "done\n")
        becomes("zoe", "opens-sesame", True)
        zoe = self.allocated(relay, "zoe", "opens-sesame")
        self.shows(relay, "user", "add", "yan", "--password-stdin", text="knocks\n")
        self.assertEqual(relay.control("user", "list"), {"users": ["yan", "zoe"]})
        self.shows(relay, "user", "add", "zoe", "--password-stdin", text="another\n")
        becomes("zoe", "another", True)
        becomes("zoe", "opens-sesame", False)
        self.shows(relay, "user", "remove", "zoe")
        becomes("zoe", "another", False)
        self.assertRaises((Refused, AssertionError), zoe.refresh, 600)
        self.refuses(relay, "no user", "user", "remove", "zoe")
        self.refuses(relay, "no realm", "user", "list", "--realm", "elsewhere")
        self.refuses(relay, "password", "user", "add", "x")
        self.assertNotIn(b"knocks", file.read_bytes())
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        # Another process, on the file.
        self.shows(relay, "user", "add", "will", "--password-stdin", "--realm", REALM,
                   "--database", str(file), text="direct\n")
        becomes("will", "direct", True)
        self.assertEqual(self.shows(relay, "user", "list", "--realm", REALM, "--database",
                                    str(file)), "will\nyan\n")
        for name in ("will", "yan"):
            self.shows(relay, "user", "remove", name)
        self.assertEqual(self.shows(relay, "user", "list"), "no users\n")
        self.assertTrue(self.refused_with(UNAUTHORIZED, relay, "zoe", "another"))

    @unittest.skipUnless(os.geteuid() == 0, "only root makes files for others")
    def test_a_database_that_root_makes_can_be_read_by_the_relay(self):
        folder = self.folder()
        file = folder / "accounts.db"
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        relay = self.relay(f'[[realm]]\nname = "culvert.local"\ndatabase = "{file}"\n'
                           '[run_as]\nuser = "nobody"\n', start=False)
        self.shows(relay, "user", "add", "zoe", "--realm", REALM, "--database", str(file),
                   "--password-stdin", text="opens-sesame\n")
        relay.start()
        self.allocated(relay, "zoe", "opens-sesame")

    def test_what_a_realm_cannot_do_is_said(self):
        relay = self.relay()
        self.refuses(relay, "no shared secret", "mint")
        self.refuses(relay, "no account database", "user", "list")
        self.refuses(relay, "no such realm", "mint", "--realm", "elsewhere")


class Doors(OperationsCase):
    def test_exit_codes_tell_refused_from_misused_from_absent(self):
        relay = self.relay()
        self.assertEqual(self.ctl(relay, "status")[0], OK)
        self.assertEqual(self.ctl(relay, "close", "0.1.1")[0], REFUSED)
        for arguments in ([], ["bogus"], ["status", "--bogus"], ["mint", "--ttl", "0"],
                          ["explain"], ["mint", "--algorithm", "md5"], ["user"],
                          ["allocations", "--limit", "x"]):
            status, out, err = self.ctl(relay, *arguments)
            self.assertEqual((status, out), (WRONG_USAGE, ""), arguments)
            self.assertTrue(err, arguments)
        for arguments in (["--help"], ["--version"], ["allocations", "--help"]):
            status, out, err = self.ctl(relay, *arguments)
            self.assertEqual((status, err), (OK, ""), arguments)
            self.assertTrue(out)
        relay.stop()
        self.assertFalse(relay.control_socket.exists(), "left behind")
        self.refuses(relay, "is culvertd running", "status", status=UNREACHABLE)

    @unittest.skipUnless(os.geteuid() == 0, "only root can become somebody else")
    def test_strangers_are_turned_away_and_members_of_the_group_are_not(self):
        program = self.folder() / "culvertctl"
        shutil.copy(CULVERTCTL, program)  # where a stranger may execute it
        program.chmod(0o755)
        relay = self.relay(f'[control_socket]\ngroup = "{GROUP}"\n')
        info = relay.control_socket.stat()
        self.assertEqual((info.st_gid, info.st_mode & 0o777), (GROUP, 0o660))

        def as_user(gid, groups, *arguments):
            done = subprocess.run([str(program), "--socket", str(relay.control_socket),
                                   *arguments], user=STRANGER, group=gid, extra_groups=groups,
                                  capture_output=True, text=True, timeout=20, check=False)
            return done.returncode, done.stdout + done.stderr
        status, said = as_user(STRANGER, [], "status")
        self.assertEqual(status, UNREACHABLE)
        self.assertIn("be root, or a member of the socket's group", said)
        status, said = as_user(GROUP, [], "status")
        self.assertEqual(status, OK, said)
        # Past the file's mode, but no member by the account database: the daemon itself says no.
        status, said = as_user(STRANGER, [GROUP], "drain")
        self.assertEqual(status, REFUSED)
        self.assertIn(f"user id {STRANGER} may not use this socket", said)
        wait_for(lambda: f"caller refused uid={STRANGER}" in relay.log(), 5, "it is logged")
        self.assertEqual(relay.control("status")["state"], "ready")

    def test_a_left_over_control_socket_is_replaced(self):
        relay = self.relay()
        relay.process.kill()
        relay.wait()
        self.assertTrue(relay.control_socket.is_socket())
        self.refuses(relay, "the file is left over", "status", status=UNREACHABLE)
        successor = self.relay(start=False)
        successor.control_socket = relay.control_socket
        successor.start()
        self.assertEqual(successor.control("status")["pid"], successor.process.pid)

    def refused_start(self, relay):
        with contextlib.suppress(AssertionError):
            relay.start()
        self.assertEqual(relay.wait(10), 1, relay.log())
        relay.reader.join(5)
        return relay.log()

    def test_a_second_daemon_on_the_same_control_socket_is_refused(self):
        first = self.relay()
        second = self.relay(start=False)
        second.control_socket = first.control_socket
        said = self.refused_start(second)
        self.assertIn("another daemon answers there", said)
        self.assertIn(str(first.control_socket), said)
        self.assertEqual(first.control("status")["pid"], first.process.pid)

    def test_a_second_daemon_on_the_same_udp_port_is_refused(self):
        # Two cores: their sockets share a port among themselves, which must not let others in.
        first = self.relay(options=["--cores", "2"])
        call = self.call(first)
        for cores in ("1", "2"):
            second = self.relay(start=False, port=first.port, options=["--cores", cores])
            said = self.refused_start(second)
            self.assertIn(f"127.0.0.1:{first.port}", said)
            self.assertIn("another program holds this UDP port", said)
            self.assertFalse(second.control_socket.exists(), "left behind")
        self.check_alive(call)

    def test_a_taken_metrics_port_is_refused_by_name(self):
        port = free_tcp_port()
        self.relay(options=["--metrics", f"127.0.0.1:{port}"])
        second = self.relay(start=False, options=["--metrics", f"127.0.0.1:{port}"])
        self.assertIn(f"metrics.listen 127.0.0.1:{port}", self.refused_start(second))


# Prometheus text format 0.0.4, one line.
METRIC_LINE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{([a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*\})? '
    r'([-+]?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|Inf|NaN))$')


class Watching(OperationsCase):
    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def watched(self, config="", **options):
        self.http = free_tcp_port()
        extra = options.pop("options", [])
        return self.relay(config, options=["--metrics", f"127.0.0.1:{self.http}", *extra],
                          **options)

    def parse(self, page):
        """The samples of a page by name with labels; fails where the format is broken."""
        samples, types, helped = {}, {}, set()
        self.assertTrue(page.endswith("\n"))
        for line in page.splitlines():
            if line.startswith("# HELP "):
                helped.add(line.split(" ", 3)[2])
            elif line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                self.assertNotIn(name, types, "a second TYPE")
                self.assertIn(kind, ("counter", "gauge"))
                types[name] = kind
            else:
                found = METRIC_LINE.match(line)
                self.assertTrue(found, line)
                self.assertIn(found[1], types, "a sample before its TYPE")
                self.assertIn(found[1], helped)
                self.assertEqual(found[1].endswith("_total"), types[found[1]] == "counter", line)
                series = found[1] + (found[2] or "")
                self.assertNotIn(series, samples, "the same series twice")
                samples[series] = float(found[4])
        return samples

    def test_the_scrape_is_valid_and_its_counters_move(self):
        relay = self.watched(options=["--cores", "2"])
        call = self.call(relay)
        before = self.parse(self.get("/metrics")[1])
        self.check_alive(call)
        self.assertTrue(self.refused_with(UNAUTHORIZED, relay, USER, "wrong"))
        status, page = self.get("/metrics")
        self.assertEqual(status, 200)
        after = self.parse(page)
        self.assertEqual(after["culvert_allocations"], 1)

        def grown(start):
            return sum(value - before[name] for name, value in after.items()
                       if name.startswith(start))
        outcome = 'culvert_outcomes_total{core="0",outcome='
        self.assertEqual(grown(outcome + '"relayed_channel_to_peer"') +
                         grown('culvert_outcomes_total{core="1",outcome="relayed_channel_to_peer"'),
                         1)
        self.assertGreaterEqual(grown('culvert_turn_errors_total{code="401"'), 1)
        self.assertGreater(grown("process_cpu_seconds_total"), -1e-9)
        self.assertNotIn(f'"{USER}"', page)
        linter = shutil.which("promtool")  # Debian package prometheus
        if linter:
            done = subprocess.run([linter, "check", "metrics"], input=page, text=True,
                                  capture_output=True, timeout=30, check=False)
            self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_health_and_readiness_follow_the_drain_and_the_stop(self):
        relay = self.watched('stop_grace = "60s"\n')
        self.allocated(relay)
        self.assertEqual(self.get("/healthz"), (200, "ok\n"))
        self.assertEqual(self.get("/readyz"), (200, "ready\n"))
        relay.control("drain")
        self.assertEqual(self.get("/readyz")[0], 503)
        self.assertEqual(self.get("/healthz")[0], 200)
        self.assertIn('culvert_state{state="draining"} 1', self.get("/metrics")[1])
        relay.control("drain", "--off")
        self.assertEqual(self.get("/readyz")[0], 200)
        relay.signal(signal.SIGTERM)
        wait_for(lambda: self.get("/readyz")[0] == 503, 5, "not ready once it stops")
        self.assertEqual(self.get("/healthz")[0], 200)
        self.refuses(relay, "stopping", "drain", "--off")
        self.assertEqual(self.get("/nowhere")[0], 404)

    def json_lines(self, relay):
        return [json.loads(line) for line in relay.log().splitlines()]

    def test_json_logs_have_one_line_for_each_ended_allocation(self):
        relay = self.relay('stop_grace = "1s"\n[log]\nformat = "json"\n'
                           '[limits]\ndefault_lifetime = "10s"\nmax_lifetime = "10s"\n',
                           options=["--user", 'eve"\\:sleeps'])
        expiring = self.allocated(relay)
        deleted = self.call(relay)
        closed = self.allocated(relay, 'eve"\\', "sleeps")
        self.check_alive(deleted, b"y" * 500)
        self.check_alive(deleted, b"y" * 500)
        deleted[0].refresh(0)
        relay.control("close", "--client", self.address(closed))

        def ended():
            return {line["client"]: line for line in self.json_lines(relay)
                    if line["message"] == "allocation ended"}
        wait_for(lambda: self.address(expiring) in ended(), 20, "the lifetime ends")
        last = self.allocated(relay)
        relay.signal(signal.SIGTERM)
        self.assertEqual(relay.wait(), 0)
        relay.reader.join(5)
        for client, reason in ((expiring, "expired"), (deleted[0], "deleted"),
                               (closed, "closed_by_operator"), (last, "shutdown")):
            line = ended()[self.address(client)]
            self.assertEqual(line["reason"], reason)
            self.assertEqual((line["level"], line["realm"]), ("info", REALM))
            self.assertEqual(line["relayed_ipv4"], "%s:%d" % client.relayed[0])
        line = ended()[self.address(deleted[0])]
        self.assertEqual((line["bytes_to_peer"], line["bytes_to_client"]), (1000, 1000))
        self.assertEqual((line["packets_to_peer"], line["packets_to_client"]), (2, 2))
        self.assertEqual(ended()[self.address(closed)]["user"], 'eve"\\')
        self.assertGreaterEqual(ended()[self.address(expiring)]["seconds"], 10)
        all_ended = [x for x in self.json_lines(relay) if x["message"] == "allocation ended"]
        self.assertEqual(len(all_ended), 4, "one line each")
        for line in self.json_lines(relay):
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")

    def test_a_log_file_is_appended_to_although_the_relay_is_no_longer_root(self):
        target = self.folder() / "culvert.log"
        target.write_text("before\n", encoding="utf-8")
        target.chmod(0o600)
        relay = self.relay(f'[log]\ntarget = "{target}"\n', start=False)
        # What says that it is ready goes to the file, so that is what has to be watched.
        relay.ready.set()
        relay.start()
        wait_for(lambda: " ready " in target.read_text(encoding="utf-8"), 10, "ready in the file")
        self.allocated(relay).refresh(0)
        wait_for(lambda: "allocation ended" in target.read_text(encoding="utf-8"), 5, "the line")
        relay.signal(signal.SIGTERM)
        self.assertEqual(relay.wait(), 0)
        text = target.read_text(encoding="utf-8")
        self.assertTrue(text.startswith("before\n"))
        self.assertTrue(text.endswith("info stopped\n"), text[-200:])
        relay.reader.join(5)
        self.assertNotIn("ready", relay.log())

    def test_a_log_file_that_cannot_be_written_ends_the_start(self):
        relay = self.relay('[log]\ntarget = "/nowhere/culvert.log"\n', start=False)
        with contextlib.suppress(AssertionError):
            relay.start()
        self.assertEqual(relay.wait(10), 1)
        relay.reader.join(5)
        self.assertIn("log.target: /nowhere/culvert.log cannot be opened", relay.log())


class ServiceManager(OperationsCase):
    def setUp(self):
        # Abstract: the relay gives up root before it says READY.
        name = f"culvert-notify-{os.getpid()}-{time.monotonic_ns()}"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.notify.close)
        self.notify.bind(f"\0{name}")
        self.environment = ["env", f"NOTIFY_SOCKET=@{name}"]

    def message(self, sign, seconds=10):
        """The next message with this assignment, as a dict; others are passed over."""
        deadline = time.monotonic() + seconds
        while True:
            self.notify.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                fields = dict(line.split("=", 1)
                              for line in self.notify.recv(4096).decode().splitlines())
            except TimeoutError:
                raise AssertionError(f"no {sign} within {seconds} s") from None
            key, _, value = sign.partition("=")
            if key in fields and value in ("", fields[key]):
                return fields

    def test_it_says_ready_reloading_watchdog_and_stopping(self):
        relay = self.relay('stop_grace = "1s"\n', port=free_udp_port(["127.0.0.1"]),
                           prefix=[*self.environment, "WATCHDOG_USEC=600000"])
        self.assertRegex(self.message("READY=1")["STATUS"], r"ready, 0 of \d+ allocations")
        heartbeats = [time.monotonic() for _ in range(5) if self.message("WATCHDOG=1")]
        self.assertLess(heartbeats[-1] - heartbeats[0], 4 * 0.6, "each within the interval")
        call = self.call(relay)
        self.write_config('stop_grace = "2s"\n')
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        relay.signal(signal.SIGHUP)
        stamp = int(self.message("RELOADING=1")["MONOTONIC_USEC"])
        self.assertTrue(before <= stamp <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        self.assertIn("ready, 1 of", self.message("READY=1")["STATUS"])
        self.write_config("nonsense = 1\n")
        relay.signal(signal.SIGHUP)
        self.message("RELOADING=1")
        self.message("READY=1")  # also when it was refused, or systemd waits for ever
        relay.control("drain")
        self.assertRegex(self.message("STATUS", 2)["STATUS"], "ready|draining")
        self.check_alive(call)
        relay.signal(signal.SIGTERM)
        self.message("STOPPING=1")
        self.message("WATCHDOG=1")  # a long drain must not look like a hang
        self.assertEqual(relay.wait(), 0)

    def test_a_start_that_fails_never_says_ready(self):
        taken = self.relay()
        late = self.relay(start=False, port=taken.port, prefix=self.environment)
        with contextlib.suppress(AssertionError):
            late.start()
        self.assertEqual(late.wait(10), 1)
        self.notify.setblocking(False)
        self.assertRaises(BlockingIOError, self.notify.recv, 4096)


if __name__ == "__main__":
    unittest.main()
