"""What batches have taken of late beside what was expected of them: how far that can be foreseen.

Pure.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING

from ._fitting import student

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Residuals"]

# Batches that are remembered, how many of them however long ago they were, seconds for which the
# others are, and how many tell that all are alike, or make a distribution of their own.
_MEMORY, _LAST, _SECONDS, _FEW, _ENOUGH = 64, 16, 1.0, 3, 8
# Four fifths of the batches take the same, to so much of what is expected: that is steady; to no
# less than this, it is wild.
_STEADY, _WILD = 0.18, 0.60
# And none has taken less than this part.
_NEVER_BELOW = 0.8
# Of a normal distribution four fifths lie within so many standard deviations.
_FOUR_FIFTHS = 2.56
# Quantiles that stand for a wild distribution.
_QUANTILES = 6
# Standard deviations that no batch is counted on to take less.
_NEGLIGIBLE = 2.5
# Quantiles above this one are not in a sample that small; they are beyond its longest by so much.
_TOP, _BEYOND = 0.95, 1.1


class Residuals:
    """The last batches: their sizes, what they took, and that as a multiple of what was expected.

    Attributes:
        steady: what a batch takes can be foreseen to a few percent.
        chances: multiples of what is expected that a batch is equally likely to take at most,
            in order, if that is chance more than anything else; empty if not.
        least: the part of what is expected that no batch is likely to take less than; 0 as long
            as nothing rules that out.
    """

    def __init__(self) -> None:
        self.steady = False
        self.chances: Sequence[float] = ()
        self.least = 0.0
        self._batches: deque[tuple[int, float, float, float]] = deque()
        self._ratios: list[float] = []  # of those, in order
        # What it took before it became slower, as a part of that, and for how many batches that
        # may well come back.
        self._before, self._lately = 1.0, 0

    def observe(self, size: int, seconds: float, expected: float, now: float, noise: float) -> None:
        """Learn what a batch has taken.

        Args:
            size: of it.
            seconds: what it took.
            expected: what had been expected.
            now: when it ended.
            noise: relative standard deviation that batches have at least.
        """
        batches = self._batches
        while len(batches) == _MEMORY or (len(batches) >= _LAST and batches[0][3] < now - _SECONDS):
            self._drop(batches.popleft()[2])
        self._lately -= self._lately > 0
        ratio = seconds / expected
        batches.append((size, seconds, ratio, now))
        insort(self._ratios, ratio)
        self._judge(noise)

    def change(self, factor: float, noise: float) -> None:
        """Learn that the device takes so many times as long now.

        That it may well take again what it took before stays in mind for a while.
        """
        if factor > 1.0:
            self._before, self._lately = 1.0 / factor, _MEMORY
            self._judge(noise)

    def _drop(self, ratio: float) -> None:
        del self._ratios[bisect_left(self._ratios, ratio)]

    def _judge(self, noise: float) -> None:
        ratios, count = self._ratios, len(self._ratios)
        self.steady, self.chances, self.least = False, (), 0.0
        if not count:
            return
        tenth = count // 10
        range_ = ratios[-1 - tenth] - ratios[tenth]
        deviation = max(range_ / _FOUR_FIFTHS, noise)
        least = 1.0 - student(_NEGLIGIBLE, count - 1) * deviation
        self.least = max(0.0, min(ratios[0], least))
        if self._lately:
            self.least = min(self.least, self._before)
        elif count >= _FEW:
            self.steady = range_ <= _STEADY and ratios[0] >= _NEVER_BELOW
        if count >= _ENOUGH and range_ > _WILD:
            step = count / _QUANTILES
            self.chances = [ratios[int((k + 0.5) * step)] for k in range(_QUANTILES)]

    def quantile(self, part: float) -> float:
        """Return the multiple of what is expected that so many batches do not exceed."""
        return self.chances[-1] if part < _TOP else _BEYOND * self._ratios[-1]

    def line(self) -> tuple[float, float]:
        """Return what is fixed and what each item adds, by least squares; none is negative."""
        sizes = [batch[0] for batch in self._batches]
        seconds = [batch[1] for batch in self._batches]
        count = len(sizes)
        center, height = sum(sizes) / count, sum(seconds) / count
        away = [size - center for size in sizes]
        spread = sum([each * each for each in away])
        slope = 0.0
        if spread:
            slope = sum([a * each for a, each in zip(away, seconds, strict=True)]) / spread
        slope = min(max(0.0, slope), height / center)
        return max(0.0, height - slope * center), slope
