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

A decision takes about a millisecond at most, however many wait and however they differ. So those
next to each other in a lane who gain nearly the same are weighed as one block, and of very many
lanes those are looked at that promise the most: what is chosen is worth 99.5% of the best on
average, where everything that may differ does.

Pure.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import nlargest
from itertools import chain, groupby, islice
from math import cbrt, exp, inf, log
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from ._curve import Curve, listed
from ._selection import PATIENCE, ROUNDING, seat_cost, sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ._index import Family
    from ._lane import Lane
    from ._latency import LatencyModel
    from ._queue import Entry, Request, RequestQueue
    from ._shapes import Shapes

__all__ = ["TURNS", "best_pack", "first_pack", "out_of_reach"]

T = TypeVar("T")

# Whoever has no deadline is overdue after `PATIENCE` full batches, and so many times as long as
# all who wait take at their mean cost: being served in turn takes that long once.
TURNS = 2.0
# Neighbours in a lane are weighed as one block while the last of them gains this part of what the
# first does: with 0.7 the batches chosen are worth 0.3% less, with 0.9 it takes half as long again.
_ALIKE = 0.8
# Those who are not on time with every batch: a block of them is on time if its first is, so it is
# this part of them, and of a full batch, at most. Of very many some are looked at: so many requests
# are shared among the lanes of a key, at each of some places.
_SLICES, _NEAR = 4, 48
# Costs at which a batch is put together request by request: those that seem worth the most. A
# later one is hardly ever the best.
_LEVELS = 4
# So many lanes, or requests, are few enough to look at all of them.
_LANES, _FEW = 128, 256
# Of more lanes so many are looked at, those that are first; and of so many keys that fill a batch.
_FIRST, _FULL = 96, 16
# Of their keys so many are looked at in any case, the most promising ones, and others until there
# were so many lanes, each of which takes some microseconds.
_KEYS, _ENOUGH = 3, 64
# Lanes of the most promising key that are looked at besides, the largest ones of the first so many;
# of each key after it a quarter of those of the one before, at least so many.
_COMPANIONS, _AMONG, _SOME = 48, 512, 4

# Of neighbours in a lane: the mean of their gains, negative so that the best come first; the
# first of them, which is due first and decides between equal ones; and they.
_Block: TypeAlias = "tuple[float, Entry[T], list[Entry[T]]]"


class _Part(NamedTuple):
    """What is known of items of one cost.

    Attributes:
        loads: what batches of them count as, by their number.
        seats: how many fit into a batch.
        share: what a seat costs.
        soonest: whoever is due earlier cannot be on time.
        least: whoever is due then is on time with a full batch.
    """

    loads: Sequence[int]
    seats: int
    share: float
    soonest: float
    least: float


class _View(NamedTuple):
    """What a batch is chosen by.

    Attributes:
        start: the time from which a batch's duration counts.
        latest: whoever is due then or later is on time with any batch.
        full: seconds a full batch takes.
        patience: seconds after which who has no deadline is overdue.
        before: who came then or earlier is; -inf if nobody is.
        bounds: seconds a load is sure to take.
        pace: seconds that its gain is divided by.
        parts: what is known of each cost.
    """

    start: float
    latest: float
    full: float
    patience: float
    before: float
    bounds: Sequence[float]
    pace: Sequence[float]
    parts: Mapping[float, _Part]


class _Ranked(Generic[T]):
    """The best blocks: as many as it takes for so many seats.

    Attributes:
        least: who gains less is not among them; a gain is negative.
    """

    __slots__ = ("blocks", "held", "least", "seats")

    def __init__(self) -> None:
        self.blocks: list[_Block[T]] = []
        self.held = self.seats = 0
        self.least = inf

    def add(self, block: _Block[T]) -> None:
        """Take in one of them."""
        blocks = self.blocks
        insort(blocks, block)
        self.held += len(block[2])
        while self.held - len(blocks[-1][2]) >= self.seats:
            self.held -= len(blocks.pop()[2])
        if self.held >= self.seats:
            self.least = blocks[-1][0]

    def rate(self, loads: Sequence[int], pace: Sequence[float]) -> float:
        """Return what they gain per second, or those of them that gain the most."""
        most, count, gain, seats = 0.0, 0, 0.0, self.seats
        for negative, _, entries in self.blocks:
            count += (size := len(entries))
            gain -= negative * size
            if count >= seats:
                gain += negative * (count - seats)
                return max(most, gain / pace[loads[seats]])
            if gain > most * (seconds := pace[loads[count]]):
                most = gain / seconds
        return most


