"""The relay beside the kernel (dpdk.kernel = "beside"): client, relay and peer in three network
namespaces, the relay on net_af_xdp over veth whose addresses are the kernel's, with one queue and
with two. turnutils_uclient loses nothing, over IPv4 and IPv6; ping, curl and ssh to the same
address go on meanwhile; the XDP program goes when the relay does, however that ends."""

import contextlib
import http.server
import itertools
import os
import pathlib
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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "interop"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import chromium_test
from dpdk_test import has_dpdk
from network import ThreeHosts, command, inside
from relay import KIND, PASSWORD, USER, Relay, bracketed, need, need_program, wait_for
from turn_client import TurnClient
from turnutils import with_channels

RUNS_ALONE = "the relay polls"
PORT = 3478
HTTP_PORT = 8080
SSH_PORT = 2222
CLIENT = {4: "10.79.1.2", 6: "fd79:1::2"}
RELAY_NEAR_CLIENT = {4: "10.79.1.1", 6: "fd79:1::1"}
RELAY_NEAR_PEER = {4: "10.79.2.1", 6: "fd79:2::1"}
PEER = {4: "10.79.2.2", 6: "fd79:2::2"}
# EAL's --file-prefix, of each relay its own.
PREFIXES = (f"{os.getpid()}x{n}" for n in itertools.count())
INTERFACES = ("to_client", "to_peer")
CLIENT_SECONDS = 120
MESSAGES = 100
# 50 datagrams a second each way and client: a socket's ring of 1024 takes what comes while a busy
# machine lets the relay wait for two seconds.
CLIENTS = 10
PAGE = b"culvert beside the kernel\n" * 4000


class Bench(ThreeHosts):
    """All addresses are the kernels'."""

    def programs(self):
        """Interfaces of the relay's namespace that have an XDP program, and its name."""
        found = {}
        for name in INTERFACES:
            shown = subprocess.run(["ip", "-n", self.relay, "-d", "link", "show", name], text=True,
                                   capture_output=True, check=True).stdout
            program = re.search(r"prog/xdp id \d+ name (\S+)", shown)
            if program:
                found[name] = program.group(1)
            elif "xdp" in shown:
                found[name] = shown
        return found


