#!/usr/bin/env python3
"""bench/compare from end to end: a short real comparison, then its page in Chromium. On a wide and
a narrow screen no text may leave its plot, lie on another or make the page wider than the window;
the picture must show every server's colour, and without colour every server must have a look of
its own. Figures of so short a run mean nothing; only that they are there is looked at."""

import collections
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from relay import BUILD, ROOT, need, need_program

COMPARE = ROOT / "bench" / "compare"
sys.path.insert(0, str(COMPARE))
import plots

CELLS = ("load", "latency", "gso", "churn")
COMPARE_SECONDS = 240
BROWSER_SECONDS = 120
BROWSER_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-default-apps", "--disable-extensions", "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]
SCREEN, NARROW = (1100, 2600), (700, 2600)
OVERLAP_PIXELS = 2  # letters' boxes are a little taller than what is drawn
ENOUGH_PIXELS = 100  # of a server's colour: a few marks and lines

# Looks at the page from inside and writes what is wrong into its last element.
INSPECTOR = """
<script>
addEventListener("load", () => {
  const wrong = [];
  for (const svg of document.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect(), name = svg.getAttribute("aria-label");
    const texts = [...svg.querySelectorAll("text")].map(t => [t.textContent,
                                                             t.getBoundingClientRect()]);
    texts.forEach(([words, box], i) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 ||
          box.bottom > frame.bottom + 1) wrong.push(`${name}: "${words}" leaves the plot`);
      for (const [other, b] of texts.slice(i + 1)) {
        const wide = Math.min(box.right, b.right) - Math.max(box.left, b.left);
        const high = Math.min(box.bottom, b.bottom) - Math.max(box.top, b.top);
        if (wide > OVERLAP && high > OVERLAP)
          wrong.push(`${name}: "${words}" lies on "${other}"`);
      }
    });
  }
  const page = document.documentElement;
  if (page.scrollWidth > innerWidth + 1)
    wrong.push(`the page is ${page.scrollWidth} wide in a window of ${innerWidth}`);
  const out = document.createElement("pre");
  out.id = "inspection";
  out.textContent = JSON.stringify({wrong, plots: document.querySelectorAll("svg").length});
  document.body.append(out);
});
</script>
""".replace("OVERLAP", str(OVERLAP_PIXELS))


