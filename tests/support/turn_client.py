"""A small TURN client over UDP for tests of whole processes: long-term credentials with SHA-1, one
request at a time, every answer checked. It shares no code with the relay, so that a mistake cannot
hide in both."""

import hashlib
import hmac
import ipaddress
import os
import select
import socket
import struct
import time
import zlib

MAGIC = 0x2112A442
ALLOCATE, REFRESH, SEND, DATA, CREATE_PERMISSION, CHANNEL_BIND, BINDING = 3, 4, 6, 7, 8, 9, 1
REQUEST, INDICATION, SUCCESS, ERROR = 0x000, 0x010, 0x100, 0x110

USERNAME, INTEGRITY, ERROR_CODE = 0x0006, 0x0008, 0x0009
CHANNEL_NUMBER, LIFETIME, PEER, DATA_ATTRIBUTE = 0x000C, 0x000D, 0x0012, 0x0013
REALM, NONCE, RELAYED, FAMILY = 0x0014, 0x0015, 0x0016, 0x0017
TRANSPORT, XOR_MAPPED, ICMP, FINGERPRINT = 0x0019, 0x0020, 0x8004, 0x8028

# RFC 8489 section 6.2.1 with fewer tries: a test's network is a machine's memory.
FIRST_WAIT = 0.5
TRIES = 5


def xor_address(address, transaction):
    host = ipaddress.ip_address(address[0])
    mask = struct.pack("!I", MAGIC) + transaction
    mixed = bytes(a ^ b for a, b in zip(host.packed, mask))
    return struct.pack("!BBH", 0, 1 if host.version == 4 else 2, address[1] ^ (MAGIC >> 16)) + mixed


def address_from(value, transaction):
    mask = struct.pack("!I", MAGIC) + transaction
    port = struct.unpack("!H", value[2:4])[0] ^ (MAGIC >> 16)
    packed = bytes(a ^ b for a, b in zip(value[4:], mask))
    return str(ipaddress.ip_address(packed)), port


class Message:
    """A parsed STUN message: method, kind, transaction, attributes as a list of (type, value)."""

    def __init__(self, data):
        kind, length, magic = struct.unpack("!HHI", data[:8])
        if magic != MAGIC or length != len(data) - 20 or length % 4:
            raise ValueError(f"not a STUN message: {data.hex()}")
        self.kind = kind & 0x110
        self.method = (kind & 0xF) | (kind >> 1 & 0x70) | (kind >> 2 & 0xF80)
        self.transaction = data[8:20]
        self.attributes = []
        at = 20
        while at < len(data):
            name, size = struct.unpack("!HH", data[at:at + 4])
            self.attributes.append((name, data[at + 4:at + 4 + size]))
            at += 4 + (size + 3) // 4 * 4

    def get(self, name):
        return next((value for key, value in self.attributes if key == name), None)

    def address(self, name):
        value = self.get(name)
        return address_from(value, self.transaction) if value else None

    @property
    def error(self):
        value = self.get(ERROR_CODE)
        return value[2] * 100 + value[3] if value else None

    @property
    def lifetime(self):
        value = self.get(LIFETIME)
        return struct.unpack("!I", value)[0] if value else None


def attribute(name, value):
    return struct.pack("!HH", name, len(value)) + value + b"\0" * (-len(value) % 4)


def message(method, kind, transaction, attributes, key=None):
    body = b"".join(attribute(name, value) for name, value in attributes)
    kind |= (method & 0xF) | (method & 0x70) << 1 | (method & 0xF80) << 2

    def head(extra):
        return struct.pack("!HHI", kind, len(body) + extra, MAGIC) + transaction
    if key:
        body += attribute(INTEGRITY, hmac.new(key, head(24) + body, hashlib.sha1).digest())
    check = zlib.crc32(head(8) + body) ^ 0x5354554E
    return head(8) + body + attribute(FINGERPRINT, struct.pack("!I", check))


class Refused(AssertionError):
    """An error response; `code` is its number."""

    def __init__(self, code, method):
        super().__init__(f"method {method} was refused with {code}")
        self.code = code