class Beside(unittest.TestCase):
    """One network, and a relay for each test."""

    queues = 1
    cores = 1

    @classmethod
    def setUpClass(cls):
        need(KIND == "culvert", "culvert: coturn has no ports of its own")
        need(has_dpdk(), "a culvertd built with DPDK (libdpdk-dev)")
        cls.bench = cls.enterClassContext(Bench(79, cls.queues, relay_addresses=True))

    def options(self, mode="beside", queues=None):
        ports = []
        for interface in INTERFACES:
            for queue in range(queues or self.queues):
                ports.append(f"--vdev=net_af_xdp{len(ports)},iface={interface},"
                             f"start_queue={queue}")
        eal = (f"--no-huge -m 256 --no-pci --no-telemetry --file-prefix=culvert{next(PREFIXES)} "
               + " ".join(ports))
        options = ["--driver", "dpdk", "--cores", str(self.cores), "--kernel", mode, f"--eal={eal}",
                   "--allow-peer", "10.79.2.2/32", "--allow-peer", "fd79:2::2/128"]
        for near, number in ((RELAY_NEAR_CLIENT, 0), (RELAY_NEAR_PEER, 1)):
            options += ["--port-address", f"{near[4]}/24@{number}",
                        "--port-address", f"{near[6]}/64@{number}"]
        return options

    def relay_with(self, options):
        relay = Relay(listen=list(RELAY_NEAR_CLIENT.values()),
                      relay=list(RELAY_NEAR_PEER.values()), options=options,
                      prefix=["ip", "netns", "exec", self.bench.relay], port=PORT,
                      allow_loopback_peers=False)
        self.addCleanup(shutil.rmtree, relay.folder, ignore_errors=True)
        self.addCleanup(relay.stop)
        return relay

    def start(self):
        self.relay = self.relay_with(self.options()).start()
        self.assertEqual(self.bench.programs(), {name: "culvert_relay" for name in INTERFACES},
                         self.relay.log())
        return self.relay

    def refused(self, options, *patterns):
        """A relay that does not start, and says why."""
        relay = self.relay_with(options)
        with contextlib.suppress(AssertionError):
            relay.start()
        self.assertEqual(relay.wait(), 1, relay.log())
        relay.stop()
        for pattern in patterns:
            self.assertRegex(relay.log(), pattern)

    def xdp_counts(self, log):
        """By interface, as the relay logs them at its end."""
        return {line["interface"]: {name: int(value) for name, value in line.items()
                                    if value.isdigit()}
                for line in (dict(word.split("=", 1) for word in text.split() if "=" in word)
                             for text in log.splitlines() if " XDP program " in text)}

    def in_client(self, *words, **options):
        return subprocess.run(["ip", "netns", "exec", self.bench.client, *words],
                              stdin=options.pop("stdin", subprocess.DEVNULL), check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=CLIENT_SECONDS, **options)

    # --- load -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def echo(self, family):
        """turnutils_peer in the peer's namespace."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.bench.peer, need_program("turnutils_peer", "coturn"),
             "-L", PEER[family], "-p", "3480"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            def bound():
                return subprocess.run(["ip", "netns", "exec", self.bench.peer, "ss", "-Hlun",
                                       "sport", "=", ":3480"], text=True, capture_output=True,
                                      check=False).stdout.strip()
            wait_for(bound, 10, "turnutils_peer listens")
            yield
        finally:
            process.terminate()
            process.wait()

    @contextlib.contextmanager
    def uclient(self, family):
        """Clients through the relay; what they lost is judged when the body is done."""
        words = ["ip", "netns", "exec", self.bench.client,
                 need_program("turnutils_uclient", "coturn"), "-u", USER, "-w", PASSWORD,
                 "-p", str(PORT), "-m", str(CLIENTS), "-n", str(MESSAGES), "-e", PEER[family],
                 "-r", "3480", *(["-x"] if family == 6 else []), RELAY_NEAR_CLIENT[family]]
        with self.echo(family), tempfile.TemporaryFile(mode="w+") as out:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=subprocess.STDOUT,
                                       env=with_channels())
            try:
                yield process
                process.wait(CLIENT_SECONDS)
            finally:
                process.kill()
                process.wait()
            out.seek(0)
            output = out.read()
        tail = "\n".join(output.splitlines()[-15:]
                         + [str(self.relay.control("status", check=False))])
        lost = re.findall(r"Total lost packets (\d+)", output)
        moved = re.findall(r"tot_send_bytes ~ (\d+), tot_recv_bytes ~ (\d+)", output)
        if process.returncode != 0 or not lost or not moved:
            self.fail(f"{' '.join(words)} ended with {process.returncode}:\n{tail}\n"
                      f"--- the relay\n{self.relay.log()[-3000:]}")
        sent, received = (int(count) for count in moved[-1])
        self.assertGreaterEqual(sent, MESSAGES * 100 * CLIENTS, tail)
        self.assertEqual(received, sent, tail)
        self.assertEqual(int(lost[-1]), 0, tail)

    # --- the kernel's services on the relay's address ---------------------------------------------

    @contextlib.contextmanager
    def web(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(PAGE)))
                self.end_headers()
                self.wfile.write(PAGE)

            def log_message(self, *_):
                pass

        class ServerV6(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6

        with inside(self.bench.relay):
            servers = [http.server.ThreadingHTTPServer((RELAY_NEAR_CLIENT[4], HTTP_PORT), Handler),
                       ServerV6((RELAY_NEAR_CLIENT[6], HTTP_PORT), Handler)]
        for server in servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            for server in servers:
                server.shutdown()
                server.server_close()

    def curl(self, family):
        done = self.in_client(need_program("curl", "curl"), "-sS", "--max-time", "30",
                              f"http://{bracketed(RELAY_NEAR_CLIENT[family])}:{HTTP_PORT}/")
        self.assertEqual((done.returncode, done.stdout), (0, PAGE))

    @contextlib.contextmanager
    def sshd(self):
        """An sshd with keys of its own; yields the client's key."""
        server = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
        need(server, "sshd (Debian package openssh-server)")
        with tempfile.TemporaryDirectory(prefix="culvert-sshd-") as name:
            folder = pathlib.Path(name)
            for key in ("host", "user"):
                subprocess.run([need_program("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519",
                                "-N", "", "-f", str(folder / key)], check=True)
            shutil.copy(folder / "user.pub", folder / "authorized")
            config = folder / "config"
            config.write_text(
                f"Port {SSH_PORT}\nListenAddress {RELAY_NEAR_CLIENT[4]}\n"
                f"ListenAddress {RELAY_NEAR_CLIENT[6]}\nHostKey {folder}/host\n"
                f"AuthorizedKeysFile {folder}/authorized\nUsePAM no\nStrictModes no\n"
                "PasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n",
                encoding="utf-8")
            # Its own privilege separation asks for this folder, which its service would make.
            pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
            with open(folder / "log", "wb") as log:
                process = subprocess.Popen(["ip", "netns", "exec", self.bench.relay, server, "-D",
                                            "-e", "-f", str(config)], stdin=subprocess.DEVNULL,
                                           stdout=log, stderr=log)
            try:
                def both():
                    shown = subprocess.run(["ip", "netns", "exec", self.bench.relay, "ss", "-Hltn",
                                            "sport", "=", f":{SSH_PORT}"], text=True,
                                           capture_output=True, check=False).stdout
                    return len(shown.splitlines()) == 2
                wait_for(both, 10, "sshd listens")
                yield folder / "user"
            finally:
                process.terminate()
                process.wait()

    def ssh(self, family, key):
        text = PAGE * 4
        done = self.in_client(
            need_program("ssh", "openssh-client"), "-F", "none", "-i", str(key), "-p",
            str(SSH_PORT), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o",
            "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20",
            f"root@{RELAY_NEAR_CLIENT[family]}", "cat", stdin=None, input=text)
        self.assertEqual((done.returncode, done.stdout), (0, text))

    @contextlib.contextmanager
    def ping(self, family):
        """Without an end until the body is done; then nothing may be missing."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.bench.client, need_program("ping", "iputils-ping"), "-n",
             "-q", "-i", "0.05", "-s", "1000", RELAY_NEAR_CLIENT[family]],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=20)
        sent, received = (int(n) for n in re.search(
            r"(\d+) packets transmitted, (\d+) received", output).groups())
        # The last one may still be on its way when it is told to stop.
        self.assertGreater(sent, 10, output)
        self.assertGreaterEqual(received, sent - 1, output)


class OneQueue(Beside):
    def test_nothing_is_lost_while_ping_curl_and_ssh_go_on(self):
        self.start()
        with self.web(), self.sshd() as key:
            for family in (4, 6):
                rounds = 0
                with self.subTest(family=family), self.uclient(family) as load, self.ping(family):
                    deadline = time.monotonic() + CLIENT_SECONDS
                    while load.poll() is None and time.monotonic() < deadline:
                        self.curl(family)
                        self.ssh(family, key)
                        rounds += 1
                    self.assertGreater(rounds, 1)

        def port_numbers():
            return [p for p in self.relay.control("status")["ports"]
                    if p["xdp_redirected"] > CLIENTS * MESSAGES and p["xdp_passed"] > 0]
        wait_for(lambda: len(port_numbers()) == 2, 10, "the ports' numbers, read once a second")
        self.assertEqual(self.relay.stop(), 0)
        self.assertEqual(self.bench.programs(), {})
        counts = self.xdp_counts(self.relay.log())
        for interface in INTERFACES:
            self.assertGreater(counts[interface]["udp"], CLIENTS * MESSAGES)
            self.assertGreater(counts[interface]["other"], 0)  # neighbour discovery at the least
            self.assertEqual(counts[interface]["no_socket"], 0)
            self.assertEqual(counts[interface]["malformed"], 0)


class Call(Beside, chromium_test.Caller):
    """Chromium in the client's namespace; both ends of the call are relayed."""

    def test_a_relay_only_call_goes_through_while_ping_goes_on(self):
        self.browse_from(self.bench.client)
        self.relay = self.relay_with(
            self.options() + ["--allow-peer", "10.79.2.1/32", "--allow-peer", "fd79:2::1/128"])
        self.relay.start()
        for family in (4, 6):
            with self.subTest(family=family), self.ping(family):
                self.check_call(RELAY_NEAR_CLIENT[family])


class RareKinds(Beside):
    def client(self, family):
        with inside(self.bench.client):
            sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6,
                                 socket.SOCK_DGRAM)
        client = TurnClient((RELAY_NEAR_CLIENT[family], PORT), USER, PASSWORD, sock)
        self.addCleanup(client.close)
        client.allocate(family)
        return client

    def test_icmp_errors_about_relayed_datagrams_reach_the_client(self):
        self.start()
        for family, kind, code in ((4, 3, 3), (6, 1, 4)):
            client = self.client(family)
            peer = (PEER[family], 9)  # nobody is there: the peer's kernel says so
            client.permit(peer)
            client.send(peer, b"anybody?")
            where, data, icmp = client.receive()
            self.assertEqual((where, data), (peer, None))
            self.assertEqual(struct.unpack("!HHI", icmp), (0, kind << 9 | code, 0))
        self.relay.stop()
        self.assertEqual(self.xdp_counts(self.relay.log())["to_peer"]["icmp_error"], 2)

    def test_datagrams_in_fragments_reach_the_relay_and_the_kernel(self):
        self.start()
        text = bytes(range(256)) * 10  # two fragments with Ethernet's 1500 bytes
        for family in (4, 6):
            client = self.client(family)
            kind = socket.AF_INET if family == 4 else socket.AF_INET6
            with inside(self.bench.peer):
                peer = socket.socket(kind, socket.SOCK_DGRAM)
            with inside(self.bench.relay):
                kernel = socket.socket(kind, socket.SOCK_DGRAM)
            with peer, kernel:
                peer.settimeout(10)
                peer.bind((PEER[family], 0))
                client.permit(peer.getsockname()[:2])
                client.send(peer.getsockname()[:2], text)
                data, source = peer.recvfrom(4096)
                self.assertEqual((data, source[:2]), (text, client.relayed[0]))
                peer.sendto(text, client.relayed[0])
                self.assertEqual(client.receive(10)[:2], (peer.getsockname()[:2], text))
                # A socket of the kernel's on the relay's address.
                kernel.settimeout(10)
                kernel.bind((RELAY_NEAR_PEER[family], 0))
                peer.sendto(text, kernel.getsockname()[:2])
                self.assertEqual(kernel.recv(4096), text)
        self.relay.stop()
        counts = self.xdp_counts(self.relay.log())["to_peer"]
        self.assertEqual((counts["first_fragment"], counts["later_fragment"]), (2, 2))


