"""Who rides in the next batch when items differ in what they cost, or cannot all be mixed.

A batch is padded to its dearest item: b items of cost up to c take l(b·c) seconds. As in
`_selection`, the batch is run that gains the most per second,

    max over keys, c and b of  Σ gain(i) / l(b·c)
    gain(i) = p·κ(i) + (w(i) - p·κ(i))⁺ · exp(-s(i) / F)

over the b requests of the largest gain among those of the key that cost no more than c and are on
time. s is the slack that a full batch of mean items would leave, 0 at least, F what that takes,
and p the price of a mean seat. What a request gains beside its urgency is the time that it will
not take of a later batch: κ is its part of a full batch of its like, relative to the mean of
all who wait. So short ones ride along with long ones if a batch of their own would cost
more than the padding does, which depends on what is fixed in l and on how many wait.

Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from heapq import nsmallest
from itertools import accumulate, chain, groupby
from math import exp, inf
from operator import attrgetter, itemgetter, truediv
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from ._selection import PATIENCE, ROUNDING, seat_cost, sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._lane import Lane
    from ._latency import LatencyModel
    from ._queue import Entry, Request, RequestQueue
    from ._shapes import Shapes

__all__ = ["best_pack", "first_pack", "out_of_reach"]

T = TypeVar("T")

# Whoever has no deadline is overdue after `PATIENCE` full batches, and so many times as long as
# all who wait take at their mean cost: being served in turn takes that long once.
_TURNS = 2.0

# Of a request that may ride: its gain, negative so that the best come first; its number, which
# decides between equal ones; when it is due.
_Rider: TypeAlias = "tuple[float, int, float, Entry[T]]"


class _Level(NamedTuple, Generic[T]):
    """Those who could share a batch of that cost an item.

    Attributes:
        most: no batch of theirs gains more per second.
        cost: of the dearest.
        lanes: all of them.
    """

    most: float
    cost: float
    lanes: list[list[_Rider[T]]]


def out_of_reach(
    queue: RequestQueue[T], start: float, latest: float, bounds: Sequence[float], shapes: Shapes
) -> list[Request[T]]:
    """Return those whom even a batch of their own, begun at ``start``, comes too late for.

    Nobody is returned who is due at ``latest`` or later.
    """
    found: list[Request[T]] = []
    for lane in queue.due.values():
        if lane.shape is not None and lane.earliest < latest:
            own = start + bounds[shapes.loads(lane.shape.cost)[1]]
            found += [entry[2] for entry in lane.due_before(min(own, latest) - ROUNDING)]
    return found


def first_pack(queue: RequestQueue[T], shapes: Shapes) -> list[Request[T]]:
    """Return who is due first, or came first, and those like it: good enough to learn from."""
    first = min([lane.first(1)[0] for lane in _lanes(queue)])
    shape = first[2].shape
    alike = [lane for lane in _lanes(queue) if lane.shape == shape]
    seats = shapes.seats(shape.cost if shape else 1.0)
    entries = sorted(chain.from_iterable([lane.first(seats) for lane in alike]))
    return [request for _, _, request in entries[:seats]]


def best_pack(
    queue: RequestQueue[T],
    late: Sequence[Request[T]],
    *,
    now: float,
    start: float,
    latency: LatencyModel,
    shapes: Shapes,
    devices: int,
) -> list[Request[T]]:
    """Return the batch to run; empty if nobody can be on time, or nothing is known of the device.

    Of those without a deadline who have waited for `PATIENCE` full batches, and for as many as
    all who wait would need twice, the first one rides in any case, and with it as many of those
    who can ride along as take half of the seats.

    Args:
        queue: the waiting requests.
        late: those of them whom even a batch of one would come too late for.
        now: the time.
        start: the time from which a batch's duration counts for its members.
        latency: what is known of the device.
        shapes: how they differ.
        devices: how many share the queue.
    """
    expected, bounds = latency.expected, latency.bounds
    lanes = sorted(_lanes(queue), key=_cost)
    waiting = sum([lane.size for lane in lanes])
    mean = shapes.rounded(sum([lane.size * _cost(lane) for lane in lanes]) / waiting)
    most = shapes.seats(mean)
    full = expected[shapes.loads(mean)[most]]
    if not full:
        return []
    price = seat_cost(queue, late, now=now, full=full, limit=most, devices=devices)
    parts = _parts(lanes, expected, shapes)
    patience = (PATIENCE + _TURNS * waiting / most) * full
    pools: defaultdict[Any, list[tuple[float, list[_Rider[T]]]]] = defaultdict(list)
    for lane in lanes:
        cost = _cost(lane)
        loads = shapes.loads(cost)
        riders = _riders(
            lane,
            price * parts[cost],
            soonest=start + bounds[loads[1]] - ROUNDING,
            latest=start + bounds[loads[-1]],
            seats=len(loads) - 1,
            start=start,
            full=full,
            patience=patience,
        )
        pools[lane.shape and lane.shape.key].append((cost, riders))
    oldest = _longest_waiting(lanes, now - patience)
    levels = [
        level
        for key, by_cost in pools.items()
        for level in _levels(by_cost, expected, shapes)
        if oldest is None or oldest.shape is None or oldest.shape.key == key
    ]
    rate, best = 0.0, list["Entry[T]"]()
    for level in sorted(levels, key=_most, reverse=True):
        if level.most <= rate:
            break
        if oldest is None or oldest.shape is None or oldest.shape.cost <= level.cost:
            before = -inf if oldest is None else now - patience
            found, entries = _best_of(level, before, start=start, latency=latency, shapes=shapes)
            if found > rate:
                rate, best = found, entries
    return [request for _, _, request in sorted(best)]


def _riders(
    lane: Lane[T],
    share: float,
    *,
    soonest: float,
    latest: float,
    seats: int,
    start: float,
    full: float,
    patience: float,
) -> list[_Rider[T]]:
    """Return those of a lane that may ride; ``share`` is what a seat costs."""
    if lane.earliest < inf:
        share = min(share, lane.weight)  # who is never served takes no seat
        premium, entries = lane.weight - share, lane.due_from(soonest, latest, seats)
        return [
            (
                -share - premium * exp(min(0.0, 1.0 - (entry[0] - start) / full)),
                entry[1],
                entry[0],
                entry,
            )
            for entry in entries
        ]
    # As if they had a deadline, which no batch is too late for.
    premium = max(0.0, lane.weight - share)
    soonest, entries = latest - start, lane.first(seats)
    waits = [max(soonest, entry[2].arrived + patience - start) for entry in entries]
    return [
        (-share - premium * exp(min(0.0, 1.0 - seconds / full)), entry[1], inf, entry)
        for entry, seconds in zip(entries, waits, strict=True)
    ]


def _levels(
    by_cost: Sequence[tuple[float, list[_Rider[T]]]],
    expected: Sequence[float],
    shapes: Shapes,
) -> Iterator[_Level[T]]:
    """Yield a level for each cost, if anybody of that may ride, with those of lesser cost."""
    lanes, top = list[list["_Rider[T]"]](), list["_Rider[T]"]()
    for cost, group in groupby(by_cost, itemgetter(0)):
        if dearest := [riders for _, riders in group if riders]:
            lanes += dearest
            top = sorted(chain(top, *dearest))[: shapes.max_batch_size]
            gains = accumulate([-rider[0] for rider in top])
            seconds = [expected[load] for load in shapes.loads(cost)[1:]]
            yield _Level(max(map(truediv, gains, seconds)), cost, lanes.copy())


def _best_of(
    level: _Level[T], before: float, *, start: float, latency: LatencyModel, shapes: Shapes
) -> tuple[float, list[Entry[T]]]:
    """Return what its best batch gains per second, and that; who came ``before`` first."""
    expected, bounds, loads = latency.expected, latency.bounds, shapes.loads(level.cost)
    pool = [*chain.from_iterable(level.lanes)]
    most = min(len(loads) - 1, len(pool))
    kept = _kept(pool, before, max(1, most // 2))
    staying = {rider[1] for rider in kept}
    rest = [rider for rider in pool if rider[1] not in staying]
    rest.sort(key=_due)
    dues, worth = [rider[2] for rider in rest], -sum([rider[0] for rider in kept])
    # Batches become smaller and quicker. Inside are those on time with the one looked at: their
    # gains, negative, the least last.
    last, inside = len(rest), list[float]()
    rate, size = 0.0, 0
    for count in sizes(most, max(1, len(kept))):
        load, seats = loads[count], count - len(kept)
        first = bisect_left(dues, start + bounds[load] - ROUNDING, 0, last)
        inside = sorted(inside + [rider[0] for rider in rest[first:last]])[:seats]
        last = first
        if len(inside) == seats:
            total = worth - sum(inside)
            if total > rate * expected[load]:
                rate, size = total / expected[load], count
    first = bisect_left(dues, start + bounds[loads[size]] - ROUNDING)
    riders = nsmallest(size - len(kept), rest[first:])
    return rate, [rider[3] for rider in [*kept, *riders]]


def _kept(pool: Sequence[_Rider[T]], before: float, most: int) -> list[_Rider[T]]:
    overdue = [rider for rider in pool if rider[2] == inf and rider[3][2].arrived <= before]
    return sorted(overdue, key=itemgetter(1))[:most]


def _longest_waiting(lanes: Sequence[Lane[T]], before: float) -> Request[T] | None:
    """Return who has no deadline and came first, if that was before then."""
    firsts = [lane.first(1)[0][2] for lane in lanes if lane.earliest == inf]
    oldest = min(firsts, key=attrgetter("arrived"), default=None)
    return oldest if oldest is not None and oldest.arrived <= before else None


def _parts(
    lanes: Sequence[Lane[T]], expected: Sequence[float], shapes: Shapes
) -> dict[float, float]:
    """Return, by cost, an item's part of a full batch of its like, relative to the mean."""
    counts: Counter[float] = Counter()
    for lane in lanes:
        counts[_cost(lane)] += lane.size
    seconds = {cost: expected[shapes.loads(cost)[-1]] / shapes.seats(cost) for cost in counts}
    mean = sum([seconds[cost] * count for cost, count in counts.items()]) / counts.total()
    return {cost: each / mean for cost, each in seconds.items()}


def _lanes(queue: RequestQueue[T]) -> list[Lane[T]]:
    return [lane for lane in chain(queue.due.values(), queue.undue.values()) if lane.size]


def _cost(lane: Lane[Any]) -> float:
    return lane.shape.cost if lane.shape else 1.0


_most, _due = attrgetter("most"), itemgetter(2)
