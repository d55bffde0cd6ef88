"""What a free device does: the decisions are values, taken from a queue, a curve and the time."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
from hypothesis import given, strategies as st

from tests.foreseeable import Chance, Foreseeable
from trio_batcher._latency import LatencyModel
from trio_batcher._outcomes import ShapedRequest
from trio_batcher._packing import TURNS
from trio_batcher._policy import Dispatch, Idle, Limits, Plan, WaitUntil, decide, plan
from trio_batcher._queue import Request, RequestQueue
from trio_batcher._selection import PATIENCE
from trio_batcher._shapes import Shapes

NOW = 100.0
ROUNDING = 1e-9
LARGEST = 32


@dataclass(frozen=True)
class Line(Foreseeable):
    """A device that is known: a batch of n should take ``fixed + per_item * n``.

    It is sure to take no more than ``margin`` times as long.
    """

    fixed: float = 0.0
    per_item: float = 0.0
    margin: float = 1.0
    fresh: bool = True

    @property
    def expected(self) -> list[float]:
        return [0.0, *(self.fixed + self.per_item * n for n in range(1, LARGEST + 1))]

    @property
    def bounds(self) -> list[float]:
        return [self.margin * seconds for seconds in self.expected]

    def trusted(self, now: float) -> bool:
        return self.fresh


UNKNOWN = LatencyModel(LARGEST)


class Case(NamedTuple):
    """Everything a decision is made from, in seconds from now."""

    requests: list[tuple[float, float, float]]  # (deadline, arrival, weight)
    latency: Line
    limits: Limits
    others_done_at: float = math.inf
    patient: bool = True
    delivery: float = 0.0

    def soonest(self, behind: int = 0) -> float:
        """When a request is sure to be done at the earliest, on any device, behind a batch."""
        ahead = self.latency.floor(self.latency.expected[behind])
        here = ahead + self.latency.floors[1] + self.delivery
        return NOW + min(here, self.others_done_at) - ROUNDING

    def in_time(self, request: Request, size: int) -> bool:
        done = NOW + self.delivery + self.latency.bounds[size]
        return request.deadline >= done - ROUNDING

    def late(self, queue: RequestQueue) -> list[Request]:
        """What cannot be in time, if that is to be believed; but what is all there is has a try."""
        if not self.latency.trusted(NOW):
            return []
        late = [request for request in queue if request.deadline < self.soonest()]
        if len(late) == queue.size:
            late = [request for request in queue if request.deadline < NOW]
        return late

    def is_lost(self, queue: RequestQueue) -> bool:
        """Whether nothing that waits can be in time, on any device."""
        return all(request.deadline < self.soonest() + 2 * ROUNDING for request in queue)

    def all_fit(self, queue: RequestQueue) -> bool:
        """Whether all whom somebody can serve can be done by one batch."""
        late = self.late(queue)
        left = [request for request in queue if request not in late]
        fit = 0 < len(left) <= self.limits.max_batch_size
        return fit and all(self.in_time(request, len(left)) for request in left)

    def queue(self) -> RequestQueue:
        return queue_of(*self.requests)

    def decide(self, queue: RequestQueue, now: float = NOW):
        return decide(
            queue,
            now=now,
            latency=self.latency,
            limits=self.limits,
            others_done_at=NOW + self.others_done_at,
            patient=self.patient,
            delivery=self.delivery,
        )


def queue_of(*requests: tuple[float, ...]) -> RequestQueue:
    """Requests with these (deadline, arrival), and maybe weight, seconds from now."""
    queue: RequestQueue = RequestQueue()
    for number, (deadline, arrival, *weight) in enumerate(requests):
        queue.add(Request(number, NOW + deadline, NOW + arrival, *weight))
    return queue


def items(requests) -> list[int]:
    return [request.item for request in requests]


def batch_of(decision) -> list[Request]:
    return decision.batch if isinstance(decision, Dispatch) else []


# Round numbers mostly, so that deadlines are met and missed exactly.
deadlines = (
    st.just(math.inf)
    | st.integers(1, 40).map(lambda n: n / 10)
    | st.floats(-0.5, 4.0, allow_nan=False)
)
delays = st.sampled_from([0.0, 0.5, 2.0, 10.0])
weights = st.sampled_from([1.0, 1.0, 1.0, 4.0, 0.125])


@st.composite
def cases(draw, patient=st.booleans(), max_delay=delays, fresh=st.booleans()):  # noqa: B008  strategies are values
    arrivals = sorted(draw(st.lists(st.integers(0, 8), max_size=20)), reverse=True)
    return Case(
        requests=[(draw(deadlines), -arrival / 10, draw(weights)) for arrival in arrivals],
        latency=Line(
            draw(st.integers(0, 5)) / 10,
            draw(st.integers(0, 3)) / 10,
            draw(st.sampled_from([1.0, 1.05, 2.0])),
            draw(fresh),
        ),
        limits=Limits(
            draw(st.sampled_from([1, 2, 3, 8, 32])),
            draw(max_delay),
            draw(st.sampled_from([1, 2])),
        ),
        others_done_at=draw(st.sampled_from([math.inf, math.inf, 0.0, 0.1, 0.5, 1.0])),
        patient=draw(patient),
        delivery=draw(st.sampled_from([0.0, 0.0, 0.1])),
    )


# Always


@given(cases())
def test_a_batch_is_of_those_that_wait(case):
    """In deadline order, each once, no more than are allowed, and none of the hopeless."""
    queue = case.queue()
    decision = case.decide(queue)
    batch, hopeless = batch_of(decision), set(decision.hopeless)
    assert batch == [request for request in queue if request in batch]
    assert len(batch) <= case.limits.max_batch_size
    assert not hopeless.intersection(batch)
    assert len(hopeless) == len(decision.hopeless)
    assert hopeless <= set(queue)
    assert batch or not isinstance(decision, Dispatch)


@given(cases())
def test_all_go_at_once_if_all_are_on_time(case):
    """If everybody who is not late fits into one batch that is in time, that is run."""
    queue = case.queue()
    decision = case.decide(queue)
    late = case.late(queue)
    if case.all_fit(queue):
        assert set(decision.hopeless) == set(late)
        if isinstance(decision, Dispatch):
            assert decision.batch == [request for request in queue if request not in late]
        else:
            assert isinstance(decision, WaitUntil)
    else:
        assert not isinstance(decision, WaitUntil)


@given(cases(), st.booleans())
def test_of_those_who_are_alike_the_first_go_at_once(case, dated):
    """Only their deadlines differ, if they have any, and the most urgent has time for the
    largest batch: it is a full one."""
    requests = [(d, a, 1.0) for d, a, _ in case.requests if (d < math.inf) == dated]
    case = case._replace(requests=requests)
    queue = case.queue()
    late = case.late(queue)
    left = [request for request in queue if request not in late]
    limit = case.limits.max_batch_size
    if len(left) > limit and case.in_time(left[0], limit):
        assert batch_of(case.decide(queue)) == left[:limit]


def test_a_full_batch_goes_even_if_an_urgent_one_would_gain_more_alone():
    """Four fit, and all are on time: there is nothing to choose."""
    decision = wait((0.6, 0.0), *[(90.0, 0.0, 0.5)] * 3, latency=Line(0.1, 0.1))
    assert items(decision.batch) == [0, 1, 2, 3]
    decision = wait((0.6, 0.0), *[(90.0, 0.0, 0.5)] * 4, latency=Line(0.1, 0.1))
    assert items(decision.batch) == [0]


@given(cases())
def test_nobody_in_a_batch_is_late(case):
    """All are on time by a batch of that size; unless nobody can be, here or elsewhere.

    Where measurements are old, elsewhere does not count. Whose deadline has passed rides only then.
    """
    queue = case.queue()
    batch = batch_of(case.decide(queue))
    if not all(case.in_time(request, len(batch)) for request in batch):
        assert (
            not any(case.in_time(request, 1) for request in queue)
            or not case.latency.expected[case.limits.max_batch_size]
        )
        if case.latency.fresh:
            assert case.is_lost(queue)
            assert all(request.deadline >= NOW for request in batch)


@given(cases())
def test_idle_is_a_device_that_can_serve_nobody(case):
    """Nobody is left, or only such as another device alone could still be in time for."""
    queue = case.queue()
    decision = case.decide(queue)
    left = [request for request in queue if request not in decision.hopeless]
    if isinstance(decision, Idle):
        assert not any(case.in_time(request, 1) for request in left)
        assert case.latency.fresh or not left
        assert all(request.deadline >= NOW + case.others_done_at for request in left)
    else:
        assert left


@given(cases())
def test_hopeless_is_whom_nobody_can_serve(case):
    """Just those: alone and first on any device, or behind this batch, it would be late.

    What would be late, but is all there is, is so only when its deadline has passed.
    """
    queue = case.queue()
    decision = case.decide(queue)
    batch = batch_of(decision)
    late = case.late(queue)
    if batch and case.latency.fresh and not case.all_fit(queue):
        done = case.soonest(behind=len(batch))
        late += [request for request in queue if request.deadline < done and request not in batch]
    assert set(decision.hopeless) == set(late)


@given(cases(fresh=st.just(False)))
def test_nobody_is_hopeless_on_the_word_of_old_measurements(case):
    """Not even whose deadline has passed; and whoever waits, somebody is served."""
    queue = case.queue()
    decision = case.decide(queue)
    assert decision.hopeless == []
    assert type(decision) is not Idle or not queue.size


@given(cases(), st.integers(0, 19), weights)
def test_a_weight_makes_nobody_hopeless(case, number, weight):
    """Before a batch is chosen weights do not count; then it is who rides that is changed."""
    queue, other = case.queue(), case.queue()
    for request in [request for request in other if request.item == number]:
        other.discard(request)
        replaced = Request(number, request.deadline, request.arrived, weight)
        other.add(replaced)
    decision, again = case.decide(queue), case.decide(other)
    assert type(decision) is type(again)
    if not isinstance(decision, Dispatch) or case.all_fit(queue):
        assert {*items(decision.hopeless)} == {*items(again.hopeless)}
    elif len(decision.batch) == len(again.batch):
        gone = {*items(decision.hopeless), *items(decision.batch)}
        assert {*items(again.hopeless)} <= gone


@given(cases(fresh=st.just(True)))
def test_who_is_hopeless_is_so_by_deadline(case):
    """Who is told has a nearer deadline than anybody who stays."""
    queue = case.queue()
    decision = case.decide(queue)
    gone = {*decision.hopeless, *batch_of(decision)}
    told = max([request.deadline for request in decision.hopeless], default=-math.inf)
    assert all(told < request.deadline for request in queue if request not in gone)


@given(cases())
def test_a_decision_changes_nothing(case):
    """The queue, the requests and the latency model are as before; asking again says the same."""
    queue = case.queue()

    def state():
        lanes = [*queue.due.items(), *queue.undue.items()]
        chunks = [(weight, [list(chunk) for chunk in lane._chunks]) for weight, lane in lanes]
        return list(queue), chunks, queue.recent(), queue.size

    before = state()
    first = case.decide(queue)
    assert state() == before
    assert all(request.lane for request in queue)
    assert case.decide(queue) == first


def test_a_decision_does_not_change_what_is_known():
    """The latency model is only asked."""
    latency = LatencyModel(8)
    for size in (1, 2, 4, 8) * 3:
        latency.observe(size, 0.1 + 0.01 * size, NOW)
    _ = latency.bounds
    before = {name: repr(value) for name, value in vars(latency).items()}
    queue = queue_of((0.05, 0.0), (1.0, 0.0), (math.inf, 0.0))
    decision = decide(queue, now=NOW, latency=latency, limits=Limits(8, 0.5))
    assert type(decision) is WaitUntil
    assert items(decision.hopeless) == [0]
    assert {name: repr(value) for name, value in vars(latency).items()} == before


def test_decisions_are_values():
    """Equal when they say the same, and nobody can change what they say."""
    requests = list(queue_of((1.0, 0.0)))
    assert Dispatch(requests, []) == Dispatch(list(requests), [])
    assert Idle(requests) != WaitUntil(1.0, requests)
    with pytest.raises(AttributeError):
        Idle([]).hopeless = requests
    with pytest.raises(AttributeError):
        Limits(1, 0.0).max_delay = 1.0


# Waiting for companions


@given(cases())
def test_a_wait_is_never_longer_than_the_user_allowed(case):
    """`max_delay` counts from the oldest waiting request's arrival, whoever came later."""
    queue = case.queue()
    decision = case.decide(queue)
    if isinstance(decision, WaitUntil):
        assert NOW < decision.time <= queue.oldest_arrival + case.limits.max_delay


