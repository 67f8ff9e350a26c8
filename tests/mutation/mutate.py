#!/usr/bin/env python3
"""Breaks the product in named ways, one at a time, and sees whether a test notices.

Each mutation of author.json and second_reader.json replaces one piece of text in one file of a COPY
of this tree (build/mutation/tree); the product itself has no switches for it. The copy is built
incrementally, and of the unit, property, golden and simulator tests those run, most likely ones
first, whose executable changed. The first that fails has caught the mutation. One that nothing
catches is a hole in the tests: write the test. One that provably changes no behaviour proves
nothing: replace it.

    tests/mutation/mutate.py                  all of them (about half a minute each on two cores)
    tests/mutation/mutate.py --area wheel     one area
    tests/mutation/mutate.py --name TEXT      those whose name contains TEXT
    tests/mutation/mutate.py --check          only whether each still fits the tree (CI does this)

Exit status: 0 when all were caught, 1 when one survived or did not compile, 2 when a mutation does
not fit the tree or the untouched copy does not pass."""

import argparse
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
SOURCES = ["author.json", "second_reader.json"]
FIELDS = {"name", "area", "file", "old", "new", "why"}

MIN_TOTAL = 40
MIN_PER_AREA = 5
# Of each area: the tests that look at it most closely, cheapest first. All others come after.
FIRST = {
    "classify": ["path_forward", "path_stun", "path_boundaries", "golden"],
    "resolve": ["path_forward", "path_boundaries", "flow_state", "transform_property", "golden"],
    "police": ["path_forward", "path_boundaries", "path_stun", "turn_boundaries", "turn_server"],
    "transform": ["path_forward", "checksum", "frame", "path_boundaries", "golden"],
    "slow": ["path_stun", "path_forward", "path_boundaries", "stun_codec", "nonce", "worker"],
    "wheel": ["wheel_property", "path_boundaries", "flow_state", "worker"],
    "table": ["table_property", "path_boundaries", "flow_state", "path_forward"],
    "auth": ["auth", "turn_boundaries", "turn_server", "crypto_integrity", "nonce"],
}
# Meson suites that can notice a mutation of the core and of control without other processes.
SUITES = {"unit", "property", "golden", "sim"}
# These look at the host, at tools or at rooms in which nothing is broken.
NEVER = {"privileges", "sockets_driver", "culvert_load", "conformance", "config_cli",
         "config_derive", "config_parse", "control_socket", "logging", "metrics", "ports",
         "peer_policy", "peer_policy_property", "sealed_memory", "siphash", "stun_client", "users",
         "golden_captures_are_what_their_cases_say", "mutations_fit_the_tree"}
TEST_SECONDS = 240
MEMORY_BYTES = 6 << 30  # a mutant may allocate without end


class Misfit(Exception):
    """A mutation that cannot be applied."""


def load(only=None):
    """All mutations in the order of their files, each with `by` added: whose file it stood in."""
    out = []
    for source in SOURCES:
        for mutation in json.loads((HERE / source).read_text(encoding="utf-8")):
            if set(mutation) != FIELDS:
                raise Misfit(f"{source}: {mutation.get('name')}: fields {sorted(mutation)}")
            out.append({**mutation, "by": source.removesuffix(".json")})
    return [m for m in out if only is None or only(m)]


def mutated(mutation, root=ROOT):
    """The file's text with the mutation in it."""
    path = root / mutation["file"]
    where = f"{mutation['by']}: {mutation['name']}"
    if not path.is_file():
        raise Misfit(f"{where}: there is no {mutation['file']}")
    text = path.read_text(encoding="utf-8")
    count = text.count(mutation["old"])
    if count != 1:
        raise Misfit(f"{where}: its old text occurs {count} times in {mutation['file']}, not once")
    if mutation["old"] == mutation["new"]:
        raise Misfit(f"{where}: changes nothing")
    return text.replace(mutation["old"], mutation["new"])


