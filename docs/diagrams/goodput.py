"""Draws what `tests.bench.goodput` measured: goodput, sizes of batches and latencies.

python docs/diagrams/goodput.py [--from FILE]

writes `goodput.svg`, `batches.svg` and `latency.svg` beside this file, from `goodput.json`. With
`--from`, that is first made anew from what `python -m tests.bench.goodput --json FILE` wrote.
`tests/test_docs.py` holds that data and drawings agree.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeAlias

DATA = Path(__file__).with_suffix(".json")

# Words in the names of cells.
DEVICE, DEADLINE, LONGER, OVERLOAD = "10+1 ms x32", 60, 100, 1.2
KINDS = {"poisson": "Poisson arrivals", "bursts": "Bursts"}

WIDTH, GAP = 800, 17  # the latter between labels
LOAD = "load: requests that come, as a multiple of what the device can do at most"

# A line has a label, marks (their outline, from the middle), classes; and points.
Look: TypeAlias = tuple[str, str, str]
Points: TypeAlias = Sequence[tuple[float, float]]
Line: TypeAlias = tuple[Look, Points]
CIRCLE, SQUARE = "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "m-4.5 -4.5h9v9h-9z"
# The later ones are drawn over the earlier.
LOOKS: dict[str, Look] = {
    "drop expired": ("drop expired", "m0 6l-6 -10.5h12z", "expired hollow"),
    "greedy": ("greedy first-come", CIRCLE, "greedy hollow"),
    "5 ms window": ("5 ms window", "m-6 0h12m-6 -6v12", "greedy hollow"),
    "head-sized": ("head-sized (Clipper)", "m0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z", "head"),
    "sliding": ("sliding (Nexus)", "m0 -5.5l5 8.7h-10z", "sliding"),
    "max-window": ("max-window", SQUARE, "second"),
    "library": ("trio_batcher", CIRCLE, "first"),
}

# Inside an HTML page with the Furo theme its colours hold, and follow its light and dark mode.
# As a file of its own a drawing follows what the reader's system prefers. The lines' own colours
# stand out on both papers; marks and labels tell the lines apart without colours, too.
HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" width="100%" \
viewBox="0 0 {width} {height}" aria-labelledby="{name}-title {name}-desc">
<title id="{name}-title">{title}</title>
<desc id="{name}-desc">{description}</desc>
<style>
  .chart {{ --ink: #1f2328; --soft: #59636e; --rule: #e2e5e9; --mark: #0b57d0; }}
  @media (prefers-color-scheme: dark) {{
    .chart {{ --ink: #e6e9ed; --soft: #9aa4af; --rule: #303439; --mark: #7fb0ff; }}
  }}
  .chart text {{ font: 13px system-ui, -apple-system, "Segoe UI", sans-serif;
    fill: var(--color-foreground-primary, var(--ink)); }}
  .chart .name {{ font-weight: 600; font-size: 15px; }}
  .chart .strong, .chart .first text {{ font-weight: 600; }}
  .chart .soft {{ fill: var(--color-foreground-secondary, var(--soft)); }}
  .chart path {{ fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linejoin: round; }}
  .chart .rule {{ stroke: var(--color-background-border, var(--rule)); stroke-width: 1; }}
  .chart .limit {{ color: var(--color-foreground-secondary, var(--soft)); stroke-dasharray: 5 4; }}
  .chart .lead {{ stroke-width: 1; }} .chart .first .curve {{ stroke-width: 2.6; }}
  .chart .mark {{ fill: currentColor; stroke: none; }}
  .chart .hollow .mark {{ fill: none; stroke: currentColor; }}
  .chart .first {{ color: var(--color-brand-content, var(--mark)); }}
  .chart .second {{ color: #0f8f6c; }} .chart .sliding {{ color: #b858a0; }}
  .chart .head {{ color: #d05a10; }} .chart .expired {{ color: #9a7400; }}
  .chart .greedy {{ color: #7b828b; }}
</style>"""


def drawing(name: str, height: int, words: tuple[str, str, str], shapes: list[str]) -> str:
    """Return an SVG file with a title, a note below it, and in words what is shown."""
    title, note, shown = words
    described = {"title": escape(title), "description": escape(f"{note}. {shown}.")}
    head = HEAD.format(width=WIDTH, height=height, name=name, **described)
    above = [text(12, 24, title, "name"), text(12, 46, note, "soft")]
    return "\n".join([head, *above, *shapes, "</svg>\n"])


