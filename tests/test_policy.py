"""What a free device does: the decisions are values, taken from a queue, a line and the time."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import given, strategies as st

from trio_batcher._latency import LatencyModel
from trio_batcher._policy import Dispatch, Idle, Limits, WaitUntil, decide
from trio_batcher._queue import Request, RequestQueue

NOW = 100.0
MARGIN = 1e-9


class Line(NamedTuple):
    """A device that is known exactly: a batch of n takes ``fixed + per_item * n``."""

    fixed: float = 0.0
    per_item: float = 0.0

    def takes(self, size: int) -> float:
        return self.fixed + self.per_item * size

    def at_least(self, size: int, now: float) -> float:
        return self.takes(size)

    def at_most(self, size: int) -> float:
        return self.takes(size)

    estimate = at_most


class Careful(Line):
    """The same, with bounds that leave room for rounding, as learned ones do."""

    def at_least(self, size: int, now: float) -> float:
        return 0.99 * self.takes(size)

    def at_most(self, size: int) -> float:
        return self.takes(size) / 0.99


UNKNOWN = LatencyModel()


class Case(NamedTuple):
    """Everything a decision is made from, in seconds from now."""

    requests: list[tuple[float, float]]  # (deadline, arrival)
    latency: Line
    limits: Limits
    others_done_at: float
    patient: bool

    def soonest(self) -> float:
        """When a request could be done at the very earliest, on any device."""
        return NOW + min(self.latency.takes(1), self.others_done_at)

    def soonest_behind(self, batch) -> float:
        """The same for one that stays behind a batch on this device."""
        behind = self.latency.takes(len(batch)) + self.latency.takes(1)
        return NOW + min(behind, self.others_done_at)

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
        )


def queue_of(*requests: tuple[float, float]) -> RequestQueue:
    """Requests with these (deadline, arrival), seconds from now."""
    queue = RequestQueue()
    for number, (deadline, arrival) in enumerate(requests):
        queue.add(Request(number, NOW + deadline, NOW + arrival))
    return queue


def items(requests) -> list[int]:
    return [request.item for request in requests]


# Round numbers mostly, so that deadlines are met and missed exactly.
deadlines = (
    st.just(math.inf)
    | st.integers(1, 40).map(lambda n: n / 10)
    | st.floats(-0.5, 4.0, allow_nan=False)
)
delays = st.sampled_from([0.0, 0.5, 2.0, 10.0])


@st.composite
def cases(draw, patient=st.booleans(), max_delay=delays):  # noqa: B008  strategies are values
    arrivals = sorted(draw(st.lists(st.integers(0, 8), max_size=20)), reverse=True)
    return Case(
        requests=[(draw(deadlines), -arrival / 10) for arrival in arrivals],
        latency=Line(draw(st.integers(0, 5)) / 10, draw(st.integers(0, 3)) / 10),
        limits=Limits(draw(st.sampled_from([1, 2, 3, 8, 32])), draw(max_delay)),
        others_done_at=draw(st.sampled_from([math.inf, math.inf, 0.0, 0.1, 0.5, 1.0])),
        patient=draw(patient),
    )


def batch_of(decision) -> list[Request]:
    return decision.batch if isinstance(decision, Dispatch) else []


# Always


@given(cases())
def test_the_batch_has_the_nearest_deadlines(case):
    """Deadline order, equal ones as they came, without those who are too late already."""
    queue = case.queue()
    decision = case.decide(queue)
    late = {id(request) for request in decision.hopeless}
    hopeful = [request for request in queue if id(request) not in late]
    batch = batch_of(decision)
    assert batch == hopeful[: len(batch)]
    assert len(batch) <= case.limits.max_batch_size
    if isinstance(decision, Dispatch):
        possible = [r for r in queue if r.deadline >= case.soonest()]
        assert batch == possible[: case.limits.max_batch_size]
        assert batch


@given(cases())
def test_nobody_is_forgotten(case):
    """Idle means that nobody is left who could be served."""
    queue = case.queue()
    decision = case.decide(queue)
    if isinstance(decision, Idle):
        assert decision.hopeless == list(queue)
    else:
        assert len(decision.hopeless) < queue.size


@given(cases())
def test_hopeless_is_who_cannot_be_served_by_anybody(case):
    """Alone in a batch, started as soon as any device is free, it would end too late."""
    queue = case.queue()
    decision = case.decide(queue)
    batch = batch_of(decision)
    assert len({id(request) for request in [*decision.hopeless, *batch]}) == (
        len(decision.hopeless) + len(batch)
    )
    done = case.soonest()
    for request in decision.hopeless:
        if batch and request.deadline >= batch[-1].deadline:
            # It stays behind this batch, and any device that is done sooner was counted.
            done = case.soonest_behind(batch)
        assert done > request.deadline - MARGIN


@given(cases())
def test_who_is_certain_to_be_late_is_told_at_once(case):
    """It is among the hopeless, in deadline order, whatever else is decided."""
    queue = case.queue()
    decision = case.decide(queue)
    late = [r for r in queue if r.deadline < case.soonest()]
    assert decision.hopeless[: len(late)] == late
    if isinstance(decision, Dispatch):
        behind = [r for r in queue if r not in decision.batch and r not in late]
        too_late = [r for r in behind if r.deadline < case.soonest_behind(decision.batch)]
        assert decision.hopeless[len(late) :] == too_late
    else:
        assert decision.hopeless == late


@given(cases())
def test_a_decision_changes_nothing(case):
    """The queue, the requests and the latency model are as before; asking again says the same."""
    queue = case.queue()
    waiting, arrivals = list(queue), list(queue._arrivals)
    chunks = [list(chunk) for chunk in queue._chunks]
    first = case.decide(queue)
    assert list(queue) == waiting
    assert all(request.waits for request in waiting)
    assert (queue._chunks, list(queue._arrivals)) == (chunks, arrivals)
    assert (queue.size, queue.peak) == (len(waiting), len(waiting))
    assert case.decide(queue) == first


def test_a_decision_does_not_change_what_is_known():
    """The latency model is only asked."""
    latency = LatencyModel()
    for size in (1, 2, 4, 8):
        latency.observe(size, 0.1 + 0.01 * size, NOW)
    before = {name: repr(value) for name, value in vars(latency).items()}
    queue = queue_of((0.05, 0.0), (1.0, 0.0), (math.inf, 0.0))
    decision = decide(queue, now=NOW, latency=latency, limits=Limits(8, 0.5))
    assert type(decision) is WaitUntil
    assert items(decision.hopeless) == [0]
    assert {name: repr(value) for name, value in vars(latency).items()} == before


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
    """The most urgent request that could be served still can be when the wait is over."""
    queue = case.queue()
    decision = case.decide(queue)
    if isinstance(decision, WaitUntil):
        queue.remove_all(decision.hopeless)
        size = queue.size
        assert decision.time + case.latency.takes(size) <= queue.earliest_deadline + MARGIN


@given(cases(patient=st.just(True), max_delay=st.sampled_from([2.0, 10.0])))
def test_a_wait_ends_with_a_dispatch(case):
    """When it is over those who waited are run, and the wait has made none of them hopeless."""
    case = case._replace(latency=Careful(*case.latency))
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
def test_a_full_batch_goes_at_once(case):
    """As many as fit are there: nothing is gained by waiting."""
    queue = case.queue()
    decision = case.decide(queue)
    if queue.size - len(decision.hopeless) >= case.limits.max_batch_size:
        assert type(decision) is Dispatch
        assert len(decision.batch) == case.limits.max_batch_size


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


def test_a_deadline_too_near_for_a_wait_is_served_at_once():
    """What is there takes 0.3 s, and the most urgent has 0.25, enough for itself: go."""
    decision = wait((math.inf, 0.0), (0.25, 0.0), latency=Line(0.1, 0.1))
    assert type(decision) is Dispatch
    assert items(decision.batch) == [1, 0]


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


def test_who_is_late_is_told_even_if_nobody_else_waits():
    """The deadline has passed, or passes before a batch of one could end."""
    decision = wait((-0.1, 0.0), (0.05, 0.0), latency=Line(0.1))
    assert type(decision) is Idle
    assert items(decision.hopeless) == [0, 1]


def test_a_deadline_that_can_just_be_met_is_not_hopeless():
    """Exactly as long as a batch of one takes is enough."""
    decision = wait((0.5, 0.0), latency=Line(0.25, 0.25), max_delay=0.0)
    assert type(decision) is Dispatch
    assert decision.hopeless == []
    decision = wait((0.25, 0.0), latency=Line(0.25, 0.25))
    assert items(decision.hopeless) == [0]


@given(cases())
def test_nothing_known_only_the_past_is_hopeless(case):
    """Before the first batches nobody is turned down who has any time left."""
    queue = case.queue()
    decision = decide(queue, now=NOW, latency=UNKNOWN, limits=case.limits)
    assert decision.hopeless == [r for r in queue if r.deadline < NOW]


def test_who_stays_behind_a_full_batch_is_told_when_that_is_too_late():
    """The batch takes 0.5 s, and a lone one after it 0.2: less than 0.7 s is not enough."""
    requests = [(0.6, 0.0)] * 5 + [(0.65, 0.0), (0.75, 0.0)]
    decision = wait(*requests, latency=Line(0.1, 0.1))
    assert items(decision.batch) == [0, 1, 2, 3]
    assert items(decision.hopeless) == [4, 5]


def test_who_has_no_deadline_is_never_hopeless():
    """However many stay behind."""
    decision = wait(*[(math.inf, 0.0)] * 50, latency=Line(1e6, 1e6))
    assert decision == Dispatch(decision.batch, [])
    assert len(decision.batch) == 4


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
    """A slow replica that is free first does not give up what another one can do."""
    decision = wait((0.5, 0.0), latency=Line(1.0, 0.0), others_done_at=NOW + 0.1)
    assert decision.hopeless == []
    decision = wait((0.5, 0.0), latency=Line(1.0, 0.0), others_done_at=NOW + 0.6)
    assert items(decision.hopeless) == [0]


def test_decisions_are_values():
    """Equal when they say the same, and nobody can change what they say."""
    requests = list(queue_of((1.0, 0.0)))
    assert Dispatch(requests, []) == Dispatch(list(requests), [])
    assert Idle(requests) != WaitUntil(1.0, requests)
    with pytest.raises(AttributeError):
        Idle([]).hopeless = requests
    with pytest.raises(AttributeError):
        Limits(1, 0.0).max_delay = 1.0


@given(cases())
def test_what_was_really_learned_serves_as_well(case):
    """With a latency model that has seen four batches the same holds as with a known line."""
    latency = LatencyModel()
    for size in (1, 3, 3, 8):
        latency.observe(size, case.latency.takes(size), NOW)
    queue = case.queue()
    decision = case._replace(latency=latency).decide(queue)
    late = NOW + min(latency.at_least(1, NOW), case.others_done_at)
    hopeful = [request for request in queue if request.deadline >= late]
    assert all(request.deadline < math.inf for request in decision.hopeless)
    if isinstance(decision, Dispatch):
        assert decision.batch == hopeful[: case.limits.max_batch_size]
    else:
        assert decision.hopeless == [request for request in queue if request.deadline < late]