@given(cases())
def test_a_wait_costs_nobody_the_deadline(case):
    """When it is over all who wait are still on time in one batch, delivery included."""
    queue = case.queue()
    decision = case.decide(queue)
    if isinstance(decision, WaitUntil):
        queue.remove_all(decision.hopeless)
        done = decision.time + case.latency.bounds[queue.size] + case.delivery
        assert done <= queue.earliest_deadline + ROUNDING


@given(cases(patient=st.just(True), max_delay=st.sampled_from([2.0, 10.0])))
def test_a_wait_ends_with_a_dispatch(case):
    """When it is over those who waited are run, and the wait has made none of them hopeless."""
    queue = case.queue()
    decision = case.decide(queue)
    if not isinstance(decision, WaitUntil):
        return
    queue.remove_all(decision.hopeless)
    after = case.decide(queue, decision.time)
    if isinstance(after, WaitUntil):
        # Who had waited longest was among the hopeless.
        assert decision.time < after.time <= queue.oldest_arrival + case.limits.max_delay
        after = case.decide(queue, after.time)
    assert after == Dispatch(list(queue), [])


@given(cases(max_delay=st.just(0.0)))
def test_nobody_waits_unless_the_user_said_so(case):
    """A free device takes what there is."""
    assert type(case.decide(case.queue())) is not WaitUntil


