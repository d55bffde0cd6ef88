"""Whether somebody else's virtual machine had this one's processors during a measurement."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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


def undisturbed(
    measure: Callable[[], T],
    seconds: float,
    *,
    most: int = 5,
    paused: Callable[[T], bool] = lambda _: False,
) -> tuple[T, int]:
    """Measure until nothing was stolen meanwhile; return the result and how often that was not so.

    Args:
        measure: takes about ``seconds``.
        seconds: how long a measurement takes.
        most: measurements at most; the last one counts in any case.
        paused: whether a result shows that the machine stood still for a while.
    """
    for disturbed in range(most):
        before = stolen_seconds()
        result = measure()
        quiet = stolen_seconds() - before <= TOLERATED * seconds and not paused(result)
        if quiet or disturbed == most - 1:
            return result, disturbed
    raise AssertionError