def text(x: float, y: float, content: str, classes: str = "", anchor: str = "start") -> str:
    name = f' class="{classes}"' if classes else ""
    return f'<text{name} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(content)}</text>'


def line(data: str, classes: str) -> str:
    return f'<path class="{classes}" d="{data}"/>'


class Panel(NamedTuple):
    """A plot: its edges, the numbers across, and the largest one upwards."""

    left: float
    right: float
    top: float
    bottom: float
    across: Sequence[float]
    upwards: float

    def x(self, value: float) -> float:
        share = (value - self.across[0]) / (self.across[-1] - self.across[0])
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        return round(self.bottom - value / self.upwards * (self.bottom - self.top), 1)

    def axes(self, unit: str = "") -> list[str]:
        """Return rules and numbers; a plot on the right has the latter from that on the left."""
        upwards = [self.upwards * n / 4 for n in range(5)]
        shapes = [line(f"M{self.left} {self.y(n):g}H{self.right}", "rule") for n in upwards]
        for n in self.across:
            shapes.append(line(f"M{self.x(n):g} {self.bottom}v5", "rule"))
            shapes.append(text(self.x(n), self.bottom + 20, f"{n}", "soft", "middle"))
        x, numbered = self.left - 12, upwards if self.left < WIDTH / 4 else []
        return shapes + [text(x, self.y(n) + 4.5, f"{n:g}{unit}", "soft", "end") for n in numbered]

    def lines(self, lines: list[Line], *, marked: bool = True) -> list[str]:
        """Return lines, perhaps with marks at their points, and their labels on the right."""
        shapes, right = [], self.right
        ends = [self.y(points[-1][1]) for _, points in lines]
        order = sorted(range(len(lines)), key=lambda n: (ends[n], -n))
        places = spread([ends[n] for n in order], self.top, self.bottom)
        for n, place in sorted(zip(order, places, strict=True)):
            (label, mark, classes), points = lines[n]
            at = [f"{self.x(x):g} {self.y(y):g}" for x, y in points]
            marks = [*(at if marked else at[-1:]), f"{right + 36:g} {place:g}"]
            shapes += [f'<g class="{classes}">', line("M" + "L".join(at), "curve")]
            shapes += [line(f"M{each}{mark}", "mark") for each in marks]
            shapes += [line(f"M{right + 8:g} {ends[n]:g}L{right + 26:g} {place:g}", "lead")]
            shapes += [text(right + 46, place + 4.5, label), "</g>"]
        return shapes


def spread(wanted: list[float], low: float, high: float) -> list[float]:
    """Return places in order, as near to those wanted as they can be, and ``GAP`` apart."""
    blocks: list[list[float]] = []
    for n, place in enumerate(wanted):
        blocks.append([place - n * GAP])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    first = [fmean(block) for block in blocks for _ in block]
    highest = max(low, high - (len(wanted) - 1) * GAP)
    return [round(min(max(each, low), highest) + n * GAP, 1) for n, each in enumerate(first)]


def by_load(cells: dict[str, Any], deadline: int, kind: str, what: str) -> Points:
    start = f"{DEVICE} | {deadline} ms | {kind} | "
    found = [name for name in cells if name.startswith(start)]
    return sorted((float(name.removeprefix(start)), cells[name][what]) for name in found)


def told(lines: list[Line], unit: str = "") -> str:
    """Return in words what the lines show."""
    values = {look[0]: ", ".join(f"{y:g}{unit} at {x}" for x, y in some) for look, some in lines}
    return "; ".join(f"{label}: {some}" for label, some in values.items())


def goodput(cells: dict[str, Any]) -> str:
    shapes, shown = [text(WIDTH / 2, 376, LOAD, "soft", "middle")], []
    for (kind, name), left in zip(KINDS.items(), (54, 430), strict=True):
        lines = [(look, by_load(cells, DEADLINE, kind, who)) for who, look in LOOKS.items()]
        panel = Panel(left, left + 182, 98, 330, [load for load, _ in lines[0][1]], 100)
        shapes += [text(left, 76, name, "strong"), *panel.axes("%"), *panel.lines(lines)]
        shown.append(f"{name}, by load: {told(lines, '%')}")
    title = "trio_batcher is near the best possible at every load; most rules collapse"
    note = f"Requests on time, % of the optimum; each is due after {DEADLINE} ms. "
    note += "Only trio_batcher is not told what a batch takes"
    return drawing("goodput", 388, (title, note, ". ".join(shown)), shapes)


