"""The request queue, against a sorted list that does the same the slow way."""

from __future__ import annotations

import math
from operator import itemgetter

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

from trio_batcher import _queue
from trio_batcher._queue import Request, RequestQueue

# Few values, so that many are equal, and order among equals matters.
deadlines = st.one_of(
    st.integers(0, 8).map(float), st.just(math.inf), st.floats(-1e3, 1e3, allow_nan=False)
)


@pytest.fixture
def small(monkeypatch):
    """Chunks and litter so small that a few requests make chunks split and be swept."""
    monkeypatch.setattr(_queue, "_CHUNK", 4)
    monkeypatch.setattr(_queue, "_LITTER", 2)


def request(deadline: float = math.inf, arrived: float = 0.0, item: object = None) -> Request:
    return Request(item, deadline, arrived)


def filled(*deadlines: float) -> tuple[RequestQueue, list[Request]]:
    """A queue and the requests put into it, arriving at 0.0, 1.0, 2.0, …"""
    queue = RequestQueue()
    requests = [request(deadline, float(i), i) for i, deadline in enumerate(deadlines)]
    for each in requests:
        queue.add(each)
    return queue, requests


def entries_held(queue: RequestQueue) -> int:
    return sum(map(len, queue._chunks))


def check_structure(queue: RequestQueue) -> None:
    """What the queue says of itself at the top of its class."""
    chunks = queue._chunks
    held = [entry for chunk in chunks for entry in chunk]
    assert held == sorted(held, key=itemgetter(0, 1))
    assert len(chunks) == 1 or all(chunks)
    assert all(len(chunk) <= _queue._CHUNK for chunk in chunks)
    assert sum(not entry[2].waits for entry in held) == queue._litter
    assert not held or held[0][2].waits
    assert not queue._arrivals or queue._arrivals[0].waits


def check_memory(queue: RequestQueue) -> None:
    """What is kept is in proportion to what waits."""
    assert entries_held(queue) <= 2 * queue.size + _queue._LITTER
    assert len(queue._arrivals) <= 2 * queue.size + _queue._LITTER
    assert len(queue._chunks) <= max(1, entries_held(queue))


class QueueAgainstList(RuleBasedStateMachine):
    """Whatever is done to both, the queue and a list sorted by deadline agree."""

    requests = Bundle("requests")

    @initialize(chunk=st.integers(2, 6), litter=st.integers(0, 4))
    def begin(self, chunk, litter):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_queue, "_CHUNK", chunk)
        self.patch.setattr(_queue, "_LITTER", litter)
        self.queue = RequestQueue()
        self.waiting: list[Request] = []  # as they came
        self.came = 0
        self.peak = 0

    def teardown(self):
        self.patch.undo()

    def in_order(self) -> list[Request]:
        return sorted(self.waiting, key=lambda each: each.deadline)  # sorted() is stable

    def put(self, deadline: float) -> Request:
        new = request(deadline, float(self.came), self.came)
        self.came += 1
        self.queue.add(new)
        self.waiting.append(new)
        self.peak = max(self.peak, len(self.waiting))
        return new

    @rule(target=requests, deadline=deadlines)
    def add(self, deadline):
        return self.put(deadline)

    @rule(target=requests, many=st.lists(deadlines, max_size=12))
    def add_some(self, many):
        return multiple(*(self.put(deadline) for deadline in many))

    @rule(target=requests, start=deadlines, step=st.sampled_from([-1.0, 0.0, 1.0]))
    def add_a_run(self, start, step):
        return multiple(*(self.put(start + i * step) for i in range(10)))

    @rule(gone=requests)
    def discard(self, gone):
        """Also one that left long ago."""
        assert self.queue.discard(gone) == (gone in self.waiting)
        if gone in self.waiting:
            self.waiting.remove(gone)

    @rule(gone=consumes(requests))
    def discard_for_good(self, gone):
        self.discard(gone)

    @rule(count=st.integers(0, 12), after=st.integers(0, 6))
    def take(self, count, after):
        batch = self.queue.first(count, after=after)
        assert batch == self.in_order()[after : after + count]
        self.queue.remove_all(batch)
        self.waiting = [each for each in self.waiting if each not in batch]

    @rule(data=st.data())
    def remove_some(self, data):
        some = [each for each in self.waiting if data.draw(st.booleans())]
        self.queue.remove_all(some)
        self.waiting = [each for each in self.waiting if each not in some]

    @rule()
    def clear(self):
        assert self.queue.clear() == self.waiting
        self.waiting = []

    @invariant()
    def agree(self):
        queue, expected = self.queue, self.in_order()
        assert list(queue) == expected
        assert len(queue) == queue.size == len(expected)
        assert queue.peak == self.peak
        assert queue.added == self.came
        assert queue.earliest_deadline == min([e.deadline for e in expected], default=math.inf)
        assert queue.oldest_arrival == min([e.arrived for e in expected], default=math.inf)
        assert all(each.waits for each in expected)

    @invariant()
    def due(self):
        for time in (-math.inf, 3.0, 3.5, 8.0, math.inf):
            expected = [each for each in self.in_order() if each.deadline < time]
            assert self.queue.due_before(time) == expected

    @invariant()
    def sound(self):
        check_structure(self.queue)
        check_memory(self.queue)


QueueAgainstList.TestCase.settings = settings(max_examples=60, stateful_step_count=30)


