"""Plots as inline SVG: lines with spreads over linear or logarithmic axes, and rows of dots.

A contender is told apart by its mark (shape, filled or hollow), its dash and its name at the
line's end, so a plot reads in print without colour and for a colour-blind reader; the colours are
Okabe and Ito's. Sizes are in pixels of a 460-pixel column; text is never smaller than 11 of them.
"""
import html
import math
from dataclasses import dataclass


@dataclass
class Look:
    colour: str
    mark: str
    hollow: bool
    dash: str


LOOKS = {
    "culvert": Look("#0072b2", "circle", False, ""),
    "coturn": Look("#d55e00", "square", True, "7 3"),
    "kernel bound": Look("#444444", "bar", False, "2 3"),
    "pion": Look("#009e73", "triangle", False, "10 3 2 3"),
    "testpmd": Look("#e69f00", "square", False, "4 2"),
}
# Servers that the user added.
MORE_LOOKS = [
    Look("#cc79a7", "diamond", True, "5 2 1 2"), Look("#56b4e9", "triangle", True, "12 3"),
    Look("#e69f00", "diamond", False, "3 2"), Look("#000000", "circle", True, "6 2 2 2"),
]
ORDER = ["coturn", "testpmd", "culvert", "pion", "kernel bound"]


def three_digits(value):
    """Three significant digits, never in powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def esc(text):
    return html.escape(str(text))


class Looks:
    """The look of each contender of one report, the same in all its plots."""

    def __init__(self, names):
        self.names = sorted(names, key=lambda n: (ORDER.index(n) if n in ORDER else 2.5, n))
        strangers = [n for n in self.names if n not in LOOKS]
        self.looks = {**LOOKS, **dict(zip(strangers, MORE_LOOKS * len(strangers)))}

    def order(self, names):
        return [n for n in self.names if n in names]

    def __getitem__(self, name):
        return self.looks[name]


def mark(look, x, y, size=4.5):
    fill = "#ffffff" if look.hollow else look.colour
    paint = f'fill="{fill}" stroke="{look.colour}" stroke-width="1.6"'
    if look.mark == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {paint}/>'
    if look.mark == "bar":
        return (f'<rect x="{x - 1.2:.1f}" y="{y - size - 1:.1f}" width="2.4" '
                f'height="{2 * size + 2}" {paint}/>')
    points = {"square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
              "triangle": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
              "diamond": [(0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)]}[look.mark]
    size -= 0.3
    where = " ".join(f"{x + size * a:.1f},{y + size * b:.1f}" for a, b in points)
    return f'<polygon points="{where}" {paint}/>'


def line(x1, y1, x2, y2, colour, width=1.0, dash=""):
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width}"{dashes}/>')


def text(x, y, words, anchor="middle", size=12, colour="#222", weight=""):
    bold = f' font-weight="{weight}"' if weight else ""
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="{colour}"{bold}>{esc(words)}</text>')


def short(value):
    for limit, suffix in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{suffix}"
    return f"{value:.4g}"


class Axis:
    """Maps values to pixels, with ticks at round numbers."""

    def __init__(self, values, start, end, log=False, zero=True):
        self.log, self.start, self.end = log, start, end
        values = [v for v in values if v is not None and (v > 0 or not log)] or [1]
        low, high = min(values), max(values)
        if log:
            self.ticks = self.log_ticks(low, high)
        else:
            self.ticks = self.linear_ticks(0 if zero else low, high)
        self.low, self.high = self.ticks[0], self.ticks[-1]

    @staticmethod
    def linear_ticks(low, high, count=5):
        span = (high - low) or abs(high) or 1
        step = 10 ** math.floor(math.log10(span / count))
        step *= next(m for m in (1, 2, 2.5, 5, 10) if span / (step * m) <= count)
        first = math.floor(low / step)
        return [step * n for n in range(first, math.ceil(high / step - 1e-9) + 1)]

    @staticmethod
    def log_ticks(low, high):
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = [m * 10.0 ** e for e in range(first, last + 1) for m in (1, 2, 5)]
        inside = [t for t in every if low < t < high]
        below = [t for t in every if t <= low * 1.001]
        above = [t for t in every if t >= high * 0.999]
        ticks = below[-1:] + inside + above[:1]
        while len(ticks) > 7:  # only whole powers, or too many labels would touch
            kept = [t for t in ticks[1:-1] if round(math.log10(t), 6) % 1 == 0]
            if len(kept) + 2 >= len(ticks):
                break
            ticks = [ticks[0], *kept, ticks[-1]]
        return ticks if len(ticks) > 1 else [ticks[0], ticks[0] * 10]

    def at(self, value):
        if self.log:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * share


class NinesAxis(Axis):
    """Percentiles, each nine as wide as the one before; from the median on."""

    def __init__(self, quantiles, start, end):
        self.start, self.end = start, end
        self.high = -math.log10(1 - max(quantiles))
        self.low = -math.log10(0.5)
        self.ticks = [q for q in (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
                      if -math.log10(1 - q) <= self.high + 1e-6]

    def at(self, value):
        return self.start + (self.end - self.start) * (
            (-math.log10(1 - value) - self.low) / max(self.high - self.low, 1e-9))


def spread_labels(wanted, gap=14, low=40, high=1e9):
    """Moves label positions apart; `wanted` is [(y, name)]; [(y, name)] in the same order."""
    out = []
    for y, name in sorted(wanted):
        out.append([max(y, out[-1][0] + gap if out else low), name])
    # Pushed past the bottom: back up.
    limit = high
    for one in reversed(out):
        one[0] = min(one[0], limit)
        limit = one[0] - gap
    return out


WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 98, 42, 252


def frame(title, x_axis, y_axis, x_label, y_label, x_name=short):
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{esc(title)}">',
           text(4, 15, title, "start", 13, weight="600"),
           text(4, 31, y_label, "start", 11, "#555")]
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        out += [line(LEFT, y, WIDTH - RIGHT, y, "#dddddd"),
                text(LEFT - 6, y + 4, short(tick), "end", 11)]
    for tick in x_axis.ticks:
        out.append(line(x_axis.at(tick), BOTTOM, x_axis.at(tick), BOTTOM + 4, "#555"))
    out += tick_labels(x_axis, BOTTOM + 17, x_name)
    out.append(line(LEFT, BOTTOM, WIDTH - RIGHT, BOTTOM, "#555"))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, BOTTOM + 36, x_label, size=11, colour="#555"))
    return out


def curve(looks, name, points, x_axis, y_axis):
    """points: [(x, low, median, high)], x ascending."""
    look = looks[name]
    out = []
    path = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(m):.1f}" for x, _, m, _ in points)
    dash = f' stroke-dasharray="{look.dash}"' if look.dash else ""
    out.append(f'<polyline points="{path}" fill="none" stroke="{look.colour}" stroke-width="1.8"'
               f'{dash}/>')
    for x, low, _, high in points:
        at, top, bottom = x_axis.at(x), y_axis.at(high), y_axis.at(low)
        if bottom - top > 3:
            out += [line(at, top, at, bottom, look.colour, 1),
                    line(at - 3, top, at + 3, top, look.colour, 1),
                    line(at - 3, bottom, at + 3, bottom, look.colour, 1)]
    out += [mark(look, x_axis.at(x), y_axis.at(m)) for x, _, m, _ in points]
    return out


def end_labels(looks, ends):
    """Names beside the lines' ends; `ends` is [(y, name)]."""
    out = []
    for y, name in spread_labels(ends, low=TOP, high=BOTTOM):
        out += [mark(looks[name], WIDTH - RIGHT + 12, y),
                text(WIDTH - RIGHT + 21, y + 4, name, "start", 11, looks[name].colour)]
    return out