@given(cases(patient=st.just(False)))
def test_nobody_waits_while_closing(case):
    """No more companions will come."""
    assert type(case.decide(case.queue())) is not WaitUntil


@given(cases())
def test_nobody_waits_with_a_full_batch(case):
    """As many as fit are there: nothing is gained by waiting."""
    queue = case.queue()
    decision = case.decide(queue)
    if queue.size - len(decision.hopeless) >= case.limits.max_batch_size:
        assert type(decision) is not WaitUntil


def wait(*requests, max_delay=1.0, now=NOW, latency=UNKNOWN, **others):
    limits = Limits(4, max_delay)
    return decide(queue_of(*requests), now=now, latency=latency, limits=limits, **others)


def test_a_wait_counts_from_the_oldest_arrival():
    """Not from now, and not from the arrival of the most urgent."""
    requests, known = [(math.inf, -0.4), (9.0, -0.1)], Line(0.1, 0.0)
    assert wait(*requests, latency=known) == WaitUntil(NOW - 0.4 + 1.0, [])
    assert type(wait(*requests, latency=known, now=NOW + 0.59)) is WaitUntil
    assert type(wait(*requests, latency=known, now=NOW - 0.4 + 1.0)) is Dispatch


def test_with_a_deadline_and_nothing_known_there_is_no_wait():
    """Any wait might be too long; without a deadline it may be as long as it likes."""
    assert type(wait((9.0, 0.0), latency=UNKNOWN)) is Dispatch
    assert type(wait((math.inf, 0.0), latency=UNKNOWN)) is WaitUntil


def test_a_wait_ends_in_time_for_the_nearest_deadline():
    """What is there takes 0.3 s, and the most urgent has 0.5: it may wait for 0.2."""
    decision = wait((math.inf, 0.0), (0.5, 0.0), latency=Line(0.1, 0.1))
    assert decision.time == pytest.approx(NOW + 0.2)
    assert decision.hopeless == []
    decision = wait((math.inf, 0.0), (0.5, 0.0), latency=Line(0.1, 0.1), delivery=0.05)
    assert decision.time == pytest.approx(NOW + 0.15)
    decision = wait((math.inf, 0.0), (0.5, 0.0), latency=Line(0.1, 0.1, margin=1.5))
    assert decision.time == pytest.approx(NOW + 0.05)


def test_nobody_waits_if_not_everybody_fits():
    """What is there takes 0.3 s, and the most urgent has 0.25: somebody goes at once."""
    decision = wait((math.inf, 0.0), (0.25, 0.0), latency=Line(0.1, 0.1))
    assert type(decision) is Dispatch
    assert items(decision.batch) == [1]


def test_impatience_is_for_the_wait_only():
    """While closing the same requests are dispatched in the same order, and the late told."""
    requests = [(math.inf, 0.0), (0.05, 0.0), (3.0, 0.0)]
    latency = Line(0.1)
    assert type(wait(*requests, latency=latency)) is WaitUntil
    decision = wait(*requests, latency=latency, patient=False)
    assert items(decision.batch) == [2, 0]
    assert items(decision.hopeless) == [1]


# Who is hopeless


def test_an_empty_queue_is_idle():
    """Nothing to do, nobody to tell."""
    assert wait() == Idle([])


def test_whose_deadline_has_passed_is_told_even_if_nobody_else_waits():
    """There is nothing left to try for."""
    decision = wait((-0.1, 0.0), (-0.2, 0.0), latency=Line(0.1))
    assert type(decision) is Idle
    assert items(decision.hopeless) == [1, 0]


def test_who_would_be_late_is_told_if_anybody_else_would_not():
    """The deadline has passed, or passes before a batch of one could end: others need the time."""
    for other in (9.0, math.inf):
        decision = wait((-0.1, 0.0), (0.05, 0.0), (other, 0.0), latency=Line(0.1), max_delay=0.0)
        assert items(decision.batch) == [2]
        assert items(decision.hopeless) == [0, 1]


