"""The relay between real networks: the client behind a NAT, the peer behind the relay, each in its
own network namespace, over IPv4 and IPv6. What a packet capture would show is checked on the
receivers' ancillary data: hop limit, DSCP and ECN as RFC 8656 section 14 asks, and ICMP errors
(section 11.5)."""

import pathlib
import shutil
import socket
import struct
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from network import CLIENT, NAT_OUTSIDE, PEER, RELAY_NEAR_CLIENT, RELAY_NEAR_PEER, Network
from relay import PASSWORD, USER, KIND, Relay, wait_for
from turn_client import TurnClient

PORT = 3478
CHANNEL = 0x4001
# Expedited Forwarding (46) and ECT(0).
TRAFFIC_CLASS = 46 << 2 | 2
IPV6_RECVTCLASS = 66

net = None
relay = None


def setUpModule():
    global net, relay
    net = Network()
    net.__enter__()
    unittest.addModuleCleanup(net.remove)
    options = ["--allow-peer", "10.77.3.2/32", "--allow-peer", "fd77:3::2/128"]
    relay = Relay(listen=list(RELAY_NEAR_CLIENT.values()), relay=list(RELAY_NEAR_PEER.values()),
                  options=options if KIND == "culvert" else [], prefix=net.exec(net.relay),
                  port=PORT, allow_loopback_peers=False)
    unittest.addModuleCleanup(shutil.rmtree, relay.folder, ignore_errors=True)
    unittest.addModuleCleanup(relay.stop)
    relay.start()


def set_hops(sock, family, hops):
    if family == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)


def set_class(sock, family, value):
    if family == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, value)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, value)


def watch_headers(sock, family):
    if family == 4:
        sock.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        sock.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVTCLASS, 1)


def receive_with_headers(sock):
    """(data, source, hop limit, traffic class)"""
    sock.settimeout(5)
    data, ancillary, _, source = sock.recvmsg(65536, 256)
    seen = {}
    for level, kind, value in ancillary:
        number = value[0] if len(value) == 1 else struct.unpack("@i", value[:4])[0]
        if (level, kind) in ((socket.IPPROTO_IP, 2), (socket.IPPROTO_IPV6, 52)):
            seen["hops"] = number
        elif (level, kind) in ((socket.IPPROTO_IP, 1), (socket.IPPROTO_IPV6, 67)):
            seen["class"] = number
    return data, source[:2], seen.get("hops"), seen.get("class")


