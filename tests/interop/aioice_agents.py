"""Two aioice agents with the relay-only policy: run by aioice_test.py inside its virtual
environment.

usage: aioice_agents.py ADDRESS PORT USER PASSWORD MESSAGES"""

import asyncio
import sys

import aioice

# Echoed messages in flight: far below any socket buffer, so a loss is the relay's.
WINDOW = 32


def agent(controlling, address, port, user, password):
    return aioice.Connection(
        ice_controlling=controlling, components=1, turn_server=(address, port), turn_username=user,
        turn_password=password, transport_policy=aioice.TransportPolicy.RELAY)


async def introduce(one, other):
    """What signalling would carry from one to the other."""
    for candidate in one.local_candidates:
        await other.add_remote_candidate(candidate)
    await other.add_remote_candidate(None)
    other.remote_username = one.local_username
    other.remote_password = one.local_password


async def exchange(one, other, messages):
    received = 0
    for begin in range(0, messages, WINDOW):
        batch = range(begin, min(begin + WINDOW, messages))
        for number in batch:
            await one.send(b"%08d" % number)
        for number in batch:
            data = await asyncio.wait_for(other.recv(), 10)
            if data != b"%08d" % number:
                raise SystemExit(f"message {number} came as {data!r}")
            received += 1
    return received


async def main():
    address, port, user, password, messages = sys.argv[1:6]
    a = agent(True, address, int(port), user, password)
    b = agent(False, address, int(port), user, password)
    try:
        await asyncio.gather(a.gather_candidates(), b.gather_candidates())
    except aioice.stun.TransactionFailed as error:
        raise SystemExit(f"no relayed candidate: {error}") from error
    for connection in (a, b):
        if not connection.local_candidates:
            raise SystemExit("no relayed candidate")
        for candidate in connection.local_candidates:
            print("candidate", candidate.type, candidate.host, candidate.port)
    await introduce(a, b)
    await introduce(b, a)
    await asyncio.wait_for(asyncio.gather(a.connect(), b.connect()), 40)
    for connection in (a, b):
        pair = connection._nominated[1]  # the library offers no public view of the chosen pair
        print("pair", pair.local_candidate.type, pair.remote_candidate.type)
    there = await exchange(a, b, int(messages))
    back = await exchange(b, a, int(messages))
    print(f"exchanged {messages} each way, lost {2 * int(messages) - there - back}")
    await asyncio.gather(a.close(), b.close())


asyncio.run(main())