def curves(looks, title, series, x_label, y_label, log_x=False, log_y=False, ideal=False):
    """`series`: {contender: [(x, low, median, high), ...]}. `ideal` adds the line y = x."""
    series = {n: sorted(series[n]) for n in looks.order(series) if series[n]}
    if not series:
        return ""
    every = [p for points in series.values() for p in points]
    x_axis = Axis([p[0] for p in every], LEFT, WIDTH - RIGHT, log_x)
    y_axis = Axis([v for p in every for v in p[1:]], BOTTOM, TOP, log_y)
    out = frame(title, x_axis, y_axis, x_label, y_label)
    if ideal:
        top = min(x_axis.high, y_axis.high)
        out.append(line(x_axis.at(0), y_axis.at(0), x_axis.at(top), y_axis.at(top), "#999999", 1,
                        "1 3"))
    ends = []
    for name, points in series.items():
        out += curve(looks, name, points, x_axis, y_axis)
        ends.append((y_axis.at(points[-1][2]), name))
    return "".join(out + end_labels(looks, ends)) + "</svg>"


def percentiles(looks, title, series, y_label):
    """`series`: {contender: [(quantile, low, median, high), ...]}."""
    series = {n: sorted(series[n]) for n in looks.order(series) if series[n]}
    if not series:
        return ""
    every = [p for points in series.values() for p in points]
    x_axis = NinesAxis([p[0] for p in every], LEFT, WIDTH - RIGHT)
    y_axis = Axis([v for p in every for v in p[1:]], BOTTOM, TOP, True)
    out = frame(title, x_axis, y_axis, "percentile", y_label, lambda q: f"{q * 100:.6g} %")
    ends = []
    for name, points in series.items():
        out += curve(looks, name, points, x_axis, y_axis)
        ends.append((y_axis.at(points[-1][2]), name))
    return "".join(out + end_labels(looks, ends)) + "</svg>"