@pytest.mark.parametrize("delivery", [0.0, 0.2])
def test_a_free_device_runs_what_would_be_late_if_that_is_all_there_is(delivery):
    """At once: it may be quicker than it was, and nobody else wants its time."""
    requests = [(-0.1, 0.0), (0.05, 0.0), (0.01, 0.0)]
    decision = wait(*requests, latency=Line(0.1), delivery=delivery)
    assert items(decision.batch) == [2, 1]
    assert items(decision.hopeless) == [0]


def test_of_more_than_fit_that_would_all_be_late_the_first_are_run():
    """The others could only begin behind them, later still."""
    requests = [(0.05 - i / 1000, 0.0) for i in range(6)]
    decision = wait(*requests, latency=Line(0.1))
    assert items(decision.batch) == [5, 4, 3, 2]
    assert items(decision.hopeless) == [1, 0]


def test_what_would_be_late_is_run_though_another_device_is_free_sooner():
    """Unless that one could be in time."""
    requests = [(0.05, 0.0), (0.06, 0.0)]
    decision = wait(*requests, latency=Line(0.1), others_done_at=NOW + 0.07)
    assert items(decision.batch) == [0, 1]
    decision = wait(*requests, latency=Line(0.1), others_done_at=NOW + 0.05)
    assert decision == Idle([])
    decision = wait(*requests, latency=Line(0.1), others_done_at=NOW + 0.055)
    assert type(decision) is Idle
    assert items(decision.hopeless) == [0]


@pytest.mark.parametrize(("margin", "delivery"), [(1.0, 0.0), (1.5, 0.0), (1.0, 0.25), (2.0, 1.0)])
def test_a_deadline_that_can_just_be_met_is_not_hopeless(margin, delivery):
    """Exactly as long as a batch of one takes at most, and its delivery, is enough."""
    latency = Line(0.25, 0.25, margin)
    just = 0.5 * margin + delivery
    decision = wait((just, 0.0), latency=latency, max_delay=0.0, delivery=delivery)
    assert type(decision) is Dispatch
    assert decision.hopeless == []
    for other in (math.inf, 99.0):
        decision = wait(
            (just, 0.0), (other, 0.0), latency=latency, max_delay=0.0, delivery=delivery
        )
        assert items(decision.batch) == [0]
        assert decision.hopeless == []
        decision = wait((just - 1e-6, 0.0), (other, 0.0), latency=latency, delivery=delivery)
        assert items(decision.hopeless) == [0]


def test_who_stays_behind_a_batch_is_told_when_that_is_too_late():
    """The batch takes 0.5 s, and a lone one after it 0.2: less than 0.7 s is not enough."""
    requests = [(0.6, 0.0)] * 5 + [(0.65, 0.0), (0.75, 0.0)]
    decision = wait(*requests, latency=Line(0.1, 0.1))
    assert items(decision.batch) == [0, 1, 2, 3]
    assert items(decision.hopeless) == [4, 5]


def test_behind_a_batch_counts_what_it_should_take_and_after_it_what_one_may():
    """0.5 s, though 0.75 s are possible, and then 0.3 s, though 0.2 s are likely."""
    requests = [(0.76, 0.0)] * 4 + [(0.79, 0.0), (0.81, 0.0)]
    decision = wait(*requests, latency=Line(0.1, 0.1, margin=1.5))
    assert items(decision.batch) == [0, 1, 2, 3]
    assert items(decision.hopeless) == [4]


def test_seats_are_short_for_those_who_can_be_served_on_all_devices():
    """In a crowd the urgent one gives way to four; with more devices it is no crowd. Nor are the
    hopeless one."""

    def chosen(count, devices=1, hopeless=0):
        crowd = [(0.25, 0.0)] + [(0.9 + i, 0.0) for i in range(count)]
        queue = queue_of(*crowd, *[(0.1, 0.0)] * hopeless)
        limits = Limits(4, 0.0, devices)
        return items(decide(queue, now=NOW, latency=Line(0.1, 0.1), limits=limits).batch)

    assert chosen(30) == [1, 2, 3, 4]
    assert chosen(30, devices=4) == [0]
    assert chosen(8) == chosen(8, hopeless=30) == [0]


def test_who_has_no_deadline_is_never_hopeless():
    """However many stay behind."""
    decision = wait(*[(math.inf, 0.0)] * 50, latency=Line(1e6, 1e6))
    assert decision == Dispatch(decision.batch, [])
    assert items(decision.batch) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("others_done_at", "hopeless"),
    [(math.inf, [4, 5]), (0.7, [4, 5]), (0.64, [4]), (0.5, []), (0.0, [])],
)
def test_another_device_that_is_free_sooner_gives_hope(others_done_at, hopeless):
    """Who stays behind starts on whichever device is free first."""
    requests = [(0.6, 0.0)] * 5 + [(0.65, 0.0), (0.75, 0.0)]
    decision = wait(*requests, latency=Line(0.1, 0.1), others_done_at=NOW + others_done_at)
    assert items(decision.batch) == [0, 1, 2, 3]
    assert items(decision.hopeless) == hopeless


def test_a_faster_device_gives_hope_to_whom_this_one_could_not_serve():
    """A slow replica that is free first leaves what another one can do to that."""
    decision = wait((0.5, 0.0), latency=Line(1.0, 0.0), others_done_at=NOW + 0.1)
    assert decision == Idle([])
    decision = wait((0.5, 0.0), (3.0, 0.0), latency=Line(1.0), others_done_at=NOW + 0.6)
    assert items(decision.hopeless) == [0]
    decision = wait((0.5, 0.0), (3.0, 0.0), latency=Line(1.0), others_done_at=NOW + 0.1)
    assert items(decision.batch) == [1]


@st.composite
def shifted(draw):
    """In quarters, which add up without rounding; and who has no deadline has no slack to shift."""
    case = draw(cases())
    latency = Line(
        draw(st.integers(0, 8)) / 4, draw(st.integers(0, 4)) / 4, 1.0, draw(st.booleans())
    )
    requests = [(math.floor(8 * d) / 4, a, w) for d, a, w in case.requests if d < math.inf]
    return case._replace(requests=requests, latency=latency, others_done_at=math.inf)


