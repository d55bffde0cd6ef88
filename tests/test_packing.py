"""Which items share a batch, when they differ in what they cost."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from operator import itemgetter
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, strategies as st

from tests.foreseeable import Foreseeable
from trio_batcher._outcomes import ShapedRequest
from trio_batcher._packing import best_pack, first_pack, out_of_reach
from trio_batcher._queue import RequestQueue
from trio_batcher._selection import PATIENCE, seat_cost
from trio_batcher._shapes import Shapes

NOW = 1000.0
TINY = 1e-9


@dataclass(frozen=True)
class Line(Foreseeable):
    """A device: a load of n takes ``fixed + per_load * n``, and is sure within ``margin`` of it."""

    most: int
    fixed: float
    per_load: float
    margin: float = 1.0

    @property
    def expected(self) -> list[float]:
        return [0.0, *(self.fixed + self.per_load * n for n in range(1, self.most + 1))]

    @property
    def bounds(self) -> list[float]:
        return [self.margin * seconds for seconds in self.expected]


class Case(NamedTuple):
    """Requests as (cost, key, seconds until due, seconds waited, weight), and a device."""

    requests: list[tuple[float, int, float, float, float]]
    seats: int = 4
    most: float = 64.0
    fixed: float = 0.5
    per_load: float = 0.125
    margin: float = 1.0

    @property
    def shapes(self) -> Shapes:
        return Shapes(lambda item: item[1], lambda item: item[0], self.most, self.seats)

    @property
    def line(self) -> Line:
        return Line(self.shapes.most, self.fixed, self.per_load, self.margin)

    def queue(self) -> RequestQueue:
        queue, shapes = RequestQueue(), self.shapes
        for item in sorted(self.requests, key=itemgetter(3), reverse=True):
            _, _, due, waited, weight = item
            shape = shapes.of(item)
            queue.add(ShapedRequest(item, NOW + due, NOW - waited, weight, shape))
        return queue

    def late(self, queue: RequestQueue) -> list:
        return out_of_reach(queue, NOW, math.inf, self.line.bounds, self.shapes)

    def pack(self, queue: RequestQueue) -> list:
        return best_pack(
            queue,
            self.late(queue),
            now=NOW,
            start=NOW,
            latency=self.line,
            shapes=self.shapes,
            devices=1,
        )


DEADLINES = st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, 10.0, math.inf])


@st.composite
def cases(draw, deadlines=DEADLINES, most=8):
    request = st.tuples(
        st.sampled_from([1.0, 2.0, 5.0, 8.0, 16.0, 50.0]),
        st.integers(0, 1),
        deadlines,
        st.sampled_from([0.0, 0.1, 1.0, 20.0, 500.0]),
        st.sampled_from([0.5, 1.0, 4.0]),
    )
    return Case(
        draw(st.lists(request, min_size=1, max_size=most)),
        seats=draw(st.integers(1, 5)),
        fixed=draw(st.sampled_from([0.0, 0.25, 1.0])),
        per_load=draw(st.sampled_from([0.03125, 0.125])),
        margin=draw(st.sampled_from([1.0, 1.25])),
    )


def shapes_of(batch) -> tuple[set, float]:
    return {request.shape.key for request in batch}, max(each.shape.cost for each in batch)


@given(cases())
def test_a_pack_can_be_run(case):
    """One key, no dearer than may be, all of it waiting, and nobody late in it."""
    queue = case.queue()
    late, batch = case.late(queue), case.pack(queue)
    if len(late) == queue.size:
        assert not batch
        return
    assert batch
    keys, cost = shapes_of(batch)
    assert len(keys) == 1
    assert len({*batch}) == len(batch) <= case.seats
    assert len(batch) * cost <= case.most
    assert all(request.lane for request in batch)
    done = NOW + case.line.bounds[case.shapes.load_of([each.shape for each in batch])]
    assert all(request.deadline >= done - TINY for request in batch)


def gains(case: Case, queue: RequestQueue) -> tuple[dict, float]:
    """What the room's docstring says that each gains, and when the longest wait is over."""
    requests, shapes, expected = [*queue], case.shapes, case.line.expected
    costs = [request.shape.cost for request in requests]
    mean = shapes.rounded(sum(costs) / len(costs))
    full = expected[shapes.loads(mean)[-1]]
    seats = shapes.seats(mean)
    price = seat_cost(queue, case.late(queue), now=NOW, full=full, limit=seats, devices=1)
    part = {cost: expected[shapes.loads(cost)[-1]] / shapes.seats(cost) for cost in costs}
    average = sum(part[cost] for cost in costs) / len(costs)
    patience = (PATIENCE + 2.0 * len(requests) / seats) * full
    gain = {}
    for request in requests:
        share = price * part[request.shape.cost] / average
        until = request.deadline - NOW
        if until == math.inf:
            loads = shapes.loads(request.shape.cost)
            least = case.line.bounds[loads[-1]]
            until = max(least, request.arrived + patience - NOW)
        else:
            share = min(share, request.weight)
        urgency = math.exp(min(0.0, 1.0 - until / full))
        gain[request] = share + max(0.0, request.weight - share) * urgency
    return gain, NOW - patience


