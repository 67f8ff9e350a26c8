#!/usr/bin/env python3
"""Writes in.pcap and out.pcap of every golden case from its case.json.

A case is reviewed as text: packets are described, not dumped. This script is an implementation of
the wire formats of its own (checksums in full, CRC-32, SipHash, the relay's transaction ids), so
what it expects is not what the relay happened to send. Run it after editing a case; `--check` only
compares.

    tests/golden/make_captures.py [--check] [CASE...]

Packet: {"at_us", "from", "to", "ttl", "tos", "df", "checksum", "vlan", "options", "fragment",
        "payload"}; defaults: 0, -, -, 64, 0, true, "ok", none, none, none, "".
        "checksum": "ok", "none" (IPv4 zero), "bad" or "bad-ip".
        Or {"at_us", "frame": "hex of a whole frame"}.
        "fragments": [[offset, length]...], "id": n: a frame for each, in this order, of the bytes
        from the UDP header on; a length of null is "to the end". An object {"offset", "length",
        "more", "tos", "ttl", "xor", "protocol"} bends one of them. "id" is the relay's own where it
        sends (IPv4: counted; IPv6: SipHash of the count).
        "sweep": {"count", "id", "from"}: so many of it, "id" and the source address growing by
        these steps.
        "icmp": {"type", "code", "mtu", "quote": packet, "limit": bytes of it} instead of "payload".
Payload: "text"; {"hex": "..."}; {"repeat": n, "byte": b}; {"channel": "0x4000", "data": payload,
        "length": override, "pad": n}; {"stun": "allocate-request", "id": "hex" or "relay",
        "cookie": override, "attributes": [[name, value...]...]}; a list is concatenated.
"times": n repeats a packet. What a DPDK port does otherwise stands under "dpdk": "out", "outcomes"
and "frames" replace the case's; hosts in "unknown" have no link address at the start, and with
"networks" the port's addresses have /24 and /64 around them.
Allocations, permissions and channels of a case are installed before the first packet.
"""
import ipaddress
import json
import pathlib
import struct
import sys
import zlib

HERE = pathlib.Path(__file__).resolve().parent
RELAY = json.loads((HERE / "relay.json").read_text())
FIRST_US = 1_700_000_000_000_000  # an arbitrary Tuesday
RELAY_MAC = bytes([2, 0, 0, 0, 0, 1])

METHODS = {"binding": 1, "allocate": 3, "refresh": 4, "send": 6, "data": 7, "create-permission": 8,
           "channel-bind": 9, "mystery": 0x0FF}
CLASSES = {"request": 0x000, "indication": 0x010, "success": 0x100, "error": 0x110}
ATTRIBUTES = {"MAPPED-ADDRESS": 0x0001, "CHANGE-REQUEST": 0x0003, "USERNAME": 0x0006,
              "MESSAGE-INTEGRITY": 0x0008, "ERROR-CODE": 0x0009, "UNKNOWN-ATTRIBUTES": 0x000A,
              "XOR-PEER-ADDRESS": 0x0012, "DATA": 0x0013, "REALM": 0x0014, "NONCE": 0x0015,
              "REQUESTED-TRANSPORT": 0x0019, "DONT-FRAGMENT": 0x001A, "XOR-MAPPED-ADDRESS": 0x0020,
              "UNKNOWN-REQUIRED": 0x7FF0, "UNKNOWN-OPTIONAL": 0xFFF0, "ICMP": 0x8004,
              "SOFTWARE": 0x8022, "FINGERPRINT": 0x8028}
COOKIE = 0x2112A442
MASK64 = (1 << 64) - 1


# -------------------------------------------------------------------------------- addresses

def parse_ip(text):
    """(family, bytes)"""
    ip = ipaddress.ip_address(text)
    return ip.version, ip.packed


def parse_address(text):
    """(family, address bytes, port)"""
    host, port = text.rsplit(":", 1)
    family, packed = parse_ip(host.strip("[]"))
    return family, packed, int(port)


def mac_of(packed):
    return RELAY_MAC if packed in relay_ips() else bytes([2, 0]) + packed[-4:]


def relay_ips():
    return {parse_ip(a["bound"])[1] for a in RELAY["addresses"]}


# -------------------------------------------------------------------------------- checksums

def ones_sum(data):
    if len(data) % 2:
        data += b"\0"
    total = 0
    for (word,) in struct.iter_unpack("!H", data):
        total += word
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data):
    return ~ones_sum(data) & 0xFFFF


