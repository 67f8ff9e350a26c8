"""pion's TURN client (Go): two clients exchange messages through the relay, by Send and Data
indications until their channels are bound and by ChannelData afterwards."""

import os
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from relay import BUILD, PASSWORD, REALM, USER, RelayCase, bracketed, need, need_program

SOURCE = pathlib.Path(__file__).resolve().parent / "pion"
PROGRAM = BUILD.parent / "interop" / "pion"
MESSAGES = 300


def program():
    """Builds the client with the versions that go.mod and go.sum pin."""
    go = need_program("go", "golang-go")
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    # GOTOOLCHAIN=local: the Go that is installed, never one fetched for the occasion.
    done = subprocess.run([go, "build", "-mod=readonly", "-o", str(PROGRAM), "."], cwd=SOURCE,
                          env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": ""},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, timeout=240, check=False)
    need(done.returncode == 0, f"pion's modules: {done.stdout[-500:]}")
    return PROGRAM


class Pion(RelayCase):
    def clients(self, address, password=PASSWORD):
        return subprocess.run(
            [str(program()), f"{bracketed(address)}:{self.relay.port}", USER, password, REALM,
             str(MESSAGES)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.STDOUT, timeout=60, check=False)

    def test_two_clients_exchange_messages_over_ipv4(self):
        done = self.clients("127.0.0.1")
        if done.returncode != 0:
            self.fail_with_log(done.stdout)
        self.assertIn(f"exchanged {MESSAGES} each way", done.stdout)

    def test_a_wrong_password_gets_no_allocation(self):
        done = self.clients("127.0.0.1", password="wrong")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("allocate", done.stdout)


if __name__ == "__main__":
    unittest.main()