@given(cases(most=6))
def test_a_pack_gains_the_most_per_second(case):
    """Of all batches there could be: tried one by one."""
    queue = case.queue()
    gain, before = gains(case, queue)
    if any(each.deadline == math.inf and each.arrived <= before for each in queue):
        return  # somebody has to ride; see below
    batch, best = case.pack(queue), 0.0
    expected, bounds = case.line.expected, case.line.bounds
    by_key = defaultdict(list)
    for request in queue:
        by_key[request.shape.key].append(request)
    for requests in by_key.values():
        for size in range(1, case.seats + 1):
            for some in combinations(requests, size):
                loads = case.shapes.loads(max(each.shape.cost for each in some))
                if len(loads) <= size:
                    continue
                done = NOW + bounds[loads[size]] - TINY
                if all(each.deadline >= done for each in some):
                    best = max(best, sum(map(gain.get, some)) / expected[loads[size]])
    load = case.shapes.load_of([each.shape for each in batch]) if batch else 1
    assert math.isclose(sum(map(gain.get, batch)) / expected[load], best, rel_tol=1e-9)


@given(cases(deadlines=st.just(math.inf), most=12))
def test_who_has_waited_long_enough_rides(case):
    """The one that came first of those without a deadline; of the same kind, the earliest ride."""
    queue = case.queue()
    _, before = gains(case, queue)
    batch = case.pack(queue)
    oldest = min(queue, key=lambda request: request.arrived)
    if oldest.arrived <= before:
        assert min(request.arrived for request in batch) == oldest.arrived
    for request in batch:
        alike = [
            other
            for other in queue
            if (other.shape, other.weight) == (request.shape, request.weight)
        ]
        behind = alike[: alike.index(request)]
        assert all(other in batch for other in behind if other.arrived <= request.arrived)


@given(cases())
def test_out_of_reach_are_those_who_would_be_late_alone(case):
    """Each by what it costs itself; and nobody whom another device can still serve."""
    queue = case.queue()
    bounds, shapes = case.line.bounds, case.shapes
    for latest in (math.inf, NOW + 1.0):
        late = out_of_reach(queue, NOW, latest, bounds, shapes)
        assert {*late} == {
            each
            for each in queue
            if each.deadline < min(NOW + bounds[shapes.loads(each.shape.cost)[1]], latest) - TINY
        }


@given(cases())
def test_before_anything_is_known_those_alike_are_run(case):
    """Whoever is due first and as many of its kind as fit: the padding is no riddle then."""
    queue = case.queue()
    late = case.late(queue)
    if len(late) == queue.size:
        late = []
    left = [request for request in queue if request not in late]
    batch = first_pack(queue, late, case.shapes)
    first = left[0]
    assert batch[0] is first
    alike = [request for request in left if request.shape == first.shape]
    assert batch == alike[: case.shapes.seats(first.shape.cost)]


def test_nobody_rides_on_a_device_of_which_nothing_is_known():
    """There is nothing to choose by."""
    case = Case([(1.0, 0, 1.0, 0.0, 1.0)], fixed=0.0, per_load=0.0)
    assert case.pack(case.queue()) == []


def test_short_ones_ride_along_where_padding_is_cheap():
    """And not where it is dear: what is fixed decides."""
    requests = [(50.0, 0, math.inf, 0.0, 1.0), *[(5.0, 0, math.inf, 0.0, 1.0)] * 3]
    cheap = Case(requests, seats=8, most=400.0, fixed=10.0, per_load=0.01)
    dear = Case(requests, seats=8, most=400.0, fixed=0.01, per_load=1.0)
    queue = cheap.queue()
    assert len(cheap.pack(queue)) == 4
    queue = dear.queue()
    assert {request.item[0] for request in dear.pack(queue)} in ({5.0}, {50.0})


