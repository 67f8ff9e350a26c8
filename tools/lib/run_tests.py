"""The stages of tools/test, one after another, each printing what it does; then a summary table and
the closing line "N passed, N failed, N skipped". Every stage runs even when an earlier one failed,
so that one run shows everything. Results are kept in build/test-results."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
RESULTS = BUILD / "test-results"
CI = os.environ.get("CI") == "true"

# Meson suites that need wall-clock quiet or many minutes: only with --full.
LONG_SUITES = ["long", "stress"]
# Meson suites that talk to other processes: not with sanitizers, whose slowness would time them
# out.
OUTSIDE_SUITES = ["interop", "integration", "benchmark"]

FUZZ_SECONDS = 6
FUZZ_SECONDS_FULL = 60
# One Python test file (a browser starts, ten namespaces tests run) within this, else it is stuck.
PYTHON_FILE_TIMEOUT = 420
PYTHON_FILES_TOGETHER = 2
# Of one file's output on the screen; all of it is in build/test-results.
MAX_LOG_LINES = 400
# The hostile soak of a sanitized daemon (tests/stress), with more cores than this machine may have.
SOAK = {"CULVERT_SOAK_SECONDS": "120", "CULVERT_SOAK_CORES": "4"}
# A plain test takes at most 120 s by its own timeout; sanitized and on two cores allow four times
# that.
MESON_TIMEOUT_FACTOR = {"release": 1, "debug": 2, "asan": 4, "tsan": 6}

SANITIZERS = {"ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:halt_on_error=1",
              "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
              "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"}


class Stage:
    """One line of the summary."""

    def __init__(self, name):
        self.name = name
        self.rows = []  # name, outcome, seconds, detail
        self.seconds = 0.0

    def add(self, name, outcome, seconds=0.0, detail=""):
        self.rows.append((name, outcome, seconds, detail))

    def count(self, outcome):
        return sum(1 for row in self.rows if row[1] == outcome)


def say(text):
    print(text, flush=True)


def run(command, log, env=None, timeout=None):
    """Runs quietly into a log file; returns the exit status (124 when it ran past the timeout)."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, env={**os.environ, **(env or {})},
                                   start_new_session=True)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return 124
        except KeyboardInterrupt:
            os.killpg(process.pid, 15)
            process.wait()
            raise


def tail(log, lines=40):
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(text[-lines:])


def build(stage, compiler, preset, fuzzers=False):
    say(f"== build: {compiler} {preset}")
    log = RESULTS / f"build-{compiler}-{preset}.log"
    began = time.monotonic()
    command = ["tools/build", preset, "--compiler", compiler] + (["--fuzzers"] if fuzzers else [])
    status = run(command, log)
    seconds = time.monotonic() - began
    stage.add(f"build {compiler} {preset}", "passed" if status == 0 else "failed", seconds,
              "" if status == 0 else tail(log))
    if status != 0:
        say(tail(log))
        say(f"  failed  build {compiler} {preset} (full log: {log})")
    else:
        say(f"  passed  build {compiler} {preset} ({seconds:.0f} s)")
    return status == 0


def junit_rows(path):
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname') or ''}.{case.get('name')}".strip(".")
        bad = case.find("failure")
        bad = case.find("error") if bad is None else bad
        if bad is not None:
            yield name, "failed", float(case.get("time") or 0), bad.get("message") or bad.text or ""
        elif case.find("skipped") is not None or case.get("result") in ("skipped", "suppressed"):
            yield name, "skipped", 0.0, "skipped by the test"
        else:
            yield name, "passed", float(case.get("time") or 0), ""


def meson_tests(stage, compiler, preset, options):
    folder = BUILD / f"{compiler}-{preset}"
    say(f"== tests: {compiler} {preset}")
    outside = OUTSIDE_SUITES if preset in ("asan", "tsan") else ["benchmark"]
    skipped = outside + ([] if options.full else LONG_SUITES)
    command = ["meson", "test", "-C", str(folder), "--no-rebuild", "--print-errorlogs",
               "--timeout-multiplier", str(MESON_TIMEOUT_FACTOR[preset])]
    for suite in skipped:
        command += ["--no-suite", suite]
    command += meson_names(folder, options.filter, skipped)
    env = {**SANITIZERS, "CULVERT_BUILD": str(folder)}
    log = RESULTS / f"tests-{compiler}-{preset}.log"
    junit = folder / "meson-logs" / "testlog.junit.xml"
    junit.unlink(missing_ok=True)
    if options.filter and not meson_names(folder, options.filter, skipped):
        say("  no test matches the filter")
        return
    status = run(command, log, env)
    if not junit.exists():
        stage.add(f"meson test {compiler} {preset}", "failed", 0, tail(log))
        say(tail(log))
        return
    rows = list(junit_rows(junit))
    for name, outcome, seconds, detail in rows:
        stage.add(name, outcome, seconds, detail)
        if outcome != "passed":
            say(f"  {outcome:7} {name}: {detail.strip()[:2000]}")
    if status != 0:
        # A crash or time-out has no case of its own in a GoogleTest report.
        if not any(row[1] == "failed" for row in rows):
            stage.add(f"meson test {compiler} {preset}", "failed", 0, tail(log))
        say(tail(log, 60))
    say(f"  {stage.count('passed')} passed, {stage.count('failed')} failed so far in this stage")