def siphash24(k0, k1, data):
    def rotl(x, b):
        return (x << b | x >> (64 - b)) & MASK64

    def round_():
        nonlocal v0, v1, v2, v3
        v0 = (v0 + v1) & MASK64; v1 = rotl(v1, 13) ^ v0; v0 = rotl(v0, 32)
        v2 = (v2 + v3) & MASK64; v3 = rotl(v3, 16) ^ v2
        v0 = (v0 + v3) & MASK64; v3 = rotl(v3, 21) ^ v0
        v2 = (v2 + v1) & MASK64; v1 = rotl(v1, 17) ^ v2; v2 = rotl(v2, 32)
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    padded = data + b"\0" * (7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", padded):
        v3 ^= word
        round_(); round_()
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(4):
        round_()
    return v0 ^ v1 ^ v2 ^ v3


def nonce_for(listener, client, features):
    """The stateless nonce: RFC 8489 cookie, features, then time and MAC in base64."""
    import base64
    family, packed, port = parse_address(client)
    sixteen = packed if family == 6 else b"\0" * 10 + b"\xff\xff" + packed
    time = RELAY["nonce"]["now_seconds"]
    text = sixteen + bytes([family, 0]) + struct.pack("!HHII", port, listener["realm_index"],
                                                      features, time)
    mac = siphash24(RELAY["nonce"]["k0"], RELAY["nonce"]["k1"], text)
    return (b"obMatJos2" + base64.b64encode(features.to_bytes(3, "big")) +
            base64.b64encode(struct.pack("!IQ", time, mac)))


class RelayIds:
    """Transaction ids of Data indications: xorshift128+ from the seeds the runner gives."""

    def __init__(self):
        self.state = [1, 2]

    def word(self):
        a, b = self.state
        self.state[0] = b
        a ^= a << 23 & MASK64
        self.state[1] = (a ^ b ^ a >> 17 ^ b >> 26) & MASK64
        return (self.state[1] + b) & MASK64

    def next(self):
        return struct.pack("!QI", self.word(), self.word() & 0xFFFFFFFF)


# -------------------------------------------------------------------------------- payloads

def xor_address(text, transaction):
    family, packed, port = parse_address(text)
    key = struct.pack("!I", COOKIE) + transaction
    value = bytes(a ^ b for a, b in zip(packed, key))
    return struct.pack("!BBH", 0, 1 if family == 4 else 2, port ^ COOKIE >> 16) + value


def attribute_value(name, args, transaction, packet):
    if name in ("XOR-PEER-ADDRESS", "XOR-MAPPED-ADDRESS"):
        return xor_address(args[0], transaction)
    if name == "ERROR-CODE":
        return struct.pack("!HBB", 0, args[0] // 100, args[0] % 100)
    if name == "UNKNOWN-ATTRIBUTES":
        return b"".join(struct.pack("!H", ATTRIBUTES[a]) for a in args)
    if name == "ICMP":
        kind, code, data = args
        return struct.pack("!HHI", 0, kind << 9 | code, data)  # 7 bits of type, 9 of code
    if name == "NONCE" and args == ["relay"]:
        # As the listener that sends `packet` makes it for the client it goes to.
        listener = next(x for x in RELAY["listeners"] if x["at"] == packet["from"])
        return nonce_for(listener, packet["to"], listener.get("features", 0))
    return b"".join(payload_bytes(a, packet, None) for a in args)


def stun(spec, packet, ids):
    method, _, kind = spec["stun"].rpartition("-")
    transaction = ids.next() if spec.get("id") == "relay" else bytes.fromhex(
        spec.get("id", "000102030405060708090a0b"))
    body = b""
    for name, *args in spec.get("attributes", []):
        if name == "FINGERPRINT":
            head = stun_header(method, kind, len(body) + 8, transaction, spec)
            crc = zlib.crc32(head + body) ^ 0x5354554E ^ (args[0] if args else 0)
            body += struct.pack("!HHI", ATTRIBUTES[name], 4, crc)
            continue
        value = attribute_value(name, args, transaction, packet)
        code = ATTRIBUTES[name] if name in ATTRIBUTES else int(name, 0)
        body += struct.pack("!HH", code, len(value)) + value + b"\0" * (-len(value) % 4)
    return stun_header(method, kind, len(body), transaction, spec) + body


def stun_header(method, kind, length, transaction, spec):
    number = METHODS[method]
    bits = (number & 0x0F80) << 2 | (number & 0x0070) << 1 | number & 0x000F
    return struct.pack("!HHI", bits | CLASSES[kind], spec.get("length", length),
                       spec.get("cookie", COOKIE)) + transaction


def payload_bytes(spec, packet, ids):
    if isinstance(spec, str):
        return spec.encode()
    if isinstance(spec, list):
        return b"".join(payload_bytes(s, packet, ids) for s in spec)
    if "hex" in spec:
        return bytes.fromhex(spec["hex"])
    if "repeat" in spec:
        return bytes([spec["byte"]]) * spec["repeat"]
    if "channel" in spec:
        data = payload_bytes(spec.get("data", ""), packet, ids)
        length = spec.get("length", len(data))
        head = struct.pack("!HH", int(spec["channel"], 0), length)
        return head + data + b"\0" * spec.get("pad", 0)
    return stun(spec, packet, ids)


# -------------------------------------------------------------------------------- frames

def swept(packet):
    sweep = packet["sweep"]
    _, source, port = parse_address(packet["from"])
    for i in range(sweep["count"]):
        number = int.from_bytes(source, "big") + i * sweep.get("from", 0)
        host = str(ipaddress.ip_address(number.to_bytes(len(source), "big")))
        plain = {key: value for key, value in packet.items() if key != "sweep"}
        yield plain | {"id": packet.get("id", 0) + i * sweep.get("id", 0),
                       "from": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}


class FrameMaker:
    def __init__(self, sent_by_relay):
        self.ids = RelayIds()
        self.sent_by_relay = sent_by_relay
        self.identification = 0
        self.cut_over_ipv6 = 0

    def frames(self, packet):
        if "sweep" in packet:
            return [f for p in swept(packet) for f in self.frames(p)]
        if "fragments" in packet:
            return self.fragments(packet)
        return [self.frame(packet)]

    def fragments(self, packet):
        family, source, source_port = parse_address(packet["from"])
        _, destination, port = parse_address(packet["to"])
        upper = self.udp(packet, family, source, destination, source_port, port)
        identification = packet.get("id", 0)
        if self.sent_by_relay and family == 4:
            self.identification += 1
            identification = self.identification
        elif self.sent_by_relay:
            self.cut_over_ipv6 += 1
            identification = siphash24(0, 0, struct.pack("<Q", self.cut_over_ipv6)) & 0xFFFFFFFF
        out = []
        for spec in packet["fragments"]:
            if isinstance(spec, list):
                spec = {"offset": spec[0], "length": spec[1]}
            offset, length = spec["offset"], spec.get("length")
            end = len(upper) if length is None else offset + length
            data = bytes(b ^ spec.get("xor", 0) for b in upper[offset:end])
            out.append(self.fragment(packet | spec, family, source, destination, identification,
                                     offset, spec.get("more", end < len(upper)), data))
        return out

    def fragment(self, packet, family, source, destination, identification, offset, more, data):
        tos, ttl = packet.get("tos", 0), packet.get("ttl", 64)
        protocol = packet.get("protocol", 17)
        ethernet = (mac_of(destination) + mac_of(source) +
                    struct.pack("!H", 0x0800 if family == 4 else 0x86DD))
        if family == 6:
            extension = bytes.fromhex(packet.get("options", ""))  # whole headers, the last says 44
            extension += struct.pack("!BBHI", protocol, 0, offset | more, identification)
            first = packet.get("next_header", 44)
            return (ethernet + struct.pack("!IHBB", 6 << 28 | tos << 20, len(extension) + len(data),
                                           first, ttl) + source + destination + extension + data)
        flags = 0x2000 * more | offset // 8
        head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(data), identification, flags, ttl,
                           protocol, 0) + source + destination
        return ethernet + head[:10] + struct.pack("!H", checksum(head)) + head[12:] + data

    def frame(self, packet):
        if "frame" in packet:
            return bytes.fromhex(packet["frame"])
        _, source, _ = parse_address(packet["from"])
        family, destination, _ = parse_address(packet["to"])
        ip = self.ip(packet, family)
        tag = struct.pack("!HH", 0x8100, packet["vlan"]) if "vlan" in packet else b""
        return (mac_of(destination) + mac_of(source) + tag +
                struct.pack("!H", 0x0800 if family == 4 else 0x86DD) + ip)

    def ip(self, packet, family):
        _, source, source_port = parse_address(packet["from"])
        _, destination, port = parse_address(packet["to"])
        if "icmp" in packet:
            protocol = 1 if family == 4 else 58
            upper = self.icmp(packet["icmp"], family, source, destination)
        else:
            protocol = 17
            upper = self.udp(packet, family, source, destination, source_port, port)
        tos, ttl = packet.get("tos", 0), packet.get("ttl", 64)
        if family == 6:
            extension = bytes.fromhex(packet.get("options", ""))  # whole headers, the last says 17
            first = packet.get("next_header", protocol)
            length = len(extension) + len(upper)
            return (struct.pack("!IHBB", 6 << 28 | tos << 20, length, first, ttl) +
                    source + destination + extension + upper)
        options = bytes.fromhex(packet.get("options", ""))
        dont_fragment = packet.get("df", True)
        identification = 0
        if self.sent_by_relay and not dont_fragment:
            self.identification += 1
            identification = self.identification
        flags = packet.get("fragment", 0x4000 if dont_fragment else 0)
        length = 20 + len(options) + len(upper)
        head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, tos, length, identification,
                           flags, ttl, protocol, 0) + source + destination + options
        value = checksum(head) ^ (1 if packet.get("checksum") == "bad-ip" else 0)
        return head[:10] + struct.pack("!H", value) + head[12:] + upper

    def udp(self, packet, family, source, destination, source_port, port):
        body = payload_bytes(packet.get("payload", ""), packet, self.ids)
        length = len(body) + 8
        pseudo = (source + destination + struct.pack("!BBH", 0, 17, length) if family == 4 else
                  source + destination + struct.pack("!II", length, 17))
        head = struct.pack("!HHH", source_port, port, packet.get("udp_length", length))
        style = packet.get("checksum", "ok")
        value = checksum(pseudo + head + b"\0\0" + body) or 0xFFFF
        if style == "none":
            value = 0
        if style == "bad":
            value ^= 0x0100
        return head + struct.pack("!H", value) + body

    def icmp(self, spec, family, source, destination):
        _, quoted_to, _ = parse_address(spec["quote"]["to"])
        quoted_family = 4 if len(quoted_to) == 4 else 6
        quoted = FrameMaker(False).ip(spec["quote"], quoted_family)[:spec.get("limit")]
        rest = struct.pack("!HH", 0, spec.get("mtu", 0)) if family == 4 else struct.pack(
            "!I", spec.get("mtu", 0))
        head = struct.pack("!BBH", spec["type"], spec.get("code", 0), 0) + rest
        message = head + quoted
        pseudo = b"" if family == 4 else source + destination + struct.pack("!II", len(message), 58)
        return head[:2] + struct.pack("!H", checksum(pseudo + message)) + head[4:] + quoted