class Lifecycle(Beside):
    """Starts and ends; all with one queue."""

    def test_the_program_goes_with_the_relay_however_it_ends(self):
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
            with self.subTest(signal=number.name):
                relay = self.start()
                relay.signal(number)
                status = relay.wait()
                self.assertEqual(status, -number if number == signal.SIGKILL else 0)
                self.assertEqual(self.bench.programs(), {})
                relay.stop()
                if number != signal.SIGKILL:
                    self.assertNotRegex(relay.log(), r"(?i)libxdp|libbpf|failed|error while")

    def test_no_rights_are_left(self):
        relay = self.start()
        for task in pathlib.Path(f"/proc/{relay.process.pid}/task").iterdir():
            text = (task / "status").read_text()
            self.assertNotIn("Uid:\t0\t", text)
            self.assertRegex(text, r"(?m)^CapEff:\s+0+$")

    def test_a_program_that_is_there_already_is_named_with_the_way_to_take_it_off(self):
        # The port driver's own, of a relay that was killed: it is attached without a link.
        relay = self.relay_with(self.options(mode="none")).start()
        self.assertEqual(self.bench.programs(), {name: "xsk_def_prog" for name in INTERFACES})
        relay.signal(signal.SIGKILL)
        relay.wait()
        self.assertIn("to_client", self.bench.programs())
        self.refused(self.options(), r"to_client has an XDP program already \(xsk_def_prog, id",
                     r"ip link set dev to_client xdp off")
        for name in INTERFACES:
            command("ip", "-n", self.bench.relay, "link", "set", "dev", name, "xdp", "off")
        self.start()
        self.refused(self.options(), "another relay serves this interface")

    def test_the_operator_is_told_where_the_kernel_may_choose_relayed_ports(self):
        def sysctl(setting):
            command("ip", "netns", "exec", self.bench.relay, "sysctl", "-qw", setting)

        hint = "sysctl -w net.ipv4.ip_local_reserved_ports="
        self.assertNotIn(hint, self.start().log())  # the kernel's range begins above relay.ports
        self.relay.stop()
        sysctl("net.ipv4.ip_local_port_range=1024 65535")
        self.assertIn(hint, self.start().log())
        low, high = self.relay.relay_ports()
        self.relay.stop()
        sysctl(f"net.ipv4.ip_local_reserved_ports=2000,{low}-{high}")
        again = self.relay_with(self.options())
        again.first_relay_port = low
        self.assertNotIn(hint, again.start().log())

    def test_auto_takes_the_interface(self):
        relay = self.relay_with(self.options(mode="auto")).start()
        self.assertEqual(set(self.bench.programs().values()), {"culvert_relay"}, relay.log())

    def test_an_address_that_the_kernel_lacks_is_named(self):
        options = self.options() + ["--port-address", "10.79.1.77/24@0"]
        self.refused(options, r"10\.79\.1\.77.*does not have it: ip address add 10\.79\.1\.77/24 "
                              r"dev to_client")
        self.assertEqual(self.bench.programs(), {})