class _Level(NamedTuple, Generic[T]):
    """Those who could share a batch of that cost an item.

    Attributes:
        most: about what a batch of theirs gains per second, if all are on time.
        cost: of the dearest.
        far: those who are on time with any batch, the best first: as many as fit.
        near: those who are not.
        overdue: those whose turn it is.
    """

    most: float
    cost: float
    far: list[_Block[T]]
    near: list[_Block[T]]
    overdue: list[_Block[T]]


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
        found += [entry[2] for entry in lane.due_before(reached(_cost(lane)), most)]
    return found


def first_pack(
    queue: RequestQueue[T], late: Sequence[Request[T]], shapes: Shapes
) -> list[Request[T]]:
    """Return what is due first, or came first, and what is like it; nothing that is ``late``."""
    gone = {*late}
    fronts = [
        (entry, lane)
        for lane in _lanes(queue)
        for entry in islice((each for each in lane if each[2] not in gone), 1)
    ]
    first = min(fronts, key=itemgetter(0))[1]
    alike = [lane for lane in first.family.lanes if lane.shape == first.shape]
    seats = shapes.seats(_cost(first))
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
    costs, expected = queue.index.costs, listed(latency.expected)
    mean = shapes.rounded(sum([cost * count for cost, count in costs.items()]) / queue.size)
    most = shapes.seats(mean)
    full = expected[shapes.loads(mean)[most]]
    if not full:
        return []
    price = seat_cost(queue, late, now=now, full=full, limit=most, devices=devices)
    patience = (PATIENCE + TURNS * queue.size / most) * full
    lanes = _lanes(queue)
    oldest = _longest_waiting(lanes, now - patience)
    view = _View(
        start=start,
        latest=start + latency.hopes[-1],
        full=full,
        patience=patience,
        before=-inf if oldest is None else now - patience,
        bounds=latency.hopes,
        pace=listed(Curve(shapes.most, cbrt)) if latency.guessed else expected,
        parts=_parts(costs, latency.hopes, expected, shapes, start=start, price=price),
    )
    if oldest is not None:
        lanes = [lane for lane in lanes if lane.family is oldest.family]
    levels = _all_levels(queue, lanes, view)
    if oldest is not None:
        levels = [level for level in levels if level.cost >= _cost(oldest)]
    rate, best = 0.0, list["Entry[T]"]()
    for level in nlargest(_LEVELS, levels, key=_most):
        if level.most <= rate:
            break
        gain, entries = _best_of(level, view)
        if gain > rate:
            rate, best = gain, entries
    return [request for _, _, request in sorted(best)]


def _lanes(queue: RequestQueue[T]) -> list[Lane[T]]:
    """Return all lanes in which somebody waits, or of very many those that are first."""
    if queue.index.lanes > _LANES:
        return queue.index.first(_FIRST)
    families = queue.index.families.values()
    return [lane for family in families for lane in family.lanes if lane.size]


def _longest_waiting(lanes: Sequence[Lane[T]], before: float) -> Lane[T] | None:
    """Return the lane of who has no deadline and came first, if that was before then."""
    undated = [lane for lane in lanes if lane.listed <= before and lane.earliest == inf]
    return min(undated, key=attrgetter("listed"), default=None)


def _all_levels(queue: RequestQueue[T], lanes: Sequence[Lane[T]], view: _View) -> list[_Level[T]]:
    """Return the levels of the keys that promise the most."""
    levels = [level for those in _promising(queue, lanes, view) for level in _levels(those, view)]
    if not levels:  # whoever looked promising cannot be on time
        for family in queue.index.families.values():
            levels += _levels(sorted([lane for lane in family.lanes if lane.size], key=_cost), view)
    return levels


