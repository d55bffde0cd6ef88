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
more than the padding does, which depends on what is fixed in l and on how many wait. As long as
one size was run, nobody knows what a smaller batch saves: batches are filled then.

Pure.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import nlargest, nsmallest
from itertools import accumulate, chain, groupby
from math import cbrt, exp, inf
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from ._curve import Curve
from ._selection import PATIENCE, ROUNDING, seat_cost, sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ._index import Family
    from ._lane import Lane
    from ._latency import LatencyModel
    from ._queue import Entry, Request, RequestQueue
    from ._shapes import Shapes

__all__ = ["best_pack", "first_pack", "out_of_reach"]

T = TypeVar("T")

# Whoever has no deadline is overdue after `PATIENCE` full batches, and so many times as long as
# all who wait take at their mean cost: being served in turn takes that long once.
_TURNS = 2.0
# Lanes that are looked at; and if there are more, families of those that are looked at closely, how
# many besides because they fill a batch, and lanes of each of them that are looked at in any case.
_LANES, _FAMILIES, _FULL, _COMPANIONS = 128, 10, 3, 24
# Of so many who are due while a batch could run some are looked at: that is shared among the lanes.
_NEAR = 64

# Of a request that may ride: its gain, negative so that the best come first; its number, which
# decides between equal ones; when it is due.
_Rider: TypeAlias = "tuple[float, int, float, Entry[T]]"


class _View(NamedTuple):
    """What a batch is chosen by.

    Attributes:
        start: the time from which a batch's duration counts.
        full: seconds a full batch takes.
        patience: seconds after which who has no deadline is overdue.
        before: who came then or earlier is.
        bounds: seconds a load is sure to take.
        pace: seconds that its gain is divided by.
        shares: what a seat costs, by the cost of an item.
        shapes: how items differ.
        near: most of a lane who are looked at of those due at about the same time.
    """

    start: float
    full: float
    patience: float
    before: float
    bounds: Sequence[float]
    pace: Sequence[float]
    shares: Mapping[float, float]
    shapes: Shapes
    near: int


class _Level(NamedTuple, Generic[T]):
    """Those who could share a batch of that cost an item.

    Attributes:
        most: no batch of theirs gains more per second.
        size: of a batch that does, if all are on time.
        cost: of the dearest.
        far: those who are on time with any batch, the best first: as many as fit.
        near: those who are not.
        overdue: those of both whose turn it is.
    """

    most: float
    size: int
    cost: float
    far: list[_Rider[T]]
    near: list[_Rider[T]]
    overdue: list[_Rider[T]]


def out_of_reach(
    queue: RequestQueue[T], start: float, latest: float, bounds: Sequence[float], shapes: Shapes
) -> list[Request[T]]:
    """Return those whom even a batch of their own, begun at ``start``, comes too late for.

    Nobody is returned who is due at ``latest`` or later.
    """

    def reached(cost: float) -> float:
        return min(start + bounds[shapes.loads(cost)[1]], latest) - ROUNDING

    found: list[Request[T]] = []
    for lane in queue.index.due_before(lambda cost: reached(shapes.rounded(cost))):
        found += [entry[2] for entry in lane.due_before(reached(_cost(lane)))]
    return found