def check():
    """Every reason why the set of mutations does not stand; empty: it does."""
    problems = []
    try:
        mutations = load()
    except (OSError, ValueError, Misfit) as error:
        return [str(error)]
    names = [m["name"] for m in mutations]
    problems += [f"two mutations are called {n!r}" for n in sorted(set(names))
                 if names.count(n) > 1]
    problems += [f"{m['name']}: unknown area {m['area']!r}" for m in mutations
                 if m["area"] not in FIRST]
    for area in FIRST:
        count = sum(m["area"] == area for m in mutations)
        if count < MIN_PER_AREA:
            problems.append(f"{count} mutations of {area!r}, {MIN_PER_AREA} are wanted")
    if len(mutations) < MIN_TOTAL:
        problems.append(f"{len(mutations)} mutations, {MIN_TOTAL} are wanted")
    seconds = sum(m["by"] == "second_reader" for m in mutations)
    if 2 * seconds < len(mutations):
        problems.append(f"{seconds} of {len(mutations)} are the second reader's: fewer than half")
    for mutation in mutations:
        try:
            mutated(mutation)
        except Misfit as error:
            problems.append(str(error))
    return problems


# ---------------------------------------------------------------- the copy and its build


class Copy:
    """A copy of the tree, its build folder, and the tests of it."""

    def __init__(self, folder, jobs):
        self.tree = folder / "tree"
        self.build = folder / "build"
        self.jobs = jobs
        self.folder = folder
        self.sync()
        self.configure()
        self.tests = self.introspect()

    def sync(self):
        """Makes the copy equal to the tree; what is equal already keeps its time, so that ninja
        rebuilds only what changed."""
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT,
                                check=True, capture_output=True).stdout.decode().split("\0")
        wanted = {name for name in listed if name and (ROOT / name).is_file()}
        for name in wanted:
            data = (ROOT / name).read_bytes()
            to = self.tree / name
            if to.is_file() and to.read_bytes() == data:
                continue
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(data)
            shutil.copymode(ROOT / name, to)
        for path in sorted(self.tree.rglob("*"), reverse=True):
            if path.is_file() and str(path.relative_to(self.tree)) not in wanted:
                path.unlink()

    def configure(self):
        if (self.build / "build.ninja").exists():
            return
        clang = shutil.which("clang++")
        env = {**os.environ}
        if clang and "CXX" not in env:
            ccache = "ccache " if shutil.which("ccache") else ""
            env.update(CC=f"{ccache}clang", CXX=f"{ccache}clang++")
        # Compile time is what a mutation costs, so: no optimisation, no debug information. Mutants
        # leave names unused; that a compiler would say so is no test.
        command = ["meson", "setup", "-Dbuildtype=plain", "-Doptimization=0", "-Ddebug=false",
                   "-Dwerror=false", "-Dbenchmarks=disabled", "-Dtests=enabled",
                   str(self.build), str(self.tree)]
        log = self.folder / "configure.log"
        with open(log, "wb") as out:
            if subprocess.run(command, env=env, stdout=out, stderr=out, check=False).returncode:
                sys.exit(f"error: meson setup failed, see {log}")

    def introspect(self):
        """Name of each test that may judge: its command, folder, environment, ninja target."""
        listed = json.loads(subprocess.run(
            ["meson", "introspect", "--tests", str(self.build)], check=True,
            capture_output=True).stdout)
        out = {}
        for test in listed:
            suites = {s.split(":")[-1] for s in test["suite"]}
            if not suites <= SUITES or test["name"] in NEVER:
                continue
            executable = pathlib.Path(test["cmd"][0])
            if self.build not in executable.parents:
                continue
            out[test["name"]] = {"command": test["cmd"], "cwd": test.get("workdir") or self.build,
                                 "env": test.get("env") or {}, "executable": executable,
                                 "options": ["--gtest_fail_fast", "--gtest_brief=1"]
                                            if test["protocol"] == "gtest" else [],
                                 "target": str(executable.relative_to(self.build))}
        return out

    def order(self, area):
        first = [name for name in FIRST[area] if name in self.tests]
        return first + sorted(set(self.tests) - set(first))

    def compile(self, targets):
        result = subprocess.run(["ninja", "-C", str(self.build), f"-j{self.jobs}", *targets],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return result.returncode == 0, result.stdout.decode(errors="replace")

    def judge(self, name):
        """passed, or how it failed."""
        test = self.tests[name]

        def limits():
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        try:
            result = subprocess.run(
                [*test["command"], *test["options"]], cwd=test["cwd"],
                env={**os.environ, **test["env"]}, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TEST_SECONDS,
                preexec_fn=limits, check=False)
        except subprocess.TimeoutExpired:
            return f"{name}: ran past {TEST_SECONDS} s"
        if result.returncode == 0:
            return "passed"
        text = result.stdout.decode(errors="replace")
        failed = re.search(r"\[  FAILED  \] ([\w/.]+)", text)
        broken = re.search(r"invariant broken: (.*) at", text)
        if failed:
            return f"{name}: {failed[1]}"
        if broken:
            return f"{name}: ENSURE({broken[1]})"
        return f"{name}: ended with {result.returncode}"


def baseline(copy):
    """Builds and runs everything unmutated: a test that fails by itself catches nothing."""
    ok, text = copy.compile([t["target"] for t in copy.tests.values()])
    if not ok:
        print(text[-4000:])
        sys.exit(2)
    bad = [verdict for verdict in map(copy.judge, copy.tests) if verdict != "passed"]
    if bad:
        print("the untouched copy does not pass:", *bad, sep="\n  ")
        sys.exit(2)


def stamp(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def try_one(copy, mutation):
    """(verdict, by): caught, survived, or did not compile; by which test, or what was run."""
    path = copy.tree / mutation["file"]
    original = path.read_text(encoding="utf-8")
    path.write_text(mutated(mutation, copy.tree), encoding="utf-8")
    ran = 0
    try:
        for name in copy.order(mutation["area"]):
            test = copy.tests[name]
            before = stamp(test["executable"])
            ok, text = copy.compile([test["target"]])
            if not ok:
                error = re.search(r"error: .*", text)
                return "did not compile", error[0] if error else text[-200:]
            if stamp(test["executable"]) == before:
                continue  # the mutated file is not in it
            ran += 1
            verdict = copy.judge(name)
            if verdict != "passed":
                return "caught", verdict
        return "survived", f"{ran} tests passed"
    finally:
        path.write_text(original, encoding="utf-8")


def table(results):
    print(f"\n{'area':12} {'mutations':>9} {'caught':>7} {'survived':>9} {'no build':>9}")
    for area in [*FIRST, "all"]:
        rows = [r for r in results if area in ("all", r["area"])]
        if not rows:
            continue
        count = [sum(r["verdict"] == v for r in rows)
                 for v in ("caught", "survived", "did not compile")]
        print(f"{area:12} {len(rows):9} {count[0]:7} {count[1]:9} {count[2]:9}")
    for result in results:
        if result["verdict"] != "caught":
            print(f"\n{result['verdict']}: {result['name']} ({result['file']})\n"
                  f"  {result['why']}\n  {result['by_test']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="only whether each fits the tree")
    parser.add_argument("--list", action="store_true", help="names, areas and reasons")
    parser.add_argument("--area", choices=list(FIRST))
    parser.add_argument("--name", metavar="TEXT", help="only names that contain TEXT")
    parser.add_argument("--by", choices=[s.removesuffix(".json") for s in SOURCES])
    parser.add_argument("--work", metavar="DIR", default=str(ROOT / "build" / "mutation"),
                        help="where the copy and its build live (kept between runs)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", metavar="FILE", help="results, written as they come")
    parser.add_argument("--resume", action="store_true",
                        help="keep the results that FILE holds already")
    parser.add_argument("--no-baseline", action="store_true",
                        help="do not first build and run the untouched copy")
    options = parser.parse_args()
    problems = check()
    if problems:
        print(*problems, sep="\n")
        return 2
    if options.check:
        print(f"{len(load())} mutations fit the tree")
        return 0
    chosen = load(lambda m: (options.area in (None, m["area"])
                             and options.by in (None, m["by"])
                             and (options.name or "") in m["name"]))
    if options.list:
        for m in chosen:
            print(f"{m['area']:10} {m['name']}: {m['why']}")
        return 0
    copy = Copy(pathlib.Path(options.work).resolve(), options.jobs)
    if not options.no_baseline:
        baseline(copy)
    results = []
    if options.json and options.resume and pathlib.Path(options.json).exists():
        results = json.loads(pathlib.Path(options.json).read_text(encoding="utf-8"))
    done = {result["name"] for result in results}
    for mutation in (m for m in chosen if m["name"] not in done):
        began = time.monotonic()
        verdict, by_test = try_one(copy, mutation)
        results.append({**mutation, "verdict": verdict, "by_test": by_test,
                        "seconds": round(time.monotonic() - began, 1)})
        print(f"{verdict:15} {mutation['area']:10} {mutation['name']}: {by_test} "
              f"({results[-1]['seconds']:.0f} s)", flush=True)
        if options.json:
            pathlib.Path(options.json).write_text(json.dumps(results, indent=1), encoding="utf-8")
    table(results)
    return 0 if results and all(r["verdict"] == "caught" for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
