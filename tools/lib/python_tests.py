"""Runs one Python test file in a process of its own and writes its results as JSON: a list of
[name, outcome, seconds, detail] with outcome passed, failed or skipped. A file with unittest cases
counts each of them; any other file is one test whose exit status is its result (77: skipped).

usage: python_tests.py FILE RESULT.json [FILTER]
"""

import importlib.util
import json
import pathlib
import subprocess
import sys
import time
import unittest


class Recorder(unittest.TestResult):
    """Keeps every outcome and prints one line per test as it ends."""

    def __init__(self):
        super().__init__()
        self.rows = []
        self.began = 0.0
        self.current = None

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()
        self.current = None

    def stopTest(self, test):
        super().stopTest(test)
        outcome, detail = self.current or ("passed", "")
        self.record(test.id(), outcome, time.monotonic() - self.began, detail)

    def record(self, name, outcome, seconds, detail):
        self.rows.append([name, outcome, round(seconds, 2), detail])
        print(f"  {outcome:7} {name} ({seconds:.1f} s)", flush=True)
        if detail:
            print("    " + detail.strip().replace("\n", "\n    "), flush=True)

    def outside(self, test, outcome, detail):
        """A failure or skip of a whole class or module has no test that starts and stops."""
        if isinstance(test, unittest.TestCase):
            self.current = (outcome, detail)
        else:
            self.record(str(test), outcome, 0.0, detail)

    def addSuccess(self, test):
        super().addSuccess(test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.outside(test, "failed", self._exc_info_to_string(err, test))

    def addError(self, test, err):
        super().addError(test, err)
        detail = "".join(self._exc_info_to_string(err, test)) if isinstance(
            test, unittest.TestCase) else f"{err[0].__name__}: {err[1]}"
        self.outside(test, "failed", detail)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.outside(test, "skipped", reason)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            earlier = self.current[1] + "\n" if self.current else ""
            self.current = ("failed", f"{earlier}{subtest}: " + self._exc_info_to_string(err, test))


def load_cases(path):
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return unittest.defaultTestLoader.loadTestsFromModule(module)


def matching(suite, wanted):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            kept = unittest.TestSuite(matching(item, wanted))
            if kept.countTestCases():
                yield kept
        elif wanted in item.id():
            yield item


def run_script(path):
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-B", str(path)], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    outcome = {0: "passed", 77: "skipped"}.get(done.returncode, "failed")
    detail = "" if outcome == "passed" else done.stdout[-4000:]
    recorder = Recorder()
    recorder.record(path.stem, outcome, time.monotonic() - began, detail)
    return recorder.rows


def main():
    path = pathlib.Path(sys.argv[1]).resolve()
    wanted = sys.argv[3] if len(sys.argv) > 3 else ""
    if "unittest" not in path.read_text(encoding="utf-8"):
        rows = run_script(path) if wanted in path.stem else []
    else:
        recorder = Recorder()
        suite = load_cases(path)
        if wanted and wanted not in path.stem:
            suite = unittest.TestSuite(matching(suite, wanted))
        suite.run(recorder)
        rows = recorder.rows
    pathlib.Path(sys.argv[2]).write_text(json.dumps(rows), encoding="utf-8")
    return 1 if any(row[1] == "failed" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