def highest(case: Case, queue: RequestQueue) -> float:
    """What any batch gains per second at most: of each key, cost and size the best are taken."""
    gain, _ = gains(case, queue)
    expected, bounds = case.line.expected, case.line.bounds
    by_key, best = defaultdict(list), 0.0
    for request in queue:
        by_key[request.shape.key].append((gain[request], request.deadline, request.shape.cost))
    for those in by_key.values():
        for cost in {each[2] for each in those}:
            ranked = sorted([each for each in those if each[2] <= cost], reverse=True)
            for size, load in enumerate(case.shapes.loads(cost)[1:], 1):
                done = NOW + bounds[load] - TINY
                some = [worth for worth, due, _ in ranked if due >= done][:size]
                if len(some) == size:
                    best = max(best, sum(some) / expected[load])
    return best


def worth(case: Case, queue: RequestQueue) -> float:
    """What the batch that is chosen gains per second, as part of the most there is."""
    gain, _ = gains(case, queue)
    batch = case.pack(queue)
    load = case.shapes.load_of([each.shape for each in batch])
    return sum(map(gain.get, batch)) / case.line.expected[load] / highest(case, queue)


def crowd(seed: int, keys: int, costs: int, *, waiting=600, weights=(1.0, 2.0, 8.0), near=2.0):
    """So many who wait, due soon, later or never."""
    rng = Random(seed)
    requests = [
        (
            float(rng.randint(1, costs)),
            rng.randrange(keys),
            rng.choice([near * rng.random(), 20.0 * rng.random(), math.inf]),
            rng.random(),
            rng.choice(weights),
        )
        for _ in range(waiting)
    ]
    return Case(requests, seats=16, most=16.0 * costs, fixed=0.5, per_load=0.02, margin=1.1)


CROWDS = {
    "alike": (1, 1, {}),
    "all due soon": (1, 1, {"near": 1.0, "weights": (1.0,)}),
    "a few keys": (4, 1, {}),
    "costs": (1, 60, {"weights": (1.0,)}),
    "costs and weights": (1, 60, {}),
    "a few keys, costs and weights": (3, 30, {}),
    "very many keys": (300, 1, {}),
    "very many keys and costs": (300, 8, {}),
    "all keys differ": (10_000, 4, {}),
}


@pytest.mark.parametrize("kind", CROWDS)
def test_of_very_many_what_is_chosen_is_worth_nearly_the_most(kind):
    """Neighbours in a lane are weighed as one, and of very many lanes some are looked at."""
    keys, costs, more = CROWDS[kind]
    parts = []
    for seed in range(6):
        case = crowd(seed, keys, costs, **more)
        parts.append(worth(case, case.queue()))
    assert sum(parts) / len(parts) >= 0.95
    assert min(parts) >= 0.75


def test_who_can_be_on_time_is_found_behind_very_many_who_cannot():
    """However much those promised, and though each has a lane of its own."""
    late = [(1.0, key, 0.1, 0.0, 4.0) for key in range(300)]
    case = Case([*late, (1.0, 1000, 5.0, 0.0, 0.5), (2.0, 1000, 5.0, 0.0, 0.5)])
    queue = case.queue()
    assert len(case.late(queue)) == 300
    assert {request.item[1] for request in case.pack(queue)} == {1000}


def test_of_very_many_out_of_reach_some_are_told_of():
    """No fewer than asked for: the others hear of it when there is time."""
    case = Case([(1.0, key, 0.1, 0.0, 1.0) for key in range(40)])
    queue = case.queue()
    some = out_of_reach(queue, NOW, math.inf, case.line.bounds, case.shapes, most=5)
    assert 5 < len(some) < 40


@pytest.mark.parametrize("keys", [1, 200])
def test_whoever_waits_longest_rides_though_very_many_are_worth_more(keys):
    """Of its key alone is chosen then."""
    case = crowd(1, keys, 20, weights=(8.0,))
    old = (7.0, 0, math.inf, 1e6, 0.5)
    case = case._replace(requests=[*case.requests, old])
    batch = case.pack(case.queue())
    assert old in [request.item for request in batch]
    assert len(batch) > 1