def capture(packets, sent_by_relay):
    maker = FrameMaker(sent_by_relay)
    out = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65601, 1)  # nanoseconds, Ethernet
    for packet in packets:
        at = FIRST_US + packet.get("at_us", 0)
        for frame in (f for _ in range(packet.get("times", 1)) for f in maker.frames(packet)):
            out += struct.pack("<IIII", at // 1_000_000, at % 1_000_000 * 1000, len(frame),
                               len(frame))
            out += frame
    return out


def main():
    arguments = sys.argv[1:]
    check = "--check" in arguments
    names = [a for a in arguments if a != "--check"]
    folders = [HERE / "cases" / n for n in names] or sorted((HERE / "cases").iterdir())
    stale = []
    for folder in folders:
        case = json.loads((folder / "case.json").read_text())
        captures = [("in.pcap", case["in"], False), ("out.pcap", case["out"], True)]
        if "out" in case.get("dpdk", {}):
            captures.append(("out.dpdk.pcap", case["dpdk"]["out"], True))
        for name, packets, ours in captures:
            try:
                bytes_ = capture(packets, ours)
            except Exception as error:
                raise SystemExit(f"{folder.name}/{name}: {type(error).__name__}: {error}")
            path = folder / name
            if check:
                if not path.exists() or path.read_bytes() != bytes_:
                    stale.append(f"{folder.name}/{name}")
            else:
                path.write_bytes(bytes_)
    if stale:
        raise SystemExit("not what case.json says; run tests/golden/make_captures.py: " +
                         ", ".join(stale))


if __name__ == "__main__":
    main()
