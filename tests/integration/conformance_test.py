"""culvert-conformance against a live relay: every row that can be judged from outside passes, over
IPv4 and over IPv6 and with an IPv6 peer; and the tool's exit status and JSON say what its table
says. Rows that wait for lifetimes of minutes are left to `--slow`."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from network import command
from relay import BUILD, PASSWORD, REALM, USER, Relay, RelayCase, need

TOOL = BUILD / "tools" / "culvert-conformance" / "culvert-conformance"
OTHER_USER, OTHER_PASSWORD = "other", "another-secret"
IPV6_PEER = "fd00::2"
# The whole suite takes about ten seconds; on a busy machine more.
SECONDS = 180
# What the suite must judge at least: fewer would mean that rows were lost.
ROWS_JUDGED = 75
# Rows of the TCP transport, and one that needs an IPv6 peer.
NOT_OFFERED_IPV4 = {"T12", "T96", "T98", "T99"}


def run_tool(server, *arguments, prefix=(), password=PASSWORD):
    need(TOOL.exists(), f"{TOOL} (tools/build)")
    command = [*prefix, str(TOOL), server, "--user", USER, "--password", password, "--realm", REALM,
               "--other-user", OTHER_USER, "--other-password", OTHER_PASSWORD, *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, text=True, capture_output=True,
                          timeout=SECONDS, check=False)


class Conformance(RelayCase):
    relay_options = {"kind": "culvert",
                     "options": ["--user", f"{OTHER_USER}:{OTHER_PASSWORD}",
                                 "--max-allocations", "500"]}

    def verdicts(self, done):
        if done.returncode not in (0, 1):
            self.fail_with_log(f"culvert-conformance ended with {done.returncode}: {done.stderr}")
        return {row["row"]: row for row in json.loads(done.stdout)["rows"]}

    def check(self, done, not_offered):
        rows = self.verdicts(done)
        failed = [f"{r['row']} {r['title']}: {r['evidence']}" for r in rows.values()
                  if r["verdict"] == "fail"]
        if failed or done.returncode != 0:
            self.fail_with_log("failed rows (exit status %d):\n%s" %
                               (done.returncode, "\n".join(failed)))
        self.assertEqual({name for name, r in rows.items() if r["verdict"] == "not offered"},
                         not_offered)
        judged = sum(r["verdict"] in ("pass", "fail") for r in rows.values())
        self.assertGreaterEqual(judged + len(not_offered - {"T12", "T98", "T99"}), ROWS_JUDGED)

    def test_every_observable_row_passes_over_ipv4(self):
        self.check(run_tool(f"127.0.0.1:{self.relay.port}", "--json"), NOT_OFFERED_IPV4)

    def test_every_observable_row_passes_over_ipv6(self):
        done = run_tool(f"[::1]:{self.relay.port}", "--peer", "127.0.0.2", "--json")
        # Header rows need a client over IPv4.
        self.check(done, NOT_OFFERED_IPV4 | {"T89", "T91", "T100"})

    def test_a_wrong_password_fails_rows_and_the_exit_status(self):
        done = run_tool(f"127.0.0.1:{self.relay.port}", "--row", "T39", "--row", "T14", "--json",
                        password="wrong")
        rows = self.verdicts(done)
        self.assertEqual(done.returncode, 1)
        self.assertEqual((rows["T39"]["verdict"], rows["T14"]["verdict"]), ("fail", "pass"))

    def test_the_table_ends_in_a_summary(self):
        done = run_tool(f"127.0.0.1:{self.relay.port}", "--row", "T14")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines()[-1],
                         "1 pass, 0 fail, 0 not offered, 0 not observable, 0 not run")

    def test_a_server_that_does_not_answer_is_told_from_one_that_fails(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            done = run_tool(f"127.0.0.1:{silent.getsockname()[1]}", "--row", "T14")
        self.assertEqual(done.returncode, 3)
        self.assertIn("does not answer", done.stderr)

    def test_wrong_usage_is_two(self):
        self.assertEqual(run_tool(f"127.0.0.1:{self.relay.port}", "--row", "T22").returncode, 2)
        self.assertEqual(run_tool("127.0.0.1:none").returncode, 2)


@contextlib.contextmanager
def namespace_with_ipv6_peer():
    """A network namespace whose loopback has one IPv6 address that is not the relay's."""
    if os.geteuid() != 0:
        raise unittest.SkipTest("network namespaces need root")
    name = f"culvert-conformance-{os.getpid()}"
    command("ip", "netns", "add", name)
    try:
        command("ip", "-n", name, "link", "set", "lo", "up")
        command("ip", "-n", name, "address", "add", f"{IPV6_PEER}/128", "dev", "lo", "nodad")
        yield ("ip", "netns", "exec", name)
    finally:
        command("ip", "netns", "delete", name)


class ConformanceWithIpv6Peers(unittest.TestCase):
    def test_dont_fragment_is_ignored_from_ipv4_to_ipv6(self):
        with namespace_with_ipv6_peer() as prefix, \
                Relay(kind="culvert", prefix=prefix,
                      options=["--allow-peer", f"{IPV6_PEER}/128", "--max-allocations", "100"]) \
                as relay:
            done = run_tool(f"127.0.0.1:{relay.port}", "--peer6", IPV6_PEER, "--row", "T96",
                            "--json", prefix=prefix)
            self.assertEqual([row["verdict"] for row in json.loads(done.stdout)["rows"]], ["pass"],
                             done.stdout + relay.log())


if __name__ == "__main__":
    unittest.main()
