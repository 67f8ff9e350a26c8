"""aioice, the ICE library under aiortc: two agents that may use only relayed candidates find each
other through the relay and exchange datagrams both ways."""

import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from relay import BUILD, PASSWORD, USER, RelayCase, need

HERE = pathlib.Path(__file__).resolve().parent
VENV = BUILD.parent / "venv-interop"
MESSAGES = 500


def environment():
    """The virtual environment's Python, made once per set of pinned versions."""
    python = VENV / "bin" / "python"
    requirements = HERE / "requirements.txt"
    stamp = VENV / "installed.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    for command in (["/usr/bin/python3", "-m", "venv", "--clear", str(VENV)],
                    [str(python), "-m", "pip", "install", "--quiet", "--no-input",
                     "--disable-pip-version-check", "-r", str(requirements)]):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, text=True, timeout=240,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        need(done.returncode == 0, f"aioice ({' '.join(command[:4])}: {done.stdout[-500:]})")
    stamp.write_text(wanted, encoding="utf-8")
    return python


class Aioice(RelayCase):
    def agents(self, address, password=PASSWORD):
        return subprocess.run(
            [str(environment()), str(HERE / "aioice_agents.py"), address, str(self.relay.port),
             USER, password, str(MESSAGES)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=90, check=False)

    def check(self, address):
        done = self.agents(address)
        if done.returncode != 0:
            self.fail_with_log(done.stdout[-2000:])
        self.assertIn(f"exchanged {MESSAGES} each way, lost 0", done.stdout)
        self.assertEqual(done.stdout.count("pair relay relay"), 2, done.stdout)

    def test_two_relay_only_agents_exchange_datagrams_over_ipv4(self):
        self.check("127.0.0.1")

    def test_a_wrong_password_leaves_no_candidate(self):
        done = self.agents("127.0.0.1", password="wrong")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("no relayed candidate", done.stdout)


if __name__ == "__main__":
    unittest.main()