def _promising(
    queue: RequestQueue[T], lanes: Sequence[Lane[T]], view: _View
) -> Iterator[list[Lane[T]]]:
    """Yield, of the keys that promise the most, the lanes to look at, the cheapest first."""
    families: dict[Family[T], list[Lane[T]]] = {}
    for lane in lanes:
        families.setdefault(lane.family, []).append(lane)
    all_of_them = queue.index.lanes <= _LANES
    if not all_of_them and view.before == -inf:
        for family in queue.index.fullest(_FULL):
            families.setdefault(family, [])
    if len(families) == 1 or (all_of_them and queue.size <= _FEW):
        hopes = dict.fromkeys(families, inf)
    else:
        hopes = {
            each: max([_hope(lane, view) for lane in those or nlargest(1, each.lanes, key=_worth)])
            for each, those in families.items()
        }
    left, companions = _ENOUGH, _COMPANIONS
    for place, family in enumerate(sorted(families, key=hopes.__getitem__, reverse=True), 1):
        those = families[family]
        if not all_of_them:
            some = islice(family.lanes, _AMONG)
            those = [*dict.fromkeys(chain(nlargest(companions, some, key=_worth), those))]
            companions = max(_SOME, companions // 4)
        yield sorted([lane for lane in those if lane.size], key=_cost)
        left -= len(those)
        if left <= 0 and place >= _KEYS and hopes[family] < inf:
            return


def _hope(lane: Lane[T], view: _View) -> float:
    """Return about what a batch gains per second that the first of a lane rides in."""
    pace, part, gain = view.pace, view.parts[_cost(lane)], -_front(lane, view)
    loads, like = part.loads, min(lane.size, part.seats)
    others, share = min(int(lane.family.size), part.seats), min(part.share, lane.weight)
    return max(
        gain / pace[loads[1]],
        like * (gain + share) / 2.0 / pace[loads[like]],
        (gain + (others - 1) * share) / pace[loads[others]],
    )


def _levels(lanes: Sequence[Lane[T]], view: _View) -> Iterator[_Level[T]]:
    """Yield a level for each cost at which somebody comes in who may be worth it."""
    far: _Ranked[T] = _Ranked()
    top: _Ranked[T] = _Ranked()
    near: list[_Block[T]] = []
    overdue: list[_Block[T]] = []
    seen = 0
    for cost, group in groupby(lanes, _cost):
        part, those, more = view.parts[cost], [*group], False
        far.seats = top.seats = part.seats
        seen += len(those)
        for lane in those:
            if view.before == -inf and _front(lane, view) > far.least:
                continue  # nobody in it gains enough
            for block in _blocks(lane, view, max(1, _NEAR // seen)):
                due, _, first = block[1]
                if due == inf and first.arrived <= view.before:
                    overdue.append(block)
                elif block[0] > far.least:
                    break  # those behind it gain no more
                elif due < view.latest:
                    near.append(block)
                else:
                    far.add(block)
                top.add(block)
                more = True
        if more:
            yield _Level(top.rate(part.loads, view.pace), cost, [*far.blocks], [*near], [*overdue])


def _front(lane: Lane[T], view: _View) -> float:
    """Return what the first of a lane gains at most, negative."""
    return _gain(lane.weight, view.parts[_cost(lane)], view, lane.earliest)


def _gain(weight: float, part: _Part, view: _View, due: float) -> float:
    """Return what one of that weight and cost gains, negative so that the best come first."""
    share = part.share
    if due == inf:  # as if due after all that have a deadline
        due = max(part.least, view.start + view.patience)
    elif share > weight:
        share = weight  # who is never served takes no seat
    if share >= weight:
        return -share
    rank = 1.0 - (due - view.start) / view.full
    return -share - (weight - share) * exp(rank) if rank < 0.0 else -weight


def _blocks(lane: Lane[T], view: _View, dense: int) -> Iterator[_Block[T]]:
    """Yield those of a lane who may ride, those who gain the most first."""
    part, weight = view.parts[_cost(lane)], lane.weight
    if lane.earliest < view.latest:
        entries = lane.due_from(part.soonest, view.latest, part.seats, dense)
        few = min(part.seats, bisect_left(entries, (view.latest,))) // _SLICES
    else:
        entries, few = lane.first(part.seats), 0
    at, end, most = 0, len(entries), len(entries) if view.before == -inf else 1
    for due, _, _ in entries[-1:]:
        last = _gain(weight, part, view, due)
    while at < end:
        due, _, _ = entry = entries[at]
        gain = _gain(weight, part, view, due)
        count = min(end - at, most if due >= view.latest else max(1, few))
        if count > 1 and last > gain * _ALIKE:  # else all the others are alike
            # As if what they gain fell evenly.
            fall = log(last / gain) if last else -inf
            count = max(1, min(count, int((end - at) * log(_ALIKE) / fall)))
        if count > 1:
            due, _, _ = entries[at + count - 1]
            gain = (gain + _gain(weight, part, view, due)) / 2.0
        yield gain, entry, entries[at : at + count]
        at += count


def _best_of(level: _Level[T], view: _View) -> tuple[float, list[Entry[T]]]:
    """Return about what its best batch gains per second, and that; who is overdue first."""
    pace, bounds, loads = view.pace, view.bounds, view.parts[level.cost].loads
    overdue = sorted(level.overdue, key=_number)
    most = min(len(loads) - 1, _size([*level.far, *level.near, *overdue]))
    half = max(1, most // 2)
    kept, inside = overdue[:half], sorted([*level.far, *overdue[half:]])
    near = sorted(level.near, key=_first)
    dues, worth = [block[1][0] for block in near], -sum([block[0] for block in kept])
    # Batches become smaller and quicker. Inside are those on time with the one looked at, the
    # best first; the last may have more than there are seats.
    held, total = _size(inside), -sum([block[0] * len(block[2]) for block in inside])
    last, rate, size = len(near), 0.0, 0
    for count in sizes(most, max(1, len(kept))):
        load, seats = loads[count], count - len(kept)
        first = bisect_left(dues, view.start + bounds[load] - ROUNDING, 0, last)
        for block in near[first:last]:
            insort(inside, block)
            held += len(block[2])
            total -= block[0] * len(block[2])
        last = first
        while inside and held - len(inside[-1][2]) >= seats:
            gain, _, those = inside.pop()
            held -= len(those)
            total += gain * len(those)
        if held >= seats:
            value = worth + total + (held - seats) * (inside[-1][0] if inside else 0.0)
            if value > rate * pace[load]:
                rate, size = value / pace[load], count
    by = view.start + bounds[loads[size]] - ROUNDING
    ranked = sorted([*level.far, *overdue[half:], *level.near])
    riders = [entry for _, _, entries in ranked for entry in entries if entry[0] >= by]
    return rate, [*[block[1] for block in kept], *riders[: size - len(kept)]]


def _size(blocks: Sequence[_Block[T]]) -> int:
    """Return how many there are in some blocks."""
    return sum([len(block[2]) for block in blocks])


def _cost(lane: Lane[Any]) -> float:
    """Return what each item in it costs."""
    return lane.shape.cost if lane.shape else 1.0


def _parts(
    costs: Mapping[float, int],
    bounds: Sequence[float],
    expected: Sequence[float],
    shapes: Shapes,
    *,
    start: float,
    price: float,
) -> dict[float, _Part]:
    """Return what is known of each cost; the price is that of a mean seat."""
    loads = {cost: shapes.loads(cost) for cost in costs}
    seconds = {cost: expected[each[-1]] / (len(each) - 1) for cost, each in loads.items()}
    mean = sum([seconds[cost] * count for cost, count in costs.items()]) / sum(costs.values())
    return {
        cost: _Part(
            loads=each,
            seats=len(each) - 1,
            share=price * seconds[cost] / mean,
            soonest=start + bounds[each[1]] - ROUNDING,
            least=start + bounds[each[-1]],
        )
        for cost, each in loads.items()
    }


def _worth(lane: Lane[Any]) -> float:
    return lane.weight * lane.size


def _number(block: _Block[Any]) -> int:
    return block[1][1]


_first, _most = itemgetter(1), attrgetter("most")
