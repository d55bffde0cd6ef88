"""Who rides when not everybody can, against trying every batch there could be."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings, strategies as st

from tests.foreseeable import Chance, Foreseeable
from trio_batcher import _selection
from trio_batcher._lane import RECENT
from trio_batcher._latency import LatencyModel
from trio_batcher._queue import Request, RequestQueue
from trio_batcher._selection import PATIENCE, best_batch, load_of

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = 100.0
ROUNDING = 1e-9
FEW = 7  # requests, all batches of which can be tried
# What a seat costs of the lightest weight while there are plenty, and at the most.
CALM, CROWDED = _selection._PRICE * _selection._LEAST, _selection._PRICE


@dataclass(frozen=True)
class Known(Foreseeable):
    """A device whose batches take so long, by size: as expected, and for sure."""

    expected: list[float]
    bounds: list[float]


class Case(NamedTuple):
    """Everything a batch is chosen from, in seconds from now."""

    requests: list[tuple[float, float, float]]  # (deadline, arrival, weight)
    latency: Known
    gone: Sequence[tuple[float, float]] = ()  # (arrival, weight) of those that came and left
    delivery: float = 0.0
    devices: int = 1

    @property
    def limit(self) -> int:
        return len(self.latency.expected) - 1

    @property
    def full(self) -> float:
        return self.latency.expected[-1]

    @property
    def start(self) -> float:
        return NOW + self.delivery

    def queue(self) -> RequestQueue:
        queue: RequestQueue = RequestQueue()
        for number, (arrival, weight) in enumerate(self.gone):
            deadline = math.inf if number % 2 else NOW
            request = Request("gone", deadline, NOW + arrival, weight)
            queue.add(request)
            queue.discard(request)
        for number, (deadline, arrival, weight) in enumerate(self.requests):
            queue.add(Request(number, NOW + deadline, NOW + arrival, weight))
        return queue

    def late(self, queue: RequestQueue) -> list[Request]:
        return queue.due_before(self.start + self.latency.bounds[1] - ROUNDING)

    def choose(self, queue: RequestQueue) -> list[Request]:
        return best_batch(
            queue,
            self.late(queue),
            now=NOW,
            start=self.start,
            latency=self.latency,
            limit=self.limit,
            devices=self.devices,
        )

    # The slow way, as the room describes it

    def in_time(self, request: Request, size: int) -> bool:
        return request.deadline >= self.start + self.latency.bounds[size] - ROUNDING

    def overdue(self, queue: RequestQueue) -> list[Request]:
        """Those without a deadline who waited long enough, the oldest half a batch of them."""
        waited = [
            request
            for request in sorted(queue, key=lambda request: request.item)
            if request.deadline == math.inf and request.arrived <= NOW - PATIENCE * self.full
        ]
        return waited[: max(1, self.limit // 2)]

    def cost(self, queue: RequestQueue) -> float:
        """The sum over steps of weight of how crowded it is for those above the step."""
        late = self.late(queue)
        demand = [(request.weight, 1.0) for request in queue if request not in late]
        came = sorted(
            [*self.gone, *((arrival, weight) for _, arrival, weight in self.requests)],
        )
        since = min([arrival for arrival, _ in came[-RECENT:]], default=0.0)
        counts = Counter([weight for arrival, weight in came if arrival >= since])
        recent = [each for each, count in counts.items() for _ in range(min(count, RECENT))]
        if len(recent) >= _selection._ENOUGH and since < 0.0:
            demand += [(weight, _selection._HORIZON * self.full / -since) for weight in recent]
        seats = (1.0 + _selection._HORIZON) * self.limit * self.devices
        cost = last = 0.0
        for step in sorted({weight for weight, _ in demand}):
            filled = sum(count for weight, count in demand if weight >= step) / seats
            crowded = (filled - _selection._CALM) / (_selection._CROWDED - _selection._CALM)
            least = 0.0 if last else _selection._LEAST
            cost += (step - last) * min(1.0, max(least, crowded))
            last = step
        return _selection._PRICE * cost

    def gain(self, request: Request, size: int, cost: float) -> float:
        due = request.deadline
        if due == math.inf:
            # As if due after all that have a deadline.
            due = self.start + max(self.latency.bounds[self.limit], PATIENCE * self.full)
        slack = due - (self.start + self.latency.bounds[size])
        floor = min(cost, request.weight)
        return floor + (request.weight - floor) * math.exp(-slack / self.full)

    def worth(self, batch: list[Request], overdue: list[Request], cost: float) -> float:
        """What a second of it gains."""
        size = len(batch)
        gains = [
            min(cost, request.weight) if request in overdue else self.gain(request, size, cost)
            for request in batch
        ]
        return math.fsum(gains) / self.latency.expected[size]

    def tried(self, queue: RequestQueue) -> float:
        """The most that any batch is worth: of any size, of anybody who is on time."""
        overdue, cost = self.overdue(queue), self.cost(queue)
        others = [request for request in queue if request not in overdue]
        best = 0.0
        for size in range(max(1, len(overdue)), self.limit + 1):
            possible = [request for request in others if self.in_time(request, size)]
            for rest in combinations(possible, size - len(overdue)):
                best = max(best, self.worth([*overdue, *rest], overdue, cost))
        return best

    def sorted_out(self, queue: RequestQueue) -> float:
        """The same for too many to try: of each size, those who gain the most."""
        overdue, cost = self.overdue(queue), self.cost(queue)
        others = [request for request in queue if request not in overdue]
        best = 0.0
        for size in range(max(1, len(overdue)), self.limit + 1):
            gains = sorted(
                self.gain(request, size, cost) for request in others if self.in_time(request, size)
            )
            seats = size - len(overdue)
            if seats <= len(gains):
                sure = sum(min(cost, request.weight) for request in overdue)
                value = sure + math.fsum(gains[len(gains) - seats :])
                best = max(best, value / self.latency.expected[size])
        return best


def line(fixed: float, per_item: float, limit: int, margin: float = 1.0) -> Known:
    expected = [0.0, *(fixed + per_item * size for size in range(1, limit + 1))]
    return Known(expected, [margin * seconds for seconds in expected])


# Eight seats a batch; so many may wait before one becomes dearer, and so many until it is dearest.
EIGHT = line(0.1, 0.1, 8)
FREE = math.floor(_selection._CALM * (1.0 + _selection._HORIZON) * 8)
SHORT = math.ceil(_selection._CROWDED * (1.0 + _selection._HORIZON) * 8)


def items(batch: list[Request]) -> list[int]:
    return [request.item for request in batch]


# Round numbers mostly, so that deadlines are equal, and met and missed exactly.
allowances = (
    st.just(math.inf)
    | st.integers(-2, 40).map(lambda n: n / 10)
    | st.floats(-0.5, 8.0, allow_nan=False)
)
weights = st.sampled_from([1.0, 1.0, 1.0, 2.0, 4.0, 0.125])


@st.composite
def latencies(draw, most: int) -> Known:
    steps = draw(st.lists(st.integers(0, 5), min_size=1, max_size=most))
    steps[0] += 1
    expected, bounds = [0.0], [0.0]
    for step in steps:
        expected.append(expected[-1] + step / 10)
        bounds.append(max(bounds[-1], expected[-1] * draw(st.sampled_from([1.0, 1.0, 1.05, 1.5]))))
    return Known(expected, bounds)


@st.composite
def cases(draw, most: int, largest: int) -> Case:
    latency = draw(latencies(largest))
    ages = sorted(draw(st.lists(st.integers(0, 40), max_size=most)), reverse=True)
    full = latency.expected[-1]
    return Case(
        requests=[(draw(allowances), -age * full / 3, draw(weights)) for age in ages],
        latency=latency,
        gone=draw(st.sampled_from([0, 5, 70]))
        * [(-draw(st.sampled_from([15.0, 60.0])) * full, draw(st.sampled_from([1.0, 4.0])))],
        delivery=draw(st.sampled_from([0.0, 0.0, 0.1])),
        devices=draw(st.sampled_from([1, 1, 2])),
    )


few = cases(FEW, 4)
many = cases(40, 9)


def check_worth(case, queue, best) -> None:
    """What is chosen is worth as much as the best; nothing is if nobody can be in time."""
    batch = case.choose(queue)
    if not best:
        assert batch == []
    else:
        worth = case.worth(batch, case.overdue(queue), case.cost(queue))
        assert worth == pytest.approx(best, rel=1e-9)


# The batch


@settings(max_examples=300)
@given(few)
def test_no_batch_is_worth_more(case):
    """Of all sizes and all who are on time, nothing gains more per second than what is chosen."""
    queue = case.queue()
    check_worth(case, queue, case.tried(queue))


@settings(max_examples=200)
@given(many)
def test_no_batch_of_many_is_worth_more(case):
    """The same with more to choose from than all batches could be tried of."""
    queue = case.queue()
    check_worth(case, queue, case.sorted_out(queue))


@given(few)
def test_trying_and_sorting_agree(case):
    """The two references: who gains the most of those on time is the best batch of its size."""
    queue = case.queue()
    assert case.sorted_out(queue) == pytest.approx(case.tried(queue), rel=1e-12)


@given(many)
def test_nobody_in_the_batch_is_late(case):
    """A batch of that size is sure to be in time for each; and there is one if there can be."""
    queue = case.queue()
    batch = case.choose(queue)
    assert all(case.in_time(request, len(batch)) for request in batch)
    assert all(request.lane for request in batch)
    assert len(set(batch)) == len(batch) <= case.limit
    assert bool(batch) == any(case.in_time(request, 1) for request in queue)


@given(many)
def test_the_batch_is_in_order_of_deadlines(case):
    """Equal ones as they came."""
    queue = case.queue()
    batch = case.choose(queue)
    assert batch == [request for request in queue if request in batch]


@given(many)
def test_of_one_weight_the_earliest_deadlines_ride(case):
    """Those of a lane in the batch are the first who are on time, one after another."""
    queue = case.queue()
    batch = case.choose(queue)
    for lanes in (queue.due, queue.undue):
        for lane in lanes.values():
            possible = [entry[2] for entry in lane if case.in_time(entry[2], len(batch))]
            riders = [request for request in possible if request in batch]
            assert riders == possible[: len(riders)]


@given(many)
def test_who_is_at_least_as_urgent_and_as_heavy_rides_first(case):
    """Nobody stays behind for one with a later or the same deadline and no more weight."""
    queue = case.queue()
    batch = case.choose(queue)
    left = [
        request for request in queue if request not in batch and case.in_time(request, len(batch))
    ]
    for rider in batch:
        for request in left if rider.deadline < math.inf else []:
            if request.deadline <= rider.deadline and request.weight >= rider.weight:
                assert (request.deadline, request.weight) == (rider.deadline, rider.weight)
                assert request.item > rider.item


@given(many)
def test_who_is_worth_less_than_a_seat_only_fills_up(case):
    """They ride if seats are left by those above, the heavier first."""
    queue = case.queue()
    batch, cost, overdue = case.choose(queue), case.cost(queue), case.overdue(queue)
    below = [r.weight for r in batch if r.weight < 0.999 * cost and r not in overdue]
    if below:
        left = [r for r in queue if r not in batch and case.in_time(r, len(batch))]
        assert max([request.weight for request in left], default=0.0) <= min(below)


def test_who_only_fills_up_has_to_be_on_time_as_well():
    """Two of them would be worth a larger batch, but for one that it is too late."""
    gone = [(-1.0, 4.0)] * 70
    case = Case([(0.25, 0.0, 1.0), (9.0, 0.0, 1.0)], line(0.1, 0.1, 4), gone)
    assert case.cost(case.queue()) > 1.0
    assert items(case.choose(case.queue())) == [0]


@given(many)
def test_choosing_changes_nothing(case):
    """The queue is as before; choosing again gives the same."""
    queue = case.queue()
    waiting, recent = list(queue), queue.recent()
    first = case.choose(queue)
    assert case.choose(queue) == first
    assert (list(queue), queue.recent()) == (waiting, recent)


def test_without_pressure_the_urgent_need_not_wait_for_company():
    """Alone it takes half of the time; the others have so much that they lose nothing."""
    case = Case([(0.5, 0.0, 1.0)] + [(90.0, 0.0, 1.0)] * 4, line(0.1, 0.1, 4))
    assert items(case.choose(case.queue())) == [0]


def test_under_pressure_a_full_batch_is_worth_more_than_an_urgent_one():
    """The seat is what is short: whoever takes it, one more is served."""
    crowd = [(0.25, 0.0, 1.0)] + [(0.9 + i, 0.0, 1.0) for i in range(40)]
    case = Case(crowd, line(0.1, 0.1, 4))
    assert items(case.choose(case.queue())) == [1, 2, 3, 4]


def test_a_heavy_request_is_worth_a_smaller_batch():
    """If it weighs more than those whom the smaller batch leaves behind."""

    def crowd(weight):
        return Case([(0.25, 0.0, weight)] + [(0.9 + i, 0.0, 1.0) for i in range(40)], latency)

    latency = line(0.1, 0.1, 4)
    assert items(crowd(1.0).choose(crowd(1.0).queue())) == [1, 2, 3, 4]
    assert items(crowd(50.0).choose(crowd(50.0).queue())) == [0]


def test_nothing_known_nothing_chosen():
    """Before the first batch there is nothing to tell who would be on time."""
    latency = LatencyModel(4)
    queue = Case([(9.0, 0.0, 1.0)] * 9, line(0.1, 0.0, 4)).queue()
    batch = best_batch(queue, [], now=NOW, start=NOW, latency=latency, limit=4, devices=1)
    assert batch == []


def test_with_one_seat_the_most_urgent_that_is_on_time_rides():
    """Batches of one: earliest deadline first."""
    case = Case([(3.0, 0.0, 1.0), (0.4, 0.0, 1.0), (2.0, 0.0, 1.0)], line(0.5, 0.0, 1))
    assert items(case.choose(case.queue())) == [2]


# What a seat costs


def cost_of(case: Case) -> float:
    queue = case.queue()
    return _selection.seat_cost(
        queue,
        case.late(queue),
        now=NOW,
        full=case.full,
        limit=case.limit,
        devices=case.devices,
    )


@given(many)
def test_a_seat_costs_what_those_weigh_who_will_not_get_one(case):
    """Step by step of weight, as slowly written down here; never more than the heaviest."""
    cost = cost_of(case)
    assert cost == pytest.approx(case.cost(case.queue()), rel=1e-9, abs=1e-12)
    heaviest = max([r[2] for r in case.requests] + [w for _, w in case.gone], default=0.0)
    assert 0.0 <= cost <= _selection._PRICE * heaviest + 1e-12


@pytest.mark.parametrize("weight", [1e-9, 1.0, 1e9])
def test_a_seat_is_cheap_when_calm_and_dearer_the_more_wait(weight):
    """From hardly anything to two thirds of the weight."""
    assert CALM < 0.15
    assert pytest.approx(2.0 / 3.0) == CROWDED
    costs = [cost_of(Case([(9.0, 0.0, weight)] * count, EIGHT)) for count in range(60)]
    assert costs == sorted(costs)
    assert costs[0] == 0.0
    assert costs[1 : FREE + 1] == [pytest.approx(CALM * weight)] * FREE
    assert len({*costs}) > 5
    assert costs[SHORT:] == [pytest.approx(CROWDED * weight)] * (60 - SHORT)


def test_more_devices_have_more_seats():
    """What is crowded for one is calm for two."""
    case = Case([(9.0, 0.0, 1.0)] * SHORT, EIGHT)
    assert cost_of(case) == pytest.approx(CROWDED)
    assert cost_of(case._replace(devices=2)) == pytest.approx(CALM)


def test_who_will_come_counts_as_well():
    """The rate of the last arrivals, whether they still wait or not; a few make no rate."""

    def cost(arrival, count):
        return cost_of(Case([(9.0, 0.0, 1.0)], EIGHT, gone=[(arrival, 1.0)] * count))

    assert cost(-1.0, 6) == pytest.approx(CALM)
    rising = [cost(-1.0, count) for count in range(7, 64)]
    assert rising == sorted(rising)
    assert rising[-1] == pytest.approx(CROWDED)
    assert cost(-1.0, 63) > cost(-3.5, 63) > cost(-9.0, 63) == pytest.approx(CALM)
    assert cost(0.0, 63) == pytest.approx(CALM)  # all at this instant: no rate either


def test_the_heavy_who_find_seats_do_not_make_them_dear():
    """Too many light ones cost two thirds of a light one; the heavy pay their own crowd only."""

    def cost(heavy, light=90):
        return cost_of(Case([(9.0, 0.0, 1.0)] * light + [(9.0, 0.0, 4.0)] * heavy, EIGHT))

    assert cost(FREE) == pytest.approx(CROWDED)
    assert cost(SHORT) == cost(SHORT, light=0) == pytest.approx(4.0 * CROWDED)
    assert CROWDED < cost((FREE + SHORT) // 2) < 4.0 * CROWDED


def test_who_is_late_takes_no_seat():
    """A hundred hopeless ones make nothing dearer, nor cheaper by being light."""
    for weight in (1.0, 0.125):
        late = [(0.1, 0.0, weight)] * 99
        assert cost_of(Case([*late, *[(9.0, 0.0, 1.0)] * 9], EIGHT)) == pytest.approx(CALM)


def test_a_weight_that_nobody_has_any_more_leaves_no_trace():
    """An empty lane is no step."""
    case = Case([(9.0, 0.0, 1.0)] * 9, EIGHT)
    queue = case.queue()
    light = Request("light", NOW + 9.0, NOW, 0.125)
    queue.add(light)
    queue.discard(light)
    for _ in range(99):  # until it is no more among the last to come either
        each = Request("other", NOW + 9.0, NOW, 1.0)
        queue.add(each)
        queue.discard(each)
    assert 0.125 in queue.due
    cost = _selection.seat_cost(queue, [], now=NOW, full=case.full, limit=8, devices=1)
    assert cost == pytest.approx(CALM)


# Requests without a deadline


def crowded(*undated: tuple[float, float], limit: int = 8, urgent: int = 90) -> Case:
    """Heavy traffic with deadlines beside these without, of (batches waited, weight)."""
    latency = line(0.1, 0.1, limit)
    full = latency.expected[-1]
    requests = [(math.inf, -age * full, weight) for age, weight in undated]
    return Case(requests + [(full + 0.1 + i / 100, 0.0, 4.0) for i in range(urgent)], latency)


def test_who_has_no_deadline_and_waited_long_rides_whatever_the_others_weigh():
    """After so many full batches, not before."""
    case = crowded((PATIENCE, 0.125), (PATIENCE - 0.1, 0.125))
    assert items(case.choose(case.queue()))[-1] == 0
    assert len(case.choose(case.queue())) == case.limit


@given(many)
def test_the_overdue_ride(case):
    """The oldest of them, as many as have half of the seats."""
    queue = case.queue()
    assert set(case.overdue(queue)) <= set(case.choose(queue))


def test_the_overdue_have_half_of_the_seats_the_oldest_first():
    """Over all weights; the other half is for those with deadlines."""
    ages = [(30.0 - i, (0.125, 1.0, 2.0)[i % 3]) for i in range(12)]
    case = crowded(*ages)
    batch = items(case.choose(case.queue()))
    assert [item for item in batch if item < 12] == [0, 1, 2, 3]
    assert [item for item in batch if item >= 12] == [12, 13, 14, 15]


def test_the_overdue_have_the_only_seat():
    """Half of one is one, or they would never ride."""
    case = crowded((20.0, 0.125), (19.0, 8.0), limit=1)
    assert items(case.choose(case.queue())) == [0]


def test_nobody_else_on_time_the_overdue_ride_alone():
    """Too many deadlines are too near for any batch: no seat is lost to that."""
    case = crowded((20.0, 1.0), (19.0, 1.0), urgent=0)
    late = [(0.01, 0.0, 4.0)] * 50
    case = case._replace(requests=case.requests + late)
    assert items(case.choose(case.queue())) == [0, 1]


def test_of_hundreds_of_overdue_half_a_batch_rides_if_nothing_else_can():
    """Also where not each size is tried: as many as seats are kept is always one of them."""
    for limit in (100, 250, 500):
        latency = line(0.1, 0.1, limit)
        undated = [(math.inf, -PATIENCE * latency.expected[-1] - 1.0, 1.0)] * (limit // 2)
        # On time with a batch of half the seats and a few more, not with the next size tried.
        near = [(latency.expected[limit // 2], 0.0, 1.0)] * limit
        case = Case(undated + near, latency)
        assert items(case.choose(case.queue())) == list(range(limit // 2))


@given(
    st.lists(st.sampled_from([0.0, 0.5, 3.0, 9.0, 50.0]), min_size=1, max_size=40),
    st.integers(1, 9),
)
def test_without_deadlines_it_is_first_come_first_served(ages, limit):
    """Those of one weight ride in the order in which they came."""
    requests = [(math.inf, -age, 1.0) for age in sorted(ages, reverse=True)]
    case = Case(requests, line(0.1, 0.1, limit))
    batch = case.choose(case.queue())
    assert batch
    assert items(batch) == list(range(len(batch)))


# Hundreds of sizes


@pytest.mark.parametrize("seed", range(6))
def test_with_hundreds_of_sizes_the_best_is_nearly_found(seed):
    """Every thirty-second part is tried: a few per cent at most are given away."""
    rng = random.Random(seed)
    fixed = rng.choice([0.1, 1.0, 10.0])
    latency = line(fixed, 0.01, 500, margin=rng.choice([1.0, 1.05]))
    span = rng.choice([0.5, 2.0, 6.0]) * latency.expected[-1]
    requests = [
        (rng.uniform(0.0, span), -rng.random(), rng.choice([1.0, 1.0, 4.0]))
        for _ in range(rng.choice([300, 700, 1500]))
    ]
    case = Case(requests, latency)
    queue = case.queue()
    batch = case.choose(queue)
    assert all(case.in_time(request, len(batch)) for request in batch)
    worth = case.worth(batch, [], case.cost(queue))
    assert worth >= 0.95 * case.sorted_out(queue)


@given(st.integers(0, 2000), st.integers(1, 2000))
def test_sizes_are_tried_from_the_largest_to_the_smallest(most, least):
    """None is left out below 64, or by more than the thirty-second part; both ends are in."""
    sizes = list(_selection.sizes(most, least))
    if most < least:
        assert sizes == []
        return
    assert (sizes[0], sizes[-1]) == (most, least)
    for larger, smaller in pairwise(sizes):
        assert 1 <= larger - smaller <= max(1, larger // 32)


# Extremes


def test_five_thousand_waiting_are_no_special_case():
    """Of all weights and deadlines: nobody late, nobody passed over, as good as it gets."""
    rng = random.Random(1)
    ages = sorted((rng.random() for _ in range(5000)), reverse=True)
    requests = [
        (rng.choice([math.inf, rng.uniform(0.0, 9.0)]), -age, 2.0 ** (rng.randint(-12, 16) / 4))
        for age in ages
    ]
    case = Case(requests, line(0.01, 0.001, 32, margin=1.05))
    queue = case.queue()
    batch = case.choose(queue)
    assert all(case.in_time(request, len(batch)) for request in batch)
    worth = case.worth(batch, case.overdue(queue), case.cost(queue))
    assert worth == pytest.approx(case.sorted_out(queue), rel=1e-9)


@pytest.mark.parametrize("allowance", [1e2, 1e4, 1e9, 1e300])
@pytest.mark.parametrize("mixed", [False, True])
def test_however_far_the_deadlines_somebody_rides(allowance, mixed):
    """A minute or a year: a device is not left idle because nobody is in a hurry."""
    case = Case(
        [(allowance, 0.0, (1.0, 4.0)[mixed and i > 3]) for i in range(9)], line(0.01, 1e-3, 8)
    )
    batch = items(case.choose(case.queue()))
    assert len(batch) == 8
    assert batch[-1] == 8 if mixed else batch == list(range(8))


@pytest.mark.parametrize("far", [1e3, 1e30])
def test_bounds_far_above_what_is_expected_overflow_nothing(far):
    """A device as erratic as that: whoever has the time rides."""
    known = line(0.1, 0.01, 4)
    latency = Known(known.expected, [far * seconds for seconds in known.expected])
    case = Case([(2.0 * far, 0.0, 1.0)] * 3 + [(math.inf, 0.0, 1.0)] * 3, latency)
    batch = case.choose(case.queue())
    assert batch
    assert all(case.in_time(request, len(batch)) for request in batch)


@given(many, st.sampled_from([1e-9, 1e-6, 1e6]))
def test_durations_of_next_to_nothing_or_of_weeks_are_possible(case, unit):
    """As a clock that did not move makes of them."""
    tables = (case.latency.expected, case.latency.bounds)
    latency = Known(*([unit * seconds for seconds in table] for table in tables))
    case = case._replace(latency=latency)
    queue = case.queue()
    batch = case.choose(queue)
    assert all(case.in_time(request, len(batch)) for request in batch)
    assert bool(batch) == any(case.in_time(request, 1) for request in queue)


@given(many, st.sampled_from([1e-9, 1e9]))
def test_only_ratios_of_weights_matter(case, unit):
    """All a billion times as heavy, it is the same batch or one that is worth the same."""
    scaled = case._replace(
        requests=[(d, a, unit * w) for d, a, w in case.requests],
        gone=[(a, unit * w) for a, w in case.gone],
    )
    queue, other = case.queue(), scaled.queue()
    batch, same = case.choose(queue), scaled.choose(other)
    cost, overdue = case.cost(queue), case.overdue(queue)
    again = [request for request in queue if request.item in items(same)]
    assert bool(batch) == bool(again)
    if batch:
        worth = case.worth(batch, overdue, cost)
        assert case.worth(again, overdue, cost) == pytest.approx(worth, rel=1e-9)


@given(many)
def test_deadlines_that_have_passed_for_ever_harm_nobody(case):
    """Minus infinity is a deadline like any other that nobody can meet."""
    passed = [(-math.inf, 0.0, 2.0)] * 3
    more = case._replace(requests=case.requests + passed)
    queue = more.queue()
    assert all(request.deadline > -math.inf for request in more.choose(queue))


def test_weights_as_far_apart_as_they_may_be():
    """The one that is worth the most rides, and the others with it if they can."""
    case = Case(
        [(0.5, 0.0, 1e9), *[(9.0, 0.0, 1e-9)] * 30, *[(9.0, 0.0, 1.0)] * 3], line(0.1, 0.1, 4)
    )
    batch = items(case.choose(case.queue()))
    assert 0 in batch


# How much there is to do


def test_load_is_what_came_of_late_by_what_can_be_done():
    """Whether it still waits or not; of too few nothing is known, nor of no device."""
    case = Case([(9.0, i / 10 - 1.0, 1.0) for i in range(10)], EIGHT)
    queue = case.queue()
    assert load_of(queue, NOW, 0.4, 8) == pytest.approx(0.5)
    assert load_of(queue, NOW, 0.8, 8) == pytest.approx(1.0)
    assert load_of(queue, NOW + 1.0, 0.8, 8) == pytest.approx(0.5)
    assert load_of(queue, NOW, 0.8, 16) == pytest.approx(0.5)
    for request in [*queue][:5]:
        queue.discard(request)
    assert load_of(queue, NOW, 0.8, 8) == pytest.approx(1.0)
    assert load_of(queue, NOW, 0.0, 0) == 0.0
    few = Case(case.requests[: _selection._ENOUGH - 1], EIGHT).queue()
    assert load_of(few, NOW, 0.8, 8) == 0.0
    assert load_of(RequestQueue(), NOW, 0.8, 8) == 0.0
    at_once = Case([(9.0, 0.0, 1.0)] * 20, EIGHT).queue()
    assert load_of(at_once, NOW, 0.8, 8) == 0.0


# Where what a batch takes is mere chance


@dataclass(frozen=True)
class Wild(Known):
    """A device whose batches take each of some multiples of what is expected equally often."""

    chance: Chance

    @property
    def residuals(self) -> Chance:
        return self.chance


def wild(fixed: float, per_item: float, limit: int, *chances: float) -> Wild:
    known = line(fixed, per_item, limit, margin=2.2)
    return Wild(known.expected, known.bounds, Chance(*chances or (0.5, 0.5, 1.0, 1.0, 2.0, 2.0)))


def test_a_gain_counts_by_its_chance():
    """While there is room the urgent one rides, though it is half as likely to be in time; in a
    crowd a seat is for who is sure to be."""
    known = wild(0.1, 0.0, 1, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0)
    requests = [(0.2, 0.0, 1.0), (0.5, 0.0, 1.0)]
    case = Case(requests, known)
    assert items(case.choose(case.queue())) == [0]
    case = Case([*requests, *[(0.5, 0.0, 1.0)] * 20], known)
    assert items(case.choose(case.queue())) == [1]


def test_who_cannot_be_in_time_whatever_the_chance_does_not_ride():
    """It may be in a smaller batch, if that is worth more."""
    known = wild(1.0, 1.0, 4)
    case = Case([(1.2, 0.0, 1.0), *[(9.0, 0.0, 1.0)] * 3], known)
    assert 0 not in items(case.choose(case.queue()))
    case = Case([(1.2, 0.0, 8.0), *[(9.0, 0.0, 1.0)] * 3], known)
    assert items(case.choose(case.queue())) == [0]


def test_nobody_rides_if_chance_helps_nobody():
    """Not even the quickest batch of one would be in time."""
    case = Case([(0.9, 0.0, 1.0)] * 3, wild(1.0, 1.0, 4))
    assert case.choose(case.queue()) == []


def test_the_heavier_one_rides_if_chances_are_alike():
    """Of the same weight, who came first."""
    case = Case([(9.0, 0.0, 1.0), (9.0, 0.0, 4.0), (9.0, 0.0, 1.0)], wild(1.0, 0.1, 2))
    assert items(case.choose(case.queue())) == [0, 1]


@pytest.mark.parametrize("limit", [1, 3, 4, 8])
def test_by_chance_who_is_overdue_has_half_of_the_seats_as_well(limit):
    """However many are, and whatever else waits."""
    half = max(1, limit // 2)
    old = [(math.inf, -999.0, 1.0)] * 50
    case = Case([*old, *[(9.0, 0.0, 4.0)] * 50], wild(0.1, 0.01, limit))
    batch = items(case.choose(case.queue()))
    assert {*range(half)} <= {*batch}
    assert len(batch) == limit
    assert sum(item < 50 for item in batch) == half


@pytest.mark.parametrize("known", [wild(0.05, 0.1, 8), line(0.05, 0.1, 8)])
def test_what_the_overdue_are_worth_is_no_reason_for_a_small_batch(known):
    """They ride whatever its size, so nothing is gained by hurrying for them."""
    case = Case([(math.inf, -999.0, 100.0), *[(9.0, 0.0, 1.0)] * 8], known)
    assert items(case.choose(case.queue())) == [*range(1, 8), 0]


def test_by_chance_requests_without_a_deadline_fill_what_is_left():
    """They are as likely to be in time as can be, and never urgent."""
    case = Case([(math.inf, 0.0, 1.0)] * 6 + [(0.5, 0.0, 1.0)], wild(0.1, 0.01, 4))
    assert items(case.choose(case.queue())) == [6, 0, 1, 2]


def test_of_far_more_than_fit_those_with_the_most_time_left_are_looked_at():
    """A choice takes its time; they are the likeliest."""
    case = Case([(0.2 + i / 1000, 0.0, 1.0) for i in range(500)], wild(0.1, 0.01, 4))
    batch = items(case.choose(case.queue()))
    assert len(batch) == 4
    assert batch == sorted(batch)


@given(many, st.lists(st.floats(0.1, 10.0), min_size=6, max_size=6))
def test_by_chance_a_batch_is_of_those_that_may_be_in_time(case, chances):
    """In order, each once, who is overdue in any case; and there is one if anybody may be."""
    known = Wild(case.latency.expected, case.latency.bounds, Chance(*sorted(chances)))
    case = case._replace(latency=known)
    queue = case.queue()
    batch = case.choose(queue)
    soonest = case.start + min(chances) * known.expected[1]
    assert batch == [request for request in queue if request in batch]
    assert len(batch) <= case.limit
    assert all(request.deadline >= soonest for request in batch)
    assert {*case.overdue(queue)} <= {*batch}
    assert bool(batch) == any(request.deadline >= soonest for request in queue)
