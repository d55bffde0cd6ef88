"""How long a batch of a given size will take, learned from those that were run.

Pure: durations and times come in as arguments.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

__all__ = ["LatencyFit", "LatencyModel"]

# Each batch counts 5% less than the one after it, so the fit follows the last twenty
# or so.
_DECAY = 0.95
# How many standard deviations lie between the line and a bound.
_DEVIATIONS = 2.0
# A bound gives a per cent away, so that nothing depends on a rounding error.
_SLACK = 0.99
# Two batches at least before anything is called unreachable: the first one of many
# models compiles, allocates and is a hundred times slower.
_MIN_EVIDENCE = 2
# Seconds after which nothing is called unreachable on the word of an old measurement.
# Without it, a device that was slow once would never be tried again if its slowness
# makes every deadline look hopeless.
_TRUSTED_FOR = 1.0
_RECENT = 8


@dataclass(frozen=True, slots=True)
class LatencyFit:
    """A batch of ``n`` takes about ``fixed + per_item * n`` seconds.

    As long as batches of one size only were seen, the line goes through zero.

    Attributes:
        fixed: seconds a batch costs however small it is.
        per_item: seconds each further item adds.
        deviation: standard deviation of the batches around that line, seconds.
    """

    fixed: float
    per_item: float
    deviation: float


class LatencyModel:
    """A running straight line through (batch size, duration), newer batches counting more.

    Exponentially weighted least squares in the single-pass form of D. H. D. West,
    "Updating mean and variance estimates: an improved method", CACM 22(9), 1979.

    Attributes:
        alone: what a batch of one takes at the very least, as of the last observation:
            `at_least` never gives more.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._mean_size = 0.0
        self._mean_duration = 0.0
        self._size_squares = 0.0
        self._products = 0.0
        self._duration_squares = 0.0
        self._observed = 0
        self._observed_at = -math.inf
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self.alone = 0.0

    def observe(self, size: int, duration: float, now: float) -> None:
        """Learn that a batch of ``size`` took ``duration`` seconds and ended at ``now``."""
        weight = _DECAY * self._weight
        self._weight = weight + 1.0
        size_change = size - self._mean_size
        duration_change = duration - self._mean_duration
        self._mean_size += size_change / self._weight
        self._mean_duration += duration_change / self._weight
        share = weight / self._weight
        self._size_squares = _DECAY * self._size_squares + share * size_change * size_change
        self._products = _DECAY * self._products + share * size_change * duration_change
        self._duration_squares = (
            _DECAY * self._duration_squares + share * duration_change * duration_change
        )
        self._observed += 1
        self._observed_at = now
        self._recent.append((size, duration))
        self.alone = self._bound(1)

    @property
    def _knows_slope(self) -> bool:
        return self._size_squares > 1e-9  # noqa: PLR2004  batches of more than one size

    def _line(self) -> tuple[float, float]:
        # With one size seen the slope is anybody's guess; the guess is proportional,
        # which is the steepest a line without negative parts can be.
        if self._knows_slope:
            per_item = max(0.0, self._products / self._size_squares)
            fixed = self._mean_duration - per_item * self._mean_size
            if fixed >= 0.0:
                return fixed, per_item
        return 0.0, self._mean_duration / self._mean_size if self._mean_size else 0.0

    def _variance(self) -> float:
        # Of the batches around the line, which passes through their mean.
        _, slope = self._line()
        squares = self._duration_squares - slope * (
            2.0 * self._products - slope * self._size_squares
        )
        freedom = self._weight - (2.0 if self._knows_slope else 1.0)
        return max(0.0, squares) / freedom if freedom > 0.0 else 0.0

    def _error(self, size: int) -> float:
        # Standard error of a prediction: the noise of one batch, and how well the line's
        # height and, away from the mean size, its slope are known from those that were seen.
        spread = 1.0 + 1.0 / max(1.0, self._weight)
        if self._knows_slope:
            spread += (size - self._mean_size) ** 2 / self._size_squares
        return math.sqrt(self._variance() * spread)

    def estimate(self, size: int) -> float:
        """Return the expected seconds for a batch of ``size``; 0 if none was ever run."""
        fixed, per_item = self._line()
        return fixed + per_item * size

    def at_least(self, size: int, now: float) -> float:
        """Return seconds that a batch of ``size`` started at ``now`` takes at the very least.

        0 while too little is known, or what is known is old: a request is only ever
        called hopeless on fresh evidence.
        """
        if now - self._observed_at > _TRUSTED_FOR:
            return 0.0
        return self.alone if size == 1 else self._bound(size)

    def _bound(self, size: int) -> float:
        if self._observed < _MIN_EVIDENCE:
            return 0.0
        # Beyond the sizes that were seen the slope is a guess; a larger batch takes no less.
        # A size is seen when two batches had it: the largest one may have been the outlier.
        size = min(size, sorted(seen for seen, _ in self._recent)[-_MIN_EVIDENCE])
        bound = self.estimate(size) - _DEVIATIONS * self._error(size)
        for seen, duration in self._recent:
            # A smaller batch takes no longer: one good run takes a bad fit back.
            if seen >= size and duration < bound:
                bound = duration
        return max(0.0, _SLACK * bound)

    def at_most(self, size: int) -> float:
        """Return seconds that a batch of ``size`` hardly ever takes longer than.

        0 if none was ever run.
        """
        # Likewise a batch smaller than all that were seen: it takes no more than those.
        size = max(size, min((seen for seen, _ in self._recent), default=size))
        return (self.estimate(size) + _DEVIATIONS * self._error(size)) / _SLACK

    @property
    def fit(self) -> LatencyFit | None:
        """The line as it stands, or `None` if no batch was ever run."""
        if not self._observed:
            return None
        fixed, per_item = self._line()
        return LatencyFit(fixed, per_item, math.sqrt(self._variance()))