def meson_names(folder, wanted, skipped):
    """Without a filter all of them: no names. Else those that contain it."""
    if not wanted:
        return []
    tests = json.loads((folder / "meson-info" / "intro-tests.json").read_text(encoding="utf-8"))
    return sorted({test["name"] for test in tests if wanted in test["name"]
                   and not any(suite.split(":")[-1] in skipped for suite in test["suite"])})


def python_tests(stage, folder, options, build_folder, settings=None):
    """Files that wait for clocks and other processes run two at a time; one that says RUNS_ALONE
    (it paces or measures, or its relay polls) has the machine to itself afterwards."""
    files = sorted((ROOT / "tests" / folder).glob("*_test.py"))
    alone = [path for path in files
             if "\nRUNS_ALONE = " in path.read_text(encoding="utf-8")]
    together = [path for path in files if path not in alone]

    def run_file(path):
        return python_file(path, folder, options, build_folder, settings or {})

    with concurrent.futures.ThreadPoolExecutor(PYTHON_FILES_TOGETHER) as pool:
        for rows, output in pool.map(run_file, together):
            say(output)
            stage.rows += rows
    for path in alone:
        rows, output = run_file(path)
        say(output)
        stage.rows += rows


def python_file(path, folder, options, build_folder, settings):
    """One file in a process of its own; (rows for the summary, what to print)."""
    say(f"   started {path.relative_to(ROOT)}")
    result = RESULTS / f"{folder}-{path.stem}.json"
    log = RESULTS / f"{folder}-{path.stem}.log"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-B", str(ROOT / "tools/lib/python_tests.py"), str(path),
               str(result), options.filter or ""]
    env = {**SANITIZERS, "CULVERT_BUILD": str(build_folder), **settings}
    status = run(command, log, env, PYTHON_FILE_TIMEOUT)
    output = f"== tests: {path.relative_to(ROOT)}\n" + tail(log, MAX_LOG_LINES)
    if result.exists():
        return json.loads(result.read_text(encoding="utf-8")), output
    problem = (f"still running after {PYTHON_FILE_TIMEOUT} s" if status == 124
               else "ended without a result")
    row = [path.stem, "failed", PYTHON_FILE_TIMEOUT if status == 124 else 0, problem]
    return [row], f"{output}\n  failed  {path.stem}: {problem}"


def fuzz_targets(folder):
    targets = json.loads((folder / "meson-info" / "intro-targets.json").read_text(encoding="utf-8"))
    programs = (pathlib.Path(target["filename"][0]) for target in targets
                if target["type"] == "executable"
                and "/tests/fuzz/" in target["defined_in"].replace(os.sep, "/"))
    return sorted(program for program in programs if program.name.endswith("_fuzz"))


def fuzz_one(target, seconds):
    """Runs one target for that long; (outcome, inputs executed, detail)."""
    corpus = BUILD / "fuzz-corpus" / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    artifacts = RESULTS / "fuzz-artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    seeds = ROOT / "tests/fuzz/corpus" / target.name.removesuffix("_fuzz")
    command = [str(target), str(corpus), str(seeds), f"-max_total_time={seconds}",
               f"-artifact_prefix={artifacts}/{target.name}-", "-print_final_stats=1",
               "-rss_limit_mb=2048", "-timeout=5"]
    log = RESULTS / f"fuzz-{target.name}.log"
    status = run(command, log, timeout=seconds * 4 + 120)
    executions = [line.split()[-1] for line in tail(log, 200).splitlines()
                  if "number_of_executed_units" in line]
    if status == 0 and executions and int(executions[0]) > 0:
        return "passed", executions[0], ""
    return "failed", (executions or ["0"])[0], tail(log)


