"""How much may run at a time where memory is short, or whatever else sets a limit.

Pure: it says which rows to run next and is told whether they fit.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from ._padding import Sizes

__all__ = ["Runs", "SafeSize", "runs_of", "those_that_fit"]

T = TypeVar("T")

_SOON, _LATE = 8, 1024


class SafeSize:
    """The largest run that memory has held since the last one that it did not hold.

    A run is as large as its rows are long together, with all that they are filled up by:
    twice as many rows or rows twice as long are twice as large.

    After a number of runs that would have been larger but for this, one is made that is. If
    it fits, so much is safe; if not, twice as many runs go by before the next one.

    Attributes:
        safe: no run is larger, but for those that try; infinity as long as everything fits.
    """

    def __init__(self) -> None:
        self.safe = math.inf
        self._patience = _SOON
        self._limited = 0

    @property
    def trying(self) -> bool:
        """Whether the next run may be somewhat larger than is safe."""
        return self._limited >= self._patience

    def ran(self, size: float) -> None:
        """Note that a run of this size fits."""
        if size > self.safe:
            self.safe = size
            self._limited = 0
            self._patience = max(_SOON, self._patience // 2)

    def limited(self) -> None:
        """Note that a run fits which would have been larger if more were safe."""
        self._limited += 1

    def failed(self, size: float) -> None:
        """Note that a run of this size does not fit."""
        if size > self.safe:
            self._patience = min(_LATE, 2 * self._patience)
        else:
            self.safe = size / 2
        self._limited = 0


Runs: TypeAlias = Generator[list[int], bool, list[int]]


def runs_of(lengths: Sequence[float], sizes: Sizes, memory: SafeSize) -> Runs:
    """Yield the rows to run together, be sent whether they fit, return those that never do.

    Each row is in one run that fits, or is returned: then it does not fit alone, or filled
    up to the smallest size there is. Rows stay in their order.

    Args:
        lengths: of each row, in any unit; the longest of a run is that of all of it.
        sizes: how many rows there may be in a run.
        memory: what is known of that; it is told of each run.
    """
    waiting = list(range(len(lengths)))
    misfits: list[int] = []

    def size_of(rows: Sequence[int]) -> float:
        return sizes.filled(len(rows)) * max(lengths[row] for row in rows)

    while waiting:
        candidates = waiting[: int(min(len(waiting), sizes.most))]
        rows = those_that_fit(candidates, size_of, memory)
        size = size_of(rows)
        first = size_of(rows[:1])
        if (yield rows):
            memory.ran(size)
            if len(rows) < len(candidates):
                memory.limited()
            del waiting[: len(rows)]
            continue
        # What was run for want of anything smaller says nothing of the others.
        if size <= memory.safe or size > first:
            memory.failed(size)
        # Otherwise the next run is smaller, if only as the first row is by itself.
        if first == size:
            alone = {row for row in rows if size_of([row]) == size}
            misfits += sorted(alone)
            waiting = [row for row in waiting if row not in alone]
    return misfits


def those_that_fit(
    candidates: list[T], size_of: Callable[[list[T]], float], memory: SafeSize
) -> list[T]:
    """Return the first rows, at least one, that may run together; all if nothing is known.

    Args:
        candidates: rows, in their order.
        size_of: how large a run of some of them is; no smaller with more of them.
        memory: what is known of that.
    """
    if size_of(candidates) <= memory.safe:
        return candidates

    def most_within(limit: float) -> int:
        # A run's size grows with each row, or stays.
        counts = range(1, len(candidates) + 1)
        return bisect_right(counts, limit, key=lambda count: size_of(candidates[:count]))

    # One row is run in any case, and what costs no more than that.
    count = most_within(max(memory.safe, size_of(candidates[:1])))
    if count < len(candidates) and memory.trying:
        # By an eighth, or as far as the next row leads.
        count = most_within(max(1.125 * memory.safe, size_of(candidates[: count + 1])))
    return candidates[:count]