class TwoQueues(Beside):
    queues = 2
    cores = 2

    def test_nothing_is_lost_on_two_queues_while_ping_and_curl_go_on(self):
        self.start()
        self.assertEqual(self.relay.log().count(" receive_queues=2 "), 2, self.relay.log())
        with self.web():
            for family in (4, 6):
                with self.subTest(family=family), self.uclient(family) as load, self.ping(family):
                    deadline = time.monotonic() + CLIENT_SECONDS
                    while load.poll() is None and time.monotonic() < deadline:
                        self.curl(family)
        cores = self.relay.control("cores")["cores"]
        for core in cores:
            # Without what the other one handed over.
            self.assertGreater(core["received_packets"], 100,
                               f"both queues carry traffic: {cores}")
        self.relay.stop()
        counts = self.xdp_counts(self.relay.log())
        self.assertEqual([counts[name]["no_socket"] for name in INTERFACES], [0, 0])

    def test_a_queue_that_nobody_serves_is_named(self):
        self.refused(self.options(queues=1),
                     r"to_client has 2 receive queues, and the relay would serve 1")
        self.assertEqual(self.bench.programs(), {})

    def test_more_queues_than_cores_are_refused(self):
        options = self.options()
        options[options.index("--cores") + 1] = "1"
        self.refused(options, r"to_client has 2 ports \(--vdev\), but 1 fast cores")


if __name__ == "__main__":
    unittest.main()