def fuzz(stage, folder, options):
    seconds = FUZZ_SECONDS_FULL if options.full else FUZZ_SECONDS
    targets = [t for t in fuzz_targets(folder) if (options.filter or "") in t.name]
    say(f"== fuzz: {len(targets)} targets, {seconds} s each")
    if not targets and not options.filter:
        stage.add("fuzz", "failed", 0, "the build has no fuzz targets")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda target: fuzz_one(target, seconds), targets)
        for target, (outcome, executions, detail) in zip(targets, results):
            stage.add(target.name, outcome, seconds, detail)
            say(f"  {outcome:7} {target.name} ({executions} inputs)")
            if detail:
                say(detail)


def summary(stages):
    say("")
    say(f"{'stage':34} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for stage in stages:
        say(f"{stage.name:34} {stage.count('passed'):7} {stage.count('failed'):7} "
            f"{stage.count('skipped'):8} {stage.seconds:8.0f}")
    for outcome in ("skipped", "failed"):
        rows = [(stage, row) for stage in stages for row in stage.rows if row[1] == outcome]
        if rows:
            say("")
            say(f"{outcome.upper()}:")
        for stage, row in rows:
            first = (row[3].strip().splitlines() or [""])
            say(f"  {stage.name}: {row[0]}: {first[0] if outcome == 'skipped' else first[-1]}")
    passed, failed, skipped = (sum(s.count(o) for s in stages)
                               for o in ("passed", "failed", "skipped"))
    (RESULTS / "summary.json").write_text(json.dumps(
        {s.name: {"seconds": round(s.seconds, 1), "rows": s.rows} for s in stages}),
        encoding="utf-8")
    say("")
    if passed + failed == 0:
        say("error: no test ran")
    say(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if failed == 0 and passed > 0 else 1


def plan(options):
    """The stages in order: name and what to do."""
    release = BUILD / "gcc-release"
    sanitized = BUILD / "clang-asan"

    def gcc_release(stage):
        if build(stage, "gcc", "release"):
            meson_tests(stage, "gcc", "release", options)

    def clang_asan(stage):
        if build(stage, "clang", "asan", fuzzers=True):
            meson_tests(stage, "clang", "asan", options)

    def fuzzing(stage):
        if (sanitized / "build.ninja").exists():
            fuzz(stage, sanitized, options)
        else:
            stage.add("fuzz", "failed", 0, "there is no clang ASan build to fuzz")

    def other_build(compiler, preset):
        def stage_body(stage):
            if build(stage, compiler, preset):
                meson_tests(stage, compiler, preset, options)
        return stage_body

    def soak(compiler, preset):
        folder = BUILD / f"{compiler}-{preset}"

        def stage_body(stage):
            if not (folder / "build.ninja").exists():
                stage.add("soak", "failed", 0, f"there is no {compiler} {preset} build to soak")
            else:
                python_tests(stage, "stress", options, folder, SOAK)
        return stage_body

    yield "unit (gcc release)", gcc_release
    yield "tidy", lambda stage: python_tests(stage, "tidy", options, release)
    yield "integration", lambda stage: python_tests(stage, "integration", options, release)
    yield "interop", lambda stage: python_tests(stage, "interop", options, release)
    yield "unit (clang asan+ubsan)", clang_asan
    yield f"fuzz ({FUZZ_SECONDS_FULL if options.full else FUZZ_SECONDS} s each)", fuzzing
    if options.full:
        yield "soak (clang asan+ubsan)", soak("clang", "asan")
        yield "unit (clang release)", other_build("clang", "release")
        yield "unit (clang tsan)", other_build("clang", "tsan")
        yield "soak (clang tsan)", soak("clang", "tsan")


def main():
    parser = argparse.ArgumentParser(
        prog="tools/test", description="Installs what is missing, builds, runs all tests.")
    parser.add_argument("--full", action="store_true",
                        help="also ThreadSanitizer, both compilers, the long tests, longer fuzzing")
    parser.add_argument("--filter", metavar="TEXT", help="only tests whose name contains TEXT")
    parser.add_argument("--stage", metavar="TEXT", action="append",
                        help="only stages whose name contains TEXT (may be repeated)")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    stages = []
    for name, body in plan(options):
        if options.stage and not any(wanted in name for wanted in options.stage):
            continue
        stage = Stage(name)
        stages.append(stage)
        began = time.monotonic()
        try:
            body(stage)
        except Exception as error:  # a broken stage is a failure, and the others still run
            stage.add(name, "failed", 0, f"{type(error).__name__}: {error}")
            say(f"  failed  {name}: {error!r}")
        stage.seconds = time.monotonic() - began
    return summary(stages)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
