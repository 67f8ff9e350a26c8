"""The rules of the tree that no compiler checks: which folder may include which, headers that stand
alone, line length, functions nobody should call, every outcome and limit documented, no source file
left out of the build. Reads the working tree (tracked and new files), so it judges a change before
it is committed."""

import concurrent.futures
import functools
import hashlib
import os
import pathlib
import re
import shlex
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "tidy-cache"
MAX_COLUMNS = 100
MAX_SHOWN = 60
LONG_FUNCTION_LINES = 70

# Folder: what of the project it may include. The longest matching folder counts. Arrows point one
# way: tools, tests, bench -> control -> {config, crypto, dataplane/api}; dataplane never includes
# control.
MAY_INCLUDE = {
    "dataplane/base/": ["dataplane/base/"],
    "dataplane/api/": ["dataplane/api/", "dataplane/base/"],
    "dataplane/wire/": ["dataplane/wire/", "dataplane/base/", "dataplane/api/limits.h",
                        "dataplane/api/outcome.h"],
    "dataplane/steer/": ["dataplane/steer/", "dataplane/api/", "dataplane/base/"],
    "dataplane/flow/": ["dataplane/flow/", "dataplane/api/", "dataplane/base/",
                        "dataplane/path/datagram.h"],
    "dataplane/path/": ["dataplane/path/", "dataplane/flow/", "dataplane/wire/",
                        "dataplane/steer/", "dataplane/api/", "dataplane/base/"],
    "dataplane/io/": ["dataplane/io/", "dataplane/path/", "dataplane/wire/", "dataplane/steer/",
                      "dataplane/api/", "dataplane/base/", "dataplane/core/doorbell.h"],
    "dataplane/": ["dataplane/"],
    # Integrity is computed over STUN messages, so the codec stands below it.
    "crypto/": ["crypto/", "dataplane/base/", "dataplane/wire/"],
    "config/": ["config/", "crypto/", "dataplane/api/", "dataplane/base/", "dataplane/steer/"],
    "control/": ["control/", "config/", "crypto/", "dataplane/api/", "dataplane/base/",
                 "dataplane/wire/", "dataplane/steer/"],
    # Apart from the server's codec, so that one mistake cannot hide in both.
    "tools/stun_client/": ["tools/stun_client/", "dataplane/base/"],
    "tools/": ["tools/", "control/", "config/", "crypto/", "dataplane/"],
    "bench/": ["bench/", "tests/support/", "tools/", "control/", "config/", "crypto/",
               "dataplane/"],
    "tests/": ["tests/", "bench/", "tools/", "control/", "config/", "crypto/", "dataplane/"],
}

# System header: where it may be included.
ONLY_IN = {
    r"openssl/": ["crypto/", "tools/stun_client/"],
    r"liburing\.h": ["dataplane/io/"],
    r"netlink/": ["dataplane/io/dpdk/"],
    # The flow table is measured against DPDK's own, steering tested against its hash.
    r"rte_": ["dataplane/io/", "bench/micro/table_bench.cc", "tests/unit/dpdk_driver_test.cc",
              "tests/unit/steer_dpdk_test.cc"],
    r"(bpf|xdp)/": ["dataplane/io/", "tests/"],
    r"pcap(/|\.h)": ["dataplane/io/", "tests/", "tools/"],
    r"sqlite3\.h": ["config/", "control/", "tests/"],
    r"(nlohmann|spdlog|fmt|boost|CLI|toml\+\+|systemd)/":
        ["config/", "control/", "tools/", "bench/", "tests/"],
    r"(functional|iostream)$": ["config/", "control/", "crypto/", "tools/", "bench/", "tests/"],
}

# Below control nothing is dispatched at run time and nothing unwinds. Start-up code (drivers,
# worker set-up) may throw; the packet path may not.
BELOW_CONTROL = ["dataplane/"]
NOT_BELOW_CONTROL = [r"\bvirtual\b", r"\bstd::function\b", r"\bshared_ptr\b", r"\bdynamic_cast\b"]
PACKET_PATH = ["dataplane/base/", "dataplane/wire/", "dataplane/flow/", "dataplane/path/",
               "dataplane/steer/"]
# Takes the memory at start, where failing is fatal.
MAY_THROW = ["dataplane/base/arena"]
NOT_IN_PACKET_PATH = [r"\bthrow\b", r"\bcatch\b"]
# The interface between control and cores is an abstract class on control's side; cores never call
# it.
VIRTUAL_ALLOWED = re.compile(r"^dataplane/(api/.*engine|core/.*engine)")

# Each has a bounded or reentrant form.
BANNED_CALLS = ["sprintf", "vsprintf", "strcpy", "strcat", "strtok", "gets", "rand", "srand",
                "tmpnam", "mktemp", "alloca", "atoi", "atol", "gmtime", "localtime", "asctime",
                "ctime"]

# Spelled in two pieces so that this file passes its own test.
LEFTOVERS = ["TO" "DO", "FIX" "ME", "XX" "X", "HA" "CK", "not " "implemented",
             "filled in " "with this"]


