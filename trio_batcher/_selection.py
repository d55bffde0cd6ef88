"""Who rides in the next batch when not everybody can.

A batch is worth, per second that it takes, what its members gain by riding now instead of
staying behind:

    max over b of  Σ gain(i) / l(b),     gain(i) = c + (w(i) - c) · exp(-s(i) / l(B))

over the b requests of the largest gain among those that are on time after l(b) seconds.
w is a request's weight; l(B) is what a full batch takes; s is the slack that is left when the
batch is done. Who has little slack is hardly served later; who has much makes room. c is what
a seat in a later batch costs, the weight of whoever will not get one, and w where that is
less: little without pressure, and in overload, where waiting only takes somebody else's place,
so much that everybody counts nearly alike and the batch is as full as can be.

The ratio is the criterion of renewal-reward theory (S. M. Ross, "Applied Probability Models
with Optimization Applications", 1970), the exponential a guess at the chance of being lost. It
has a practical side too: the factor exp(l(b) / l(B)) is the same for all, so the order among
requests does not depend on b. How near this comes to the optimum: docs/scheduling.md.

Pure.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from heapq import nlargest
from itertools import accumulate, chain, islice, repeat
from math import exp
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._latency import LatencyModel
    from ._queue import Entry, Request, RequestQueue

__all__ = ["PATIENCE", "ROUNDING", "best_batch", "load_of", "seat_cost", "sizes"]

T = TypeVar("T")

# A request without a deadline is overdue after so many full batches. Half of the seats are
# kept for those who are.
PATIENCE = 10.0
# Demand is who waits and who will come during so many full batches, per seat in those and
# in this one. A seat is free while that is below the one, and is sure to be missed above the
# other; then its price is this part of the weight. The lightest step is charged at least the
# least part: who has much slack should not wait for ever for a quiet moment. All were found by
# simulation.
_HORIZON = 1.5
_CALM, _CROWDED = 0.9, 1.5
_PRICE = 2.0 / 3.0
_LEAST = 0.2
# Arrivals that make a rate.
_ENOUGH = 8
# Deadlines that are met on paper are met in spite of rounding, seconds.
ROUNDING = 1e-9
# So many full batches are as long as any: bounds far above what is expected would overflow.
_AGES = 50.0


class _Row(Generic[T]):
    """Those of a lane that may ride: when they are due, the earliest first, and their ranks."""

    __slots__ = ("dues", "entries", "ranks", "weight")

    def __init__(self, weight: float, entries: Sequence[Entry[T]], dues: list[float]) -> None:
        self.weight = weight
        self.entries = entries
        self.dues = dues
        self.ranks: list[float] = []


def best_batch(
    queue: RequestQueue[T],
    late: Sequence[Request[T]],
    *,
    now: float,
    start: float,
    latency: LatencyModel,
    limit: int,
    devices: int,
) -> list[Request[T]]:
    """Return the batch to run; empty if nobody can be on time, or nothing is known of the device.

    Args:
        queue: the waiting requests.
        late: those of them whom even a batch of one would come too late for.
        now: the time.
        start: the time from which a batch's duration counts for its members.
        latency: what is known of the device.
        limit: most requests in the batch.
        devices: how many share the queue.
    """
    expected, bounds = latency.expected, latency.bounds
    full = expected[limit]
    if not full:
        return []
    cost = seat_cost(queue, late, now=now, full=full, limit=limit, devices=devices)
    overdue = _overdue(queue, now - PATIENCE * full, max(1, limit // 2))
    if latency.residuals.chances:
        soonest, latest = (
            start + expected[1] * latency.residuals.chances[0],
            start + full * latency.residuals.chances[-1],
        )
    else:
        soonest, latest = start + bounds[1] - ROUNDING, start + bounds[limit]
    rows = list(
        _rows(
            queue,
            soonest=soonest,
            latest=latest,
            start=start,
            limit=limit,
            patience=PATIENCE * full,
            overdue=overdue,
        )
    )
    if latency.residuals.chances:
        return _likeliest(
            rows,
            overdue,
            start=start,
            cost=cost,
            expected=expected,
            chances=latency.residuals.chances,
            limit=limit,
        )
    if len(rows) == 1 and not overdue:
        return _first_of(rows[0], cost, start=start, expected=expected, bounds=bounds, limit=limit)
    rows.sort(key=attrgetter("weight"), reverse=True)
    above = [row for row in rows if row.weight > cost]
    below = rows[len(above) :]
    for row in above:
        premium = row.weight - cost
        row.ranks = [premium * exp((start - due) / full) for due in row.dues]
    size = _best_size(
        above, below, overdue, start=start, cost=cost, expected=expected, bounds=bounds, limit=limit
    )
    riders = _riders(above, below, size - len(overdue), start + bounds[size] - ROUNDING)
    return [request for _, _, request in sorted(overdue + riders)]


def _best_size(
    above: Sequence[_Row[T]],
    below: Sequence[_Row[T]],
    overdue: Sequence[Entry[T]],
    *,
    start: float,
    cost: float,
    expected: Sequence[float],
    bounds: Sequence[float],
    limit: int,
) -> int:
    full, kept = expected[limit], len(overdue)
    # They ride whatever the size; what they are worth is no reason for a small batch.
    worth = sum([min(cost, entry[2].weight) for entry in overdue])
    # What the heaviest so many are worth: no batch of that size gains more.
    weights = [repeat(row.weight, len(row.dues)) for row in chain(above, below)]
    heaviest = islice(chain([entry[2].weight for entry in overdue], *weights), limit)
    at_most = [*accumulate(heaviest, initial=0.0)]
    # Batches become smaller and quicker. Those above the cost of a seat who are on time with
    # the one looked at are inside: their ranks, negative, the least last.
    pairs = sorted(chain.from_iterable([zip(row.dues, row.ranks) for row in above]))  # noqa: B905
    dues, ranks = [due for due, _ in pairs], [rank for _, rank in pairs]
    last, inside, total = len(dues), list[float](), 0.0
    best, best_size = -1.0, 0
    for size in sizes(len(at_most) - 1, max(1, kept)):
        if at_most[size] <= best * expected[size]:
            continue
        seats, by = size - kept, start + bounds[size] - ROUNDING
        first = bisect_left(dues, by, 0, last)
        for rank in ranks[first:last]:
            insort(inside, -rank)
            total += rank
        last = first
        while len(inside) > seats:
            total += inside.pop()
        taken = len(inside)
        value = worth + cost * taken + total * exp(min(bounds[size] / full, _AGES))
        for row in below:
            count = min(seats - taken, len(row.dues) - bisect_left(row.dues, by))
            value += count * row.weight
            taken += count
        if taken == seats and value > best * expected[size]:
            best, best_size = value / expected[size], size
    return best_size


def _first_of(
    row: _Row[T],
    cost: float,
    *,
    start: float,
    expected: Sequence[float],
    bounds: Sequence[float],
    limit: int,
) -> list[Request[T]]:
    # The best batch if all have one weight: those ride who are on time and due first.
    dues, full, weight = row.dues, expected[limit], row.weight
    cost = min(cost, weight)
    ranks = [(weight - cost) * exp((start - due) / full) for due in dues]
    sums = [*accumulate(ranks, initial=0.0)]
    best, first, end, chosen = 0.0, len(dues), len(dues), slice(0)
    for size in sizes(min(limit, end), 1):
        if size * weight <= best * expected[size]:
            continue
        first = bisect_left(dues, start + bounds[size] - ROUNDING, 0, first)
        last = first + size
        if last <= end:
            gain = (sums[last] - sums[first]) * exp(min(bounds[size] / full, _AGES))
            value = (cost * size + gain) / expected[size]
            if value > best:
                best, chosen = value, slice(first, last)
    return [request for _, _, request in row.entries[chosen]]


def _likeliest(
    rows: Sequence[_Row[T]],
    overdue: Sequence[Entry[T]],
    *,
    start: float,
    cost: float,
    expected: Sequence[float],
    chances: Sequence[float],
    limit: int,
) -> list[Request[T]]:
    """Return the best batch where what it takes is chance: each gain counts by its chance."""
    full, kept = expected[limit], len(overdue)
    candidates: list[tuple[float, float, float, Entry[T]]] = []
    for row in rows:
        # If far more wait than fit, those with the most time left.
        for due, entry in zip(row.dues[-4 * limit :], row.entries[-4 * limit :], strict=True):
            candidates.append((row.weight, due, (start - due) / full, entry))
    worth = sum([min(cost, entry[2].weight) for entry in overdue])  # as in `_best_size`
    best, chosen = 0.0, list["Entry[T]"]()
    size = min(limit, len(candidates) + kept)
    while size >= max(1, kept):
        seconds = expected[size]
        ends = [start + chance * seconds for chance in chances]
        share = seconds / full
        scored = [
            (
                (weight if weight <= cost else cost + (weight - cost) * exp(min(0.0, rank + share)))
                * (likely := bisect_right(ends, due)),
                -entry[1],
                weight * likely,
                entry,
            )
            for weight, due, rank, entry in candidates
        ]
        found = nlargest(size - kept, scored)
        value = (worth + sum([each[2] for each in found]) / len(chances)) / seconds
        if value > best:
            best, chosen = value, [each[3] for each in found if each[0]]
        size -= max(1, size // 4)
    return [request for _, _, request in sorted([*overdue, *chosen])]


def sizes(most: int, least: int) -> Iterator[int]:
    """Yield sizes from the largest to the smallest: all, or of hundreds every 32nd part."""
    size = most
    while size > least:
        yield size
        size -= max(1, size // 32)
    if most >= least:
        yield least


def load_of(queue: RequestQueue[T], now: float, full: float, seats: int) -> float:
    """Return how many have come of late in the time of a full batch, by seats in that."""
    since, recent = queue.recent()
    count = sum(recent.values())
    if now <= since or count < _ENOUGH or not seats:  # none, if no batch has ended well yet
        return 0.0
    return count * full / (now - since) / seats


def seat_cost(
    queue: RequestQueue[T],
    late: Sequence[Request[T]],
    *,
    now: float,
    full: float,
    limit: int,
    devices: int,
) -> float:
    """Return c: for each step of weight, by how many seats those above it are short."""
    demand: defaultdict[float, float] = defaultdict(float)
    for tally in queue.tallies.values():
        demand[tally.weight] += tally.size
    for weight, count in Counter([request.weight for request in late]).items():
        demand[weight] -= count
    since, recent = queue.recent()
    if now > since and sum(recent.values()) >= _ENOUGH:
        for weight, count in recent.items():
            demand[weight] += count * _HORIZON * full / (now - since)
    seats = (1.0 + _HORIZON) * limit * devices
    weights = sorted([weight for weight, count in demand.items() if count], reverse=True)
    cost = total = 0.0
    for weight, lower in zip(weights, [*weights, 0.0][1:], strict=True):
        total += demand[weight] / seats
        shortage = (total - _CALM) / (_CROWDED - _CALM)
        least = 0.0 if lower else _LEAST
        cost += (weight - lower) * min(1.0, max(least, shortage))
    return _PRICE * cost


def _overdue(queue: RequestQueue[T], before: float, most: int) -> list[Entry[T]]:
    """Return up to ``most`` of those without a deadline that came before that, the oldest first."""
    fronts = [lane.first(most) for lane in queue.undue.values() if lane.size]
    waited = [entry for entry in chain.from_iterable(fronts) if entry[2].arrived <= before]
    waited.sort(key=itemgetter(1))
    return waited[:most]


def _rows(
    queue: RequestQueue[T],
    *,
    soonest: float,
    latest: float,
    start: float,
    limit: int,
    patience: float,
    overdue: Sequence[Entry[T]],
) -> Iterator[_Row[T]]:
    for lane in queue.due.values():
        if lane.size:
            entries = lane.due_from(soonest, latest, limit, limit)
            yield _Row(lane.weight, entries, [entry[0] for entry in entries])
    for lane in queue.undue.values():
        if lane.size:
            entries = lane.first(limit)
            if overdue:
                riding = {entry[1] for entry in overdue}
                entries = [entry for entry in entries if entry[1] not in riding]
            # As if due after all that have a deadline.
            yield _Row(lane.weight, entries, [max(latest, start + patience)] * len(entries))


def _riders(
    above: Sequence[_Row[T]], below: Sequence[_Row[T]], seats: int, by: float
) -> list[Entry[T]]:
    ranked: list[tuple[float, Entry[T]]] = []
    for row in above:
        first = bisect_left(row.dues, by)
        end = first + seats
        ranked += zip(row.ranks[first:end], row.entries[first:end], strict=True)
    ranked.sort(key=itemgetter(0), reverse=True)
    riders = [entry for _, entry in ranked[:seats]]
    for row in below:
        first = bisect_left(row.dues, by)
        riders += row.entries[first : first + seats - len(riders)]
    return riders