def read_png(path):
    """Width, height and rows of (r, g, b) of an 8-bit PNG without interlacing (RFC 2083)."""
    data = path.read_bytes()
    at, packed, head = 8, b"", None
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        if kind == b"IHDR":
            head = struct.unpack(">IIBBBBB", data[at + 8:at + 8 + size])
        elif kind == b"IDAT":
            packed += data[at + 8:at + 8 + size]
        at += 12 + size
    width, height, depth, colour, _, _, interlaced = head
    if depth != 8 or colour not in (2, 6) or interlaced:
        raise AssertionError(f"an unexpected kind of PNG: {head}")
    each = 3 if colour == 2 else 4
    raw, stride = zlib.decompress(packed), width * each
    above, rows = bytearray(stride), []
    for y in range(height):
        at = y * (stride + 1)
        kind, row = raw[at], bytearray(raw[at + 1:at + 1 + stride])
        for x in range(stride):
            left = row[x - each] if x >= each else 0
            up, corner = above[x], above[x - each] if x >= each else 0
            if kind == 1:
                row[x] = (row[x] + left) & 255
            elif kind == 2:
                row[x] = (row[x] + up) & 255
            elif kind == 3:
                row[x] = (row[x] + (left + up) // 2) & 255
            elif kind == 4:
                guess = left + up - corner
                near = min((abs(guess - left), 0, left), (abs(guess - up), 1, up),
                           (abs(guess - corner), 2, corner))[2]
                row[x] = (row[x] + near) & 255
        rows.append(row)
        above = row
    return width, height, [[tuple(row[x:x + 3]) for x in range(0, stride, each)] for row in rows]


class Report(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        for program in ("tools/culvert-load/culvert-load", "tools/culvertd/culvertd",
                        "bench/macro/kernel_bound"):
            need((BUILD / program).exists(), f"{BUILD / program} (tools/build)")
        need_program("turnserver", "coturn")
        cls.browser = need_program("chromium", "chromium")
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="culvert-report-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        command = [sys.executable, "-B", str(COMPARE / "compare"), "--quick", "--rounds", "2",
                   "--duration", "0.2", "--build", str(BUILD), "--out", str(cls.folder)]
        for cell in CELLS:
            command += ["--cells", cell]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.STDOUT, timeout=COMPARE_SECONDS, check=False)
        if done.returncode != 0:
            raise AssertionError(done.stdout)
        cls.said = done.stdout
        cls.page = (cls.folder / "report.html").read_text(encoding="utf-8")
        cls.results = json.loads((cls.folder / "results.json").read_text(encoding="utf-8"))

    def chromium(self, size, *arguments):
        with tempfile.TemporaryDirectory(prefix="culvert-chromium-",
                                         ignore_cleanup_errors=True) as profile:
            done = subprocess.run(
                [self.browser, *BROWSER_FLAGS, f"--user-data-dir={profile}",
                 f"--window-size={size[0]},{size[1]}", *arguments],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BROWSER_SECONDS,
                check=False)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        return done.stdout

    def test_every_server_was_measured_in_every_cell(self):
        self.assertIn("about", self.said)
        self.assertGreaterEqual(len(self.results["cells"]), len(CELLS))
        for cell in self.results["cells"]:
            problems = [run["problem"] for runs in cell["runs"].values() for run in runs
                        if run["problem"]]
            self.assertEqual(problems, [], cell["name"])
            for row in cell["rows"].values():
                self.assertGreaterEqual(set(row), {"coturn", "culvert"}, cell["name"])

    def test_the_page_loads_nothing_from_elsewhere(self):
        self.assertEqual(re.findall(r"(?:src|href|url|@import)\s*[=(:]", self.page), [])

    def test_no_text_leaves_its_plot_or_lies_on_another(self):
        inspected = self.folder / "inspected.html"
        inspected.write_text(self.page + INSPECTOR, encoding="utf-8")
        for size in (SCREEN, NARROW):
            with self.subTest(size):
                shown = self.chromium(size, "--dump-dom", inspected.as_uri())
                found = re.search(r'<pre id="inspection">(.*?)</pre>', shown, re.DOTALL)
                self.assertTrue(found, shown[-500:])
                report = json.loads(found.group(1).replace("&gt;", ">").replace("&lt;", "<")
                                    .replace("&amp;", "&"))
                self.assertGreaterEqual(report["plots"], 7)
                self.assertEqual(report["wrong"], [])

    def test_the_picture_shows_every_server(self):
        picture = self.folder / "screen.png"
        self.chromium(SCREEN, f"--screenshot={picture}", (self.folder / "report.html").as_uri())
        width, height, rows = read_png(picture)
        self.assertEqual((width, height), SCREEN)
        seen = collections.Counter(pixel for row in rows for pixel in row)
        self.assertGreater(seen[(255, 255, 255)], width * height // 2, "the page is mostly white")
        for name in ("coturn", "culvert", "kernel bound"):
            colour = plots.LOOKS[name].colour
            wanted = tuple(int(colour[i:i + 2], 16) for i in (1, 3, 5))
            self.assertGreater(seen[wanted], ENOUGH_PIXELS, name)

    def test_it_prints_on_paper(self):
        paper = self.folder / "report.pdf"
        self.chromium(SCREEN, f"--print-to-pdf={paper}", (self.folder / "report.html").as_uri())
        data = paper.read_bytes()
        self.assertTrue(data.startswith(b"%PDF-"))
        self.assertGreaterEqual(len(re.findall(rb"/Type\s*/Page\b", data)), 2)

    def test_without_colour_every_look_differs(self):
        looks = list(plots.LOOKS.values()) + plots.MORE_LOOKS
        self.assertEqual(len({(l.mark, l.hollow) for l in looks}), len(looks))
        self.assertEqual(len({l.dash for l in looks}), len(looks))


if __name__ == "__main__":
    unittest.main()
