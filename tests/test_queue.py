"""The request queue, against a list that does the same the slow way."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain, groupby
from operator import attrgetter
from weakref import ref

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from trio_batcher import _lane, _queue
from trio_batcher._lane import RECENT
from trio_batcher._outcomes import ShapedRequest
from trio_batcher._queue import Request, RequestQueue
from trio_batcher._shapes import Key, Shape

# Few values, so that many are equal, and order among equals matters.
deadlines = st.one_of(
    st.integers(0, 8).map(float), st.just(math.inf), st.floats(-1e3, 1e3, allow_nan=False)
)
weights = st.sampled_from([1.0, 1.0, 4.0, 0.25, 1e-9, 1e9])


@pytest.fixture
def small(monkeypatch):
    """Chunks and litter so small that a few requests make chunks split and be swept."""
    monkeypatch.setattr(_lane, "_LITTER", 2)
    monkeypatch.setattr(_lane, "_CHUNK", 4)
    monkeypatch.setattr(_queue, "_LANES", 2)


def request(
    deadline: float = math.inf, arrived: float = 0.0, item: object = None, weight: float = 1.0
) -> Request:
    return Request(item, deadline, arrived, weight)


def filled(*deadlines: float) -> tuple[RequestQueue, list[Request]]:
    """A queue and the requests put into it, of two weights, arriving at 0.0, 1.0, 2.0, …"""
    queue = RequestQueue()
    requests = [
        request(deadline, float(i), i, (1.0, 4.0)[i % 3 == 1])
        for i, deadline in enumerate(deadlines)
    ]
    for each in requests:
        queue.add(each)
    return queue, requests


def lanes_of(queue: RequestQueue) -> list:
    return [*queue.due.values(), *queue.undue.values()]


def entries_held(queue: RequestQueue) -> int:
    return sum(len(chunk) for lane in lanes_of(queue) for chunk in lane._chunks)


def check_structure(queue: RequestQueue) -> None:
    """Each lane holds what belongs there, and knows how much."""
    for lanes, due in ((queue.due, True), (queue.undue, False)):
        for weight, lane in lanes.items():
            waiting = [entry[2] for entry in lane]
            assert lane.weight == weight
            assert lane.size == len(waiting)
            assert all(each.lane is lane and each.weight == weight for each in waiting)
            assert all((each.deadline < math.inf) == due for each in waiting)
            assert not lane._chunks[0] or lane._chunks[0][0][2].lane is lane
            assert all(len(chunk) <= _lane._CHUNK for chunk in lane._chunks)
    assert queue.size == sum(lane.size for lane in lanes_of(queue))


def check_memory(queue: RequestQueue) -> None:
    """What is kept is in proportion to what waits."""
    litter = _lane._LITTER * len(lanes_of(queue))
    assert entries_held(queue) <= 2 * queue.size + litter


class QueueAgainstList(RuleBasedStateMachine):
    """Whatever is done to both, the queue and a list sorted by deadline agree."""

    requests = Bundle("requests")

    @initialize(chunk=st.integers(2, 6), litter=st.integers(0, 4), lanes=st.integers(1, 4))
    def begin(self, chunk, litter, lanes):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_lane, "_CHUNK", chunk)
        self.patch.setattr(_lane, "_LITTER", litter)
        self.patch.setattr(_queue, "_LANES", lanes)
        self.queue = RequestQueue()
        self.waiting: list[Request] = []  # as they came
        self.all: list[Request] = []
        self.peak = 0

    def teardown(self):
        self.patch.undo()

    def in_order(self) -> list[Request]:
        return sorted(self.waiting, key=lambda each: each.deadline)  # sorted() is stable

    def put(self, deadline: float, weight: float) -> Request:
        came = len(self.all)
        new = request(deadline, float(came), came, weight)
        self.queue.add(new)
        self.all.append(new)
        self.waiting.append(new)
        self.peak = max(self.peak, len(self.waiting))
        return new

    @rule(target=requests, deadline=deadlines, weight=weights)
    def add(self, deadline, weight):
        return self.put(deadline, weight)

    @rule(target=requests, many=st.lists(st.tuples(deadlines, weights), max_size=12))
    def add_some(self, many):
        return multiple(*(self.put(*each) for each in many))

    @rule(target=requests, start=deadlines, step=st.sampled_from([-1.0, 0.0, 1.0]), weight=weights)
    def add_a_run(self, start, step, weight):
        return multiple(*(self.put(start + i * step, weight) for i in range(10)))

    @rule(gone=requests)
    def discard(self, gone):
        """Also one that left long ago."""
        assert self.queue.discard(gone) == (gone in self.waiting)
        if gone in self.waiting:
            self.waiting.remove(gone)

    @rule(gone=consumes(requests))
    def discard_for_good(self, gone):
        self.discard(gone)

    @rule(count=st.integers(0, 12))
    def take(self, count):
        batch = self.queue.first(count)
        assert batch == self.in_order()[:count]
        self.queue.remove_all(batch)
        self.waiting = [each for each in self.waiting if each not in batch]

    @rule(data=st.data())
    def remove_some(self, data):
        some = [each for each in self.waiting if data.draw(st.booleans())]
        rest = [each for each in self.in_order() if each not in some]
        for count in (0, 1, 5, len(rest), len(rest) + 9):
            assert self.queue.first(count, some) == rest[:count]
        self.queue.remove_all(some)
        self.waiting = [each for each in self.waiting if each not in some]

    @rule(data=st.data(), count=st.integers(0, 6))
    def put_back(self, data, count):
        """Any that left; those that lie about as litter too."""
        gone = [each for each in self.all if each not in self.waiting]
        back = data.draw(st.permutations(gone))[:count] if gone else []
        self.queue.put_back(back)
        self.waiting = [*back, *self.waiting]
        self.peak = max(self.peak, len(self.waiting))

    @rule()
    def clear(self):
        assert self.queue.clear() == self.waiting
        self.waiting = []

    @invariant()
    def agree(self):
        queue, expected = self.queue, self.in_order()
        assert list(queue) == queue.first(len(expected)) == expected
        kinds = {(each.weight, each.deadline < math.inf) for each in expected}
        assert queue.is_uniform == (len(kinds) == 1)
        assert len(queue) == queue.size == len(expected)
        assert queue.peak == self.peak
        assert queue.added == len(self.all)
        assert queue.earliest_deadline == min([e.deadline for e in expected], default=math.inf)
        assert queue.oldest_arrival == min([e.arrived for e in expected], default=math.inf)
        assert all(each.lane for each in expected)

    @invariant()
    def rate(self):
        if len({e.weight for e in self.all}) > _queue._LANES:
            return  # a weight that is out of use is forgotten
        since, counts = self.queue.recent()
        assert since == min([e.arrived for e in self.all[-RECENT:]], default=math.inf)
        last = Counter(e.weight for e in self.all if e.arrived >= since)
        assert {weight: count for weight, count in counts.items() if count} == last

    @invariant()
    def due(self):
        """By weight, each in order; who has no deadline is never due."""
        for time in (-math.inf, 3.0, 3.5, 8.0, math.inf):
            found = self.queue.due_before(time)
            expected = [each for each in self.in_order() if each.deadline < time]
            by_weight = groupby(found, attrgetter("weight"))
            kinds = {weight: list(group) for weight, group in by_weight}
            assert len(found) == len(expected) == sum(map(len, kinds.values()))
            for weight, group in kinds.items():
                assert group == [each for each in expected if each.weight == weight]
            later = [each.deadline for each in self.waiting if each.deadline >= time]
            assert self.queue.earliest_from(time) == min(later, default=math.inf)

    @invariant()
    def sound(self):
        check_structure(self.queue)
        check_memory(self.queue)


QueueAgainstList.TestCase.settings = settings(max_examples=60, stateful_step_count=30)


class TestQueueAgainstList(QueueAgainstList.TestCase):
    """In any sequence of operations the queue does what a sorted list would."""


@given(st.lists(deadlines, max_size=60))
def test_requests_are_in_order_of_deadlines_and_equal_ones_as_they_came(many):
    """The nearest deadline first, whatever the weight; first come, first served among equals."""
    queue, requests = filled(*many)
    expected = sorted(requests, key=lambda each: each.deadline)
    assert list(queue) == queue.first(len(many)) == expected


def test_an_empty_queue_has_nothing_due():
    """No deadline, no arrival, no request."""
    queue = RequestQueue()
    assert queue.earliest_deadline == queue.earliest_from(0.0) == queue.oldest_arrival == math.inf
    assert queue.first(3) == queue.due_before(math.inf) == queue.clear() == list(queue) == []
    assert queue.recent() == (math.inf, {})
    assert not queue.is_uniform
    assert queue.size == queue.peak == queue.added == len(queue) == 0
    queue.remove_all([])
    check_structure(queue)


def test_a_queue_that_was_emptied_can_be_used_again(small):
    """Emptied request by request, by `remove_all` or by `clear`, it starts afresh."""
    queue = RequestQueue()
    for empty in (
        lambda: [queue.discard(each) for each in list(queue)],
        lambda: queue.remove_all(queue.first(99)),
        queue.clear,
    ):
        requests = [request(float(-i)) for i in range(20)]
        for each in requests:
            queue.add(each)
        assert list(queue) == requests[::-1]
        empty()
        assert list(queue) == []
        assert entries_held(queue) == 0
        check_structure(queue)
    assert queue.peak == 20


def test_requests_are_never_compared_with_one_another():
    """Items that cannot be compared, with equal deadlines: identity is enough."""

    class Incomparable:
        def __eq__(self, other):
            raise AssertionError

        __lt__ = __eq__
        __hash__ = None

    queue = RequestQueue()
    requests = [request(1.0, item=Incomparable(), weight=1.0 + i % 2) for i in range(50)]
    for each in requests:
        queue.add(each)
    assert queue.discard(requests[20])
    assert queue.first(50) == requests[:20] + requests[21:]


def test_equal_items_are_different_requests():
    """The same item asked for twice is two requests; one leaves, the other stays."""
    queue = RequestQueue()
    first, second = request(1.0, item="same"), request(1.0, item="same")
    queue.add(first)
    queue.add(second)
    assert queue.discard(first)
    assert not queue.discard(first)
    assert list(queue) == [second]


def test_a_request_is_discarded_once():
    """Who left says so the first time only, and one never queued was never there."""
    queue, (only,) = filled(1.0)
    assert only.lane
    assert queue.discard(only)
    assert not only.lane
    assert not queue.discard(only)
    assert not queue.discard(request())
    assert queue.size == 0


def test_first_passes_over_those_that_left(small):
    """A batch is full although requests in front, between and behind were discarded."""
    queue, requests = filled(*map(float, range(12)))
    for i in (1, 2, 4, 7):
        queue.discard(requests[i])
    assert queue.first(4) == [requests[i] for i in (0, 3, 5, 6)]
    assert queue.first(99) == [requests[i] for i in (0, 3, 5, 6, 8, 9, 10, 11)]
    assert queue.first(0) == []
    assert queue.first(3, [requests[0], requests[6]]) == [requests[i] for i in (3, 5, 8)]


def test_due_before_is_strict_and_earliest_from_is_not():
    """Due before 2 is who has less than 2; who has exactly 2 can still make it."""
    queue, requests = filled(3.0, 2.0, 1.0, 2.0)
    assert queue.due_before(1.0) == []
    assert queue.due_before(2.0) == [requests[2]]
    assert {*queue.due_before(math.nextafter(2.0, 3.0))} == {requests[i] for i in (2, 1, 3)}
    assert queue.earliest_from(2.0) == 2.0
    assert queue.earliest_from(math.nextafter(2.0, 3.0)) == 3.0


def test_who_has_no_deadline_is_never_due():
    """Neither before infinity nor as the earliest."""
    queue, requests = filled(math.inf, 1.0, math.inf)
    assert queue.due_before(math.inf) == [requests[1]]
    assert queue.earliest_from(2.0) == math.inf


def test_the_first_besides_some():
    """In deadline order, and those may be nobody or everybody."""
    queue, requests = filled(3.0, math.inf, 1.0, 2.0)
    assert queue.first(9) == [requests[i] for i in (2, 3, 0, 1)]
    assert queue.first(9, [requests[3], requests[1]]) == [requests[i] for i in (2, 0)]
    assert queue.first(1, [requests[2]]) == [requests[3]]
    assert queue.first(9, requests) == []


def test_requests_are_uniform_if_only_their_deadlines_differ():
    """The same weight, and all have a deadline or none has; who has left does not count."""
    queue = RequestQueue()
    requests = [request(1.0), request(2.0), request(1.0, weight=4.0), request(math.inf)]
    uniform = []
    for each in requests:
        queue.add(each)
        uniform.append(queue.is_uniform)
    for each in requests:
        queue.discard(each)
        uniform.append(queue.is_uniform)
    assert uniform == [True, True, False, False, False, False, True, False]


def test_looking_changes_nothing(small):
    """`first`, `due_before` and iterating leave the queue as it is."""
    queue, requests = filled(*(float(i % 7) for i in range(30)))
    for each in requests[::3]:
        queue.discard(each)

    def state():
        chunks = [[list(chunk) for chunk in lane._chunks] for lane in lanes_of(queue)]
        return list(queue), chunks, queue.recent(), queue.size

    before = state()
    for count in (0, 1, 5, 100):
        queue.first(count, queue.first(count))
        assert queue.oldest_arrival == 1.0
        assert not queue.is_uniform
        queue.due_before(float(count))
        queue.earliest_from(float(count))
    assert state() == before


def test_the_oldest_arrival_is_of_those_that_wait():
    """Not of the request with the nearest deadline, and not of one that has left."""
    queue, requests = filled(5.0, 1.0, 3.0)
    assert queue.oldest_arrival == 0.0
    queue.discard(requests[0])
    assert queue.oldest_arrival == 1.0
    queue.remove_all(requests[1:])
    assert queue.oldest_arrival == math.inf


def test_clear_returns_requests_as_they_came():
    """In the order of arrival, without those that left, whatever their deadlines."""
    queue, requests = filled(3.0, 1.0, 2.0, 1.0)
    queue.discard(requests[2])
    assert queue.clear() == [requests[0], requests[1], requests[3]]
    assert not any(each.lane for each in requests)
    assert queue.clear() == []


def test_of_the_last_requests_arrival_and_weight_are_remembered():
    """Of those that left as well, and of a bounded number: they tell the rate."""
    queue = RequestQueue()
    for i in range(1_000):
        each = request(9.0, float(i), weight=float(i % 3 + 1))
        queue.add(each)
        queue.discard(each)
    since, counts = queue.recent()
    assert since == 1_000 - RECENT
    assert counts == Counter(float(i % 3 + 1) for i in range(1_000 - RECENT, 1_000))


# Memory


def test_memory_is_bounded_while_the_head_stays_for_ever():
    """One urgent old request at the front does not keep the litter behind it alive."""
    queue = RequestQueue()
    head = request(-1.0)
    queue.add(head)
    for i in range(5_000):
        passing = request(float(i))
        queue.add(passing)
        assert queue.discard(passing)
        check_memory(queue)
    assert list(queue) == [head]


def test_memory_is_bounded_while_the_oldest_stays_for_ever():
    """The oldest request has no deadline: others pass it at the front, none is kept."""
    queue = RequestQueue()
    oldest = request(math.inf)
    queue.add(oldest)
    for i in range(5_000):
        queue.add(request(float(i)))
        queue.remove_all(queue.first(1))
        check_memory(queue)
    assert list(queue) == [oldest]
    assert queue.oldest_arrival == 0.0


@pytest.mark.parametrize("deadline", [9.0, math.inf])
def test_lanes_of_weights_that_are_out_of_use_are_thrown_away(deadline):
    """A thousand weights, one after another: only so many lanes, and who waits stays."""
    queue = RequestQueue()
    stays = [request(deadline, weight=weight) for weight in (1.0, 500.0)]
    for each in stays:
        queue.add(each)
    for i in range(2, 1_000):
        passing = request(deadline, weight=i + 0.5)
        queue.add(passing)
        queue.discard(passing)
        assert len(lanes_of(queue)) <= _queue._LANES
    assert list(queue) == stays
    check_structure(queue)


def test_as_many_lanes_are_kept_as_have_requests():
    """However many weights there are, none is lost; lanes go when they are empty."""
    queue = RequestQueue()
    requests = [request(9.0, weight=float(i)) for i in range(1, 4 * _queue._LANES)]
    for each in requests:
        queue.add(each)
    assert list(queue) == requests
    assert len(queue.due) == len(requests)
    queue.remove_all(requests[1:])
    queue.add(request(9.0, weight=0.5))
    assert len(queue.due) == _queue._LANES + 1
    assert [*chain.from_iterable(queue.due.values())] == [
        (9.0, 1, requests[0]),
        (9.0, len(requests) + 1, queue.first(2)[1]),
    ]


def shaped(key: Key, deadline: float, arrived: float = 0.0) -> ShapedRequest:
    return ShapedRequest(None, deadline, arrived, 1.0, Shape(key, 1.0))


def test_those_with_shapes_are_found_as_well(small):
    """By key in lanes of their own, which are thrown away when there are many empty ones."""
    queue, keys = RequestQueue(), [Key() for _ in range(5)]
    requests = [shaped(key, float(i)) for i, key in enumerate(keys)]
    requests += [shaped(key, math.inf) for key in keys]
    for each in requests:
        queue.add(each)
    assert queue.earliest_deadline == 0.0
    assert {*queue.due_before(2.0)} == {*requests[:2]}
    assert queue.earliest_from(1.5) == 2.0
    assert queue.undue_size == 5
    queue.remove_all(requests[:3])
    assert len(queue.due) == 2
    queue.put_back(requests[1:3])
    assert queue.earliest_deadline == 1.0
    assert [*queue] == requests[1:]
    assert {*queue.clear()} == {*requests[1:]}
    assert len(queue.due) == len(queue.undue) == 2
    assert queue.earliest_from(0.0) == math.inf


def test_of_very_many_who_are_late_some_are_told_of(small):
    """No fewer than asked for, lane by lane; the others when there is time."""
    queue, requests = filled(*map(float, range(30)))
    some = queue.due_before(30.0, 3)
    assert 3 < len(some) < 15
    assert {*some} < {*requests}


def test_weights_that_are_out_of_use_are_forgotten(small):
    """However many there have been: what is counted of those in use stays."""
    queue, staying = RequestQueue(), request(weight=0.5)
    queue.add(staying)
    for number in range(50):
        passing = request(weight=1.0 + number)
        queue.add(passing)
        queue.discard(passing)
    assert len(queue.tallies) <= 6
    assert queue.tallies[0.5].size == 1


# Far deadlines


def far_queue(horizon: float = 5.0) -> RequestQueue:
    queue: RequestQueue = RequestQueue()
    queue.horizon = horizon
    return queue


def added(queue: RequestQueue, *requests: Request) -> list[Request]:
    for each in requests:
        queue.add(each)
    return [*requests]


def promote(queue, now):
    """As after a device has taken what it takes."""
    queue.settle()
    queue.promote(now)


def test_a_far_deadline_waits_in_turn_until_it_is_near():
    """As if it had none, and then among those that have one: neither is lost on the way."""
    queue = far_queue()
    near, edge, far = added(queue, request(4.0), request(5.0), request(5.5))
    assert [*queue] == [near, edge, far]
    assert (queue.undue_size, queue.size) == (1, 3)
    assert queue.due_before(100.0) == [near, edge]
    promote(queue, 0.4)
    assert queue.undue_size == 1
    promote(queue, 0.5)
    assert (queue.undue_size, queue.size) == (0, 3)
    assert queue.due_before(100.0) == [near, edge, far]
    assert queue.tallies[1.0].size == 3


def test_those_promoted_are_in_order_of_deadline_then_as_they_came(small):
    """Whatever order they came in, among others with the same deadline as well."""
    queue = far_queue()
    numbered = [
        request(deadline, arrived, number)
        for number, (deadline, arrived) in enumerate(
            [(9.0, 0.0), (7.0, 0.0), (9.0, 1.0), (8.0, 2.0), (9.0, 5.0), (7.0, 5.0), (8.0, 1.0)]
        )
    ]
    added(queue, *numbered)
    for now in (2.0, 2.5, 3.0, 4.0):
        promote(queue, now)
        near = [each for each in numbered if each.deadline <= max(now, each.arrived) + 5.0]
        near.sort(key=attrgetter("deadline"))
        assert queue.due_before(math.inf) == near
        assert queue.size == 7
    assert [*queue] == sorted(numbered, key=attrgetter("deadline"))
    assert queue.first(3) == [numbered[1], numbered[5], numbered[3]]


def test_until_then_those_with_a_far_deadline_and_with_none_are_in_one_lane():
    """In order of arrival; who has none stays there."""
    queue = far_queue()
    far, none, other = added(queue, request(9.0), request(), request(8.0, weight=4.0))
    assert [*queue] == [far, none, other]
    assert len(queue.undue) == 2
    promote(queue, 100.0)
    assert [*queue] == [other, far, none]
    assert queue.undue_size == 1


def test_who_left_in_between_is_not_promoted():
    """Cancelled, or taken into a batch."""
    queue = far_queue()
    first, second, third = added(queue, request(9.0), request(9.5), request(9.9))
    assert queue.discard(first)
    queue.remove_all([third])
    promote(queue, 100.0)
    assert [*queue] == [second]
    assert queue.size == 1
    assert first.lane is third.lane is None


def test_who_was_put_back_with_a_far_deadline_waits_once():
    """It is among those that have one already: nothing is left to be promoted."""
    queue = far_queue()
    (first,) = added(queue, request(3.0))
    (far,) = added(queue, request(9.0))
    queue.remove_all([far])
    queue.put_back([far])
    assert [*queue] == [first, far]
    promote(queue, 100.0)
    assert [*queue] == [first, far]
    assert queue.first(9) == [first, far]
    assert queue.size == 2


def test_nobody_is_kept_alive_until_a_far_deadline():
    """Who left is gone at once, and of those that came and left little is remembered."""
    queue = far_queue()
    added(queue, request(weight=4.0))
    (left,) = added(queue, request(9.0))
    queue.discard(left)
    kept = ref(left)
    del left
    assert kept() is None
    for number in range(1000):
        (each,) = added(queue, request(9.0 + number))
        queue.discard(each)
    assert len(queue._far) <= 2 * queue.size + _queue._LANES + 1
    staying = added(queue, *[request(50.0 + number % 7) for number in range(200)])
    promote(queue, 1e4)
    assert queue._far == []
    assert {*queue.due_before(math.inf)} == {*staying}


def test_sweeping_keeps_those_that_wait():
    """Each is still promoted when its time comes."""
    queue = far_queue()
    staying = added(queue, *[request(20.0 - number) for number in range(8)])
    for _ in range(200):
        (each,) = added(queue, request(9.0))
        queue.discard(each)
    for now in range(20):
        promote(queue, float(now))
        near = [each for each in staying if each.deadline <= now + 5.0]
        assert queue.due_before(math.inf) == near[::-1]


def test_a_horizon_that_changes_is_for_those_still_to_come():
    """When one that waits is promoted was settled when it came."""
    queue = far_queue(5.0)
    (early,) = added(queue, request(9.0))
    queue.settle()
    queue.horizon = 1.0
    (late,) = added(queue, request(3.0))
    promote(queue, 2.0)
    assert queue.due_before(math.inf) == [late]
    promote(queue, 4.0)
    assert queue.due_before(math.inf) == [late, early]


def test_those_with_shapes_are_promoted_as_well(small):
    """By key into lanes of their own, where the index finds them."""
    queue, keys = far_queue(), [Key() for _ in range(5)]
    far = added(queue, *[shaped(key, 9.0 + number) for number, key in enumerate(keys)])
    none = added(queue, *[shaped(key, math.inf) for key in keys[:3]])
    assert queue.earliest_deadline == math.inf
    assert queue.index.lanes == 5
    promote(queue, 5.0)
    assert queue.earliest_deadline == 9.0
    assert {*queue.due_before(math.inf)} == {*far[:2]}
    promote(queue, 100.0)
    assert {*queue.due_before(math.inf)} == {*far}
    assert queue.undue_size == 3
    assert queue.index.lanes == 8
    assert queue.size == 8
    assert {*queue.clear()} == {*far, *none}
    assert queue.index.lanes <= 2 * _queue._LANES


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from([1.0, 4.0]), st.booleans()), max_size=30
    ),
    st.lists(st.integers(0, 40), max_size=6),
)
def test_however_they_are_promoted_the_queue_is_that_of_a_list(those, moments):
    """Those near in order of deadline, the others as they came, none twice."""
    queue = far_queue(3.0)
    requests = [
        request(float(arrived + allowance), float(arrived), arrived, weight)
        for arrived, (allowance, weight, _) in enumerate(those)
    ]
    added(queue, *requests)
    for each, (*_, leaves) in zip(requests, those, strict=True):
        if leaves:
            queue.discard(each)
    waiting = [each for each in requests if each.lane]
    latest = -math.inf
    for now in moments:
        promote(queue, now)
        latest = max(latest, now)
        near = [each for each in waiting if each.deadline <= max(latest, each.arrived) + 3.0]
        near.sort(key=attrgetter("deadline"))
        others = [each for each in waiting if each not in near]
        assert [*queue] == near + others
        assert queue.undue_size == len(others)
        assert queue.size == len(waiting)
        assert sum(tally.size for tally in queue.tallies.values()) == len(waiting)


def test_of_far_deadlines_whose_requests_have_left_most_are_forgotten():
    """What is remembered is no more than twice as many as wait, and some."""
    queue = far_queue()
    those = added(queue, *[request(50.0 + number) for number in range(200)])
    queue.settle()
    assert len(queue._far) == 200
    queue.remove_all(those[1:])
    assert queue.settle() == queue._far[0][0]
    assert [known() for _, _, known in queue._far] == [those[0]]