class TurnClient:
    def __init__(self, server, user, password, sock=None):
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        self.sock = sock or socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.server = server
        self.user, self.password = user, password
        self.realm = self.nonce = self.key = None
        self.waiting = []  # datagrams that came while a response was awaited
        self.mapped = None
        self.relayed = []

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- requests ---------------------------------------------------------------------------------

    def exchange(self, data, transaction):
        wait = FIRST_WAIT
        for _ in range(TRIES):
            self.sock.sendto(data, self.server)
            deadline = time.monotonic() + wait
            while (left := deadline - time.monotonic()) > 0:
                if not select.select([self.sock], [], [], left)[0]:
                    break
                try:
                    got = self.sock.recv(65536)
                except ConnectionRefusedError:
                    continue
                if len(got) >= 20 and got[8:20] == transaction and got[0] & 0xC0 == 0:
                    return got
                self.waiting.append(got)
            wait *= 2
        raise AssertionError("no answer from the relay")

    def request(self, method, attributes=(), check=True):
        for _ in range(3):
            transaction = os.urandom(12)
            credentials = []
            if self.key:
                credentials = [(USERNAME, self.user.encode()), (REALM, self.realm),
                               (NONCE, self.nonce)]
            plain = [(name, xor_address(value, transaction) if isinstance(value, tuple) else value)
                     for name, value in attributes]
            data = self.exchange(message(method, REQUEST, transaction, plain + credentials,
                                         self.key), transaction)
            answer = Message(data)
            if answer.kind == SUCCESS and self.key:
                self.verify(data)
            if answer.kind != ERROR:
                return answer
            again = (answer.error == 401 and not self.key) or answer.error == 438
            if not again:
                if check:
                    raise Refused(answer.error, method)
                return answer
            self.realm, self.nonce = answer.get(REALM), answer.get(NONCE)
            self.key = hashlib.md5(b":".join(
                [self.user.encode(), self.realm, self.password.encode()])).digest()
        raise AssertionError("the relay challenges for ever")

    def verify(self, data):
        """MESSAGE-INTEGRITY of a response (RFC 8489 section 14.5)."""
        at = 20
        while at < len(data):
            name, size = struct.unpack("!HH", data[at:at + 4])
            if name == INTEGRITY:
                covered = data[:2] + struct.pack("!H", at + 24 - 20) + data[4:at]
                expected = hmac.new(self.key, covered, hashlib.sha1).digest()
                if expected != data[at + 4:at + 24]:
                    raise AssertionError("the response's integrity is wrong")
                return
            at += 4 + (size + 3) // 4 * 4
        raise AssertionError("a success response without integrity")

    def binding(self):
        key, self.key = self.key, None
        try:
            return self.request(BINDING).address(XOR_MAPPED)
        finally:
            self.key = key

    def allocate(self, family=None, attributes=(), check=True):
        """family: 4 or 6 asks for that relayed address; None leaves it to the relay (IPv4)."""
        wanted = [(TRANSPORT, b"\x11\0\0\0"), *attributes]
        if family:
            wanted.append((FAMILY, bytes([1 if family == 4 else 2, 0, 0, 0])))
        answer = self.request(ALLOCATE, wanted, check)
        if answer.kind == SUCCESS:
            self.mapped = answer.address(XOR_MAPPED)
            self.relayed = [address_from(value, answer.transaction)
                            for name, value in answer.attributes if name == RELAYED]
        return answer

    def refresh(self, seconds, check=True):
        return self.request(REFRESH, [(LIFETIME, struct.pack("!I", seconds))], check)

    def permit(self, *peers, check=True):
        return self.request(CREATE_PERMISSION, [(PEER, peer) for peer in peers], check)

    def bind(self, channel, peer, check=True):
        return self.request(CHANNEL_BIND, [(CHANNEL_NUMBER, struct.pack("!HH", channel, 0)),
                                           (PEER, peer)], check)

    # --- data -------------------------------------------------------------------------------------

    def send(self, peer, data):
        transaction = os.urandom(12)
        self.sock.sendto(message(SEND, INDICATION, transaction, [
            (PEER, xor_address(peer, transaction)), (DATA_ATTRIBUTE, data)]), self.server)

    def send_channel(self, channel, data):
        self.sock.sendto(struct.pack("!HH", channel, len(data)) + data, self.server)

    def receive(self, seconds=5):
        """The next datagram that is no response: (peer address or channel number, data, ICMP)."""
        deadline = time.monotonic() + seconds
        while True:
            if self.waiting:
                got = self.waiting.pop(0)
            else:
                left = max(0, deadline - time.monotonic())
                if not select.select([self.sock], [], [], left)[0]:
                    raise AssertionError(f"nothing came within {seconds} s")
                got = self.sock.recv(65536)
            if got[0] & 0xC0 == 0x40:
                channel, length = struct.unpack("!HH", got[:4])
                return channel, got[4:4 + length], None
            parsed = Message(got)
            if parsed.kind in (SUCCESS, ERROR):
                continue  # the second answer to a request that was sent twice
            if parsed.method != DATA:
                raise AssertionError(f"unexpected message {got.hex()}")
            return parsed.address(PEER), parsed.get(DATA_ATTRIBUTE), parsed.get(ICMP)