def batches(cells: dict[str, Any], most: int) -> str:
    lines = []
    for deadline, *look in (LONGER, SQUARE, "second"), (DEADLINE, CIRCLE, "first"):
        points = by_load(cells, deadline, "poisson", "mean_batch")
        lines.append(((f"due after {deadline} ms", *look), points))
    panel = Panel(54, 600, 76, 276, [load for load, _ in points], most)
    shapes = [
        *panel.axes(),
        line(f"M{panel.left} {panel.top}H{panel.right}", "limit"),
        text(panel.left + 8, panel.top + 17, "as many as fit", "soft"),
        *panel.lines(lines),
        text((panel.left + panel.right) / 2, 322, LOAD, "soft", "middle"),
    ]
    title = "The more there is to do, the fuller the batches"
    note = "Requests in a batch of trio_batcher's, the mean; Poisson arrivals"
    return drawing("batches", 334, (title, note, f"At most {most}; by load, {told(lines)}"), shapes)


def latency(requests: int, optimum: int, on_time: dict[str, Any], late: dict[str, int]) -> str:
    lines, most = [], 100 * optimum / requests
    for policy, counts in sorted(on_time.items()):
        shares = [100 * count / requests for count in counts]
        name, *look = LOOKS[policy]
        label = f"{name}: {shares[-1]:.0f}%, {100 * late[policy] / requests:.0f}% too late"
        lines.append(((label, *look), list(enumerate(shares))))
    panel = Panel(54, 474, 76, 300, range(0, DEADLINE + 1, 10), 100)
    limit = f"the most that could be: {most:.0f}%"
    shapes = [
        *panel.axes("%"),
        line(f"M{panel.right} {panel.top}V{panel.bottom}", "limit"),
        text(panel.right - 8, panel.top + 16, "deadline", "soft", "end"),
        line(f"M{panel.left} {panel.y(most):g}H{panel.right}", "limit"),
        text(panel.left + 8, panel.y(most) - 7, limit, "soft"),
        *panel.lines(lines, marked=False),
        text((panel.left + panel.right) / 2, 346, "ms from request to answer", "soft", "middle"),
    ]
    title = "In overload, nearly as many answers are in time as could be"
    note = f"Requests answered within so many ms, % of all; load {OVERLOAD}, Poisson arrivals"
    shown = "; ".join([*(look[0] for look, _ in lines), limit])
    return drawing("latency", 358, (title, note, f"After {DEADLINE} ms: {shown}"), shapes)


def draw(data: dict[str, Any]) -> dict[str, str]:
    """Return the drawings as the texts of SVG files, by name."""
    some = {"goodput": goodput(data["cells"]), "batches": batches(data["cells"], data["most"])}
    return {**some, "latency": latency(**data["latency"])}


def extract(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the drawings need of the benchmark's rows."""
    wanted = [(DEADLINE, kind) for kind in KINDS] + [(LONGER, "poisson")]
    starts = tuple(f"{DEVICE} | {deadline} ms | {kind} | " for deadline, kind in wanted)
    found = {row["cell"]: row for row in rows if row["cell"].startswith(starts)}
    cells = {name: {"mean_batch": round(row["mean_batch"], 1)} for name, row in found.items()}
    for name, row in found.items():
        cells[name] |= {policy: round(fmean(row["shares"][policy]), 1) for policy in LOOKS}
    one = found[f"{starts[0]}{OVERLOAD}"]
    taken = {policy: one["latencies"][policy] for policy in ("greedy", "library")}
    ends = [ms / 1e3 + 1e-6 for ms in range(DEADLINE + 1)]
    on_time = {policy: [sum(n < end for n in taken[policy]) for end in ends] for policy in taken}
    late = {policy: len(taken[policy]) - on_time[policy][-1] for policy in taken}
    optimum = round(100 * one["fates"][0]["on_time"] / one["shares"]["library"][0])
    drawn = {"requests": one["requests"], "optimum": optimum, "on_time": on_time, "late": late}
    return {"cells": cells, "latency": drawn, "most": one["service"][-1]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source")
    if source := parser.parse_args().source:
        extracted = extract(json.loads(source.read_text(encoding="utf-8")))
        DATA.write_text(json.dumps(extracted, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for name, drawn in draw(json.loads(DATA.read_text(encoding="utf-8"))).items():
        DATA.with_name(f"{name}.svg").write_text(drawn, encoding="utf-8")
        print(f"wrote {name}.svg")
