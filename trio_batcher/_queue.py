"""The waiting requests, in lanes by weight and shape, and how many have come of late.

Pure: no clock, no event loop, no lock of its own. Whoever owns a queue that several
threads use holds one lock around each call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from heapq import merge
from itertools import chain
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, cast

from ._lane import RECENT, Entry, Lane, Request

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ._shapes import Shape

__all__ = ["Entry", "Request", "RequestQueue"]

T = TypeVar("T")

# A lane's place in a queue: its weight, and its shape if it has any.
_Label: TypeAlias = "float | tuple[Shape, float]"

# Lanes before the empty ones are thrown away.
_LANES = 64


class RequestQueue(Generic[T]):
    """Requests by weight and deadline; those with the same of both first come, first served.

    Attributes:
        size: how many requests wait.
        added: how many ever did.
        due: the lanes of requests that have a deadline, by weight, and shape if they have any.
        undue: the lanes of those that have none, which are in order of arrival.
    """

    def __init__(self) -> None:
        self.size = 0
        self._peak = 0
        self.added = 0
        self._returned = 0
        self.due: dict[_Label, Lane[T]] = {}
        self.undue: dict[_Label, Lane[T]] = {}

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Request[T]]:
        """Iterate in deadline order."""
        for _, _, request in merge(*self.due.values(), *self.undue.values()):
            yield request

    @property
    def peak(self) -> int:
        """The most that ever waited at the same time."""
        return max(self._peak, self.size)

    def add(self, request: Request[T]) -> None:
        """Queue a request that has never waited."""
        self.added = number = self.added + 1
        lane = self._lane_of(request)
        lane.add((request.deadline, number, request))
        self.size += 1

    def put_back(self, requests: Sequence[Request[T]]) -> None:
        """Queue requests again, in this order, before those of the same deadline."""
        entries: dict[Lane[T], list[Entry[T]]] = {}
        for number, request in enumerate(requests, -self._returned - len(requests)):
            entry = (request.deadline, number, request)
            entries.setdefault(self._lane_of(request), []).append(entry)
        for lane, those in entries.items():
            lane.put_back(those)
        self._returned += len(requests)
        self.size += len(requests)

    def _lane_of(self, request: Request[T]) -> Lane[T]:
        lanes = self.due if request.deadline < inf else self.undue
        label = request.weight if request.shape is None else (request.shape, request.weight)
        return lanes.get(label) or self._new_lane(lanes, label, request)

    def _new_lane(
        self, lanes: dict[_Label, Lane[T]], label: _Label, request: Request[T]
    ) -> Lane[T]:
        if len(lanes) >= _LANES:
            for empty in [each for each, lane in lanes.items() if not lane.size]:
                del lanes[empty]
        lane = lanes[label] = Lane(request.weight, request.shape)
        return lane

    def discard(self, request: Request[T]) -> bool:
        """Remove a request and say whether it was still there."""
        if request.lane is None:
            return False
        self.remove_all((request,))
        return True

    def remove_all(self, requests: Sequence[Request[T]]) -> None:
        """Remove requests that all wait."""
        lanes = cast("set[Lane[T]]", {request.lane for request in requests})
        # Mostly all are in one: then nothing has to be counted.
        counts = Counter([request.lane for request in requests]) if len(lanes) > 1 else {}
        for request in requests:
            request.lane = None
        for lane in lanes:
            lane.tidy(counts.get(lane, len(requests)))
        self._peak = self.peak
        self.size -= len(requests)

    def clear(self) -> list[Request[T]]:
        """Remove every request and return them in the order in which they came."""
        entries = sorted(chain(*self.due.values(), *self.undue.values()), key=itemgetter(1))
        requests = [request for _, _, request in entries]
        self.remove_all(requests)
        return requests

    def recent(self) -> tuple[float, dict[float, int]]:
        """Return since when the last few requests have come, and how many of each weight did.

        They need not wait any more. Of weights that are no longer in use they are forgotten.
        """
        lanes = [*self.due.values(), *self.undue.values()]
        arrivals = [lane.recent for lane in lanes if lane.recent]
        if not arrivals:
            return inf, {}
        if len(arrivals) == 1:
            return arrivals[0][0], {lanes[0].weight: len(arrivals[0])}
        since = sorted(chain.from_iterable(arrivals))[-RECENT:][0]
        counts: dict[float, int] = {}
        for lane in lanes:
            count = len(lane.recent) - bisect_left(lane.recent, since)
            counts[lane.weight] = counts.get(lane.weight, 0) + count
        return since, counts

    @property
    def undue_size(self) -> int:
        """How many wait that have no deadline."""
        return sum([lane.size for lane in self.undue.values()])

    @property
    def is_uniform(self) -> bool:
        """Whether all that wait have the same weight and shape, and all a deadline or none."""
        return (
            len([None for lane in chain(self.due.values(), self.undue.values()) if lane.size]) == 1
        )

    def first(self, count: int, besides: Collection[Request[T]] = ()) -> list[Request[T]]:
        """Return up to ``count`` requests in deadline order, those left out that are named."""
        lanes = chain(self.due.values(), self.undue.values())
        fronts = [lane.first(count + len(besides)) for lane in lanes if lane.size]
        entries = fronts[0] if len(fronts) == 1 else sorted(chain.from_iterable(fronts))
        if besides:
            left_out = set(besides)
            entries = [entry for entry in entries if entry[2] not in left_out]
        return [request for _, _, request in entries[:count]]

    def due_before(self, time: float) -> list[Request[T]]:
        """Return the requests whose deadline is earlier than ``time``, by weight."""
        late = [lane.due_before(time) for lane in self.due.values() if lane.earliest < time]
        return [request for _, _, request in chain.from_iterable(late)]

    def earliest_from(self, time: float) -> float:
        """Return the nearest deadline that is not before ``time``, infinity if there is none."""
        fronts = [lane.due_from(time, time, 1) for lane in self.due.values()]
        return min([front[0][0] for front in fronts if front], default=inf)

    @property
    def earliest_deadline(self) -> float:
        """The nearest deadline of all, infinity if there is none."""
        return min([lane.earliest for lane in self.due.values()], default=inf)

    @property
    def oldest_arrival(self) -> float:
        """When the request that has waited longest came, infinity if none waits: looks at all."""
        return min([request.arrived for request in self], default=inf)
