#!/usr/bin/env python3
"""The instruction counts of the hot stages against those kept in bench/regression: the guard
itself, and that it fails when a stage gets slower. Counted by callgrind, so the machine's load
changes nothing."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from relay import BUILD, ROOT, need

REGRESSION = ROOT / "bench" / "regression" / "regression"
NOTHING_TO_COMPARE = 77
SECONDS = 300


def guard(*arguments):
    return subprocess.run([sys.executable, "-B", str(REGRESSION), "--build", str(BUILD),
                           *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, timeout=SECONDS, check=False)


class InstructionCounts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need(shutil.which("valgrind"), "valgrind (Debian package valgrind)")
        program = BUILD / "bench" / "regression" / "hot_stages"
        need(program.exists(), f"{program} (tools/build)")

    def test_no_hot_stage_takes_more_instructions_than_the_tolerance_allows(self):
        done = guard()
        if done.returncode == NOTHING_TO_COMPARE:
            # Another compiler than the one whose counts are kept: nothing to fail for, even in CI.
            self.skipTest(done.stdout.strip().splitlines()[-1])
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_a_stage_made_slower_on_purpose_fails_the_guard(self):
        # Against counts of this very build, so it holds for any compiler.
        with tempfile.TemporaryDirectory(prefix="culvert-counts-") as folder:
            kept = guard("--baselines", folder, "--update")
            if kept.returncode == NOTHING_TO_COMPARE:
                self.skipTest(kept.stdout.strip().splitlines()[-1])
            self.assertEqual(guard("--baselines", folder).returncode, 0)
            # Two idle turns of a loop for each packet, of about 60 instructions.
            done = guard("--baselines", folder, "--spoil", "classify", "2")
            self.assertEqual(done.returncode, 1, done.stdout)
            worse = [line for line in done.stdout.splitlines() if line.endswith("WORSE")]
            self.assertEqual([line.split()[0] for line in worse], ["classify"], done.stdout)
            file = next(pathlib.Path(folder).iterdir())
            counts = json.loads(file.read_text(encoding="utf-8"))
            counts["instructions_per_unit"]["a_stage_that_is_gone"] = 1
            file.write_text(json.dumps(counts), encoding="utf-8")
            self.assertEqual(guard("--baselines", folder).returncode, 1)

    def test_counts_of_another_compiler_are_not_compared(self):
        with tempfile.TemporaryDirectory(prefix="culvert-counts-") as folder:
            done = guard("--baselines", folder)
            self.assertEqual(done.returncode, NOTHING_TO_COMPARE, done.stdout)
            self.assertIn("SKIPPED", done.stdout)


if __name__ == "__main__":
    unittest.main()
