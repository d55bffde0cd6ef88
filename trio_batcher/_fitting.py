"""What is read off a few sizes and what each has taken: a line, a padding, one that is odd.

Pure.
"""

from __future__ import annotations

from operator import mul
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["ODD", "odd_one", "padded_to", "pooled", "straight_line", "student"]

# So many sizes have to be known before anything is read into them.
_ENOUGH = 4
# A line that leaves less than this, relative, is right; a padding has to leave this part of
# what the line leaves to be believed.
_RIGHT, _BETTER = 0.02, 0.25
# A single batch that takes so many times what the others make of it is odd.
ODD = 1.25


def straight_line(
    sizes: Sequence[int], means: Sequence[float], weights: Sequence[float]
) -> tuple[float, float]:
    """Return what is fixed and what each item adds, none negative.

    By least squares of the residuals relative to the means. One size alone gives a line
    through zero.
    """
    weights = [weight / (mean * mean) for weight, mean in zip(weights, means, strict=True)]
    pulls, total = list(map(mul, weights, sizes)), sum(weights)
    center, height = sum(pulls) / total, sum(map(mul, weights, means)) / total
    if min(sizes) < max(sizes):
        away = [size - center for size in sizes]
        pushes = list(map(mul, weights, away))
        slope = max(0.0, sum(map(mul, pushes, means)) / sum(map(mul, pushes, away)))
        if slope * center <= height:
            return height - slope * center, slope
    return 0.0, sum(map(mul, pulls, means)) / sum(map(mul, pulls, sizes))


def padded_to(
    sizes: Sequence[int], means: Sequence[float], weights: Sequence[float], most: int
) -> Callable[[int], int] | None:
    """Return what gives the size that a size is padded to; `None` if none is.

    Args:
        sizes: those seen, in order.
        means: what each has taken, seconds.
        weights: how much is known of each.
        most: the largest possible size.
    """
    if len(sizes) < _ENOUGH:
        return None
    least = _misfit(sizes, means, weights)
    if least < _RIGHT * _RIGHT:
        return None
    least *= _BETTER * _BETTER
    found = None
    # A step beyond all sizes would make them one.
    for pad in _paddings(sizes[-1]):
        left = _misfit([min(most, pad(size)) for size in sizes], means, weights)
        if left < least:
            found, least = pad, left
    return found and (lambda size: min(most, found(size)))


def odd_one(
    sizes: list[int], counts: list[int], means: list[float], weights: list[float], least: int = 3
) -> int | None:
    """Return the index of a size seen once that does not fit the others at all, if there is one.

    Two others make a line. With ``least`` 2 a single smaller one will do: no item costs more
    than the first.
    """
    if len(sizes) < least or 1 not in counts:
        return None
    fixed, per_item = straight_line(sizes, means, weights)
    known = enumerate(zip(sizes, counts, means, strict=True))
    once = [(mean / (fixed + per_item * size), i) for i, (size, n, mean) in known if n == 1]
    _, odd = max(once)
    others = [[*known[:odd], *known[odd + 1 :]] for known in (sizes, means, weights)]
    if not others[0] or (len(others[0]) == 1 and sizes[odd] < others[0][0]):
        return None
    fixed, per_item = straight_line(*others)
    return odd if means[odd] > ODD * (fixed + per_item * sizes[odd]) else None


def pooled(
    sizes: list[int], counts: list[int], means: list[float]
) -> tuple[list[int], list[int], list[float]]:
    """Return sizes, counts and means, those of equal (padded) size taken together."""
    total: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for size, count, mean in zip(sizes, counts, means, strict=True):
        total[size] = total.get(size, 0) + count
        seconds[size] = seconds.get(size, 0.0) + count * mean
    return [*total], [*total.values()], [seconds[size] / total[size] for size in total]


def student(normal: float, freedom: int) -> float:
    """Return the quantile of Student's distribution for one of the normal distribution.

    See M. Abramowitz, I. A. Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    square, each = normal * normal, 1.0 / max(freedom, 1)
    second = each * ((5.0 * square + 16.0) * square + 3.0) / 96.0
    return normal * (1.0 + each * ((square + 1.0) / 4.0 + second))


def _paddings(most: int) -> Iterator[Callable[[int], int]]:
    """Yield the usual ones: to a power of two; to a multiple of one."""
    yield lambda size: 1 << (size - 1).bit_length() if size else 0
    step = 2
    while step < most:
        yield lambda size, step=step: -(-size // step) * step  # type: ignore[misc]
        step *= 2


def _misfit(sizes: Sequence[int], means: Sequence[float], weights: Sequence[float]) -> float:
    """Return the mean square of what a line leaves, relative."""
    fixed, per_item = straight_line(sizes, means, weights)
    known = zip(sizes, means, weights, strict=True)
    squares = [w * (mean / (fixed + per_item * size) - 1.0) ** 2 for size, mean, w in known]
    return sum(squares) / sum(weights)
