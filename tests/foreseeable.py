"""A device of which all is known: what a batch takes can be foreseen, or is chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Foreseen:
    """As `Residuals` are where batches always take what is expected of them."""

    steady = True
    least = 1.0
    chances: Sequence[float] = ()


class Unforeseen(Foreseen):
    """The same as long as none was run."""

    steady = False


class Foreseeable:
    """The rest of a latency model, given ``expected`` and ``bounds``."""

    guessed = False

    @property
    def residuals(self) -> Foreseen:
        return Foreseen() if self.expected[-1] else Unforeseen()

    @property
    def floors(self) -> Sequence[float]:
        return self.bounds

    @property
    def hopes(self) -> Sequence[float]:
        return self.bounds

    @property
    def largest(self) -> int:
        return len(self.expected) - 1

    def floor(self, seconds: float) -> float:
        return seconds


class Chance(Foreseen):
    """As `Residuals` are where a batch is equally likely to take each of these multiples."""

    steady = False

    def __init__(self, *chances: float) -> None:
        self.chances = chances
        self.least = chances[0]
