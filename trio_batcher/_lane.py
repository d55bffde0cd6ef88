"""Requests, and lanes of them: those that wait with the same weight, by deadline.

Pure: no clock, no event loop, no lock of its own.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._shapes import Shape

__all__ = ["RECENT", "Entry", "Lane", "Request", "Tally"]

T = TypeVar("T")

# Entries a chunk may have before it is split: inserting into one moves half of it on
# average, and finding the right one means a search among all of them.
_CHUNK = 1024
# Removed entries that may lie about, beyond as many as there are live ones, before the
# lane is swept.
_LITTER = 64
# Of very many who are due between two instants some are looked at, at so many places among them.
_PLACES = 4
# Of so many requests the arrivals are remembered, to tell their rate.
RECENT = 64


class Request(Generic[T]):
    """One item on its way to the model; told apart by identity.

    Attributes:
        item: what the model will be given.
        deadline: the absolute time after which nobody wants the result, or infinity.
        arrived: the absolute time at which it was submitted.
        weight: what an answer in time is worth.
        group: what ties the requests of one `infer_many` together, `None` for a single one.
        index: its place in that group.
        shape: what it has in common with those it may share a batch with; `None` if that is
            everybody.
        caller: whoever is parked for it; `None` if nobody is, or any more. Only the event
            loop touches it, so it needs no lock.
        lane: where it waits, `None` if it does not. Set by the queue alone.
        earliest: when a batch with it could have ended, of a request that was found unreachable.
    """

    # Of no use to single requests, which are most of them: they do not pay for having them.
    group: Any = None
    index: int = 0
    shape: Shape | None = None

    earliest: float

    __slots__ = (
        "__weakref__",
        "arrived",
        "caller",
        "deadline",
        "earliest",
        "item",
        "lane",
        "weight",
    )

    def __init__(self, item: T, deadline: float, arrived: float, weight: float = 1.0) -> None:
        self.item = item
        self.deadline = deadline
        self.arrived = arrived
        self.weight = weight
        self.caller: Any = None
        self.lane: Lane[T] | None = None

    def __repr__(self) -> str:
        return f"<Request {self.item!r} arrived={self.arrived} deadline={self.deadline}>"


Entry: TypeAlias = tuple[float, int, Request[T]]
"""A request as it is sorted: by deadline, then by the number under which it came."""


class Tally:
    """What is counted of all requests of one weight.

    Attributes:
        weight: what each of them is worth.
        size: how many wait.
        recent: when the last few of them came, the oldest first; they need not wait any more.
    """

    __slots__ = ("recent", "size", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.size = 0
        self.recent: deque[float] = deque(maxlen=RECENT)


class Lane(Generic[T]):
    """Waiting requests in order of their deadlines; equal ones as they came.

    Most traffic comes in the order of its deadlines and leaves from the front: then
    adding is an append and taking a batch is a slice. Whatever the order, adding and
    removing cost O(log n) and a move within one chunk.

    Attributes:
        weight: what each of them is worth.
        shape: that of each.
        size: how many wait.
        tally: that of its weight.
        family: whom it may share a batch with, `None` if that is everybody.
        heap, listed: where it is found, and with what front.
    """

    # Invariants:
    # - The chunks, one after another, are sorted; none is empty, unless it is the only
    #   one. Entries are tuples because those are compared in C; the number decides
    #   between equal deadlines, so that requests themselves never are.
    # - A request that was removed, or waits in another lane now, stays as litter, told by its
    #   `lane`, until it comes to the front or the lane is swept. The front entry is never litter.

    __slots__ = (
        "_chunks",
        "_litter",
        "family",
        "heap",
        "listed",
        "shape",
        "size",
        "tally",
        "weight",
    )

    def __init__(self, tally: Tally, shape: Shape | None = None) -> None:
        self.weight = tally.weight
        self.tally = tally
        self.shape = shape
        self.size = 0
        # Belong to the index of a queue, which imports this room.
        self.family: Any = None
        self.heap: Any = None
        self.listed = inf
        self._litter = 0
        self._chunks: list[list[Entry[T]]] = [[]]

    def __iter__(self) -> Iterator[Entry[T]]:
        """Iterate in deadline order."""
        for chunk in self._chunks:
            for entry in chunk:
                if entry[2].lane is self:
                    yield entry

    @property
    def earliest(self) -> float:
        """The nearest deadline of all, infinity if there is none."""
        front = self._chunks[0]
        return front[0][0] if front else inf

    @property
    def front(self) -> float:
        """When the first is due, or has come if none has a deadline; infinity if there is none."""
        front = self._chunks[0]
        if not front:
            return inf
        due, _, request = front[0]
        return due if due < inf else request.arrived

    def add(self, entry: Entry[T]) -> None:
        """Take in a request that waits nowhere, numbered higher than all before."""
        last = self._chunks[-1]
        if not last or last[-1][0] <= entry[0]:
            last.append(entry)
            if len(last) > _CHUNK:
                self._chunks.append([last.pop()])
        else:
            self._insert(entry)
        entry[2].lane = self
        self.size += 1

    def move_in(self, entry: Entry[T]) -> None:
        """Take in a request that has waited in another lane."""
        last = self._chunks[-1]
        if not last or last[-1] < entry:
            last.append(entry)
        else:
            self._insert(entry)
        entry[2].lane = self
        self.size += 1

    def put_back(self, entries: list[Entry[T]]) -> None:
        """Take in requests that were removed, numbered lower than all before."""
        # What lies about of these very requests has to go before they wait again.
        self._fill(sorted([*self, *entries]))
        for _, _, request in entries:
            request.lane = self
        self.size += len(entries)

    def _insert(self, entry: Entry[T]) -> None:
        chunks = self._chunks
        at = bisect_left(chunks, entry, key=_last)
        chunk = chunks[at]
        insort(chunk, entry)
        if len(chunk) > _CHUNK:
            half = len(chunk) // 2
            chunks.insert(at + 1, chunk[half:])
            del chunk[half:]

    def tidy(self, removed: int) -> None:
        """Clear away what was removed, so many since the last time."""
        self.size -= removed
        self._litter += removed
        self._clear_front()
        if self._litter > self.size + _LITTER:
            self._fill(list(self))

    def _fill(self, live: list[Entry[T]]) -> None:
        half, self._litter = _CHUNK // 2, 0
        self._chunks = [live[i : i + half] for i in range(0, len(live), half)] or [[]]

    def _clear_front(self) -> None:
        chunks = self._chunks
        while True:
            front = chunks[0]
            count = 0
            for _, _, request in front:
                if request.lane is self:
                    break
                count += 1
            self._litter -= count
            if count < len(front) or len(chunks) == 1:
                del front[:count]
                return
            del chunks[0]

    def first(self, count: int) -> list[Entry[T]]:
        """Return up to ``count`` of them, those that are due first."""
        first = [entry for entry in self._chunks[0][:count] if entry[2].lane is self]
        if len(first) == min(count, self.size):
            return first
        return self.due_from(-inf, -inf, count)

    def due_before(self, time: float, most: float = inf) -> list[Entry[T]]:
        """Return those whose deadline is earlier than ``time``; of more than ``most``, some."""
        due: list[Entry[T]] = []
        for chunk in self._chunks:
            if not chunk or chunk[0][0] >= time or len(due) > most:
                break
            end = bisect_left(chunk, (time,))
            due += [entry for entry in chunk[:end] if entry[2].lane is self]
        return due

    def due_from(
        self, start: float, stop: float, more: int, dense: int | None = None
    ) -> list[Entry[T]]:
        """Return those due at ``start`` or later: until ``stop``, and ``more`` beyond.

        With ``dense``, if very many are due between, only some are returned: at some places among
        them, so many one after another.
        """
        spans, total, beyond = list["_Span[T]"](), 0, list["Entry[T]"]()
        for chunk in self._chunks:
            if not chunk or chunk[-1][0] < start:
                continue
            first = bisect_left(chunk, (start,))
            end = bisect_left(chunk, (stop,), lo=first)
            spans.append((chunk, first, end))
            total += end - first
            while more and end < len(chunk):
                # As many again until there are enough: litter may lie between them.
                found = [entry for entry in chunk[end : end + more] if entry[2].lane is self]
                end += more
                more -= len(found)
                beyond += found
            if not more and end < len(chunk):
                break
        if dense is not None and total > 2 * _PLACES * dense:
            spans = _thinned(spans, total // _PLACES, dense)
        between = [chunk[first:end] for chunk, first, end in spans]
        return [entry for part in between for entry in part if entry[2].lane is self] + beyond


_Span: TypeAlias = "tuple[list[Entry[T]], int, int]"


def _thinned(spans: list[_Span[T]], step: int, dense: int) -> list[_Span[T]]:
    """Return the first ``dense`` of each ``step`` in some parts of chunks."""
    thinned, at = list["_Span[T]"](), 0
    for chunk, first, end in spans:
        at += first
        while at < end:
            thinned.append((chunk, at, min(at + dense, end)))
            at += step
        at -= end
    return thinned


def _last(chunk: list[Entry[Any]]) -> Entry[Any]:
    return chunk[-1]