@given(shifted(), st.sampled_from([0.25, 1.0]))
def test_delivery_is_like_nearer_deadlines(case, delivery):
    """Results that are on their way for a second are due a second earlier.

    But that a deadline has passed does not depend on delivery, and counts if all would be late.
    """
    case = case._replace(delivery=delivery)
    if case.is_lost(case.queue()):
        case = case._replace(requests=[each for each in case.requests if each[0] >= delivery])
    nearer = [(deadline - delivery, *rest) for deadline, *rest in case.requests]
    early = case._replace(requests=nearer, delivery=0.0)
    decision = case.decide(case.queue())
    same = early.decide(early.queue())
    assert type(decision) is type(same)
    assert items(decision.hopeless) == items(same.hopeless)
    assert items(batch_of(decision)) == items(batch_of(same))
    if isinstance(decision, WaitUntil):
        assert decision.time == same.time


# While little is known


def test_nothing_known_the_nearest_deadlines_go():
    """Before the first batch nobody is turned down, and it is a full one."""
    requests = [(9.0, 0.0), (-1.0, 0.0), (math.inf, 0.0), (3.0, 0.0), (0.001, 0.0), (5.0, 0.0)]
    decision = wait(*requests, latency=UNKNOWN)
    assert items(decision.batch) == [1, 4, 3, 5]
    assert decision.hopeless == []


@given(cases())
def test_nothing_known_nobody_is_hopeless(case):
    """As many as fit are tried."""
    queue = case.queue()
    decision = case._replace(latency=UNKNOWN, patient=False).decide(queue)
    assert decision.hopeless == []
    assert batch_of(decision) == queue.first(case.limits.max_batch_size)


def test_a_device_that_seems_too_slow_is_tried_again_once_that_is_old():
    """It may have become quicker: the only way to find out is a batch."""
    requests = [(0.5, 0.0), (0.4, 0.0), (0.3, 0.0), (0.2, 0.0), (0.1, 0.0)]
    slow = Line(9.0)
    assert len(wait(*requests, (99.0, 0.0), latency=slow).hopeless) == 5
    assert items(wait(*requests, latency=slow).hopeless) == [0]
    decision = wait(*requests, latency=replace(slow, fresh=False))
    assert decision == Dispatch(decision.batch, [])
    assert items(decision.batch) == [4, 3, 2, 1]


def test_it_is_tried_again_though_another_device_could_be_in_time():
    """Else the other one would have all the work for good."""
    slow = Line(9.0, fresh=False)
    decision = wait((0.5, 0.0), latency=slow, others_done_at=NOW + 0.1)
    assert items(decision.batch) == [0]
    assert decision.hopeless == []


def test_old_measurements_still_say_who_goes():
    """Nobody is turned away on their word, but who seems late does not make others late."""
    requests = [(0.05, 0.0), (0.5, 0.0), (0.6, 0.0)]
    decision = wait(*requests, latency=Line(0.1, 0.1, fresh=False))
    assert items(decision.batch) == [1, 2]
    assert decision.hopeless == []


@given(cases(fresh=st.just(True)))
def test_what_was_really_learned_serves_as_well(case):
    """With a latency model that has seen a dozen batches the same holds as with a known line."""
    latency = LatencyModel(LARGEST)
    for size in (1, 3, 3, 8, 1, 16) * 2:
        latency.observe(size, case.latency.expected[size], NOW)
    queue = case.queue()
    case = case._replace(latency=latency)
    decision = case.decide(queue)
    batch = batch_of(decision)
    assert all(case.in_time(request, len(batch)) for request in batch) or case.is_lost(queue)
    assert set(case.late(queue)) <= set(decision.hopeless)
    assert all(request.deadline < math.inf for request in decision.hopeless)
    if isinstance(decision, Idle):
        assert not any(case.in_time(r, 1) for r in queue if r not in decision.hopeless)


# Over time


class Fate(NamedTuple):
    """What became of one request: when it was taken into a batch, and when that was done."""

    taken: float
    done: float


def played(arrivals: list[Request], latency: Line, limits: Limits) -> dict[Request, Fate]:
    """Run one device on these requests, in order of arrival, until all are served or told."""
    queue: RequestQueue = RequestQueue()
    coming = arrivals[::-1]
    fates: dict[Request, Fate] = {}
    now = 0.0
    while coming or queue.size:
        while coming and coming[-1].arrived <= now:
            queue.add(coming.pop())
        decision = decide(queue, now=now, latency=latency, limits=limits)
        queue.remove_all(decision.hopeless)
        fates.update((request, Fate(math.inf, math.inf)) for request in decision.hopeless)
        if isinstance(decision, Dispatch):
            queue.remove_all(decision.batch)
            done = now + latency.expected[len(decision.batch)]
            fates.update((request, Fate(now, done)) for request in decision.batch)
            now = done
        elif isinstance(decision, WaitUntil):
            now = min(decision.time, coming[-1].arrived if coming else math.inf)
        else:
            now = max(now, coming[-1].arrived) if coming else now
    return fates


