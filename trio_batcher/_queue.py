"""The waiting requests, in order of their deadlines.

Pure: no clock, no event loop, no lock of its own. Whoever owns a queue that several
threads use holds one lock around each call.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Request", "RequestQueue"]

T = TypeVar("T")

# Entries a chunk may have before it is split: inserting into one moves half of it on
# average, and finding the right one means a search among all of them.
_CHUNK = 1024
# Removed entries that may lie about, beyond as many as there are live ones, before the
# queue is swept.
_LITTER = 64


class Request(Generic[T]):
    """One item on its way to the model; told apart by identity.

    Attributes:
        item: what the model will be given.
        deadline: the absolute time after which nobody wants the result, or infinity.
        arrived: the absolute time at which it was submitted.
        group: what ties the requests of one `infer_many` together, `None` for a single one.
        index: its place in that group.
        caller: whoever is parked for it; `None` if nobody is, or any more. Only the event
            loop touches it, so it needs no lock.
        waits: whether it is in a queue. Set by the queue alone.
    """

    __slots__ = ("arrived", "caller", "deadline", "group", "index", "item", "waits")

    def __init__(
        self, item: T, deadline: float, arrived: float, group: Any = None, index: int = 0
    ) -> None:
        self.item = item
        self.deadline = deadline
        self.arrived = arrived
        self.group = group
        self.index = index
        self.caller: Any = None
        self.waits = False

    def __repr__(self) -> str:
        return f"<Request {self.item!r} arrived={self.arrived} deadline={self.deadline}>"


class RequestQueue(Generic[T]):
    """Requests by deadline; those with the same deadline first come, first served.

    Most traffic comes in the order of its deadlines and leaves from the front: then
    adding is an append and taking a batch is a slice. Whatever the order, adding and
    discarding cost O(log n) and a move within one chunk.

    Attributes:
        size: how many requests wait.
        added: how many ever did.
        peak: the most that ever did at the same time.
    """

    # Invariants:
    # - The chunks, one after another, are sorted; none is empty, unless it is the only
    #   one. Entries are tuples because those are compared in C; the sequence number
    #   decides between equal deadlines, so that requests themselves never are.
    # - A request that was removed stays as litter, told by its `waits`, until it comes to
    #   the front or the queue is swept. The front entry is never litter.
    # - The same holds for `_arrivals`, which has the requests as they came.

    def __init__(self) -> None:
        self.size = 0
        self.peak = 0
        self.added = 0
        self._chunks: list[list[tuple[float, int, Request[T]]]] = [[]]
        self._arrivals: deque[Request[T]] = deque()
        self._litter = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Request[T]]:
        """Iterate in deadline order."""
        for chunk in self._chunks:
            for _, _, request in chunk:
                if request.waits:
                    yield request

    def add(self, request: Request[T]) -> None:
        """Queue a request that has never been queued before."""
        self.added = sequence = self.added + 1
        entry = (request.deadline, sequence, request)
        last = self._chunks[-1]
        if not last or last[-1] < entry:
            last.append(entry)
            if len(last) > _CHUNK:
                self._chunks.append([last.pop()])
        else:
            self._insert(entry)
        self._arrivals.append(request)
        request.waits = True
        self.size = size = self.size + 1
        if size > self.peak:
            self.peak = size

    def _insert(self, entry: tuple[float, int, Request[T]]) -> None:
        chunks = self._chunks
        at = bisect_left(chunks, entry, key=_last)
        chunk = chunks[at]
        insort(chunk, entry)
        if len(chunk) > _CHUNK:
            half = len(chunk) // 2
            chunks.insert(at + 1, chunk[half:])
            del chunk[half:]

    def discard(self, request: Request[T]) -> bool:
        """Remove a request and say whether it was still there."""
        if not request.waits:
            return False
        self.remove_all((request,))
        return True

    def remove_all(self, requests: Sequence[Request[T]]) -> None:
        """Remove requests that all wait."""
        for request in requests:
            request.waits = False
        self.size -= len(requests)
        self._litter += len(requests)
        self._clear_front()
        most = self.size + _LITTER
        if self._litter > most or len(self._arrivals) > self.size + most:
            self._sweep()

    def _clear_front(self) -> None:
        chunks = self._chunks
        while True:
            front = chunks[0]
            count = 0
            for _, _, request in front:
                if request.waits:
                    break
                count += 1
            self._litter -= count
            if count < len(front) or len(chunks) == 1:
                del front[:count]
                break
            del chunks[0]
        arrivals = self._arrivals
        while arrivals and not arrivals[0].waits:
            arrivals.popleft()

    def _sweep(self) -> None:
        live = [entry for chunk in self._chunks for entry in chunk if entry[2].waits]
        half = _CHUNK // 2
        self._chunks = [live[i : i + half] for i in range(0, len(live), half)] or [[]]
        self._arrivals = deque(request for request in self._arrivals if request.waits)
        self._litter = 0

    def clear(self) -> list[Request[T]]:
        """Remove every request and return them in the order in which they came."""
        requests = [request for request in self._arrivals if request.waits]
        self.remove_all(requests)
        return requests

    def first(self, count: int, *, after: int = 0) -> list[Request[T]]:
        """Return up to ``count`` requests in deadline order, passing over ``after``."""
        end = after + count
        found: list[Request[T]] = []
        for chunk in self._chunks:
            found += [request for _, _, request in chunk[: end + self._litter] if request.waits]
            if len(found) >= end:
                break
        return found[after:end]

    def due_before(self, time: float) -> list[Request[T]]:
        """Return the requests whose deadline is earlier than ``time``, in deadline order."""
        due: list[Request[T]] = []
        for chunk in self._chunks:
            if not chunk or chunk[0][0] >= time:
                break
            end = bisect_left(chunk, time, key=_deadline)
            due += [request for _, _, request in chunk[:end] if request.waits]
        return due

    @property
    def earliest_deadline(self) -> float:
        """The nearest deadline of all, infinity if there is none."""
        front = self._chunks[0]
        return front[0][0] if front else math.inf

    @property
    def oldest_arrival(self) -> float:
        """When the request that has waited longest came, infinity if none waits."""
        return self._arrivals[0].arrived if self._arrivals else math.inf


def _last(chunk: list[tuple[float, int, Request[Any]]]) -> tuple[float, int, Request[Any]]:
    return chunk[-1]


def _deadline(entry: tuple[float, int, Request[Any]]) -> float:
    return entry[0]
