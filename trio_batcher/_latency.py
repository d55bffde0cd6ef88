"""How long a batch of a given size will take, learned from those that were run.

Pure: durations and times come in as arguments.
"""

from __future__ import annotations

import math
from bisect import bisect, insort
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import accumulate
from operator import mul, truediv
from statistics import NormalDist, median
from typing import TYPE_CHECKING

from ._curve import Curve, between, widened
from ._fitting import ODD, odd_one, padded_to, pooled, straight_line, student
from ._residuals import Residuals

if TYPE_CHECKING:
    from ._curve import Line

__all__ = ["LatencyFit", "LatencyModel"]

# Batches before anything is called unreachable, and how long ago the last one may have been, in
# seconds or in full batches: else a device that was slow once would never be tried again if
# that makes every deadline look hopeless.
_MIN_EVIDENCE, _TRUSTED_FOR, _TRUSTED_BATCHES = 2, 1.0, 3.0
# The first batch, or that of a size, may compile and be a hundred times slower: one that takes
# less than this part of what a single one before makes look possible shows it.
_WARM = 0.25
# A pause in the only batch of a size would keep that and larger sizes from being tried again.
# So one that does not fit the others does not count (with one other size only, if it is so many
# batches old); and if the second takes less than this part of the first, the first does not.
_AGAIN, _STALE = 0.6, 16
# No duration is less, seconds, and no relative noise: rounding errors are no surprise.
_TICK, _QUIET = 1e-9, 1e-4
# Relative noise while nothing is known of it, and a residual that is an outlier then.
_GUESS, _BLIND = 0.05, 1.0
# Batches that the mean of a size remembers, that the noise of all sizes does, that are left of
# the former when the device has changed, and that give a size half its weight in the line.
_SIZE_MEMORY, _NOISE_MEMORY, _DOUBTED, _HALF = 16, 50, 2, 4.0
# Sizes that are known. One more, if it is by no more than this part away from one of them, counts
# as that; if not, that which was seen longest ago is forgotten.
_KNOWN, _NEAR = 64, 1.0 / 16.0
# Batches by which the curve may lag behind, one in so many of those that were seen; and what
# makes it be derived before it is next read: this relative surprise, or a model as young as this.
_LAG, _NEWS, _SURPRISE, _YOUNG = 3, 16, 0.03, 4
# Seconds between two batches that are learned from, once so many were: learning takes a while.
_SPACING = 0.010
# Standard deviations beyond which a batch is an outlier, and how many of those in succession,
# all slow or all quick, are a change instead: two pauses may well follow each other.
_FAR, _CONFIRMED = 3.3, 3
# A batch that takes less than this part of what is expected has been no outlier.
_QUICK = 0.6
# Standard deviations by which a broken promise widens the bounds, and the ends of that.
_STEP, _NARROWEST, _WIDEST = 0.3, -2.0, 6.0
# Relative distance from what is expected within which a batch of a new size tells of noise.
_NEW = 0.10


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
    """A line, a correction for each size that was seen, and a margin for noise.

    Each size has a running mean. What is expected lies between that and the line, nearer to
    the line the better noise explains their distance (empirical Bayes, see C. N. Morris, JASA
    78, 1983). Noise is relative to what is expected. All means are multiples of one level:
    a device that becomes slower is at once known to be so for all sizes. `bounds` are to hold
    for a ``quantile`` of the batches. All is ``guessed`` if a single size was seen, or none.

    Where durations are chance, as they depend on what is in the items, means by size mislead.
    Then a plain line through the last batches takes the place of all that.

    Attributes:
        residuals: how far durations can be foreseen.
    """

    def __init__(self, max_batch_size: int, quantile: float = 0.99) -> None:
        self._max, self._quantile = max_batch_size, quantile
        self._normal = NormalDist().inv_cdf(quantile)
        self._forget()

    def _forget(self) -> None:
        self._observed, self._observed_at, self._level = 0, -math.inf, 1.0
        self._sizes: list[int] = []  # those seen, in order
        self._means: dict[int, float] = {}  # seconds / level
        self._counts: Counter[int] = Counter()  # of the batches in them
        self._latest: dict[int, int] = {}  # the number of the last one
        # duration / expected of outliers in succession, by size, and under 0 of any size.
        self._outliers: defaultdict[int, list[float]] = defaultdict(list)
        self._variance, self._freedom = 0.0, 0  # relative, of batches around their size's mean
        self._bias = self._absolute = 0.0  # smoothed relative residuals and their size
        self._offset = 0.0  # standard deviations that bounds are wider than Student says
        self.residuals = Residuals()
        self._held: list[tuple[int, float, float, float]] = []
        self._unread, self.guessed = 0, True  # batches since what follows was derived
        self._line, self._noise, self._noise_freedom = (0.0, 0.0), _GUESS * _GUESS, 0
        self._strayed = self._misfit = 1.0  # relative variance around it: of means, of truth
        self._expected = self._bounds = Curve(self._max, lambda _: 0.0)

    def trusted(self, now: float) -> bool:
        """Whether anybody may be called late on the word of this model: it is fresh."""
        if self._observed < _MIN_EVIDENCE:
            return False
        age = now - self._observed_at
        return age < _TRUSTED_FOR or age < _TRUSTED_BATCHES * self._expected[-1]

    @property
    def floors(self) -> Curve[float]:
        """Seconds below which a batch is not counted on, by size; 0 if nothing is ruled out.

        The same as `bounds` where what a batch takes can be foreseen.
        """
        residuals, expected = self.residuals, self.expected
        if residuals.steady:
            return self._bounds
        return Curve(self._max, lambda size: residuals.least * expected[size])

    @property
    def hopes(self) -> Curve[float]:
        """Seconds that a batch may well take no longer than, by size: chance has it.

        The same as `bounds` unless what a batch takes is mere chance.
        """
        chances, expected = self.residuals.chances, self.expected
        if not chances:
            return self._bounds
        return Curve(self._max, lambda size: chances[1] * expected[size])

    def floor(self, seconds: float) -> float:
        """Return what batches that are expected to take so long are likely to take at least."""
        return seconds if self.residuals.steady else self.residuals.least * seconds

    @property
    def largest(self) -> int:
        """The largest size that was seen; 0 if none was."""
        return self._sizes[-1] if self._sizes else 0

    @property
    def young(self) -> bool:
        """Whether each batch still teaches much."""
        return self._observed < _NEWS

    @property
    def expected(self) -> Curve[float]:
        """Seconds a batch is expected to take, by size, non-decreasing; 0 if none was run."""
        if self._unread >= _NEWS:
            self._derive()
        return self._expected

    @property
    def bounds(self) -> Curve[float]:
        """Seconds a batch exceeds with a probability of ``1 - quantile`` at most, by size.

        Non-decreasing. A size never seen takes no longer than the next larger one that was, or
        its multiple of the largest one, and less if the line explains those that were.
        """
        if self._unread >= _NEWS:
            self._derive()
        return self._bounds

    @property
    def fit(self) -> LatencyFit | None:
        """The line as it stands, or `None` if no batch was ever run."""
        if not self._observed:
            return None
        self._derive()
        fixed, per_item = self._line
        items = sum([size * n for size, n in self._counts.items()]) / self._counts.total()
        deviation = math.sqrt(self._noise + self._misfit * (len(self._sizes) > 2))  # noqa: PLR2004
        return LatencyFit(fixed, per_item, deviation * (fixed + per_item * items))

    def observe(self, size: int, duration: float, now: float) -> None:
        """Learn that a batch of ``size`` took ``duration`` seconds and ended at ``now``.

        When much is known and batches are very short, only some of them are looked at.
        """
        if not self.young and 0.0 < now - self._observed_at < _SPACING:
            return
        duration = max(_TICK, duration)
        if len(self._sizes) == _KNOWN and size not in self._means:
            near = min(self._sizes, key=lambda known: abs(known - size))
            if abs(near - size) <= _NEAR * size:
                size, duration = near, duration * self.expected[near] / self.expected[size]
        # A larger size takes as long as the only one seen, a smaller one its share.
        only = self._sizes[0] if self._observed == 1 else 0
        if only and duration < _WARM * self._means[only] * min(1.0, size / only):
            self._forget()
        if self._observed:
            # Whatever the noise, so many promises are broken as may be: I. Gibbs, E. J. Candes,
            # "Adaptive conformal inference under distribution shift", NeurIPS 2021, applied to
            # the quantile itself as by A. N. Angelopoulos et al., "Conformal PID control", 2023.
            offset = self._offset + _STEP * ((duration > self.bounds[size]) - 1.0 + self._quantile)
            self._offset = min(max(offset, _NARROWEST), _WIDEST)
            seen, expected = self._counts[size] > 1, self._expected[size]
            if self.residuals.chances:
                self._average(size, duration)
            else:
                self._learn(size, duration)
            # A size that was hardly seen may miss the line for other reasons than noise.
            if seen or abs(duration / expected - 1.0) < _NEW:
                # Outliers in succession are noise only if they turn out to be no change.
                self._held.append((size, duration, expected, now))
                if not self._outliers[0]:
                    self._note_residuals()
        else:
            self._set(size, duration)
        usual = (_SURPRISE + 2.0 * math.sqrt(self._noise)) * self._expected[size]
        surprise = abs(duration - self._expected[size]) > usual
        self._observed, self._observed_at = self._observed + 1, now
        self._latest[size] = self._observed
        self._unread += _NEWS if surprise or self._observed < _YOUNG else 1

    def refresh(self) -> None:
        """Bring `expected` and `bounds` up to date, unless they hardly changed.

        It takes a while. Reading them, while a device waits, does that after a surprise only.
        """
        if self._unread > min(self._observed // _NEWS, _LAG):
            self._derive()

    def _set(self, size: int, duration: float) -> None:
        if not self._counts[size]:
            if len(self._sizes) == _KNOWN:
                self._drop(min(self._sizes, key=self._latest.__getitem__))
            insort(self._sizes, size)
        self._means[size], self._counts[size] = duration / self._level, 1
        self._outliers[size].clear()

    def _drop(self, size: int) -> None:
        self._sizes.remove(size)
        for known in (self._means, self._counts, self._latest, self._outliers):
            known.pop(size, None)

    def _learn(self, size: int, duration: float) -> None:
        count, ratio = self._counts[size], duration / self.expected[size]
        deviation = math.sqrt(self._noise + self._doubt(count))
        limit = max(_BLIND, _FAR * deviation)
        limit = min(limit, student(_FAR, self._noise_freedom) * deviation)
        far = not 1.0 / (1.0 + limit) <= ratio <= 1.0 + limit
        # While there is much to learn, a new size says nothing of the others.
        if far and (count > 1 or not self.young) and self._again(0, ratio):
            self._shift()
        elif not count:
            # What takes longer than a larger size is a pause, unless a step of padding begins.
            larger = self._sizes[bisect(self._sizes, size) :]
            share = self._means[self._sizes[-1]] * self._level * size / self._sizes[-1]
            most = self.bounds[larger[0]] if larger else 2.0 * max(share, self.bounds[size])
            self._set(size, min(duration, most))
        elif count == 1 and duration < _AGAIN * self._means[size] * self._level:
            self._set(size, duration)
        elif not far:
            self._follow(size, duration)
        elif count == 1 and 1.0 / ODD <= duration / (self._means[size] * self._level) <= ODD:
            self._set(size, duration)  # so it was no pause, however odd it looked
            self._counts[size] = _DOUBTED
        elif self._again(size, ratio):
            self._set(size, duration)  # this size has changed, not all of them
            self._counts[size] = _DOUBTED
        elif self._freedom:
            self._hear(limit, count)  # an outlier leaves no other trace

    def _note_residuals(self) -> None:
        for held in self._held:
            self.residuals.observe(*held, math.sqrt(self._noise))
        self._held.clear()

    def _average(self, size: int, duration: float) -> None:
        if not self._counts[size]:
            self._set(size, duration)
            return
        self._counts[size] = count = min(self._counts[size] + 1, _SIZE_MEMORY)
        self._means[size] += (duration / self._level - self._means[size]) / count

    def _again(self, key: int, ratio: float) -> bool:
        outliers = self._outliers[key]
        if outliers and (outliers[0] > 1.0) != (ratio > 1.0):
            outliers.clear()
        outliers.append(ratio)
        # A pause may follow another one; nothing but a change makes two batches so quick.
        quick = [each for each in outliers[-2:] if each < _QUICK]
        if len(quick) == 2 and len(self._sizes) > 1:  # noqa: PLR2004
            outliers[:] = quick
            return True
        return len(outliers) == _CONFIRMED

    def _follow(self, size: int, duration: float) -> None:
        self._outliers[0], self._outliers[size] = [], []
        count = self._counts[size]
        self._hear(duration / (self._means[size] * self._level) - 1.0, count)
        # Residuals of one sign show that the level is off: the tracking signal of D. W. Trigg,
        # A. G. Leach, OR Quarterly 18(1), 1967. Noise, |x| of 0.8 deviations, makes that 0.3.
        residual = duration / self.expected[size] - 1.0
        self._bias += 0.15 * (residual - self._bias)
        self._absolute += 0.15 * (abs(residual) - self._absolute)
        signal = self._bias / max(self._absolute, 0.8 * math.sqrt(self._noise))
        self._level *= 1.0 + signal**4 * residual
        self._counts[size] = count = min(count + 1, _SIZE_MEMORY)
        self._means[size] += (duration / self._level - self._means[size]) / count

    def _shift(self) -> None:
        # The device has changed. The best guess is that neither shape nor noise have.
        ratio = median(self._outliers[0])
        self._held.clear()
        self.residuals.change(ratio, math.sqrt(self._noise))
        self._level, self._bias = self._level * ratio, 0.0
        self._freedom = min(self._freedom, _CONFIRMED)
        for other in self._outliers[0]:
            self._hear(other / ratio - 1.0, _SIZE_MEMORY)
        self._outliers.clear()
        self._counts = Counter({n: min(count, _DOUBTED) for n, count in self._counts.items()})

    def _hear(self, residual: float, count: int) -> None:
        self._freedom = min(self._freedom + 1, _NOISE_MEMORY)
        self._variance += (residual**2 / (1.0 + 1.0 / count) - self._variance) / self._freedom

    def _doubt(self, count: int) -> float:
        # Relative variance that is left of the distance of a size from the line.
        return self._noise * self._misfit / (count * self._misfit + self._noise)

    def _derive(self) -> None:
        self._unread = 0
        sizes = [*self._sizes]
        counts = [self._counts[size] for size in sizes]
        means = [self._means[size] * self._level for size in sizes]
        # Many batches of one size tell little of the others.
        weights = [count / (count + _HALF) for count in counts]
        padded = padded_to(sizes, means, weights, self._max)
        if padded:
            sizes, counts, means = pooled([padded(size) for size in sizes], counts, means)
            weights = [count / (count + _HALF) for count in counts]
        else:
            # One after another: two pauses may well bear each other out.
            oldest = min([self._latest[size] for size in sizes])
            least = 2 if self._observed - oldest >= _STALE else 3
            while (odd := odd_one(sizes, counts, means, weights, least)) is not None:
                sizes, counts, means, weights = (
                    [*known[:odd], *known[odd + 1 :]] for known in (sizes, counts, means, weights)
                )
        self._line = fixed, per_item = straight_line(sizes, means, weights)
        line = [fixed + per_item * size for size in sizes]
        residuals = [mean / height - 1.0 for mean, height in zip(means, line, strict=True)]
        self._tell_noise(residuals, counts, weights)
        # As much is kept of a residual as is not doubted.
        part = {count: self._doubt(count) * count / self._noise for count in {*counts}}
        kept = [1.0 + part[count] * r for count, r in zip(counts, residuals, strict=True)]
        knots = list(map(mul, line, kept))
        # Non-decreasing, without a bias: the middle of the nearest curves above and below.
        above, below = accumulate(knots, max), [*accumulate(reversed(knots), min)]
        knots = [(high + low) / 2.0 for high, low in zip(above, reversed(below), strict=True)]
        # Along the line beyond them; min and max against rounding.
        first = min(1.0, fixed / line[0]) * knots[0]
        last = max(1.0, (fixed + per_item * self._max) / line[-1]) * knots[-1]
        expected = between([0, *sizes, self._max], [first, *knots, last])
        bounds = self._widened(expected, sizes, counts)
        if guessed := len(sizes) == 1 and not padded:
            expected, bounds = self._guess(sizes[0], knots[0], bounds(sizes[0]))
        self.guessed, pad = guessed, padded or int
        if self.residuals.chances:
            self._line = fixed, per_item = self.residuals.line()
            wide = self.residuals.quantile(self._quantile)
            self._expected = Curve(self._max, lambda n: fixed + per_item * n if n else 0.0)
            self._bounds = Curve(self._max, lambda n: wide * self._expected[n])
            return
        self._expected = Curve(self._max, lambda size: expected(pad(size)) if size else 0.0)
        self._bounds = Curve(self._max, lambda size: bounds(pad(size)) if size else 0.0)

    def _guess(self, seen: int, seconds: float, bound: float) -> tuple[Line, Line]:
        # Nothing tells what an item adds. The best is hoped for smaller sizes and nearly that
        # for larger ones, without a margin: who is tried teaches, who is turned away does not.
        wide = max(bound / seconds, 1.0) if self._observed > 1 else 1.0

        def hoped(size: int) -> float:
            share = size / seen
            return seconds * min(share, math.cbrt(share))

        return hoped, lambda size: wide * hoped(size)

    def _tell_noise(self, residuals: list[float], counts: list[int], weights: list[float]) -> None:
        noise, known, freedom = self._variance, self._freedom, len(counts) - 2
        once = [r * r for r, count in zip(residuals, counts, strict=True) if count == 1]
        if freedom > 0 and once:
            # Sizes seen once show noise if the line is right, and more than that if it is not.
            more = known + min(len(once), freedom)
            pooled = (noise * known + sum(once)) / more
            ratio = student(_FAR, more) / student(_FAR, known)
            if not known or ratio * ratio * pooled < noise:
                noise, known = pooled, more
        self._noise = max(noise, _QUIET * _QUIET) if known else _GUESS * _GUESS
        self._noise_freedom, self._strayed, self._misfit = known, 1.0, 1.0
        if freedom > 0:
            # What the noise of the means does not explain: the method of moments, as in
            # R. DerSimonian, N. Laird, "Meta-analysis in clinical trials", 1986.
            squares = sum(w * r * r for w, r in zip(weights, residuals, strict=True))
            self._strayed = squares / sum(weights) * len(counts) / freedom
            chance = sum(map(truediv, weights, counts)) / sum(weights)
            self._misfit = max(0.0, self._strayed - self._noise * chance)

    def _widened(self, expected: Line, sizes: list[int], counts: list[int]) -> Line:
        known, noise, freedom = self._noise_freedom, self._noise, len(sizes) - 2
        wide = max(0.0, (student(self._normal, known) if known else self._normal) + self._offset)
        stray, spread = wide * _GUESS, 0.0  # two sizes and no noise: the line is taken for true
        factor = {n: 1.0 + wide * math.sqrt(noise + self._doubt(n)) for n in {*counts}}
        if freedom > 0:
            spread = 2.0
            # A new size is as far from the line as others, and by its two parameters more.
            stray = max(0.0, student(self._normal, freedom) + self._offset)
            stray *= math.sqrt(self._strayed * (1.0 + 2.0 / len(counts)))
        unseen = 1.0 + max(wide * math.sqrt(noise), stray)
        own = [expected(size) * factor[count] for size, count in zip(sizes, counts, strict=True)]
        return widened(
            expected, sizes, own, most=self._max, usual=unseen, stray=stray, spread=spread
        )