def tick_labels(axis, y, name=short):
    """Ticks' names under a horizontal axis; one that would touch its neighbour is left out."""
    out, last = [], -1e9
    for tick in axis.ticks:
        x, words = axis.at(tick), name(tick)
        if x - last > 6.2 * len(words) + 6:
            out.append(text(x, y, words, size=11))
            last = x
    return out


def dots(looks, rows, unit, log=False):
    """One row per cell: a mark at each contender's median, a line over its range.
    `rows`: [(label, {contender: {"median", "min", "max"}})]."""
    names = looks.order({n for _, row in rows for n in row})
    width, left, right, each = 940, 330, 40, 15
    heights = [each * max(1, len(row)) + 10 for _, row in rows]
    height = 30 + sum(heights) + 42
    axis = Axis([v[end] for _, row in rows for v in row.values() for end in ("min", "max")], left,
                width - right, log)
    bottom = height - 40
    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{esc(unit)}">']
    x = left
    for name in names:
        out += [mark(looks[name], x, 12), text(x + 10, 16, name, "start", 12)]
        x += 40 + 7 * len(name)
    for tick in axis.ticks:
        out.append(line(axis.at(tick), 26, axis.at(tick), bottom, "#dddddd"))
    out += tick_labels(axis, bottom + 16)
    out.append(text((left + width - right) / 2, height - 6, unit, size=11, colour="#555"))
    y = 28
    for (label, row), row_height in zip(rows, heights):
        out += [text(left - 14, y + row_height / 2 + 3, label, "end"),
                line(0, y + row_height, width - right, y + row_height, "#eeeeee")]
        at_y = y + 5 + each / 2
        for name in looks.order(row):
            value, look = row[name], looks[name]
            out.append(line(axis.at(value["min"]), at_y, axis.at(value["max"]), at_y, look.colour,
                            1.8))
            out.append(mark(look, axis.at(value["median"]), at_y))
            at_y += each
        y += row_height
    return "".join(out) + "</svg>"


def ratios(looks, rows, label):
    """One row per cell: how many times better, with its range, on a logarithmic axis around 1.
    `rows`: [(label, name, low, median, high, note)]."""
    width, left, right, each = 940, 400, 60, 20
    height = 14 + each * len(rows) + 44
    axis = Axis([v for row in rows for v in row[2:5]] + [0.8, 1.25], left, width - right, True)
    bottom = height - 42
    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{esc(label)}">']
    for tick in axis.ticks:
        out.append(line(axis.at(tick), 6, axis.at(tick), bottom, "#dddddd"))
    out += tick_labels(axis, bottom + 16)
    out += [line(axis.at(1), 6, axis.at(1), bottom, "#222222", 1.4),
            text((left + width - right) / 2, height - 6, label, size=11, colour="#555")]
    y = 14 + each / 2
    for words, name, low, median, high, note in rows:
        look = looks[name]
        out += [text(left - 14, y + 4, words, "end"),
                line(axis.at(low), y, axis.at(high), y, look.colour, 1.8),
                mark(look, axis.at(median), y),
                text(width - right + 10, y + 4, f"{three_digits(median)} {note}".strip(),
                     "start", 12)]
        y += each
    return "".join(out) + "</svg>"