class TestQueueAgainstList(QueueAgainstList.TestCase):
    """In any sequence of operations the queue does what a sorted list would."""


@given(st.lists(deadlines, max_size=60))
def test_requests_leave_in_order_of_deadlines_and_equal_ones_as_they_came(many):
    """The nearest deadline first; first come, first served among equals."""
    queue, requests = filled(*many)
    expected = sorted(requests, key=lambda each: each.deadline)
    assert list(queue) == queue.first(len(many)) == expected


def test_an_empty_queue_has_nothing_due():
    """No deadline, no arrival, no request."""
    queue = RequestQueue()
    assert queue.earliest_deadline == queue.oldest_arrival == math.inf
    assert queue.first(3) == queue.due_before(math.inf) == queue.clear() == list(queue) == []
    assert queue.size == queue.peak == len(queue) == 0
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
        assert entries_held(queue) == len(queue._arrivals) == queue._litter == 0
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
    requests = [request(1.0, item=Incomparable()) for _ in range(50)]
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
    assert only.waits
    assert queue.discard(only)
    assert not only.waits
    assert not queue.discard(only)
    assert not queue.discard(request())
    assert queue.size == 0


def test_first_passes_over_those_that_left(small):
    """A batch is full although requests in front, between and behind were discarded."""
    queue, requests = filled(*map(float, range(12)))
    for i in (1, 2, 4, 7):
        queue.discard(requests[i])
    assert queue.first(4) == [requests[i] for i in (0, 3, 5, 6)]
    assert queue.first(3, after=2) == [requests[i] for i in (5, 6, 8)]
    assert queue.first(99, after=6) == [requests[i] for i in (10, 11)]
    assert queue.first(5, after=99) == queue.first(0) == []


def test_due_before_is_strict():
    """Due before 2 is who has less than 2; who has exactly 2 can still make it."""
    queue, requests = filled(3.0, 2.0, 1.0, 2.0)
    assert queue.due_before(1.0) == []
    assert queue.due_before(2.0) == [requests[2]]
    assert queue.due_before(math.nextafter(2.0, 3.0)) == [requests[i] for i in (2, 1, 3)]


def test_due_before_infinity_leaves_out_who_has_no_deadline():
    """A request without a deadline is never due."""
    queue, requests = filled(math.inf, 1.0, math.inf)
    assert queue.due_before(math.inf) == [requests[1]]


def test_looking_changes_nothing(small):
    """`first`, `due_before` and iterating leave the queue as it is."""
    queue, requests = filled(*(float(i % 7) for i in range(30)))
    for each in requests[::3]:
        queue.discard(each)
    before = list(queue), entries_held(queue), queue._litter, list(queue._arrivals)
    for count in (0, 1, 5, 100):
        queue.first(count, after=2)
        queue.due_before(float(count))
    assert (list(queue), entries_held(queue), queue._litter, list(queue._arrivals)) == before


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
    assert not any(each.waits for each in requests)
    assert queue.clear() == []


def test_memory_is_bounded_while_the_head_stays_for_ever():
    """One urgent old request at the front does not keep the litter behind it alive."""
    queue = RequestQueue()
    head = request(-1.0)
    queue.add(head)
    for i in range(5_000):
        passing = request(float(i))
        queue.add(passing)
        assert queue.discard(passing)
        assert entries_held(queue) <= 2 * queue.size + _queue._LITTER
        assert len(queue._arrivals) <= 2 * queue.size + _queue._LITTER
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


@pytest.mark.parametrize("pattern", ["rising", "falling", "to and fro"])
def test_full_size_chunks_split_and_stay_sorted(pattern):
    """With the real chunk size and thousands of requests, in any order of deadlines."""
    count = 3 * _queue._CHUNK
    order = {
        "rising": float,
        "falling": lambda i: float(-i),
        "to and fro": lambda i: float(i * 7919 % count),
    }[pattern]
    queue, requests = filled(*map(order, range(count)))
    assert len(queue._chunks) >= 3
    check_structure(queue)
    expected = sorted(requests, key=lambda each: each.deadline)
    gone = {id(each) for each in requests[::2]}
    for each in requests[::2]:
        queue.discard(each)
    expected = [each for each in expected if id(each) not in gone]
    assert list(queue) == expected
    assert queue.first(40, after=3) == expected[3:43]
    check_structure(queue)
    check_memory(queue)


def test_an_entry_between_two_chunks_finds_its_place(small):
    """Later than all of one chunk, earlier than all of the next: either will do."""
    queue, requests = filled(*map(float, range(0, 20, 2)))
    between = [request(float(i)) for i in range(1, 19, 2)]
    for each in reversed(between):
        queue.add(each)
        check_structure(queue)
    both = [each for pair in zip(requests, between, strict=False) for each in pair]
    assert list(queue) == [*both, requests[-1]]


def test_a_request_can_be_told_in_a_log():
    """Its representation has the item and both times, and whoever is parked for it not."""
    shown = repr(request(2.5, 1.5, "item"))
    assert all(part in shown for part in ("'item'", "deadline=2.5", "arrived=1.5"))


def test_a_request_is_a_slim_record():
    """No dictionary each: a hundred thousand of them may wait. Alone, it has no group."""
    single = request()
    assert not hasattr(single, "__dict__")
    assert (single.group, single.index, single.caller, single.waits) == (None, 0, None, False)
    group = object()
    third = Request("item", 1.0, 0.0, group, 2)
    assert (third.group, third.index) == (group, 2)
