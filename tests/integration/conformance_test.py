"""culvert-conformance against a live relay: every row that can be judged from outside passes, over
IPv4 and IPv6, with a capture, and on relays that have one family alone; and the tool's exit status,
JSON and manual say what its table says. Rows that wait for lifetimes of minutes are left to
`--slow`."""

import json
import pathlib
import re
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from network import Wire
from relay import BUILD, PASSWORD, REALM, USER, Relay, RelayCase, bracketed, need

TOOL = BUILD / "tools" / "culvert-conformance" / "culvert-conformance"
OTHER_USER, OTHER_PASSWORD = "other", "another-secret"
PACKAGING = pathlib.Path(__file__).resolve().parents[2] / "packaging"
# The whole suite takes about ten seconds; on a busy machine more.
SECONDS = 180
# What the suite must judge at least: fewer would mean that rows were lost.
ROWS_JUDGED = 75
# What no client or peer sees, with or without a capture.
NEVER_OBSERVABLE = {"T37", "T38", "T52", "T63", "T70"}
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
        server = f"127.0.0.1:{self.relay.port}"
        self.assertEqual(run_tool(server, "--capture", "no-such-one").returncode, 2)
        self.assertEqual(run_tool(server, "--peer6", "127.0.0.1").returncode, 2)
        self.assertEqual(run_tool(server, "--server6", server).returncode, 2)


class ConformanceOverAWire(unittest.TestCase):
    """Server and suite in namespaces of their own, where headers can be captured and IPv6 has more
    than one address."""

    def judge(self, listen, relay, server=4, peer6=True):
        with Wire("conformance") as wire:
            addresses = [wire.SERVER[n] for n in listen]
            options = ["--user", f"{OTHER_USER}:{OTHER_PASSWORD}", "--max-allocations", "500",
                       "--allow-peer", f"{wire.CLIENT[4]}/32", "--allow-peer",
                       f"{wire.CLIENT[6]}/128"]
            with Relay(kind="culvert", listen=addresses, relay=[wire.SERVER[n] for n in relay],
                       prefix=wire.exec(wire.server), allow_loopback_peers=False,
                       options=options) as relay_server:
                port = relay_server.port
                arguments = []
                if peer6 and server == 4:
                    arguments += ["--peer6", wire.CLIENT[6]]
                if 6 in listen and server == 4:
                    arguments += ["--server6", f"[{wire.SERVER[6]}]:{port}"]
                done = run_tool(f"{bracketed(wire.SERVER[server])}:{port}", *arguments, "--json",
                                "--capture", wire.CLIENT_INTERFACE, prefix=wire.exec(wire.client))
                self.assertIn(done.returncode, (0, 1), done.stderr)
                rows = {row["row"]: row for row in json.loads(done.stdout)["rows"]}
                failed = [f"{r['row']} {r['title']}: {r['evidence']}" for r in rows.values()
                          if r["verdict"] == "fail"]
                self.assertEqual(failed, [], relay_server.log()[-3000:])
                if 6 in listen and 4 in relay:
                    # Over IPv6 nothing tells the suite which IPv4 address peers can have.
                    done = run_tool(f"[{wire.SERVER[6]}]:{port}", "--row", "T39",
                                    prefix=wire.exec(wire.client))
                    self.assertEqual(done.returncode, 2)
                    self.assertIn("--peer", done.stderr)
                return rows

    @staticmethod
    def named(rows, verdict):
        return {name for name, row in rows.items() if row["verdict"] == verdict}

    def test_every_row_passes_with_a_capture_and_ipv6(self):
        rows = self.judge((4, 6), (4, 6))
        self.assertEqual(self.named(rows, "not offered"), {"T12", "T98", "T99"})
        self.assertEqual(self.named(rows, "not observable"), NEVER_OBSERVABLE)

    def test_a_relay_with_ipv4_alone_is_not_asked_for_ipv6(self):
        rows = self.judge((4, 6), (4,))
        self.assertEqual(self.named(rows, "not offered"),
                         {"T12", "T98", "T99", "T92", "T93", "T94", "T96", "T120"})

    def test_a_relay_with_ipv6_alone_is_judged_by_ipv6(self):
        rows = self.judge((6,), (6,), server=6)
        self.assertEqual(self.named(rows, "not offered"),
                         {"T12", "T98", "T99", "T78", "T89", "T90", "T91", "T95", "T96", "T97",
                          "T100"})

    def test_without_ipv6_nothing_fails(self):
        rows = self.judge((4,), (4,), peer6=False)
        self.assertEqual(self.named(rows, "not offered"),
                         {"T12", "T98", "T99", "T92", "T93", "T94", "T95", "T96", "T120"})


class ConformanceManual(unittest.TestCase):
    def test_every_option_is_in_the_manual_and_in_each_completion(self):
        need(TOOL.exists(), f"{TOOL} (tools/build)")
        text = subprocess.run([str(TOOL), "--help"], stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=SECONDS, check=True).stdout
        options = set(re.findall(r"--[a-z0-9-]+", text.split("Examples:")[0]))
        self.assertGreater(len(options), 10)
        for name, form in (("man/culvert-conformance.1", "{}"),
                           ("completions/culvert-conformance.bash", "{}"),
                           ("completions/_culvert-conformance", "{}["),
                           ("completions/culvert-conformance.fish", "-l {} ")):
            page = (PACKAGING / name).read_text(encoding="utf-8").replace("\\-", "-")
            page = page.replace("}'[help]'", "--help[")
            missing = [option for option in options
                       if form.format(option if "-l" not in form else option[2:]) not in page]
            self.assertEqual(missing, [], name)

    def test_the_rows_are_listed(self):
        done = subprocess.run([str(TOOL), "--list"], stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=SECONDS, check=True)
        lines = done.stdout.splitlines()
        self.assertEqual(len(lines), 101)
        self.assertEqual([int(line.split()[0][1:]) for line in lines],
                         sorted(int(line.split()[0][1:]) for line in lines))


if __name__ == "__main__":
    unittest.main()
