"""The report: one HTML page with tables and plots drawn as SVG, nothing loaded from elsewhere.

`python3 report.py results.json > report.html` draws it again from the raw results. Every figure on
the page is computed here from the runs in that file.
"""
import html
import json
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cells as cell_list  # noqa: E402
import plots  # noqa: E402

BASE = "coturn"  # what ratios are against
CSS = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #111; background: #fff;
       margin: 2em auto; max-width: 62em; padding: 0 1.2em }
h1 { font-size: 1.7em; margin: 0 0 0.2em } h2 { font-size: 1.25em; margin: 2.2em 0 0.3em;
     border-top: 2px solid #222; padding-top: 0.5em }
p { max-width: 48em } .facts, .how { color: #333; font-size: 0.93em }
table { border-collapse: collapse; width: 100%; margin: 0.8em 0; font-size: 0.93em;
        font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ccc; padding: 0.25em 0.6em; text-align: right;
         vertical-align: top }
th:first-child, td:first-child { text-align: left } th { border-bottom: 2px solid #555 }
td small { color: #444; display: block; white-space: nowrap }
code { font-size: 0.85em; overflow-wrap: anywhere }
dt { font-weight: 600; margin-top: 0.5em } dd { margin: 0 0 0 1.2em }
figure { margin: 0.8em 0 } figcaption { color: #333; font-size: 0.9em; max-width: 54em }
.pair { display: grid; gap: 0.6em 1.6em;
        grid-template-columns: repeat(auto-fill, minmax(24em, 1fr)) }
svg { width: 100%; height: auto; display: block }
svg text { font-family: system-ui, "DejaVu Sans", sans-serif }
@media (max-width: 60em) { td small { white-space: normal } th, td { padding: 0.25em 0.3em } }
@media print {
  @page { size: A4; margin: 14mm }
  body { margin: 0; max-width: none; padding: 0; font-size: 10.5pt }
  .pair { grid-template-columns: 1fr 1fr }
  h2 { break-after: avoid } figure, tr { break-inside: avoid } details { display: none }
}
"""


def esc(text):
    return html.escape(str(text))


def number(value):
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def names_in(outcome):
    return {name for cell in outcome["cells"] for name in cell["runs"]}


def counted(runs):
    return [r["result"] for r in runs
            if r["result"] and not r["discarded"] and not r.get("set_aside")]


def lines_of(cells):
    """(label, row, cell) of every figure of the cells."""
    return [(f"{suffix}, {cell['name']}" if suffix else cell["name"], row, cell)
            for cell in cells for suffix, row in cell["rows"].items()]


def times_better(row, name, higher):
    """(lowest, median, highest) of how many times `name` is better than BASE; None without both."""
    a, b = row.get(name), row.get(BASE)
    if not a or not b or min(a["min"], b["min"]) <= 0:
        return None
    if not higher:
        a, b = b, a
    return a["min"] / b["max"], a["median"] / b["median"], a["max"] / b["min"]


def table(looks, lines, unit, base=BASE):
    names = looks.order({name for _, _, cell in lines for name in cell["runs"]})
    against = [n for n in names if n != base] if base in names else []
    head = "".join(f"<th>{esc(n)}</th>" for n in names)
    head += "".join(f"<th>{esc(n)} / {esc(base)}</th>" for n in against)
    out = [f"<table><tr><th>{esc(unit)}</th>{head}</tr>"]
    for label, row, cell in lines:
        out.append(f"<tr><td>{esc(label)}</td>")
        for name in names:
            value = row.get(name)
            if value is None:
                out.append("<td>not measured</td>" if name in cell["runs"] else "<td>-</td>")
                continue
            limited = "\u00a0†" if value["generator_limited"] else ""
            spread = (f"{number(value['min'])} to {number(value['max'])}, n={value['rounds']}"
                      if value["rounds"] > 1 else "one round")
            out.append(f"<td>{number(value['median'])}{limited}<small>{spread}</small></td>")
        for name in against:
            ratio = ""
            if name in row and base in row and row[base]["median"] > 0:
                value = row[name]["median"] / row[base]["median"]
                ratio = f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
            out.append(f"<td>{ratio}</td>")
        out.append("</tr>")
    return "".join(out) + "</table>"


def figure(body, caption):
    return f"<figure>{body}<figcaption>{caption}</figcaption></figure>" if body else ""


def points(cells, value_of):
    """{contender: [(x, low, median, high)]} of value_of(result) over the counted runs."""
    out = {}
    for cell in cells:
        for name, runs in cell["runs"].items():
            values = [v for v in map(value_of, counted(runs)) if v is not None]
            if values:
                out.setdefault(name, []).append(
                    (cell["x"], min(values), statistics.median(values), max(values)))
    return out


def cpu_us(result):
    per_second = cell_list.dig(result, "server.per_cpu_second")
    return 1e6 / per_second if per_second else None


def load_figures(looks, cells, x_label):
    def percentile(p):
        return points(cells, lambda r: cell_list.worst_direction(r, p))
    arrived = points(cells, lambda r: r["received_per_s"])
    return figure("<div class='pair'>" + "".join([
        plots.curves(looks, "Throughput", arrived, x_label, "packets/s that arrive", ideal=True),
        plots.curves(looks, "CPU per packet", points(cells, cpu_us), x_label,
                     "us of the server's CPU for one packet delivered"),
        plots.curves(looks, "Median latency", percentile("p50"), x_label, "us, logarithmic",
                     log_y=True),
        plots.curves(looks, "99th percentile of latency", percentile("p99"), x_label,
                     "us, logarithmic", log_y=True),
    ]) + "</div>",
        "Marks are medians of the rounds, bars go from the lowest to the highest. On the dotted "
        "line everything offered arrives. Latency counts from the moment a packet was due; beyond "
        "a server's limit it is the length of its queues. A server that is given little to do "
        "wakes up for every packet: CPU per packet falls as the load rises.")


def scaling_figures(looks, cells, x_label):
    return figure("<div class='pair'>" + "".join([
        plots.curves(looks, "Packets per CPU-second",
                     points(cells, lambda r: cell_list.dig(r, "server.per_cpu_second")), x_label,
                     "packets per CPU-second of the server", log_x=True),
        plots.curves(looks, "Throughput", points(cells, lambda r: r["received_per_s"]), x_label,
                     "packets/s that arrive, generator unpaced", log_x=True),
    ]) + "</div>",
        "The generator sends as fast as it can. More flows mean fewer datagrams of one flow in a "
        "burst, more sockets to wake and tables that leave the caches.")


def percentile_figure(looks, cells):
    """Latency over percentiles, the worse direction at each."""
    series = {}
    for cell in cells:
        for name, runs in cell["runs"].items():
            by_quantile = {}
            for result in counted(runs):
                seen = {}
                for flow in result["flows"].values():
                    for quantile, us in (flow["latency_us"] or {}).get("curve", []):
                        seen[quantile] = max(us, seen.get(quantile, 0))
                for quantile, us in seen.items():
                    by_quantile.setdefault(quantile, []).append(us)
            series[name] = [(q, min(v), statistics.median(v), max(v))
                            for q, v in sorted(by_quantile.items()) if q >= 0.5]
    return figure("<div class='pair'>" + plots.percentiles(
        looks, "Latency by percentile", {n: p for n, p in series.items() if p},
        "us, logarithmic; the slower direction") + "</div>",
        "Each step to the right is ten times rarer. The generator's own wake-ups and the machine's "
        "interruptions are in the tail of every server alike.")


def glance(looks, outcome):
    rows, better = [], [n for n in looks.names if n not in (BASE, "kernel bound")]
    for name in better:
        for group, title in outcome["groups"].items():
            if group in outcome["curves"] or outcome.get("bases", {}).get(group, BASE) != BASE:
                continue
            for label, row, cell in lines_of(c for c in outcome["cells"] if c["group"] == group):
                times = times_better(row, name, cell["higher_is_better"])
                limited = [n for n in (name, BASE) if n in row and row[n]["generator_limited"]]
                # A latency that the generator made says nothing about either server.
                if times and not (limited and group == "latency"):
                    rows.append((f"{group}: {label}"[:62], name, *times, "†" if limited else ""))
    if not rows:
        return ""
    return ("<h2>At a glance</h2>" + figure(
        plots.ratios(looks, rows, f"times better than {BASE} (logarithmic; 1 is the same)"),
        "More packets per CPU-second, less latency, less memory: right of the line is better than "
        f"{BASE}. The bar is the widest that the rounds allow, the worst round of one against the "
        "best of the other; where it crosses the line, this run shows no difference. † the "
        "generator was the limit in a round; latencies of such rounds are left out here."))


def section(looks, outcome, group, title):
    cells = [c for c in outcome["cells"] if c["group"] == group]
    if group == "port_kinds":
        return memory_port(looks, outcome, title)
    lines = lines_of(cells)
    if not lines and not cells:
        return ""
    unit = cells[0]["unit"]
    note = outcome.get("notes", {}).get(group, "")
    aside = sum(bool(r.get("set_aside"))
                for c in cells for runs in c["runs"].values() for r in runs)
    if aside:
        note += f" Set aside: {aside} rounds."
    if not lines:
        return (f"<h2>{esc(title)}</h2><p class='how'>{esc(note)}</p><p>Not measured: no round "
                "counted.</p>")
    better = "more is better" if cells[0]["higher_is_better"] else "less is better"
    out = [f"<h2>{esc(title)}</h2>"]
    if note:
        out.append(f"<p class='how'>{esc(note)}</p>")
    if not unit:  # each row has its own
        pass
    elif group == "load":
        out.append(load_figures(looks, cells, outcome["curves"][group]))
    elif group in outcome["curves"]:
        out.append(scaling_figures(looks, cells, outcome["curves"][group]))
    else:
        spans = group in ("latency", "port_delay")
        if spans:
            out.append(percentile_figure(looks, cells))
        # A median and its tail are orders of magnitude apart
        scale = " Logarithmic." if spans else ""
        out.append(figure(
            plots.dots(looks, [(label, row) for label, row, _ in lines], unit, spans),
            f"{esc(unit)}; {better}. Marks are medians, lines the whole range.{scale}"))
    out.append(table(looks, lines, unit, outcome.get("bases", {}).get(group, BASE)))
    return "".join(out)


def memory_port(looks, outcome, title):
    """Ratios of pairs, each with its goal, and the cycles of each stage."""
    rows = outcome.get("port_kinds")
    if not rows:
        return ""
    points = [(r["words"], "culvert", r["ratio"]["min"],
               r["ratio"]["median"], r["ratio"]["max"], "") for r in rows]
    out = [f"<h2>{esc(title)}</h2><p class='how'>{esc(outcome['notes']['port_kinds'])} "
           f"{esc(rows[0]['memory'])}.</p>",
           figure(plots.ratios(looks, points, "ratio of packets per CPU-second (logarithmic)"),
                  "Marks are medians of the turns, lines the whole range; each ratio is of two "
                  "neighbouring turns."),
           "<table><tr><th>packets per CPU-second</th><th>it</th><th>against</th><th>ratio</th>"
           "<th>goal</th><th>receive</th><th>process()</th><th>send</th></tr>"]
    for r in rows:
        rates = r["packets_per_cpu_second"]
        cells = "".join(f"<td>{number(rates[n]['median'])}<small>{number(rates[n]['min'])} to "
                        f"{number(rates[n]['max'])}</small></td>"
                        for n in (r["name"], r["against"]))
        cycles = "".join(f"<td>{r['cycles'][r['name']][s]['median']:.0f}</td>"
                         for s in ("receive", "process", "send"))
        out.append(f"<tr><td>{esc(r['words'])}</td>{cells}<td>{r['ratio']['median']:.2f}"
                   f"<small>{r['ratio']['min']:.2f} to {r['ratio']['max']:.2f}, "
                   f"n={r['ratio']['rounds']}</small></td><td>{r['goal']:g}</td>{cycles}</tr>")
    return "".join(out) + "</table><p class='how'>The last three: TSC cycles a packet.</p>"


def machine_of(outcome):
    for cell in outcome["cells"]:
        for runs in cell["runs"].values():
            for run in runs:
                if run["result"]:
                    return run["result"]["machine"]
    return {}


def header(outcome):
    machine = machine_of(outcome)
    facts = [f"Measured {outcome['when']}, {outcome['seconds'] / 60:.0f} minutes, load average "
             f"before it {outcome['load_before']:.2f}.",
             f"{machine.get('processor', '?')}, {machine.get('cpus', '?')} CPUs, "
             f"{machine.get('memory_bytes', 0) / 1e9:.0f} GB, {machine.get('kernel', '')}.",
             " ".join(f"{n}: {v}." for n, v in outcome["versions"].items()),
             outcome["site"]["note"],
             f"CPUs pinned: {outcome['pinned'] or 'none'}."]
    if outcome["interrupted"]:
        facts.append("Interrupted: not all cells are here.")
    return ("<h1>Relay comparison</h1><p class='facts'>"
            + "<br>".join(esc(f) for f in facts if f) + "</p>")


def method(outcome):
    kinds = "".join(f"<dt>{esc(n)}</dt><dd>{esc(t)}</dd>"
                    for n, t in outcome["contenders"].items())
    return (
        "<h2>How it was measured</h2><p>Every figure was measured in this run. The servers take "
        "turns round by round; the first round of each is discarded. A table's cell is the median "
        "of the rounds, below it the lowest and the highest. <i>Per CPU-second</i> means: "
        "delivered within the measured window, divided by the CPU time of the whole server "
        "process, all its threads, network work done in its system calls included. † marks cells "
        "in which the generator, not the server, was the limit in at least one round: the server "
        "may do more. Ratios hold for this machine and this run; they do not travel.</p>"
        f"<dl>{kinds}</dl>")


def commands(outcome):
    rows = []
    for cell in outcome["cells"]:
        for name, runs in cell["runs"].items():
            if runs and runs[0]["command"]:
                words = [w.rsplit("/", 1)[-1] if w.startswith("/") else w
                         for w in runs[0]["command"]]
                rows.append(f"<tr><td>{esc(cell['name'])}</td><td>{esc(name)}</td>"
                            f"<td><code>{esc(' '.join(words))}</code></td></tr>")
    return ("<h2>Commands</h2><details><summary>The command of each cell's first round"
            f"</summary><table>{''.join(rows)}</table></details>")


def problems(outcome):
    rows = [f"<li>{esc(c['name'])}, {esc(n)}: {esc(r['problem'])}</li>"
            for c in outcome["cells"] for n, runs in c["runs"].items() for r in runs
            if r["problem"]]
    return "<h2>What did not work</h2><ul>" + "".join(rows) + "</ul>" if rows else ""


def render(outcome):
    looks = plots.Looks(names_in(outcome))
    parts = ["<!doctype html><html lang='en'><head><meta charset='utf-8'>"
             "<title>Relay comparison</title>"
             "<meta name='viewport' content='width=device-width'>"
             f"<style>{CSS}</style></head><body>",
             header(outcome), glance(looks, outcome)]
    parts += [section(looks, outcome, group, title) for group, title in outcome["groups"].items()]
    parts += [problems(outcome), method(outcome), commands(outcome)]
    return "".join(parts) + "</body></html>\n"


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as source:
        print(render(json.load(source)), end="")
