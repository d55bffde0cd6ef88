"""Something by size, from no size to the largest, of which only what is asked for is computed.

Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Curve", "Line", "between", "listed", "widened"]

N = TypeVar("N")

# So many values are remembered: few sizes are ever asked for, and those often.
_REMEMBERED = 1024
# So many values are few enough to be listed rather than looked up one by one.
_FEW = 128


# What a size takes, in seconds.
Line: TypeAlias = "Callable[[int], float]"


class Curve(Sequence[N]):
    """What a function says of each size up to the largest, in constant memory.

    Its length is the largest size and one: what ends with ``[-1]`` is that of the largest.
    """

    __slots__ = ("_length", "_of", "_remembered")

    def __init__(self, most: int, of: Callable[[int], N]) -> None:
        self._length = most + 1
        self._of: Callable[[int], N] = of
        self._remembered: dict[int, N] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, size: int) -> N:  # type: ignore[override]  # no slices
        try:
            return self._remembered[size]
        except KeyError:
            return self._remember(size)

    def _remember(self, size: int) -> N:
        if not -self._length <= size < self._length:
            raise IndexError(size)
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        value: N = self._of(size % self._length)
        self._remembered[size] = value
        return value


def listed(curve: Sequence[N]) -> Sequence[N]:
    """Return a curve as a list if it is short, for whoever asks for all of it, again and again."""
    return [*curve] if len(curve) <= _FEW else curve


def between(knots: Sequence[int], values: Sequence[float]) -> Line:
    """Return what lies between knots, on straight lines; both rise. None lies beyond the ends."""

    def line(size: int) -> float:
        right = max(1, bisect_left(knots, size))
        left, low, high = knots[right - 1], values[right - 1], values[right]
        return min(high, low + (high - low) * (size - left) / (knots[right] - left))

    return line


def widened(
    expected: Line,
    sizes: Sequence[int],
    bounds: Sequence[float],
    *,
    most: int,
    usual: float,
    stray: float,
    spread: float,
) -> Line:
    """Return a line above another one, which does not fall.

    Args:
        expected: the other one.
        sizes: some, in order.
        bounds: what holds for those.
        most: the largest possible size.
        usual: how many times as long as is expected others take at most.
        stray: by what part, beyond the largest of those, they may take longer at least.
        spread: how that part grows with each step as wide as all of those.
    """
    own, smallest, largest = [*bounds], sizes[0], sizes[-1]
    # Beyond the largest size the line's error grows, but no item costs more than those before.
    item, reach = own[-1] / largest, max(1, largest - smallest)

    def bound(size: int) -> float:
        at, seconds = bisect_left(sizes, size), expected(size)
        if at < len(sizes):
            return own[at] if sizes[at] == size else min(seconds * usual, own[at])
        growth = 1.0 + spread * (size - largest) / reach
        return max(seconds, min(seconds * max(usual, 1.0 + stray * growth), item * size))

    for at in range(len(sizes) - 1, -1, -1):
        if sizes[at] < most:  # a smaller one takes no longer
            own[at] = min(own[at], bound(sizes[at] + 1))
    return bound