def crowd(rng: random.Random, latency: Line, limit: int, undated: list[tuple[float, float]]):
    """Three times what the device can do, with deadlines, beside (arrival, weight) without."""
    full = latency.expected[limit]
    rate = 3.0 * limit / full
    last = max(arrived for arrived, _ in undated) + 2.0 * PATIENCE * full
    requests = [Request("undated", math.inf, *each) for each in undated]
    now = 0.0
    while (now := now + rng.expovariate(rate)) < last:
        deadline = now + full * rng.uniform(0.5, 4.0)
        requests.append(Request("dated", deadline, now, rng.choice([1.0, 1.0, 4.0])))
    return sorted(requests, key=lambda request: request.arrived)


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("many", [1, 60])
def test_whoever_has_no_deadline_is_served_within_a_bound(limit, many):
    """P + (k // h + 2) full batches, where h is half of the seats, at least one.

    k others without a deadline are before it in the queue when it becomes overdue, P full
    batches after it came.

    Proof. If no batch runs then, one is chosen at once; else the one that runs ends within a
    full batch. From there on a batch is chosen each time the last one ends, since whoever
    waits without a deadline could ride: the device is never idle. Each takes the h oldest of
    the overdue, or all if they are fewer, whatever else waits. All k are overdue, having come
    earlier, and nobody gets in before them, coming later. So it is at the latest in the
    (k // h + 1)th of these batches, and none takes longer than a full one. (No `max_delay` is
    longer than P full batches, or that takes their place; of nothing known nothing is said.)
    """
    for seed in range(4):
        rng = random.Random(seed)
        latency = Line(0.010, 0.001) if seed % 2 else Line(0.001, 0.005)
        full, half = latency.expected[limit], max(1, limit // 2)
        span = rng.choice([0.0, 3.0, 30.0]) * full
        undated = sorted((rng.uniform(0.0, span), rng.choice([0.125, 1.0])) for _ in range(many))
        arrivals = crowd(rng, latency, limit, undated)
        fates = played(arrivals, latency, Limits(limit, 0.0))
        patient = [request for request in arrivals if request.item == "undated"]
        for number, request in enumerate(patient):
            overdue = request.arrived + PATIENCE * full
            before = sum(fates[other].taken >= overdue for other in patient[:number])
            bound = PATIENCE * full + (before // half + 2) * full
            assert fates[request].done - request.arrived <= bound + ROUNDING
        served = sum(fate.done < math.inf for fate in fates.values())
        assert served < 0.6 * len(arrivals)  # it was a crowd


@pytest.mark.parametrize("limit", [1, 3, 4, 8])
def test_beside_requests_without_a_deadline_others_have_half_of_the_seats(limit):
    """However many are overdue, the other half is for who gains the most; of one, none is."""
    latency, half = Line(0.010, 0.001), max(1, limit // 2)
    old = [(math.inf, -999.0, 1.0)] * 1000
    queue = queue_of(*old, *[(latency.expected[limit] + 0.001, 0.0, 4.0)] * limit)
    decision = decide(queue, now=NOW, latency=latency, limits=Limits(limit, 0.0))
    assert items(decision.batch) == [*range(1000, 1000 + limit - half), *range(half)]


@pytest.mark.parametrize("load", [0.5, 0.95, 3.0])
def test_without_deadlines_it_is_first_come_first_served(load):
    """Nobody is done before who came earlier, and nobody is told anything."""
    rng = random.Random(2)
    latency, now, arrivals = Line(0.010, 0.001), 0.0, []
    for _ in range(600):
        now += rng.expovariate(load * 8 / latency.expected[8])
        arrivals.append(Request("undated", math.inf, now))
    fates = played(arrivals, latency, Limits(8, 0.0))
    done = [fates[request].done for request in arrivals]
    assert done == sorted(done)
    assert done[-1] < math.inf


@pytest.mark.parametrize("seed", range(3))
def test_under_light_load_everybody_is_served(seed):
    """A third of what the device can do, two full batches each: nobody is told anything else."""
    rng = random.Random(seed)
    latency, now, arrivals = Line(0.010, 0.001), 0.0, []
    full = latency.expected[32]
    for _ in range(600):
        now += rng.expovariate(0.33 * 32 / full)
        arrivals.append(Request("dated", now + 2.0 * full, now, rng.choice([1.0, 4.0])))
    fates = played(arrivals, latency, Limits(32, 0.0))
    assert all(fates[request].done <= request.deadline for request in arrivals)


@pytest.mark.parametrize("seed", range(3))
def test_whoever_is_run_is_on_time_and_whoever_is_told_is_told_in_time(seed):
    """In overload as well, if batches take what they should; and batches are nearly full."""
    rng = random.Random(seed)
    latency = Line(0.010, 0.001)
    arrivals = crowd(rng, latency, 32, [(0.0, 1.0)])
    fates = played(arrivals, latency, Limits(32, 0.0))
    for request in arrivals:
        assert fates[request].done <= request.deadline or fates[request].done == math.inf
    served = sum(fate.done < math.inf for fate in fates.values())
    span = max(fate.done for fate in fates.values() if fate.done < math.inf)
    assert served >= 0.8 * 32 * span / latency.expected[32]


# Plans


def planned(case: Case, queue: RequestQueue, now: float = NOW) -> Plan | None:
    return plan(
        queue,
        now=now,
        latency=case.latency,
        limits=case.limits,
        others_done_at=NOW + case.others_done_at,
        delivery=case.delivery,
    )


@given(cases(patient=st.just(value=False)))
def test_a_plan_is_the_decision_of_the_instant_it_is_for(case):
    """The same batch, if it had to be chosen; if all fit, whoever comes can still join them."""
    queue = case.queue()
    found, decision = planned(case, queue), case.decide(queue)
    if isinstance(decision, Dispatch) and decision.chosen:
        assert found == Plan(decision.batch, NOW + case.delivery, len(decision.batch))
        assert not case.all_fit(queue)
    else:
        assert found is None


@given(
    cases(patient=st.just(value=False)),
    st.floats(-0.2, 0.2),
    st.sets(st.integers(0, 20)),
)
def test_what_is_left_of_a_plan_waits_and_will_be_on_time(case, later, leaving):
    """Nobody rides who has left, or who would be late; and it is most of the plan, or nothing."""
    queue = case.queue()
    found = planned(case, queue)
    if found is None:
        return
    for request in [*queue]:
        if request.item in leaving:
            queue.discard(request)
    start, size = found.start + later, len(found.batch)
    kept = found.carried_out(start, case.latency)
    good = [
        request
        for request in found.batch
        if request.item not in leaving
        and request.deadline >= start + case.latency.bounds[size] - ROUNDING
    ]
    near = abs(later) <= case.latency.expected[-1] / 32
    assert kept == (good if near and len(good) >= size * 7 / 8 else [])


# Devices that are not steady


@dataclass(frozen=True)
class Erratic(Line):
    """What a batch takes is not known that well: it may be half of it."""

    @property
    def residuals(self) -> Chance:
        chance = Chance(0.5)
        chance.chances = ()
        return chance

    @property
    def floors(self) -> list[float]:
        return [0.5 * seconds for seconds in self.expected]

    def floor(self, seconds: float) -> float:
        return 0.5 * seconds


@dataclass(frozen=True)
class Wild(Erratic):
    """It is mere chance."""

    @property
    def residuals(self) -> Chance:
        return Chance(0.5, 0.5, 1.0, 1.0, 2.0, 2.0)


# All three take 0.4 s together, and alone the first takes 0.2 s.
UNEVEN = [(0.25, 0.0), (0.9, 0.0), (0.8, 0.0)]


def test_a_steady_device_chooses_though_there_is_time_to_spare():
    """It is known who would be late."""
    assert items(wait(*UNEVEN, latency=Line(0.1, 0.1)).batch) == [0]


@pytest.mark.parametrize("kind", [Erratic, Wild])
def test_a_device_that_is_not_steady_takes_who_is_due_first_while_there_is_time_to_spare(kind):
    """All who fit, though the first might be late: it may as well not be."""
    decision = wait(*UNEVEN, latency=kind(0.1, 0.1))
    assert items(decision.batch) == [0, 2, 1]
    assert decision.hopeless == []
    assert not decision.chosen
    decision = wait(*UNEVEN, *[(0.95, 0.0)] * 3, latency=kind(0.1, 0.1))
    assert items(decision.batch) == [0, 2, 1, 3]


def busy(kind, span: float, stay: int = 5, devices: int = 1):
    """Of 40 that came in the last so many seconds so many wait; batches take up to 3.3 s."""
    requests = [(0.25, -span), *[(1.0 + i, span * i / 40 - span) for i in range(39)]]
    queue, limits = queue_of(*requests), Limits(4, 0.0, devices)
    queue.remove_all([request for request in queue if 0 < request.item <= 40 - stay])
    return decide(queue, now=NOW, latency=kind(0.1, 0.1), limits=limits)


def test_a_device_that_is_not_steady_chooses_when_time_is_short():
    """Clearly more than what all can do came of late: then somebody has to go without."""
    # 40 in 4 s, and 32 in 3.3 s are as many as it can do.
    assert busy(Erratic, 3.5).chosen
    assert busy(Erratic, 3.7).chosen
    assert not busy(Erratic, 3.8).chosen
    assert not busy(Erratic, 3.5, devices=2).chosen
    assert busy(Erratic, 1.8, devices=2).chosen
    assert busy(Line, 99.0).chosen


def test_a_device_that_is_not_steady_chooses_among_very_many():
    """However few come at present: more than two full batches wait for each device."""
    assert not busy(Erratic, 9.0, stay=8).chosen
    assert busy(Erratic, 9.0, stay=9).chosen
    assert not busy(Erratic, 9.0, stay=9, devices=2).chosen


def test_chosen_or_not_nobody_is_late_by_more_than_is_likely():
    """Those that are chosen are on time for sure; the others in the order of their deadlines."""
    assert items(busy(Erratic, 3.5).batch) == [0]  # with more it would be late
    assert items(busy(Erratic, 9.0).batch) == [0, 36, 37, 38]


def test_of_mere_chance_all_go_if_they_fit():
    """However short time is: who stays behind has no better chance."""
    requests = [(0.25, -0.1)] + [(0.3 + i / 100, -0.1) for i in range(7)]
    limits = Limits(8, 0.0)
    for kind, chosen in ((Wild, False), (Erratic, True)):
        queue = queue_of(*requests)
        decision = decide(queue, now=NOW, latency=kind(0.1, 0.1), limits=limits)
        assert decision.chosen is chosen
        assert not chosen or len(decision.batch) < 8
        assert chosen or items(decision.batch) == [*range(8)]
    queue = queue_of(*requests, (9.0, 0.0))
    assert decide(queue, now=NOW, latency=Wild(0.1, 0.1), limits=limits).chosen


@pytest.mark.parametrize("kind", [Erratic, Wild])
def test_beside_requests_without_a_deadline_there_is_a_choice(kind):
    """In deadline order they would never have their turn."""
    requests = [(math.inf, -999.0), *[(0.25 + i, -99.0) for i in range(20)]]
    decision = wait(*requests, latency=kind(0.1, 0.1))
    assert decision.chosen
    assert 0 in items(decision.batch)


def test_of_a_device_that_is_not_steady_only_what_no_batch_reaches_is_hopeless():
    """One takes 0.2 s, or half of that; behind a batch of four, 0.5 s, it is half of all."""
    requests = [(0.09, 0.0), (0.11, 0.0), *[(0.3 + i / 100, 0.0) for i in range(6)]]
    decision = wait(*requests, latency=Erratic(0.1, 0.1))
    assert items(decision.batch) == [1, 2, 3, 4]
    assert items(decision.hopeless) == [0, 5, 6]  # 0.35 s is just not out of reach


def test_a_device_that_is_not_steady_does_not_leave_it_to_another_one():
    """That one could be in time; this one could as well."""
    for kind in (Erratic, Wild):
        decision = wait((0.15, 0.0), latency=kind(0.1, 0.1), others_done_at=NOW + 0.14)
        assert items(decision.batch) == [0]
    assert wait((0.15, 0.0), latency=Line(0.1, 0.1), others_done_at=NOW + 0.14) == Idle([])


# Items that differ in what they cost. Which of them share a batch: test_packing

BY_COST = Shapes(None, float, 1.0 * LARGEST, LARGEST)


class LongLine(Line):
    """As many loads as such a batch may have."""

    @property
    def expected(self) -> list[float]:
        return [0.0, *(self.fixed + self.per_item * n for n in range(1, BY_COST.most + 1))]


def shaped(*requests: tuple[float, ...]) -> RequestQueue:
    """Requests with these (cost, deadline), seconds from now, and arrival if it was earlier."""
    queue: RequestQueue = RequestQueue()
    for cost, deadline, *arrival in requests:
        arrived = NOW + sum(arrival)
        queue.add(ShapedRequest(cost, NOW + deadline, arrived, 1.0, BY_COST.of(cost)))
    return queue


def decided(queue: RequestQueue, line=None, delay: float = 0.0, **keywords):
    limits = Limits(LARGEST, delay, 1, BY_COST)
    latency = LongLine(0.5, 0.25) if line is None else line
    return decide(queue, now=NOW, latency=latency, limits=limits, **keywords)


def test_nobody_waits_whatever_items_cost():
    """The device idles."""
    assert decided(shaped()) == Idle([])


def test_by_cost_whom_nobody_can_serve_is_hopeless():
    """A cheap item may be in time where a dear one is not."""
    queue = shaped((1.0, 1.0), (16.0, 1.0))  # alone: 1 s and 8.5 s
    decision = decided(queue)
    assert items(batch_of(decision)) == [1.0]
    assert items(decision.hopeless) == [16.0]
    assert items(decided(shaped((16.0, -0.1))).hopeless) == [16.0]


def test_by_cost_what_would_be_late_is_run_if_that_is_all_there_is():
    """It takes 8.5 s and has one; whose deadline has passed is told."""
    decision = decided(shaped((16.0, 1.0), (1.0, -0.1)))
    assert items(batch_of(decision)) == [16.0]
    assert items(decision.hopeless) == [1.0]


def test_by_cost_who_stays_behind_is_hopeless_if_that_is_too_late():
    """It cannot begin before this batch has ended."""
    decision = decided(shaped((4.0, math.inf, -1e6), (16.0, 9.0)))  # 2.5 s and 8.5 s
    assert items(batch_of(decision)) == [4.0]
    assert items(decision.hopeless) == [16.0]


def test_by_cost_another_device_may_still_be_in_time():
    """This one idles then."""
    decision = decided(shaped((16.0, 1.0)), others_done_at=NOW + 0.5)
    assert decision == Idle([])


def test_by_cost_one_that_nobody_can_serve_does_not_hide_what_another_device_can():
    """The other one is waited for by those it can serve; the lost one is told."""
    decision = decided(shaped((1.0, 0.1), (16.0, 1.0)), others_done_at=NOW + 0.5)
    assert type(decision) is Idle
    assert items(decision.hopeless) == [1.0]


def test_by_cost_a_device_that_seems_too_slow_is_tried_again_once_that_is_old():
    """Whatever another one could do meanwhile."""
    old = LongLine(0.5, 0.25, fresh=False)
    decision = decided(shaped((16.0, 1.0)), old, others_done_at=NOW + 0.5)
    assert items(batch_of(decision)) == [16.0]
    assert decision.hopeless == []


def test_by_cost_a_device_nobody_knows_runs_those_alike():
    """And calls nobody hopeless."""
    decision = decided(shaped((2.0, 5.0), (1.0, 1.0), (2.0, 5.0)), LatencyModel(BY_COST.most))
    assert items(batch_of(decision)) == [1.0]
    decision = decided(shaped((2.0, 5.0), (2.0, 5.0)), LatencyModel(BY_COST.most))
    assert items(batch_of(decision)) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("deadline", "until"), [(math.inf, 0.3), (1000.0, 0.3), (16.7, 0.2), (16.4, None)]
)
def test_by_cost_companions_are_waited_for(deadline, until):
    """As long as the user allows, and as the dearest batch would be in time for those there are."""
    queue = shaped((1.0, deadline))  # a batch takes 16.5 s at most
    decision = decided(queue, delay=0.3)
    if until is None:
        assert items(batch_of(decision)) == [1.0]
    else:
        assert isinstance(decision, WaitUntil)
        assert decision.time == pytest.approx(NOW + until)
    assert isinstance(decided(queue, delay=0.3, patient=False), Dispatch)


def test_by_cost_a_wait_is_as_long_on_a_device_nobody_knows():
    """Any wait might cost a deadline then."""
    unknown = LatencyModel(BY_COST.most)
    assert isinstance(decided(shaped((1.0, 5.0)), unknown, delay=0.3), Dispatch)
    assert isinstance(decided(shaped((1.0, math.inf)), unknown, delay=0.3), WaitUntil)


def test_by_cost_a_plan_counts_by_load():
    """It has to be on time with that."""
    queue = shaped((2.0, 20.0), (1.0, 20.0), (2.0, 20.0))
    limits, line = Limits(LARGEST, 0.0, 1, BY_COST), LongLine(0.5, 0.25)
    found = plan(queue, now=NOW, latency=line, limits=limits)
    assert found.load == limits.load(found.batch) > len(found.batch)
    assert found.carried_out(NOW, line) == found.batch


def test_a_latency_model_knows_as_many_sizes_as_there_are():
    """Or loads, where items have costs."""
    assert Limits(LARGEST, 0.0).most == LARGEST
    assert Limits(LARGEST, 0.0, 1, BY_COST).most == BY_COST.most != LARGEST


def test_the_size_of_a_batch_counts_the_dearest_for_each():
    """As it is padded to that; where nothing differs, it is how many."""
    limits = Limits(LARGEST, 0.0, 1, BY_COST)
    assert limits.size([*shaped((1.0, 1.0), (4.0, 1.0), (2.0, 1.0))]) == 12.0
    assert limits.size([*queue_of((1.0, 0.0), (1.0, 0.0))]) == 2.0


def test_patience_grows_with_the_queue_where_items_differ():
    """Being served in turn takes that long once: batches are of those alike then."""
    assert Limits(LARGEST, 0.0).patience(10 * LARGEST) == PATIENCE
    by_cost = Limits(LARGEST, 0.0, 1, BY_COST)
    assert by_cost.patience(0) == PATIENCE
    assert by_cost.patience(10 * LARGEST) == PATIENCE + 10 * TURNS
