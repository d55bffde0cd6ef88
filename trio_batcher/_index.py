"""Where to look among very many lanes: which are first of their like, which keys fill a batch.

With distinct keys there may be as many lanes as requests: nobody can look at all of them whenever
a device is free. All that is kept here is brought up to date when a lane changes.

Pure.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import chain, count, islice
from math import frexp, inf, ldexp
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._lane import Lane
    from ._shapes import Shape

__all__ = ["Family", "Index"]

T = TypeVar("T")

# Families are in order of how much of a batch they are, in so many steps to a doubling.
_STEPS, _NONE = 8, -10_000
# Entries that may lie about in a heap, beyond as many as there are live ones.
_LITTER = 64
# Of the lanes that are first, so many times as many are taken of a class with deadlines, and of one
# of the heaviest: they decide what a batch is worth, while others fill it.
_DATED, _HEAVY = 3, 4


class Family(Generic[T]):
    """The lanes of those who may share a batch: they have the same key.

    Attributes:
        lanes: all of them, empty ones too.
        size: how many wait in them.
        batches: how many batches those are, if each is of items of one cost.
    """

    __slots__ = ("batches", "lanes", "size", "step")

    def __init__(self) -> None:
        self.lanes: dict[Lane[T], None] = {}
        self.size = 0
        self.batches = 0.0
        self.step = _NONE


class _Heap(Generic[T]):
    """Lanes by their fronts; an entry is live as long as it says what its lane does."""

    __slots__ = ("entries", "most")

    def __init__(self) -> None:
        self.entries: list[tuple[float, int, Lane[T]]] = []
        self.most = _LITTER

    def add(self, entry: tuple[float, int, Lane[T]]) -> None:
        heappush(self.entries, entry)
        if len(self.entries) > self.most:
            live = {each[2]: each for each in self.entries if each[0] == each[2].listed}
            self.entries = [*live.values()]
            heapify(self.entries)
            self.most = 2 * len(live) + _LITTER

    def first(self, most: float, before: float = inf) -> list[Lane[T]]:
        """Return up to so many lanes, the first ones, of those whose front is before that."""
        found: dict[Lane[T], tuple[float, int, Lane[T]]] = {}
        entries = self.entries
        while entries and len(found) < most and entries[0][0] < before:
            entry = heappop(entries)
            if entry[0] == entry[2].listed:
                found[entry[2]] = entry
        for entry in found.values():
            heappush(entries, entry)
        return [*found]

    def earliest(self, since: float) -> float:
        """Return the first front that is not before that, infinity if there is none."""
        entries, earlier = self.entries, list["tuple[float, int, Lane[T]]"]()
        while entries and (entries[0][0] < since or entries[0][0] != entries[0][2].listed):
            entry = heappop(entries)
            if entry[0] == entry[2].listed:
                earlier.append(entry)
        front = entries[0][0] if entries else inf
        for entry in earlier:
            heappush(entries, entry)
        return front


class Index(Generic[T]):
    """The lanes of those who have shapes, by where to look first.

    Attributes:
        lanes: how many there are, empty ones too.
        families: those of each key.
        costs: how many wait, by the cost of an item.
    """

    # Invariants:
    # - A lane's `listed` is what it has at its front: the first deadline, or arrival; infinity if
    #   it is empty. Each lane that is not has an entry with that in the heap of its class: of
    #   lanes that all have deadlines or none, and differ by less than a factor of two in weight,
    #   and in cost.
    # - Each family in which somebody waits is in `_steps` under its own.

    def __init__(self) -> None:
        self.lanes = 0
        self.families: dict[Any, Family[T]] = {}
        self.costs: dict[float, int] = {}
        self._heaps: dict[tuple[bool, int, int], _Heap[T]] = {}
        self._steps: dict[int, dict[Family[T], None]] = {}
        self._numbers = count()

    def adopt(self, lane: Lane[T], shape: Shape, dated: bool) -> None:  # noqa: FBT001  by position
        """Take in a new lane; ``dated`` if those in it have deadlines."""
        lane.family = self.families.get(shape.key) or self.families.setdefault(shape.key, Family())
        lane.family.lanes[lane] = None
        label = dated, frexp(shape.cost)[1], frexp(lane.weight)[1]
        lane.heap = self._heaps.get(label) or self._heaps.setdefault(label, _Heap())
        self.lanes += 1

    def dismiss(self, lane: Lane[T], shape: Shape) -> None:
        """Let an empty lane go."""
        family = self.families[shape.key]
        del family.lanes[lane]
        self.lanes -= 1
        if not family.lanes:
            del self.families[shape.key]

    def note(self, lane: Lane[T], shape: Shape, more: int) -> None:
        """Note that so many more, or less, wait in a lane."""
        family, front = lane.family, lane.front
        family.size += more
        family.batches = family.batches + more * shape.part if family.size else 0.0
        step = _step(family.batches) if family.size else _NONE
        if step != family.step:
            self._move(family, step)
        waiting = self.costs[shape.cost] = self.costs.get(shape.cost, 0) + more
        if not waiting:
            del self.costs[shape.cost]
        if front != lane.listed:
            lane.listed = front
            if lane.size:
                lane.heap.add((front, next(self._numbers), lane))

    def _move(self, family: Family[T], step: int) -> None:
        if family.step != _NONE:
            others = self._steps[family.step]
            del others[family]
            if not others:
                del self._steps[family.step]
        if step != _NONE:
            self._steps.setdefault(step, {})[family] = None
        family.step = step

    def first(self, most: int) -> list[Lane[T]]:
        """Return some lanes of each class, those that are first, about so many altogether."""
        labels = [label for label, heap in self._heaps.items() if heap.entries]
        heaviest = max([power for _, _, power in labels], default=0)
        parts = {
            label: (_DATED if label[0] else 1) * (_HEAVY if label[2] == heaviest else 1)
            for label in labels
        }
        each = most / max(1, sum(parts.values()))
        found = [self._heaps[label].first(max(2, each * part)) for label, part in parts.items()]
        return [*chain.from_iterable(found)]

    def due_before(self, time: Callable[[float], float]) -> Iterator[Lane[T]]:
        """Yield those due first before a time that may depend on the cost: no item costs more."""
        for (dated, power, _), heap in self._heaps.items():
            if dated:
                yield from heap.first(inf, time(ldexp(1.0, power)))

    def earliest(self, since: float = -inf) -> float:
        """Return the nearest deadline at the front of a lane from then on, infinity if none is."""
        heaps = [heap for (dated, _, _), heap in self._heaps.items() if dated]
        return min([heap.earliest(since) for heap in heaps], default=inf)

    def fullest(self, most: int) -> list[Family[T]]:
        """Return so many families that are the largest part of a batch."""
        families = [self._steps[step] for step in sorted(self._steps, reverse=True)]
        return [*islice(chain.from_iterable(families), most)]


def _step(batches: float) -> int:
    mantissa, exponent = frexp(min(1.0, batches))
    return _STEPS * exponent + int(2 * _STEPS * mantissa)
