"""Whether it pays to show a deadline: in worlds whose durations cannot be foreseen, or change.

Each cell is played by the library with the deadlines shown to it and hidden from it; the latter is
first come, first served, batch for batch. `tests.bench.goodput` prints these rows below its own.
"""

from __future__ import annotations

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from statistics import fmean, median
from typing import TYPE_CHECKING, TypeAlias

from tests.simulation.worlds import BULK, CONTENTS, SPELLS, Beside, Contents, Run, Spell

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ALL", "World", "goals_met"]

World: TypeAlias = Contents | Spell | Beside

ALL: tuple[World, ...] = (*CONTENTS, *SPELLS, *BULK)

# Points of requests in time that showing the deadlines may cost, in each cell.
COST_GOAL = 0.5
# After a slow spell it is over when so many percent are in time of those that come in a window.
OVER, WINDOW, STEP = 95.0, 0.5, 0.1
# So many seconds and one deadline later than with hidden deadlines it may be over.
LAG_GOAL = 0.5
# Beside bulk callers: percent in time of those with a deadline, how much longer their median may
# take than if nobody knew of the deadline, and percent of the bulk that is done then.
INTERACTIVE_GOAL, LATENCY_GOAL, BULK_GOAL = 99.0, 1.02, 93.0


@dataclass(frozen=True)
class Row:
    """What became of the requests of a cell; percentages are means of its traces.

    Attributes:
        shown: percent in time with the deadlines shown.
        hidden: the same with the deadlines hidden: first come, first served.
        rejected: requests a trace that were turned away where the deadlines were shown.
        over: seconds from the end of a spell until it is over, shown and hidden.
        latency: the median of the interactive requests, seconds, shown and hidden.
        bulk: percent of the bulk that is done where deadlines are hidden.
    """

    cell: World
    shown: float
    hidden: float
    rejected: float
    over: tuple[float, float] = (0.0, 0.0)
    latency: tuple[float, float] = (0.0, 0.0)
    bulk: float = 100.0

    @property
    def missed(self) -> list[str]:
        """Which goals it misses."""
        missed = []
        if self.shown < self.hidden - COST_GOAL:
            missed.append("SHOWN")
        if isinstance(self.cell, Spell):
            if self.over[0] > self.over[1] + LAG_GOAL + self.cell.allowance:
                missed.append("OVER")
        elif isinstance(self.cell, Beside):
            if self.shown < INTERACTIVE_GOAL:
                missed.append("INTERACTIVE")
            if self.latency[0] > LATENCY_GOAL * self.latency[1]:
                missed.append("LATENCY")
            if self.bulk < BULK_GOAL:
                missed.append("BULK")
        return missed

    def __str__(self) -> str:
        line = f"{self.cell.name:76}{self.shown:8.2f}{self.hidden:8.2f}{self.rejected:9.1f}"
        if isinstance(self.cell, Spell):
            line += "  over after " + ", ".join(f"{after:.1f} s" for after in self.over)
        elif isinstance(self.cell, Beside):
            line += "  median " + ", ".join(f"{seconds:.3f} s" for seconds in self.latency)
            line += f", bulk {self.bulk:.1f}%"
        return line + "".join(f" {name} MISSED" for name in self.missed)


def measure(cell: World, seeds: Sequence[int]) -> Row:
    """Play a cell's traces each way. Called in a process of its own."""
    if isinstance(cell, Contents):
        alike = [cell.play(seed, hide=True, allowance=math.inf)[1] for seed in seeds]
        allowances = [cell.allowance * longest for longest in alike]
        pairs = [*zip(seeds, allowances, strict=True)]
        shown = [cell.play(seed, hide=False, allowance=time)[0] for seed, time in pairs]
        hidden = [cell.play(seed, hide=True, allowance=time)[0] for seed, time in pairs]
    else:
        shown = [cell.play(seed, hide=False) for seed in seeds]
        hidden = [cell.play(seed, hide=True) for seed in seeds]
    row = partial(
        Row,
        cell,
        fmean(run.share for run in shown),
        fmean(run.share for run in hidden),
        fmean(run.rejected for run in shown),
    )
    if isinstance(cell, Spell):
        return row(over=(_over(cell, shown), _over(cell, hidden)))
    if isinstance(cell, Beside):
        done = 100.0 * sum(run.bulk for run in shown) / sum(run.bulk for run in hidden)
        return row(latency=(_median(shown), _median(hidden)), bulk=done)
    return row()


def _over(cell: Spell, runs: Sequence[Run]) -> float:
    """Return how long after the spell nearly all that come are in time; traces are pooled."""
    came = [*chain.from_iterable(run.came for run in runs)]
    in_time = [*chain.from_iterable(run.in_time for run in runs)]
    pooled = Run(came, in_time, [], 0)
    end = cell.begins + cell.spell
    for step in range(int((cell.lasts - WINDOW - end) / STEP)):
        since = end + step * STEP
        if pooled.share_from(since, since + WINDOW) >= OVER:
            return step * STEP
    return math.inf


def _median(runs: Sequence[Run]) -> float:
    return median(
        answered - came
        for run in runs
        for came, answered in zip(run.came, run.answered, strict=True)
    )


def goals_met(cells: Sequence[World], seeds: Sequence[int], processes: int) -> bool:
    """Print a row for each cell and a summary; say whether each goal is met in each."""
    if not cells:
        return True
    print("percent in time, deadlines shown to the library, or hidden: first come, first served")
    print(f"{'':76}", end="")
    print(f"{'shown':>8}{'hidden':>8}{'rejected':>9}")
    rows: list[Row] = []
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(partial(measure, seeds=seeds), cells):
            rows.append(row)
            print(row, flush=True)
    for kind, title in (
        (Contents, "durations by content"),
        (Spell, "slow spells"),
        (Beside, "beside bulk"),
    ):
        if several := [row for row in rows if isinstance(row.cell, kind)]:
            _summary(title, several)
    return not any(row.missed for row in rows)


def _summary(title: str, rows: Sequence[Row]) -> None:
    shown, hidden = fmean(row.shown for row in rows), fmean(row.hidden for row in rows)
    least = min(rows, key=lambda row: row.shown - row.hidden)
    missing = sum(bool(row.missed) for row in rows)
    print(f"{title}: shown {shown:.2f}, hidden {hidden:.2f}; ", end="")
    print(f"{missing} of {len(rows)} cells miss a goal{' MISSED' if missing else ''}")
    print(f"  least gain {least.shown - least.hidden:+.2f}: {least.cell.name}")
