"""The waiting requests, in lanes by weight and shape, and how many have come of late.

Pure: no clock, no event loop, no lock of its own. Whoever owns a queue that several
threads use holds one lock around each call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from heapq import heapify, heappop, heappush, merge
from itertools import chain
from math import inf
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, cast
from weakref import ref

from ._index import Index
from ._lane import RECENT, Entry, Lane, Request, Tally

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ._shapes import Shape

__all__ = ["Entry", "Request", "RequestQueue"]

T = TypeVar("T")

# A lane's place in a queue: its weight, and its shape if it has any.
_Label: TypeAlias = "float | tuple[Shape, float]"

# Lanes, and weights, before those that are out of use are thrown away.
_LANES = 64


class RequestQueue(Generic[T]):
    """Requests by weight and deadline; those with the same of both first come, first served.

    Attributes:
        size: how many requests wait.
        added: how many ever did.
        due: the lanes of requests that have a deadline, by weight, and shape if they have any.
        undue: the lanes of those that have none, or a far one, which are in order of arrival.
        horizon: seconds from its arrival within which a deadline is no far one.
        tallies: what is counted of each weight.
        index: where to look among the lanes of requests with shapes.
    """

    def __init__(self) -> None:
        self.size = 0
        self._peak = 0
        self.added = 0
        self._returned = 0
        self.due: dict[_Label, Lane[T]] = {}
        self.undue: dict[_Label, Lane[T]] = {}
        self._most_tallies = _LANES
        self.tallies: dict[float, Tally] = {}
        self.index: Index[T] = Index()
        self.horizon = inf
        # With a far deadline: those that came of late, and when it is near of those that stay.
        self._fresh: list[Entry[T]] = []
        self._far: list[tuple[float, int, ref[Request[T]]]] = []
        self._oldest: Request[T] | None = None  # `oldest_arrival` has it, while it waits

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
        deadline = request.deadline
        if deadline <= request.arrived + self.horizon and deadline < inf:
            lane = self._lane_in(self.due, request)
            lane.add((deadline, number, request))
        else:
            lane = self._lane_in(self.undue, request)
            lane.add(entry := (inf, number, request))
            if deadline < inf:
                self._fresh.append(entry)
        self.size += 1
        tally = lane.tally
        tally.size += 1
        tally.recent.append(request.arrived)
        if lane.shape is not None:
            self.index.note(lane, lane.shape, 1)

    def settle(self) -> float:
        """Watch those with a far deadline that stay, and return when the first of those is near.

        To be called whenever a device has taken what it takes: most never need to be watched.
        """
        far = self._far
        if self._fresh:
            if self.size:
                for _, number, request in self._fresh:
                    if request.lane is not None:
                        heappush(far, (request.deadline - self.horizon, number, ref(request)))
            self._fresh.clear()
        if len(far) > 2 * self.size + _LANES:
            far[:] = [each for each in far if (known := each[2]()) is not None and known.lane]
            heapify(far)
        return far[0][0] if far else inf

    def promote(self, now: float) -> None:
        """Have those whose deadline is no longer far wait with others that have one.

        Until then they have waited as if they had none: a deadline makes no request later.
        """
        far = self._far
        while far and far[0][0] <= now:
            _, number, known = heappop(far)
            request = known()
            if request is None or (lane := request.lane) is None:
                continue
            near = self._lane_in(self.due, request)
            if near is lane:  # it was put back
                continue
            request.lane = None
            lane.tidy(1)
            self._changed(lane, -1)
            near.move_in((request.deadline, number, request))
            self._changed(near, 1)

    def put_back(self, requests: Sequence[Request[T]]) -> None:
        """Queue requests again, in this order, before those of the same deadline."""
        entries: dict[Lane[T], list[Entry[T]]] = {}
        for number, request in enumerate(requests, -self._returned - len(requests)):
            entry = (request.deadline, number, request)
            lanes = self.due if request.deadline < inf else self.undue
            entries.setdefault(self._lane_in(lanes, request), []).append(entry)
        for lane, those in entries.items():
            lane.put_back(those)
            self._changed(lane, len(those))
        self._oldest = None
        self._returned += len(requests)
        self.size += len(requests)

    def _lane_in(self, lanes: dict[_Label, Lane[T]], request: Request[T]) -> Lane[T]:
        label = request.weight if request.shape is None else (request.shape, request.weight)
        return lanes.get(label) or self._new_lane(lanes, label, request)

    def _new_lane(
        self, lanes: dict[_Label, Lane[T]], label: _Label, request: Request[T]
    ) -> Lane[T]:
        tally = self.tallies.get(request.weight) or self._new_tally(request.weight)
        lane = lanes[label] = Lane(tally, request.shape)
        if request.shape is not None:
            self.index.adopt(lane, request.shape, lanes is self.due)
        return lane

    def _new_tally(self, weight: float) -> Tally:
        if len(self.tallies) >= self._most_tallies:
            self.tallies = {each: tally for each, tally in self.tallies.items() if tally.size}
            self._most_tallies = 2 * len(self.tallies) + _LANES
        tally = self.tallies[weight] = Tally(weight)
        return tally

    def _changed(self, lane: Lane[T], more: int) -> None:
        lane.tally.size += more
        if lane.shape is not None:
            self.index.note(lane, lane.shape, more)
        if not lane.size:
            self._leave(lane)

    def _leave(self, lane: Lane[T]) -> None:
        label = lane.weight if lane.shape is None else (lane.shape, lane.weight)
        lanes = self.due if self.due.get(label) is lane else self.undue
        if len(lanes) > _LANES:
            del lanes[label]
            if lane.shape is not None:
                self.index.dismiss(lane, lane.shape)

    def discard(self, request: Request[T]) -> bool:
        """Remove a request and say whether it was still there."""
        if request.lane is None:
            return False
        self.remove_all((request,))
        self.settle()  # it is not to be kept
        return True

    def remove_all(self, requests: Sequence[Request[T]]) -> None:
        """Remove requests that all wait."""
        lanes = cast("set[Lane[T]]", {request.lane for request in requests})
        # Mostly all are in one: then nothing has to be counted.
        counts = Counter([request.lane for request in requests]) if len(lanes) > 1 else {}
        for request in requests:
            request.lane = None
        for lane in lanes:
            count = counts.get(lane, len(requests))
            lane.tidy(count)
            self._changed(lane, -count)
        if self._oldest is not None and self._oldest.lane is None:
            self._oldest = None
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
        tallies = [tally for tally in self.tallies.values() if tally.recent]
        if not tallies:
            return inf, {}
        if len(tallies) == 1:
            return tallies[0].recent[0], {tallies[0].weight: len(tallies[0].recent)}
        since = sorted(chain.from_iterable([tally.recent for tally in tallies]))[-RECENT:][0]
        return since, {
            tally.weight: len(tally.recent) - bisect_left(tally.recent, since) for tally in tallies
        }

    @property
    def undue_size(self) -> int:
        """How many wait that have no deadline, or a far one."""
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

    def due_before(self, time: float, most: float = inf) -> list[Request[T]]:
        """Return the requests whose deadline is earlier than ``time``, by weight.

        If there are more than ``most`` by far, as many are returned.
        """
        late: list[Request[T]] = []
        for lane in self._late(time):
            if len(late) > most:
                break
            late += [request for _, _, request in lane.due_before(time, most)]
        return late

    def earliest_from(self, time: float) -> float:
        """Return the nearest deadline that is not before ``time``, infinity if there is none."""
        lanes, others = [*self.due.values()], inf
        if self.index.lanes:
            lanes, others = self._late(time), self.index.earliest(time)
        fronts = [lane.due_from(time, time, 1) for lane in lanes]
        return min([others, *[front[0][0] for front in fronts if front]])

    def _late(self, time: float) -> list[Lane[T]]:
        if self.index.lanes:
            return [*self.index.due_before(lambda _: time)]
        return [lane for lane in self.due.values() if lane.earliest < time]

    @property
    def earliest_deadline(self) -> float:
        """The nearest deadline of all, infinity if there is none."""
        if self.index.lanes:
            return self.index.earliest()
        return min([lane.earliest for lane in self.due.values()], default=inf)

    @property
    def oldest_arrival(self) -> float:
        """When the request that has waited longest came, infinity if none waits.

        Looks at all, but not again as long as that one waits.
        """
        if self._oldest is None:
            entries = chain(*self.due.values(), *self.undue.values())
            self._oldest = min([entry[2] for entry in entries], key=_arrived, default=None)
        return inf if self._oldest is None else self._oldest.arrived


_arrived = attrgetter("arrived")