def first_pack(queue: RequestQueue[T], shapes: Shapes) -> list[Request[T]]:
    """Return who is due first, or came first, and those like it: good enough to learn from."""
    first = min([(lane.first(1)[0], lane) for lane in _lanes(queue)], key=itemgetter(0))[1]
    alike = [lane for lane in first.family.lanes if lane.shape == first.shape]
    seats = shapes.seats(_cost(first))
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

    Of very many lanes those are looked at that promise the most.

    Args:
        queue: the waiting requests.
        late: those of them whom even a batch of one would come too late for.
        now: the time.
        start: the time from which a batch's duration counts for its members.
        latency: what is known of the device.
        shapes: how they differ.
        devices: how many share the queue.
    """
    costs, expected = queue.index.costs, latency.expected
    mean = shapes.rounded(sum([cost * count for cost, count in costs.items()]) / queue.size)
    most = shapes.seats(mean)
    full = expected[shapes.loads(mean)[most]]
    if not full:
        return []
    price = seat_cost(queue, late, now=now, full=full, limit=most, devices=devices)
    patience = (PATIENCE + _TURNS * queue.size / most) * full
    lanes = _lanes(queue)
    oldest = _longest_waiting(lanes, now - patience)
    view = _View(
        start=start,
        full=full,
        patience=patience,
        before=-inf if oldest is None else now - patience,
        bounds=latency.bounds,
        pace=Curve(shapes.most, cbrt) if latency.guessed else expected,
        shares={cost: price * part for cost, part in _parts(costs, expected, shapes).items()},
        shapes=shapes,
        near=max(2, _NEAR // len(lanes)),
    )
    if oldest is not None:
        lanes = [lane for lane in lanes if lane.family is oldest.family]
    families = _families(queue, lanes, view)
    levels = [level for those in families for level in _levels(those, view)]
    rate, best = 0.0, list["Entry[T]"]()
    for level in sorted(levels, key=_most, reverse=True):
        if level.most <= rate:
            break
        if oldest is None or _cost(oldest) <= level.cost:
            found, entries = _best_of(level, view)
            if found > rate:
                rate, best = found, entries
    return [request for _, _, request in sorted(best)]


def _lanes(queue: RequestQueue[T]) -> list[Lane[T]]:
    """Return all lanes in which somebody waits, or of very many those that are first."""
    if queue.index.lanes > _LANES:
        return queue.index.first(_LANES)
    families = queue.index.families.values()
    return [lane for family in families for lane in family.lanes if lane.size]


def _families(queue: RequestQueue[T], lanes: Sequence[Lane[T]], view: _View) -> list[list[Lane[T]]]:
    """Return for each key the lanes to look at closely, the cheapest first."""
    families: dict[Family[T], list[Lane[T]]] = {}
    for lane in lanes:
        families.setdefault(lane.family, []).append(lane)
    if queue.index.lanes > _LANES:
        if len(families) > _FAMILIES:
            hopes = {
                family: max([_hope(lane, view) for lane in those])
                for family, those in families.items()
            }
            best = nlargest(_FAMILIES, hopes, key=hopes.__getitem__)
            families = {family: families[family] for family in best}
        if view.before == -inf:
            for family in queue.index.fullest(_FULL):
                families.setdefault(family, [])
        for family, those in families.items():
            if len(family.lanes) <= _COMPANIONS:
                those[:] = [lane for lane in family.lanes if lane.size]
    return [sorted(those, key=_cost) for those in families.values()]


def _hope(lane: Lane[T], view: _View) -> float:
    """Return about what a batch gains per second that the first of a lane rides in."""
    cost, pace = _cost(lane), view.pace
    loads, share = view.shapes.loads(cost), min(view.shares[cost], lane.weight)
    due = lane.listed - view.start if lane.earliest < inf else view.patience
    gain = share + (lane.weight - share) * exp(min(0.0, 1.0 - due / view.full))
    seats = len(loads) - 1
    like, others = min(lane.size, seats), int(min(lane.family.size, seats))
    return max(
        gain / pace[loads[1]],
        like * gain / pace[loads[like]],
        (gain + (others - 1) * share) / pace[loads[others]],
    )


def _levels(lanes: Sequence[Lane[T]], view: _View) -> Iterator[_Level[T]]:
    """Yield a level for each cost at which somebody comes in who may be worth it."""
    far, near, overdue = list["_Rider[T]"](), list["_Rider[T]"](), list["_Rider[T]"]()
    for cost, group in groupby(lanes, _cost):
        loads = view.shapes.loads(cost)
        seats, more = len(loads) - 1, False
        del far[seats:]
        for lane in group:
            more |= _board(lane, view, far, near, overdue, seats=seats)
        if more:
            del far[seats:]
            top = sorted([*far, *near])[:seats] if near else far
            gains, pace = [*accumulate([-rider[0] for rider in top], initial=0.0)], view.pace
            most, size = 0.0, 0
            for count in sizes(len(top), 1):
                rate = gains[count] / pace[loads[count]]
                if rate > most:
                    most, size = rate, count
            yield _Level(most, size, cost, [*far], [*near], [*overdue])


def _board(
    lane: Lane[T],
    view: _View,
    far: list[_Rider[T]],
    near: list[_Rider[T]],
    overdue: list[_Rider[T]],
    *,
    seats: int,
) -> bool:
    """Add those of a lane who may ride; return whether there are any."""
    cost, start, full, weight = _cost(lane), view.start, view.full, lane.weight
    loads, share = view.shapes.loads(cost), view.shares[cost]
    dated, more = lane.earliest < inf, False
    if dated:
        share = min(share, weight)  # who is never served takes no seat
        soonest, latest = start + view.bounds[loads[1]] - ROUNDING, start + view.bounds[-1]
        entries = lane.due_from(soonest, latest, seats, view.near)
        rest = bisect_left(entries, (latest,))
        for entry in entries[:rest]:
            gain = share + (weight - share) * exp(min(0.0, 1.0 - (entry[0] - start) / full))
            near.append((-gain, entry[1], entry[0], entry))
        more, entries = rest > 0, entries[rest:]
    else:
        entries, least = lane.first(seats), start + view.bounds[loads[-1]]
    premium = max(0.0, weight - share)
    for entry in entries:
        # As if it had a deadline, which no batch is too late for.
        due = entry[0] if dated else max(least, entry[2].arrived + view.patience)
        gain = share + premium * exp(min(0.0, 1.0 - (due - start) / full))
        rider = -gain, entry[1], entry[0], entry
        if not dated and entry[2].arrived <= view.before:
            overdue.append(rider)
        elif len(far) >= seats and rider >= far[seats - 1]:
            break  # those behind it gain no more
        insort(far, rider)
        more = True
    return more


def _best_of(level: _Level[T], view: _View) -> tuple[float, list[Entry[T]]]:
    """Return what its best batch gains per second, and that; who is overdue first."""
    if not level.near and not level.overdue:
        return level.most, [rider[3] for rider in level.far[: level.size]]
    pace, bounds, loads = view.pace, view.bounds, view.shapes.loads(level.cost)
    kept = sorted(level.overdue, key=itemgetter(1))
    staying = {rider[1] for rider in kept}
    far = [rider for rider in level.far if rider[1] not in staying]
    most = min(len(loads) - 1, len(far) + len(level.near) + len(kept))
    del kept[max(1, most // 2) :]
    near = sorted(level.near, key=itemgetter(2))
    dues, worth = [rider[2] for rider in near], -sum([rider[0] for rider in kept])
    # Batches become smaller and quicker. Inside are those on time with the one looked at: their
    # gains, negative, the least last.
    inside = [rider[0] for rider in far]
    last, total, rate, size = len(near), -sum(inside), 0.0, 0
    for count in sizes(most, max(1, len(kept))):
        load, seats = loads[count], count - len(kept)
        first = bisect_left(dues, view.start + bounds[load] - ROUNDING, 0, last)
        for rider in near[first:last]:
            insort(inside, rider[0])
            total -= rider[0]
        last = first
        while len(inside) > seats:
            total += inside.pop()
        if len(inside) == seats and worth + total > rate * pace[load]:
            rate, size = (worth + total) / pace[load], count
    first = bisect_left(dues, view.start + bounds[loads[size]] - ROUNDING)
    riders = nsmallest(size - len(kept), [*far, *near[first:]])
    return rate, [rider[3] for rider in [*kept, *riders]]


def _longest_waiting(lanes: Sequence[Lane[T]], before: float) -> Lane[T] | None:
    """Return the lane of who has no deadline and came first, if that was before then."""
    undated = [lane for lane in lanes if lane.earliest == inf and lane.listed <= before]
    return min(undated, key=attrgetter("listed"), default=None)


def _parts(
    costs: Mapping[float, int], expected: Sequence[float], shapes: Shapes
) -> dict[float, float]:
    """Return, by cost, an item's part of a full batch of its like, relative to the mean."""
    seconds = {cost: expected[shapes.loads(cost)[-1]] / shapes.seats(cost) for cost in costs}
    mean = sum([seconds[cost] * count for cost, count in costs.items()]) / sum(costs.values())
    return {cost: each / mean for cost, each in seconds.items()}


def _cost(lane: Lane[Any]) -> float:
    return lane.shape.cost if lane.shape else 1.0


_most = attrgetter("most")
