"""Whether somebody else's virtual machine had this one's processors during a measurement."""

from __future__ import annotations

import os
import time
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trio_batcher._interpreter import prompt_waking

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# Share of a processor that may be stolen without a round counting as disturbed.
TOLERATED = 0.02


def stolen_seconds() -> float:
    """Return the processor seconds that a hypervisor gave to others since boot; 0 if unknown."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def oversleeping(seconds: float = 0.03, times: int = 200) -> list[float]:
    """Return how much too long sleeps take here while nothing else is done, the shortest first."""
    with prompt_waking():
        overs = []
        for _ in range(times):
            started = time.perf_counter()
            time.sleep(seconds)
            overs.append(time.perf_counter() - started - seconds)
    return sorted(overs)


def undisturbed(
    measure: Callable[[], T],
    seconds: float,
    *,
    most: int = 6,
    pause: Callable[[T], float] = lambda _: 0.0,
) -> tuple[T, int]:
    """Measure until nothing disturbs it; return the result and how often something did.

    If something always does, the least disturbed round counts, whatever its result.

    Args:
        measure: takes about ``seconds``.
        seconds: how long a measurement takes.
        most: measurements at most.
        pause: for how long, beyond what may be, a result shows that the machine stood still.
    """
    rounds: list[tuple[float, T]] = []
    for disturbed in range(most):
        before = stolen_seconds()
        result = measure()
        lost = max(0.0, stolen_seconds() - before - TOLERATED * seconds) + pause(result)
        if not lost:
            return result, disturbed
        rounds.append((lost, result))
    return min(rounds, key=itemgetter(0))[1], most
