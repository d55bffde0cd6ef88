"""Draws the way of a request: who calls whom, from top to bottom.

python docs/diagrams/request.py

writes `request.svg` beside this file. `tests/test_docs.py` holds that the two agree.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

TARGET = Path(__file__).with_suffix(".svg")

WIDTH, HEIGHT = 800, 586
TOP, BOTTOM = 96, 560
CALLER, GATHER, QUEUE, BURST = 104, 290, 470, 682

# Inside an HTML page with the Furo theme its colours hold, and follow its light and dark mode.
# As a file of its own the drawing follows what the reader's system prefers.
STYLE = """
  .request { --ink: #1f2328; --soft: #59636e; --paper: #ffffff; --tint: #eef1f5; --mark: #0b57d0; }
  @media (prefers-color-scheme: dark) {
    .request {
      --ink: #e6e9ed; --soft: #9aa4af; --paper: #131416; --tint: #22262b; --mark: #7fb0ff;
    }
  }
  .request text {
    font: 13px system-ui, -apple-system, "Segoe UI", sans-serif;
    fill: var(--color-foreground-primary, var(--ink));
  }
  .request .name { font-weight: 600; font-size: 14px; }
  .request .soft { fill: var(--color-foreground-secondary, var(--soft)); }
  .request .over { stroke: var(--color-background-secondary, var(--tint)); stroke-width: 5px;
    stroke-linejoin: round; paint-order: stroke; }
  .request .number { font-weight: 600; font-size: 11px;
    fill: var(--color-background-primary, var(--paper)); }
  .request .room { fill: var(--color-background-secondary, var(--tint)); }
  .request .bar { fill: var(--color-foreground-secondary, var(--soft)); }
  .request .model, .request .disc { fill: var(--color-brand-content, var(--mark)); }
  .request path { fill: none; stroke: var(--color-foreground-primary, var(--ink));
    stroke-width: 1.4; }
  .request .life { stroke: var(--color-foreground-secondary, var(--soft)); stroke-width: 1;
    stroke-dasharray: 3 4; }
  .request .frame { stroke: var(--color-foreground-secondary, var(--soft)); stroke-width: 1; }
  .request .head { fill: var(--color-foreground-primary, var(--ink)); stroke: none; }
"""

DESCRIPTION = (
    "A sequence diagram with four lifelines: callers and the gather task in the event loop, the "
    "queue behind a lock, and a burst in a worker thread. The eight steps are explained below it."
)


def text(x: float, y: float, content: str, classes: str = "", anchor: str = "start") -> str:
    name = f' class="{classes}"' if classes else ""
    return f'<text{name} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, classes: str, *, radius: float = 2) -> str:
    return (
        f'<rect class="{classes}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        f'rx="{radius:g}"/>'
    )


def bar(x: float, start: float, end: float, classes: str = "bar") -> str:
    """The stretch of a lifeline in which something is done."""
    return box(x - 4, start, 8, end - start, classes)


def line(data: str, classes: str = "") -> str:
    return f'<path class="{classes}" d="{data}"/>' if classes else f'<path d="{data}"/>'


def number(step: int, x: float, y: float) -> list[str]:
    return [
        f'<circle class="disc" cx="{x:g}" cy="{y:g}" r="8.5"/>',
        text(x, y + 4, str(step), "number", "middle"),
    ]


def arrow(start: float, end: float, y: float) -> list[str]:
    """From one lifeline to another."""
    way = 1 if end > start else -1
    start, end = start + 4 * way, end - 5 * way
    return [line(f"M{start:g} {y:g}H{end:g}"), line(f"M{end:g} {y:g}l{-8 * way} -4v8z", "head")]


def draw() -> str:
    """Return the drawing as the text of an SVG file."""
    # Texts of the class "over" cross a lifeline, and cover it.
    shapes = [
        box(12, 12, 366, HEIGHT - 24, "room", radius=8),
        box(564, 12, WIDTH - 576, HEIGHT - 24, "room", radius=8),
        text(195, 34, "event loop", "soft", "middle"),
        text(BURST, 34, "worker thread", "soft", "middle"),
        text(CALLER, 64, "callers", "name", "middle"),
        text(CALLER, 82, "any number of tasks", "soft", "middle"),
        text(GATHER, 64, "gather task", "name", "middle"),
        text(GATHER, 82, "one for each batcher", "soft", "middle"),
        text(QUEUE, 64, "queue", "name", "middle"),
        text(QUEUE, 82, "by deadline, one lock", "soft", "middle"),
        text(BURST, 64, "burst", "name", "middle"),
        text(BURST, 82, "holds a token of the limiter", "soft", "middle"),
        *(line(f"M{x} {TOP}V{BOTTOM}", "life") for x in (CALLER, GATHER, QUEUE, BURST)),
        # A request comes in
        *arrow(CALLER, QUEUE, 136),
        *number(1, CALLER + 17, 136),
        text(CALLER + 32, 130, "infer(item): add a request", "over"),
        *arrow(CALLER, GATHER, 172),
        *number(2, CALLER + 17, 172),
        text(CALLER + 32, 166, "ring the doorbell"),
        bar(CALLER, 112, 184),
        text(CALLER + 10, 205, "parked", "soft"),
        *arrow(GATHER, QUEUE, 210),
        *number(3, GATHER + 17, 210),
        text(GATHER + 32, 204, "decide"),
        *arrow(GATHER, BURST, 246),
        *number(4, GATHER + 17, 246),
        text(GATHER + 32, 240, "start a burst"),
        bar(GATHER, 196, 254),
        # The burst
        line(f"M22 272H{WIDTH - 22}V482H22z", "frame"),
        line("M22 296H70L80 286V272", "frame"),
        text(32, 289, "loop", "soft"),
        text(CALLER + 10, 291, "until nothing is ready, or somebody", "soft over"),
        text(CALLER + 10, 308, "else waits for the limiter", "soft"),
        *arrow(BURST, QUEUE, 316),
        *number(5, BURST - 17, 316),
        text(QUEUE + 10, 310, "take the best batch"),
        text(QUEUE + 10, 333, "there is at this instant", "soft"),
        *arrow(CALLER, QUEUE, 372),
        text(CALLER + 10, 366, "meanwhile, the next requests gather", "soft over"),
        text(BURST + 12, 370, "the model"),
        text(BURST + 12, 387, "runs"),
        *arrow(BURST, CALLER, 434),
        *number(6, BURST - 17, 434),
        text(QUEUE + 10, 428, "post all outcomes at once"),
        *number(7, CALLER + 17, 457),
        text(CALLER + 32, 461, "wake each caller that is still there", "over"),
        bar(CALLER, 430, 470),
        # The end of the burst
        *arrow(BURST, GATHER, 510),
        *number(8, BURST - 17, 510),
        text(QUEUE + 10, 504, "the device is free"),
        bar(BURST, 258, 514),
        bar(BURST, 340, 416, "model"),
        bar(GATHER, 506, 530),
        text(GATHER + 10, 530, "wait for the next ring", "soft"),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="request" role="img" width="100%" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" aria-labelledby="request-title request-desc">'
    )
    title = '<title id="request-title">The way of a request</title>'
    description = f'<desc id="request-desc">{escape(DESCRIPTION)}</desc>'
    style = f"<style>{STYLE}</style>"
    return "\n".join([head, title, description, style, *shapes, "</svg>\n"])


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
    print(f"wrote {TARGET.name}")