class BehindNat(unittest.TestCase):
    def client(self, family):
        sock = net.udp(net.client, family, (CLIENT[family], 0))
        client = TurnClient((RELAY_NEAR_CLIENT[family], PORT), USER, PASSWORD, sock)
        self.addCleanup(client.close)
        return client

    def peer(self, family):
        sock = net.udp(net.peer, family, (PEER[family], 0))
        self.addCleanup(sock.close)
        watch_headers(sock, family)
        return sock, sock.getsockname()[:2]

    def carry(self, client_family, peer_family):
        client = self.client(client_family)
        client.allocate(peer_family)
        self.assertEqual(client.mapped[0], NAT_OUTSIDE[client_family])
        self.assertEqual(client.relayed[0][0], RELAY_NEAR_PEER[peer_family])
        sock, address = self.peer(peer_family)
        client.permit(address)
        client.send(address, b"by Send")
        data, source, _, _ = receive_with_headers(sock)
        self.assertEqual((data, source), (b"by Send", client.relayed[0]))
        sock.sendto(b"by Data", client.relayed[0])
        self.assertEqual(client.receive(), (address, b"by Data", None))
        client.bind(CHANNEL, address)
        for size in (0, 1, 160, 1200):
            client.send_channel(CHANNEL, b"c" * size)
            data, source, _, _ = receive_with_headers(sock)
            self.assertEqual((data, source), (b"c" * size, client.relayed[0]))
            sock.sendto(b"p" * size, client.relayed[0])
            self.assertEqual(client.receive(), (CHANNEL, b"p" * size, None))
        client.refresh(0)

    def test_ipv4_client_behind_a_nat_reaches_an_ipv4_peer(self):
        self.carry(4, 4)

    def test_ipv6_client_behind_a_nat_reaches_an_ipv6_peer(self):
        self.carry(6, 6)

    def test_ipv4_client_reaches_an_ipv6_peer(self):
        self.carry(4, 6)

    def test_ipv6_client_reaches_an_ipv4_peer(self):
        self.carry(6, 4)

    def test_binding_tells_the_nats_outside_address(self):
        for family in (4, 6):
            with self.subTest(family=family):
                self.assertEqual(self.client(family).binding()[0], NAT_OUTSIDE[family])

    def ready_call(self, client_family, peer_family):
        client = self.client(client_family)
        client.allocate(peer_family)
        sock, address = self.peer(peer_family)
        client.bind(CHANNEL, address)
        return client, sock, address

    def check_headers(self, client_family, peer_family):
        client, sock, address = self.ready_call(client_family, peer_family)
        # Client to peer: the NAT takes one hop, the relay another.
        set_hops(client.sock, client_family, 60)
        set_class(client.sock, client_family, TRAFFIC_CLASS)
        client.send_channel(CHANNEL, b"headers")
        data, _, hops, traffic_class = receive_with_headers(sock)
        self.assertEqual((data, hops, traffic_class), (b"headers", 58, TRAFFIC_CLASS))
        client.send(address, b"headers too")
        data, _, hops, traffic_class = receive_with_headers(sock)
        self.assertEqual((data, hops, traffic_class), (b"headers too", 58, TRAFFIC_CLASS))
        # Peer to client: the relay takes one hop, then the NAT.
        watch_headers(client.sock, client_family)
        set_hops(sock, peer_family, 50)
        set_class(sock, peer_family, TRAFFIC_CLASS)
        sock.sendto(b"back", client.relayed[0])
        data, _, hops, traffic_class = receive_with_headers(client.sock)
        self.assertEqual((data[4:8], hops, traffic_class), (b"back", 48, TRAFFIC_CLASS))
        set_hops(client.sock, client_family, 64)
        client.refresh(0)

    def test_hop_limit_falls_by_one_and_dscp_and_ecn_are_kept_over_ipv4(self):
        self.check_headers(4, 4)

    def test_hop_limit_falls_by_one_and_dscp_and_ecn_are_kept_over_ipv6(self):
        self.check_headers(6, 6)

    def test_hop_limit_dscp_and_ecn_cross_from_ipv4_to_ipv6(self):
        self.check_headers(4, 6)

    def test_a_datagram_at_the_end_of_its_hops_is_not_relayed_and_is_counted(self):
        client, sock, _ = self.ready_call(4, 4)
        before = self.dropped("ttl_exceeded")
        set_hops(client.sock, 4, 2)  # the NAT leaves one: nothing for the relay to take
        client.send_channel(CHANNEL, b"too far")
        set_hops(client.sock, 4, 64)
        client.send_channel(CHANNEL, b"near enough")
        self.assertEqual(receive_with_headers(sock)[0], b"near enough")
        wait_for(lambda: self.dropped("ttl_exceeded") == before + 1, 5, "ttl_exceeded is counted")
        client.refresh(0)

    @staticmethod
    def dropped(name):
        outcomes = relay.control("drops")["outcomes"]
        return next(row["total"] for row in outcomes if row["outcome"] == name)

    def check_icmp(self, family, kind, code):
        client = self.client(family)
        client.allocate(family)
        sock, address = self.peer(family)
        client.permit(address)
        sock.close()  # the peer's kernel answers for its port from now on
        client.send(address, b"anybody?")
        source, data, icmp = client.receive()
        self.assertEqual(source, address)
        self.assertIsNone(data)
        self.assertIsNotNone(icmp, "a Data indication without the ICMP attribute")
        self.assertEqual(struct.unpack("!HHI", icmp), (0, kind << 9 | code, 0))
        # The error is spent: a peer that is there again is reached.
        again = net.udp(net.peer, family, address)
        self.addCleanup(again.close)
        watch_headers(again, family)
        client.send(address, b"welcome back")
        self.assertEqual(receive_with_headers(again)[0], b"welcome back")
        client.refresh(0)

    def test_a_closed_port_of_an_ipv4_peer_comes_back_as_icmp_attribute(self):
        self.check_icmp(4, 3, 3)

    def test_a_closed_port_of_an_ipv6_peer_comes_back_as_icmp_attribute(self):
        self.check_icmp(6, 1, 4)

    def test_one_peers_icmp_errors_cost_another_peer_nothing(self):
        client = self.client(4)
        client.allocate(4)
        sock, address = self.peer(4)
        dead, dead_address = self.peer(4)
        dead.close()
        client.permit(address, dead_address)
        client.bind(CHANNEL, address)
        client.bind(CHANNEL + 1, dead_address)
        for number in range(200):
            client.send_channel(CHANNEL + 1, b"nobody")
            client.send_channel(CHANNEL, b"%d" % number)
            self.assertEqual(receive_with_headers(sock)[0], b"%d" % number)
        client.refresh(0)

    def test_a_peer_without_permission_is_not_heard(self):
        client = self.client(4)
        client.allocate(4)
        stranger, _ = self.peer(4)
        before = self.dropped("no_permission")
        stranger.sendto(b"let me in", client.relayed[0])
        wait_for(lambda: self.dropped("no_permission") == before + 1, 5, "the drop is counted")
        sock, address = self.peer(4)
        client.permit(address)
        # Permissions are by address: the port that was silent before is heard now.
        stranger.sendto(b"and now", client.relayed[0])
        self.assertEqual(client.receive()[1], b"and now")
        client.refresh(0)

    def test_the_relays_own_and_denied_addresses_are_no_peers(self):
        client = self.client(4)
        client.allocate(4)
        for denied in (("127.0.0.1", 9), ("10.77.1.1", 9), ("224.0.0.1", 9), ("0.0.0.0", 9)):
            with self.subTest(peer=denied):
                self.assertEqual(client.permit(denied, check=False).error, 403)
        client.refresh(0)


if __name__ == "__main__":
    unittest.main()
