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
from heapq import nsmallest
from itertools import accumulate, chain, groupby, islice
from math import cbrt, exp, inf
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar

from ._curve import Curve
from ._promising import View, cost_of, families_of, lanes_of, listed
from ._selection import PATIENCE, ROUNDING, seat_cost, sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ._lane import Lane
    from ._latency import LatencyModel
    from ._queue import Entry, Request, RequestQueue
    from ._shapes import Shapes

__all__ = ["TURNS", "best_pack", "first_pack", "out_of_reach"]

T = TypeVar("T")

# Whoever has no deadline is overdue after `PATIENCE` full batches, and so many times as long as
# all who wait take at their mean cost: being served in turn takes that long once.
TURNS = 2.0
# Of very many who are due while a batch could run some are looked at: so many are shared among the
# lanes of a key, at each of some places. So many levels are looked at closely.
_NEAR, _LEVELS = 96, 8
# Of a request that may ride: its gain, negative so that the best come first; its number, which
# decides between equal ones; when it is due.
_Rider: TypeAlias = "tuple[float, int, float, Entry[T]]"


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


class _Pool(NamedTuple, Generic[T]):
    """Those of a level as it is filled.

    Attributes:
        far, near, overdue: as in that.
        top: the best of all, if all were on time.
        dense: how many to look at of those in a lane who are due at about the same time.
    """

    far: list[_Rider[T]]
    near: list[_Rider[T]]
    overdue: list[_Rider[T]]
    top: list[_Rider[T]]
    dense: int


def out_of_reach(
    queue: RequestQueue[T],
    start: float,
    latest: float,
    floors: Sequence[float],
    shapes: Shapes,
    *,
    most: float = inf,
) -> list[Request[T]]:
    """Return those whom even a batch of their own, begun at ``start``, comes too late for.

    Nobody is returned who is due at ``latest`` or later. Of more than ``most``, some are.
    """

    def reached(cost: float) -> float:
        return min(start + floors[shapes.loads(cost)[1]], latest) - ROUNDING

    found: list[Request[T]] = []
    for lane in queue.index.due_before(lambda cost: reached(shapes.rounded(cost))):
        if len(found) > most:
            break
        found += [entry[2] for entry in lane.due_before(reached(cost_of(lane)), most)]
    return found


def first_pack(
    queue: RequestQueue[T], late: Sequence[Request[T]], shapes: Shapes
) -> list[Request[T]]:
    """Return what is due first, or came first, and what is like it; nothing that is ``late``."""
    gone = {*late}
    fronts = [
        (entry, lane)
        for lane in lanes_of(queue)
        for entry in islice((each for each in lane if each[2] not in gone), 1)
    ]
    first = min(fronts, key=itemgetter(0))[1]
    alike = [lane for lane in first.family.lanes if lane.shape == first.shape]
    seats = shapes.seats(cost_of(first))
    several = [islice((each for each in lane if each[2] not in gone), seats) for lane in alike]
    return [request for _, _, request in sorted(chain.from_iterable(several))[:seats]]


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
    patience = (PATIENCE + TURNS * queue.size / most) * full
    lanes = lanes_of(queue)
    oldest = _longest_waiting(lanes, now - patience)
    view = View(
        start=start,
        full=full,
        patience=patience,
        before=-inf if oldest is None else now - patience,
        bounds=latency.hopes,
        pace=listed(Curve(shapes.most, cbrt) if latency.guessed else expected),
        shares={cost: price * part for cost, part in _parts(costs, expected, shapes).items()},
        shapes=shapes,
    )
    if oldest is not None:
        lanes = [lane for lane in lanes if lane.family is oldest.family]
    levels = [level for those in families_of(queue, lanes, view) for level in _levels(those, view)]
    if not levels:  # whoever looked promising cannot be on time
        for family in queue.index.families.values():
            those = sorted([lane for lane in family.lanes if lane.size], key=cost_of)
            levels += _levels(those, view)
    if oldest is not None:
        levels = [level for level in levels if cost_of(oldest) <= level.cost]
    rate, best = 0.0, list["Entry[T]"]()
    for tried, level in enumerate(sorted(levels, key=_most, reverse=True)):
        if level.most <= rate or (best and tried >= _LEVELS):
            break
        found, entries = _best_of(level, view)
        if found > rate:
            rate, best = found, entries
    return [request for _, _, request in sorted(best)]


def _levels(lanes: Sequence[Lane[T]], view: View) -> Iterator[_Level[T]]:
    """Yield a level for each cost at which somebody comes in who may be worth it."""
    pace, pool = view.pace, _Pool[T]([], [], [], [], max(1, _NEAR // max(1, len(lanes))))
    for cost, group in groupby(lanes, cost_of):
        loads = view.shapes.loads(cost)
        seats, more = len(loads) - 1, False
        del pool.far[seats:], pool.top[seats:]
        for lane in group:
            more |= _board(lane, view, pool, seats)
        if more:
            gains = [*accumulate([-rider[0] for rider in pool.top], initial=0.0)]
            counts = [*sizes(len(pool.top), 1)]
            rates = [gains[count] / pace[loads[count]] for count in counts]
            most = max(rates)
            size = counts[rates.index(most)]
            yield _Level(most, size, cost, [*pool.far], [*pool.near], [*pool.overdue])


def _board(lane: Lane[T], view: View, pool: _Pool[T], seats: int) -> bool:
    """Add those of a lane who may ride; return whether any of them may be worth it."""
    cost, start, full, weight = cost_of(lane), view.start, view.full, lane.weight
    loads, share = view.shapes.loads(cost), view.shares[cost]
    far, top, before, more = pool.far, pool.top, view.before, False
    if dated := lane.earliest < inf:
        share = min(share, weight)  # who is never served takes no seat
        soonest, latest = start + view.bounds[loads[1]] - ROUNDING, start + view.bounds[-1]
        entries = lane.due_from(soonest, latest, seats, pool.dense)
    else:
        # As if due after all that have a deadline.
        entries, latest = lane.first(seats), inf
        least = start + max(view.patience, view.bounds[loads[-1]])
    premium = max(0.0, weight - share)
    for entry in entries:
        due = entry[0] if dated else least
        gain = share + premium * exp(min(0.0, 1.0 - (due - start) / full))
        rider = -gain, entry[1], entry[0], entry
        if due < latest and dated:
            if len(far) < seats or rider < far[-1]:
                pool.near.append(rider)
        elif len(far) < seats or rider < far[-1]:
            insort(far, rider)
            del far[seats:]
        elif dated or entry[2].arrived > before:
            break  # those behind it gain no more
        if not dated and entry[2].arrived <= before:
            pool.overdue.append(rider)
        if len(top) < seats or rider < top[-1]:
            insort(top, rider)
            del top[seats:]
            more = True
    return more or (bool(pool.overdue) and not dated)


def _best_of(level: _Level[T], view: View) -> tuple[float, list[Entry[T]]]:
    """Return what its best batch gains per second, and that; who is overdue first."""
    if not level.near and not level.overdue:
        return level.most, [rider[3] for rider in level.far[: level.size]]
    pace, bounds, loads = view.pace, view.bounds, view.shapes.loads(level.cost)
    overdue = sorted(level.overdue, key=itemgetter(1))
    most = min(len(loads) - 1, len({*level.far, *overdue}) + len(level.near))
    kept = overdue[: max(1, most // 2)]
    staying = {rider[1] for rider in kept}
    far = [rider for rider in level.far if rider[1] not in staying]
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


_most = attrgetter("most")
