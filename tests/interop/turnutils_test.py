"""coturn's client, turnutils_uclient, through the relay: between clients and to a peer, by channels
and by Send indications, over IPv4 and IPv6, twenty clients at once. No message may be lost."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import network
from relay import PASSWORD, USER, Relay, RelayCase, free_udp_port, need_program, wait_for
from turnutils import with_channels

# uclient takes 2 to 10 s for its set-up and tear-down whatever the server does.
CLIENT_SECONDS = 60
MESSAGES = 50

# The relay is on 127.0.0.1: on an address of the relay itself only relayed ports are peers.
PEER = "127.0.0.2"


class Peer:
    """turnutils_peer, which sends every datagram back; in a namespace if one is named."""

    def __init__(self, address, namespace=None):
        self.address = address
        self.namespace = namespace
        self.port = free_udp_port(() if namespace else (address,))
        prefix = ["ip", "netns", "exec", namespace] if namespace else []
        self.process = subprocess.Popen(
            prefix + [need_program("turnutils_peer", "coturn"), "-L", address, "-p",
                      str(self.port)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        with (network.inside(self.namespace) if self.namespace else contextlib.nullcontext()):
            probe = socket.socket(family, socket.SOCK_DGRAM)
        with probe:
            probe.settimeout(0.1)

            def echoed():
                try:
                    probe.sendto(b"?", (self.address, self.port))
                    return probe.recv(16)
                except OSError:
                    return None
            wait_for(echoed, 10, "turnutils_peer answers")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


class Uclient(RelayCase):
    """How the client is run and judged."""

    @classmethod
    def setUpClass(cls):
        cls.environment = with_channels()
        super().setUpClass()

    def uclient(self, address, *options, clients=1, messages=MESSAGES, environment=None):
        command = [*self.relay.prefix, need_program("turnutils_uclient", "coturn"), "-u", USER,
                   "-w", PASSWORD, "-p", str(self.relay.port), "-m", str(clients),
                   "-n", str(messages), *options, address]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.STDOUT, timeout=CLIENT_SECONDS, check=False,
                              env=environment or self.environment)
        tail = "\n".join(done.stdout.splitlines()[-15:])
        lost = re.findall(r"Total lost packets (\d+)", done.stdout)
        moved = re.findall(r"tot_send_bytes ~ (\d+), tot_recv_bytes ~ (\d+)", done.stdout)
        if done.returncode != 0 or not lost or not moved:
            self.fail_with_log(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
        sent, received = (int(count) for count in moved[-1])
        self.assertGreaterEqual(sent, messages * 100 * clients, tail)
        self.assertEqual(received, sent, tail)
        self.assertEqual(int(lost[-1]), 0, tail)


class OverLoopback(Uclient):
    def test_client_to_client_over_channels_ipv4(self):
        self.uclient("127.0.0.1", "-y")

    def test_client_to_client_over_channels_ipv6(self):
        self.uclient("::1", "-y", "-x")

    def test_client_to_client_by_send_indications_ipv4(self):
        self.uclient("127.0.0.1", "-y", "-s", environment=os.environ)

    def test_client_to_client_with_ipv6_relayed_addresses_for_an_ipv4_client(self):
        self.uclient("127.0.0.1", "-y", "-x", "-c")

    def test_client_to_client_with_ipv4_relayed_addresses_for_an_ipv6_client(self):
        self.uclient("::1", "-y", "-X", "-c")

    def test_client_to_peer_over_channels_ipv4(self):
        with Peer(PEER) as peer:
            self.uclient("127.0.0.1", "-e", peer.address, "-r", str(peer.port))

    def test_client_to_peer_by_send_indications_ipv4(self):
        with Peer(PEER) as peer:
            self.uclient("127.0.0.1", "-s", "-e", peer.address, "-r", str(peer.port),
                         environment=os.environ)

    def test_twenty_clients_lose_nothing_over_channels(self):
        self.uclient("127.0.0.1", "-y", clients=20, messages=100)

    def test_twenty_clients_lose_nothing_by_send_indications(self):
        self.uclient("127.0.0.1", "-y", "-s", clients=20, messages=100, environment=os.environ)

    def test_twenty_clients_lose_nothing_toward_a_peer(self):
        with Peer(PEER) as peer:
            self.uclient("127.0.0.1", "-e", peer.address, "-r", str(peer.port), clients=20,
                         messages=100)

    def test_a_wrong_password_gets_no_allocation(self):
        command = [need_program("turnutils_uclient", "coturn"), "-y", "-c", "-u", USER,
                   "-w", "wrong", "-p", str(self.relay.port), "127.0.0.1"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.STDOUT, timeout=CLIENT_SECONDS, check=False)
        self.assertNotEqual(done.returncode, 0, done.stdout[-500:])
        self.assertNotIn("Total lost packets", done.stdout)


class TowardIpv6Peers(Uclient):
    """In a namespace of its own, where the relay and the peer have different IPv6 addresses."""

    @classmethod
    def setUpClass(cls):
        cls.environment = with_channels()
        book = network.AddressBook()
        cls.enterClassContext(book)
        relay, cls.peer_address = book.ADDRESSES
        cls.namespace = book.name
        cls.relay = Relay(listen=[relay], prefix=book.prefix(), allow_loopback_peers=False)
        if cls.relay.kind == "culvert":
            cls.relay.options = ["--allow-peer", f"{cls.peer_address}/128"]
        cls.addClassCleanup(shutil.rmtree, cls.relay.folder, ignore_errors=True)
        cls.addClassCleanup(cls.relay.stop)
        cls.relay.start()

    def to_peer(self, *options, **more):
        with Peer(self.peer_address, self.namespace) as peer:
            self.uclient(self.relay.addresses[0], "-x", "-e", peer.address, "-r", str(peer.port),
                         *options, **more)

    def test_client_to_peer_over_channels_ipv6(self):
        self.to_peer()

    def test_client_to_peer_by_send_indications_ipv6(self):
        self.to_peer("-s", environment=os.environ)

    def test_twenty_ipv6_clients_lose_nothing_toward_a_peer(self):
        self.to_peer("-c", clients=20, messages=100)


if __name__ == "__main__":
    unittest.main()
