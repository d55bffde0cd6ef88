"""What an item is like, as far as it matters whom it shares a batch with, and what a batch costs.

Pure.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

from ._arguments import checked_cost, checked_key
from ._curve import Curve

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

__all__ = ["Key", "Shape", "Shapes"]

# Costs are told apart in so many steps to a doubling, and loads in so many parts of a full batch.
_STEPS, _PARTS = 8, 64
# So many seats are few enough to be listed.
_MANY = 1024
# Keys before those that nobody has any more are forgotten.
_KEYS = 64


class Key:
    """Stands for a user's key: compared and hashed by identity, so no code of the user's runs."""

    __slots__ = ("__weakref__",)


class _Keys:
    """What stands for each of the keys that are in use."""

    def __init__(self) -> None:
        self._known: dict[Hashable, ref[Key]] = {}
        self._most = _KEYS

    def of(self, key: Hashable) -> Key:
        """Return what stands for a key; raise what comparing or hashing it does."""
        known = self._known.get(key)
        found = None if known is None else known()
        if found is None:
            if len(self._known) >= self._most:
                self._forget()
            found = Key()
            self._known[key] = ref(found)
        return found

    def _forget(self) -> None:
        # Who comes with a new key has nothing to do with what other keys raise.
        known: dict[Hashable, ref[Key]] = {}
        for key, each in self._known.items():
            if each() is not None:
                with suppress(Exception):
                    known[key] = each
        self._known, self._most = known, 2 * len(known) + _KEYS


class Shape(NamedTuple):
    """What requests have in common that may share a batch without any loss.

    Attributes:
        key: stands for the user's; those of another one cannot be in the same batch.
        cost: of one item, rounded up; shorter ones are padded to that.
        part: of a full batch of such items.
    """

    key: Key | None
    cost: float
    part: float = 1.0


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
    _keys: _Keys = field(default_factory=_Keys)

    @property
    def most(self) -> int:
        """The load of a full batch."""
        return self.max_batch_size if self.cost is None else _PARTS

    def of(self, item: Any) -> Shape:
        """Return an item's shape.

        Raises:
            TypeError, ValueError: it has none.
            ItemError: it costs nothing, or more than a batch may.
            Exception: what the user's functions, or the key's own, raise.
        """
        key = None if self.key is None else self._keys.of(checked_key(self.key(item)))
        cost = 1.0
        if self.cost is not None:
            cost = self.rounded(checked_cost(self.cost(item), self.max_batch_cost))
        return Shape(key, cost, 1.0 / self.seats(cost))

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
        loads = Curve(seats, lambda count: math.ceil(count * part * _PARTS))
        return [*loads] if seats <= _MANY else loads

    def load_of(self, shapes: Sequence[Shape]) -> int:
        """Return as what a batch of items of these shapes counts."""
        return self.loads(max([shape.cost for shape in shapes]))[len(shapes)]
