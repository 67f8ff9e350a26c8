"""libnice, the ICE library of GStreamer and of most Linux video software: two agents with
force-relay exchange messages both ways."""

import pathlib
import shlex
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from relay import BUILD, PASSWORD, USER, RelayCase, need, need_program

SOURCE = pathlib.Path(__file__).resolve().parent / "libnice" / "agents.c"
PROGRAM = BUILD.parent / "interop" / "libnice_agents"
MESSAGES = 300


def program():
    compiler = need_program("gcc", "g++")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "nice"], text=True, check=False,
                           capture_output=True)
    need(flags.returncode == 0, "libnice (Debian package libnice-dev)")
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(PROGRAM),
                           str(SOURCE), *shlex.split(flags.stdout)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, timeout=120, check=False)
    if done.returncode != 0:
        raise AssertionError(f"agents.c does not compile:\n{done.stdout}")
    return PROGRAM


class Libnice(RelayCase):
    def agents(self, address, password=PASSWORD):
        return subprocess.run(
            [str(program()), address, str(self.relay.port), USER, password, str(MESSAGES)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=90, check=False)

    def check(self, address):
        done = self.agents(address)
        if done.returncode != 0:
            self.fail_with_log(done.stdout)
        self.assertIn(f"exchanged {MESSAGES} each way", done.stdout)
        self.assertEqual(done.stdout.count("pair relay relay"), 2, done.stdout)

    def test_two_relay_only_agents_exchange_messages_over_ipv4(self):
        self.check("127.0.0.1")

    def test_two_relay_only_agents_exchange_messages_over_ipv6(self):
        self.check("::1")

    def test_a_wrong_password_leaves_no_candidate(self):
        done = self.agents("127.0.0.1", password="wrong")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("no relayed candidate", done.stdout)


if __name__ == "__main__":
    unittest.main()
