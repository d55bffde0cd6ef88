"""What an item is like, as far as it matters whom it shares a batch with, and what a batch costs.

Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ._arguments import checked_cost, checked_key

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

__all__ = ["Shape", "Shapes"]

# Costs are told apart in so many steps to a doubling, and loads in so many parts of a full batch.
_STEPS, _PARTS = 8, 64


class Shape(NamedTuple):
    """What requests have in common that may share a batch without any loss.

    Attributes:
        key: those of another one cannot be in the same batch.
        cost: of one item, rounded up; shorter ones are padded to that.
    """

    key: Hashable
    cost: float


@dataclass(frozen=True, slots=True)
class Shapes:
    """How items differ, as the user says, and what a batch may cost: its dearest item's each.

    Attributes:
        key: gives an item's key, if keys matter.
        cost: gives what an item costs, if costs matter.
        max_batch_cost: of a batch.
        max_batch_size: most items in it.
    """

    key: Callable[[Any], Hashable] | None
    cost: Callable[[Any], float] | None
    max_batch_cost: float
    max_batch_size: int
    # By cost: there are a few hundred at most.
    _loads: dict[float, Sequence[int]] = field(default_factory=dict)

    @property
    def most(self) -> int:
        """The load of a full batch."""
        return self.max_batch_size if self.cost is None else _PARTS

    def of(self, item: Any) -> Shape:
        """Return an item's shape.

        Raises:
            TypeError, ValueError: it has none.
            ItemError: it costs nothing, or more than a batch may.
            Exception: what the user's functions raise.
        """
        key = None if self.key is None else checked_key(self.key(item))
        if self.cost is None:
            return Shape(key, 1.0)
        return Shape(key, self.rounded(checked_cost(self.cost(item), self.max_batch_cost)))

    def rounded(self, cost: float) -> float:
        """Return the next higher of the costs that are told apart."""
        mantissa, exponent = math.frexp(cost)
        higher = math.ldexp(math.ceil(2 * _STEPS * mantissa), exponent - _STEPS.bit_length())
        return min(higher, self.max_batch_cost)

    def seats(self, cost: float) -> int:
        """Return how many items of that cost fit into a batch: one at least."""
        return len(self.loads(cost)) - 1

    def loads(self, cost: float) -> Sequence[int]:
        """Return, for each number of items up to as many as fit, what batches of them count as.

        That is the size by which a latency model knows a batch, padded to that cost. Without
        costs it is their number.
        """
        return self._loads.get(cost) or self._loads.setdefault(cost, self._counted(cost))

    def _counted(self, cost: float) -> Sequence[int]:
        if self.cost is None:
            return range(self.max_batch_size + 1)
        # Rounding must not cost a place.
        part = cost / self.max_batch_cost * (1.0 - 1e-12)
        seats = min(self.max_batch_size, int(1.0 / part))
        return [math.ceil(count * part * _PARTS) for count in range(seats + 1)]

    def load_of(self, shapes: Sequence[Shape]) -> int:
        """Return as what a batch of items of these shapes counts."""
        return self.loads(max([shape.cost for shape in shapes]))[len(shapes)]