@functools.lru_cache(maxsize=None)
def tree(*suffixes):
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return sorted(name for name in listed.splitlines()
                  if name.endswith(suffixes) and (ROOT / name).is_file())


@functools.lru_cache(maxsize=None)
def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def not_proved_by_the_build(header):
    """Every source file is built; one that includes its own header first has shown it already."""
    source = header.removesuffix(".h") + ".cc"
    return not (ROOT / source).is_file() or includes(source)[0][1] != header


@functools.lru_cache(maxsize=None)
def code(name):
    """The text with comments and literals blanked, line for line."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"'
                         r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'", re.DOTALL)
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text(name))


def includes(name):
    return re.findall(r'^\s*#\s*include\s+(["<])([^">]+)[">]', text(name), re.MULTILINE)


def under(name, folders):
    return any(name.startswith(folder) for folder in folders)


def lines_with(name, pattern, source=text):
    for number, line in enumerate(source(name).splitlines(), 1):
        if re.search(pattern, line):
            yield f"{name}:{number}: {line.strip()}"


class Tidy(unittest.TestCase):
    longMessage = False

    def nothing(self, findings, rule):
        findings = list(findings)
        more = [f"and {len(findings) - MAX_SHOWN} more"] if len(findings) > MAX_SHOWN else []
        self.assertFalse(findings, f"{rule}\n" + "\n".join(findings[:MAX_SHOWN] + more))

    def test_project_includes_point_one_way(self):
        findings = []
        for name in tree(".h", ".cc"):
            folder = max((f for f in MAY_INCLUDE if name.startswith(f)), key=len, default=None)
            if folder is None:
                findings.append(f"{name}: no rule for this folder in MAY_INCLUDE")
                continue
            findings += [f"{name} includes {path}" for kind, path in includes(name)
                         if kind == '"' and not under(path, MAY_INCLUDE[folder])]
        self.nothing(findings, "a folder includes what it may not (MAY_INCLUDE)")

    def test_library_headers_stay_where_they_belong(self):
        self.nothing((f"{name} includes <{path}>" for name in tree(".h", ".cc")
                      for kind, path in includes(name) if kind == "<"
                      for pattern, folders in ONLY_IN.items()
                      if re.match(pattern, path) and not under(name, folders)),
                     "a library's header is included outside its folders (ONLY_IN)")

    def test_nothing_below_control_is_dispatched_at_run_time(self):
        findings = []
        for name in tree(".h", ".cc"):
            if under(name, BELOW_CONTROL) and not VIRTUAL_ALLOWED.match(name):
                for pattern in NOT_BELOW_CONTROL:
                    findings += lines_with(name, pattern, code)
            if under(name, PACKET_PATH) and not under(name, MAY_THROW):
                for pattern in NOT_IN_PACKET_PATH:
                    findings += lines_with(name, pattern, code)
        self.nothing(findings, "run-time dispatch or exceptions in the data plane")

    def test_every_header_is_included_once_and_says_what_it_is(self):
        findings = [f"{name}: no #pragma once" for name in tree(".h")
                    if "#pragma once" not in text(name)]
        # A source file beside a header of its name is described there.
        findings += [f"{name}: does not open with a comment that says what it is"
                     for name in tree(".h", ".cc", ".def", ".c", ".go")
                     if not text(name).startswith("//")
                     and name.removesuffix(".cc") + ".h" not in tree(".h")]
        self.nothing(findings, "how a file opens")

    def test_lines_fit_the_page(self):
        findings = []
        for name in tree(".h", ".cc", ".c", ".def", ".py", ".sh", "meson.build"):
            findings += [f"{name}:{number}: {len(line)} columns"
                         for number, line in enumerate(text(name).splitlines(), 1)
                         if len(line) > MAX_COLUMNS]
        self.nothing(findings, f"lines longer than {MAX_COLUMNS} columns")

    def test_no_tabs_and_no_trailing_blanks(self):
        findings = []
        for name in tree(".h", ".cc", ".c", ".def", ".py", ".sh", "meson.build", ".md"):
            findings += lines_with(name, r"\t|[ ]+$")
        self.nothing(findings, "tabs or trailing blanks")

    def test_unsafe_functions_are_not_called(self):
        pattern = r"(?<![\w.>:])(?:std::)?(" + "|".join(BANNED_CALLS) + r")\s*\("
        self.nothing((finding for name in tree(".h", ".cc")
                      for finding in lines_with(name, pattern, code)),
                     "calls that have a bounded or reentrant form")

    def test_no_marker_of_unfinished_work_is_left(self):
        pattern = r"\b(" + "|".join(LEFTOVERS) + r")\b"
        files = tree(".h", ".cc", ".c", ".def", ".py", ".sh", ".md", "meson.build", ".go", ".html")
        self.nothing((finding for name in files for finding in lines_with(name, pattern)),
                     "markers of unfinished work")

    def test_every_source_file_is_built(self):
        built = set()
        for name in tree("meson.build"):
            folder = pathlib.PurePosixPath(name).parent
            for path in re.findall(r"'([^'\n]+\.cc)'", text(name)):
                built.add(os.path.normpath(str(folder / path)))
        self.nothing((name for name in tree(".cc") if name not in built),
                     "source files that no meson.build names")

    def test_every_outcome_is_documented(self):
        names = re.findall(r"^X\((\w+),", text("dataplane/api/outcome.def"), re.MULTILINE)
        self.assertGreater(len(names), 20, "outcome.def could not be read")
        page = text("docs/operations.md") if "docs/operations.md" in tree(".md") else ""
        self.nothing((name for name in names if not re.search(rf"`{name}`", page)),
                     "outcomes that docs/operations.md does not explain")

    def test_every_limit_is_documented(self):
        page = text("docs/limits.md") if "docs/limits.md" in tree(".md") else ""
        names = set(re.findall(r"constexpr\s+[\w:]+\s+(k\w+)\s*=",
                               code("dataplane/api/limits.h")))
        self.assertGreater(len(names), 10, "limits.h could not be read")
        for name in tree(".h"):
            if under(name, ["dataplane/", "control/", "config/", "crypto/"]):
                names.update(re.findall(r"^(?:inline )?constexpr\s+[\w:]+\s+(kMax\w+)\s*=",
                                        code(name), re.MULTILINE))
        self.nothing((name for name in sorted(names) if not re.search(rf"\b{name}\b", page)),
                     "limits that docs/limits.md does not list")

    def test_every_dependency_is_explained(self):
        page = text("docs/dependencies.md") if "docs/dependencies.md" in tree(".md") else ""
        names = {name for build in tree("meson.build")
                 for name in re.findall(r"dependency\('([\w+-]+)'", text(build))}
        self.assertGreater(len(names), 5, "no dependency found in any meson.build")
        self.nothing((name for name in sorted(names)
                      if name != "threads" and f"`{name}`" not in page),
                     "dependencies that docs/dependencies.md does not explain")

    def test_links_between_the_documents_lead_somewhere(self):
        findings = []
        for name in tree(".md"):
            for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text(name)):
                if not re.match(r"[a-z]+:", link):
                    if not (ROOT / pathlib.PurePosixPath(name).parent / link).exists():
                        findings.append(f"{name}: {link}")
        self.nothing(findings, "links to files that do not exist")

    def test_every_header_stands_alone(self):
        flags = self.compiler_flags()
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            results = pool.map(lambda name: self.compile_alone(name, flags),
                               filter(not_proved_by_the_build, tree(".h")))
        self.nothing((result for result in results if result),
                     "headers that do not compile by themselves")

    @staticmethod
    def compiler_flags():
        packages = ["liburing", "openssl", "sqlite3", "nlohmann_json", "spdlog", "libpcap",
                    "libsystemd", "libcap"]
        found = subprocess.run(["pkg-config", "--cflags", *packages], text=True,
                               capture_output=True, check=True).stdout
        return ["-std=c++20", "-fsyntax-only", "-march=x86-64-v3", "-D_GNU_SOURCE",
                '-DCULVERT_VERSION="0"', "-I", str(ROOT), *shlex.split(found)]

    def compile_alone(self, name, flags):
        """One compilation per state of the header and all it includes, remembered in the cache."""
        if re.search(r"#include <rte_", text(name)):
            dpdk = subprocess.run(["pkg-config", "--cflags", "libdpdk"], text=True,
                                  capture_output=True, check=False).stdout
            if not dpdk:
                return None  # a build without DPDK
            # Its package asks for an older -march: ours comes last.
            flags = [*shlex.split(dpdk.replace("-I/", "-isystem/")), *flags]
        digest = hashlib.sha256(" ".join(flags).encode())
        for part in sorted(self.closure(name)):
            digest.update(part.encode() + b"\0" + text(part).encode())
        mark = CACHE / digest.hexdigest()
        if mark.exists():
            return None
        source = f'#include "{name}"\n#include "{name}"\n'
        done = subprocess.run(["g++", *flags, "-x", "c++", "-"], input=source, text=True, cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            return f"{name}:\n{done.stdout[:1500]}"
        CACHE.mkdir(parents=True, exist_ok=True)
        mark.touch()
        return None

    def closure(self, name):
        seen, waiting = set(), [name]
        while waiting:
            current = waiting.pop()
            if current not in seen and (ROOT / current).is_file():
                seen.add(current)
                waiting += [path for kind, path in includes(current) if kind == '"']
        return seen

    def test_long_functions_are_reported(self):
        """A report and no rule: a function may be long where splitting it would hide its order."""
        found = []
        for name in tree(".cc"):
            start = None
            for number, line in enumerate(code(name).splitlines(), 1):
                if re.match(r"^[A-Za-z].*\)[\w\s&:]*\{\s*$", line) or (
                        start is None and re.match(r"^ {4}.*\)[\w\s]*\{\s*$", line)):
                    start = number if re.match(r"^[A-Za-z]", line) else start
                elif line.startswith("}") and start is not None:
                    if number - start - 1 > LONG_FUNCTION_LINES:
                        found.append(f"{name}:{start}: {number - start - 1} lines")
                    start = None
        for finding in found:
            print(f"    longer than {LONG_FUNCTION_LINES} lines: {finding}", flush=True)


if __name__ == "__main__":
    unittest.main()
