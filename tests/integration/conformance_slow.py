#!/usr/bin/env python3
"""The rows of culvert-conformance that wait for lifetimes, against a live relay on loopback: a
quarter of an hour, each row beside the others. Meson's suite `long`; CULVERT_BUILD names the
build."""

import concurrent.futures
import json
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from relay import BUILD, PASSWORD, USER, Relay

TOOL = BUILD / "tools" / "culvert-conformance" / "culvert-conformance"
# The longest row waits 910 s.
TIMEOUT_SECONDS = 1100


def slow_rows():
    listed = subprocess.run([str(TOOL), "--list"], stdin=subprocess.DEVNULL, text=True,
                            capture_output=True, timeout=60, check=True).stdout
    return [line.split()[0] for line in listed.splitlines() if line.endswith("(--slow)")]


class ConformanceSlow(unittest.TestCase):
    def test_lifetimes_hold_on_a_real_clock(self):
        rows = slow_rows()
        self.assertGreaterEqual(len(rows), 5)
        with Relay(kind="culvert") as relay:
            def judge(row):
                done = subprocess.run(
                    [str(TOOL), f"127.0.0.1:{relay.port}", "--user", USER, "--password", PASSWORD,
                     "--row", row, "--slow", "--json"], stdin=subprocess.DEVNULL, text=True,
                    capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
                return json.loads(done.stdout)["rows"][0] if done.stdout else {"error": done.stderr}

            with concurrent.futures.ThreadPoolExecutor(len(rows)) as pool:
                results = list(pool.map(judge, rows))
            for row, result in zip(rows, results):
                print(row, result, flush=True)
                self.assertEqual(result.get("verdict"), "pass", f"{row}: {result}\n{relay.log()}")


if __name__ == "__main__":
    unittest.main()
