"""The report: one HTML page with tables and plots drawn as SVG, nothing loaded from elsewhere.

Contenders are told apart by shape and position as well as colour (Okabe and Ito's palette), so the
page reads in grey and for a colour-blind reader. `python3 report.py results.json > report.html`
draws it again from the raw results.
"""
import html
import json
import sys

STYLE = {  # colour, marker
    "coturn": ("#d55e00", "square"),
    "culvert": ("#0072b2", "circle"),
    "kernel bound": ("#555555", "bar"),
}
ORDER = ["coturn", "culvert", "kernel bound"]
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111; background: #fff; margin: 2em auto;
       max-width: 60em; padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0.2em } h2 { font-size: 1.2em; margin-top: 2em }
table { border-collapse: collapse; width: 100%; margin: 0.8em 0 }
th, td { border-bottom: 1px solid #ccc; padding: 0.3em 0.6em; text-align: right;
         vertical-align: top }
th:first-child, td:first-child { text-align: left }
th { border-bottom: 2px solid #555 } td small { color: #444; display: block }
.note { color: #333 } code { font-size: 0.85em; overflow-wrap: anywhere }
svg { width: 100%; height: auto; margin: 0.4em 0 } svg text { font: 12px system-ui, sans-serif }
@media print { body { margin: 0; max-width: none } h2 { break-after: avoid }
               svg, table { break-inside: avoid } }
"""


def esc(text):
    return html.escape(str(text))


def number(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def marker(name, x, y, size=5):
    colour, shape = STYLE[name]
    if shape == "square":
        side = 2 * size
        return (f'<rect x="{x - size}" y="{y - size}" width="{side}" height="{side}" '
                f'fill="{colour}"/>')
    if shape == "circle":
        return f'<circle cx="{x}" cy="{y}" r="{size + 0.5}" fill="{colour}"/>'
    return (f'<rect x="{x - 2}" y="{y - size - 2}" width="4" height="{2 * size + 4}" '
            f'fill="{colour}"/>')


def line(x1, y1, x2, y2, colour, width=1):
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width}"/>')


def text(x, y, words, anchor="middle"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{esc(words)}</text>'


def svg(width, height, label):
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{esc(label)}">'


def ticks(top, count=5):
    """Round steps from 0 to at least `top`."""
    if top <= 0:
        return [0, 1]
    step = 10 ** len(str(int(top)))
    for divisor in (1, 2, 4, 5, 10, 20, 40, 50, 100, 200, 400, 500, 1000):
        if top / (step / divisor) >= count - 1:
            step = step / divisor
            break
    out = [0.0]
    while out[-1] < top:
        out.append(out[-1] + step)
    return out


def short(value):
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"


def names_in(rows):
    seen = {name for row in rows for name in row}
    return [name for name in ORDER if name in seen]


def legend(names, x, y):
    out = []
    for name in names:
        out.append(marker(name, x, y) + f'<text x="{x + 12}" y="{y + 4}">{esc(name)}</text>')
        x += 40 + 8 * len(name)
    return "".join(out)


def dot_plot(lines, unit):
    """One line per cell: a mark at each contender's median, a line over its range."""
    names = names_in([row for _, row in lines])
    left, right, each = 290, 30, 17
    heights = [each * max(1, len(row)) + 12 for _, row in lines]
    height = 34 + sum(heights) + 40
    width = 900
    top = max((v["max"] for _, row in lines for v in row.values()), default=1)
    marks = ticks(top)

    def at(value):
        return left + (width - left - right) * value / marks[-1]

    out = [svg(width, height, f"medians and ranges, {unit}"), legend(names, left, 14)]
    bottom = height - 34
    for tick in marks:
        out.append(line(at(tick), 28, at(tick), bottom, "#ddd"))
        out.append(text(at(tick), bottom + 15, short(tick)))
    out.append(text((left + width) / 2, height - 4, unit))
    y = 34
    for (label, row), line_height in zip(lines, heights):
        out.append(text(left - 10, y + line_height / 2, label, "end"))
        out.append(line(0, y + line_height - 3, width, y + line_height - 3, "#eee"))
        line_y = y + 10
        for name in names:
            if name not in row:
                continue
            value = row[name]
            colour = STYLE[name][0]
            out.append(line(at(value["min"]), line_y, at(value["max"]), line_y, colour, 2))
            out.append(marker(name, round(at(value["median"]), 1), line_y))
            line_y += each
        y += line_height
    return "".join(out) + "</svg>"


def curve_plot(series, x_label, y_label):
    """`series`: {contender: [(x, y), ...]}."""
    names = [n for n in ORDER if series.get(n)]
    width, height, left, bottom = 900, 320, 80, 270
    x_marks = ticks(max(x for n in names for x, _ in series[n]))
    y_marks = ticks(max(y for n in names for _, y in series[n]))

    def point(x, y):
        return (left + (width - left - 30) * x / x_marks[-1],
                bottom - (bottom - 30) * y / y_marks[-1])

    out = [svg(width, height, y_label), legend(names, left, 14)]
    for tick in x_marks:
        x, _ = point(tick, 0)
        out += [line(x, 30, x, bottom, "#eee"), text(x, bottom + 16, short(tick))]
    for tick in y_marks:
        _, y = point(0, tick)
        out += [line(left, y, width - 30, y, "#ddd"), text(left - 8, y + 4, short(tick), "end")]
    dashes = {"coturn": "7 4", "culvert": "", "kernel bound": "2 3"}
    for name in names:
        points = [point(x, y) for x, y in sorted(series[name])]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{STYLE[name][0]}" '
                   f'stroke-width="2" stroke-dasharray="{dashes[name]}"/>')
        out += [marker(name, round(x, 1), round(y, 1)) for x, y in points]
    out += [text((left + width) / 2, height - 8, x_label), text(width - 30, 14, y_label, "end")]
    return "".join(out) + "</svg>"


def ratio(row, better, worse):
    if better not in row or worse not in row or not row[worse]["median"]:
        return ""
    return f"{row[better]['median'] / row[worse]['median']:.2f}"


def table(lines, unit):
    names = names_in([row for _, row in lines])
    pairs = [(a, b) for a, b in (("culvert", "coturn"), ("culvert", "kernel bound"),
                                 ("coturn", "kernel bound")) if a in names and b in names]
    head = "".join(f"<th>{esc(n)}</th>" for n in names)
    head += "".join(f"<th>{esc(a)} / {esc(b)}</th>" for a, b in pairs)
    out = [f"<table><tr><th>{esc(unit)}</th>{head}</tr>"]
    for label, row in lines:
        out.append(f"<tr><td>{esc(label)}</td>")
        for name in names:
            value = row.get(name)
            if value is None:
                out.append("<td>-</td>")
                continue
            limited = " †" if value["generator_limited"] else ""
            out.append(f"<td>{number(value['median'])}{limited}<small>{number(value['min'])} to "
                       f"{number(value['max'])}, {value['rounds']} rounds</small></td>")
        out += [f"<td>{ratio(row, a, b)}</td>" for a, b in pairs]
        out.append("</tr>")
    return "".join(out) + "</table>"


def lines_of(cells):
    out = []
    for cell in cells:
        for suffix, row in cell["rows"].items():
            out.append((f"{suffix}, {cell['name']}" if suffix else cell["name"], row))
    return out


def load_curves(cells):
    arrived, late = {}, {}
    for cell in cells:
        offered = cell["labels"]["offered"]
        for name, runs in cell["runs"].items():
            counted = [r["result"] for r in runs if r["result"] and not r["discarded"]]
            worst = sorted(max((f["latency_us"]["p99"] for f in r["flows"].values()
                                if f["latency_us"]), default=0) for r in counted)
            if name in cell["rows"].get("", {}):
                arrived.setdefault(name, []).append((offered, cell["rows"][""][name]["median"]))
            if worst:
                late.setdefault(name, []).append((offered, worst[len(worst) // 2]))
    if not arrived:
        return ""
    return (curve_plot(arrived, "packets offered a second", "arrived a second")
            + curve_plot(late, "packets offered a second", "p99, us"))


def machine_of(outcome):
    for cell in outcome["cells"]:
        for runs in cell["runs"].values():
            for run in runs:
                if run["result"]:
                    return run["result"]["machine"]
    return {}


def commands(outcome):
    out = []
    for cell in outcome["cells"]:
        for name, runs in cell["runs"].items():
            if runs and runs[0]["command"]:
                words = [w.rsplit("/", 1)[-1] if w.startswith("/") else w
                         for w in runs[0]["command"]]
                out.append(f"<tr><td>{esc(cell['name'])}</td><td>{esc(name)}</td>"
                           f"<td><code>{esc(' '.join(words))}</code></td></tr>")
    return "<table>" + "".join(out) + "</table>"


def render(outcome):
    machine = machine_of(outcome)
    parts = [f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Relay comparison</title>"
             f"<meta name='viewport' content='width=device-width'><style>{CSS}</style>"
             f"<h1>Relay comparison</h1><p class='note'>{esc(outcome['when'])}. "
             f"{esc(machine.get('processor', ''))}, {esc(machine.get('cpus', ''))} CPUs, "
             f"{esc(machine.get('kernel', ''))}. "
             + " ".join(f"{esc(n)}: {esc(v)}." for n, v in outcome["versions"].items())
             + f" Took {outcome['seconds']:.0f} s; load average before it "
             f"{outcome['load_before']:.2f}."
             + (" Interrupted: not all cells are here." if outcome["interrupted"] else "") + "</p>"]
    parts.append(
        "<p>Every figure was measured in this run. A cell shows the median of its rounds, below it "
        "the lowest and the highest. The servers take turns round by round on the same machine, "
        "and the first round of each is discarded. Per CPU-second means: delivered within the "
        "measured window, divided by the CPU time of the whole server process, all its threads, "
        "network work done in its system calls included. A mark † says that the generator, not "
        "the "
        "server, was the limit in at least one round. Ratios hold for this machine and this run; "
        "they do not travel.</p>"
    )
    parts.append("<ul>" + "".join(f"<li><b>{esc(n)}</b>: {esc(t)}</li>"
                                  for n, t in outcome["contenders"].items()) + "</ul>")
    for group, title in outcome["groups"].items():
        cells = [c for c in outcome["cells"] if c["group"] == group]
        lines = lines_of(cells)
        if not lines:
            continue
        unit = cells[0]["unit"]
        better = "more is better" if cells[0]["higher_is_better"] else "less is better"
        parts.append(f"<h2>{esc(title)}</h2><p class='note'>{esc(unit)}; {better}.</p>")
        parts.append(load_curves(cells) if group == "load" else dot_plot(lines, unit))
        parts.append(table(lines, unit))
    problems = [f"<li>{esc(c['name'])}, {esc(n)}: {esc(r['problem'])}</li>"
                for c in outcome["cells"] for n, runs in c["runs"].items() for r in runs
                if r["problem"]]
    if problems:
        parts.append("<h2>What did not work</h2><ul>" + "".join(problems) + "</ul>")
    parts.append("<h2>Commands</h2>" + commands(outcome))
    return "".join(parts) + "</html>\n"


if __name__ == "__main__":
    with open(sys.argv[1]) as source:
        print(render(json.load(source)), end="")
