"""What disturbs a measurement: somebody else's virtual machine, a second team of torch threads."""

from __future__ import annotations

import os
import time
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import trio

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


def least_disturbed(
    measure: Callable[[], T],
    seconds: float,
    *,
    rounds: int,
    most: int = 6,
    pause: Callable[[T], float] = lambda _: 0.0,
) -> tuple[list[T], int]:
    """Measure until nothing has disturbed so many rounds; return them and how many others.

    If something disturbs too many, the least disturbed rounds count, whatever their results.

    Args:
        measure: takes about ``seconds``.
        seconds: how long a measurement takes.
        rounds: how many results are wanted.
        most: measurements at most, for each of them.
        pause: for how long, beyond what may be, a result shows that the machine stood still.
    """
    tries: list[tuple[float, T]] = []
    undisturbed = 0
    while undisturbed < rounds and len(tries) < most * rounds:
        before = stolen_seconds()
        result = measure()
        lost = max(0.0, stolen_seconds() - before - TOLERATED * seconds) + pause(result)
        tries.append((lost, result))
        undisturbed += not lost
    best = sorted(tries, key=itemgetter(0))[:rounds]
    return [result for _, result in best], len(tries) - undisturbed


def undisturbed(
    measure: Callable[[], T],
    seconds: float,
    *,
    most: int = 6,
    pause: Callable[[T], float] = lambda _: 0.0,
) -> tuple[T, int]:
    """Measure until nothing disturbs it; the same as `least_disturbed` for one round."""
    (result,), disturbed = least_disturbed(measure, seconds, rounds=1, most=most, pause=pause)
    return result, disturbed


def in_worker(function: Callable[..., T], *args: Any) -> T:
    """Call it in the thread that a batcher will have, or has had.

    torch keeps a team of threads for each thread that has called it: a second one would slow both.
    """
    return trio.run(trio.to_thread.run_sync, function, *args)
