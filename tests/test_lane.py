"""Lanes, against a sorted list that does the same the slow way."""

from __future__ import annotations

import math
from operator import itemgetter

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from trio_batcher import _lane
from trio_batcher._lane import Entry, Lane, Request, Tally

# Few values, so that many are equal, and order among equals matters.
times = st.one_of(
    st.integers(0, 8).map(float), st.just(math.inf), st.floats(-1e3, 1e3, allow_nan=False)
)
MOMENTS = (-math.inf, 3.0, 3.5, 8.0, math.inf)


@pytest.fixture
def small(monkeypatch):
    """Chunks and litter so small that a few requests make chunks split and be swept."""
    monkeypatch.setattr(_lane, "_CHUNK", 4)
    monkeypatch.setattr(_lane, "_LITTER", 2)


def entry(deadline: float, number: int) -> Entry:
    return deadline, number, Request(number, deadline, float(number))


def filled(*deadlines: float) -> tuple[Lane, list[Entry]]:
    """A lane and the entries put into it, as they came."""
    lane = Lane(Tally(1.0))
    entries = [entry(deadline, number) for number, deadline in enumerate(deadlines)]
    for each in entries:
        lane.add(each)
    return lane, entries


def remove(lane: Lane, *entries: Entry) -> None:
    """What the queue does."""
    for _, _, request in entries:
        assert request.lane is lane
        request.lane = None
    lane.tidy(len(entries))


def due_from(entries: list[Entry], start: float, stop: float, more: int) -> list[Entry]:
    """The slow way, from entries in order."""
    found = [each for each in entries if start <= each[0] < stop]
    return found + [each for each in entries if each[0] >= max(start, stop)][:more]


def entries_held(lane: Lane) -> int:
    return sum(map(len, lane._chunks))


def check_structure(lane: Lane) -> None:
    """What the lane says of itself at the top of its class."""
    chunks = lane._chunks
    held = [each for chunk in chunks for each in chunk]
    assert held == sorted(held, key=itemgetter(0, 1))
    assert len(chunks) == 1 or all(chunks)
    assert all(len(chunk) <= _lane._CHUNK for chunk in chunks)
    assert lane.size == sum(each[2].lane is lane for each in held)
    assert not held or held[0][2].lane is lane


def check_memory(lane: Lane) -> None:
    """What is kept is in proportion to what waits."""
    assert entries_held(lane) <= 2 * lane.size + _lane._LITTER
    assert len(lane._chunks) <= max(1, entries_held(lane))


class LaneAgainstList(RuleBasedStateMachine):
    """Whatever is done to both, the lane and a list sorted by deadline agree."""

    @initialize(chunk=st.integers(2, 6), litter=st.integers(0, 4))
    def begin(self, chunk, litter):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_lane, "_CHUNK", chunk)
        self.patch.setattr(_lane, "_LITTER", litter)
        self.lane = Lane(Tally(1.0))
        self.waiting: list[Entry] = []  # in order
        self.came = self.returned = 0

    def teardown(self):
        self.patch.undo()

    @rule(deadline=times)
    def add(self, deadline):
        new = entry(deadline, self.came)
        self.came += 1
        self.lane.add(new)
        self.waiting = sorted([*self.waiting, new], key=itemgetter(0, 1))

    @rule(many=st.lists(times, max_size=12))
    def add_some(self, many):
        for deadline in many:
            self.add(deadline)

    @rule(start=times, step=st.sampled_from([-1.0, 0.0, 1.0]))
    def add_a_run(self, start, step):
        for i in range(10):
            self.add(start + i * step)

    @rule(data=st.data())
    def remove_some(self, data):
        some = [each for each in self.waiting if data.draw(st.booleans())]
        remove(self.lane, *some)
        self.waiting = [each for each in self.waiting if each not in some]

    @rule(first=st.integers(0, 6), count=st.integers(0, 12))
    def take_a_run(self, first, count):
        remove(self.lane, *self.waiting[first : first + count])
        del self.waiting[first : first + count]

    @rule(first=st.integers(0, 6), count=st.integers(0, 12))
    def take_a_run_and_put_it_back(self, first, count):
        """As the very requests that lie about as litter."""
        some = self.waiting[first : first + count]
        remove(self.lane, *some)
        del self.waiting[first : first + count]
        back = [
            (deadline, self.returned - len(some) + i, request)
            for i, (deadline, _, request) in enumerate(some)
        ]
        self.returned -= len(some)
        self.lane.put_back(back)
        self.waiting = sorted([*self.waiting, *back], key=itemgetter(0, 1))

    @rule()
    def empty(self):
        remove(self.lane, *self.waiting)
        self.waiting = []

    @invariant()
    def agree(self):
        assert list(self.lane) == self.waiting
        assert self.lane.size == len(self.waiting)
        assert self.lane.earliest == (self.waiting[0][0] if self.waiting else math.inf)

    @invariant()
    def due(self):
        for time in MOMENTS:
            expected = [each for each in self.waiting if each[0] < time]
            assert self.lane.due_before(time) == expected
        for count in (0, 1, 5, 100):
            assert self.lane.first(count) == self.waiting[:count]

    @rule(start=times, stop=times, more=st.integers(0, 12))
    def due_in_between(self, start, stop, more):
        found = self.lane.due_from(start, stop, more)
        assert found == due_from(self.waiting, start, stop, more)

    @invariant()
    def sound(self):
        check_structure(self.lane)
        check_memory(self.lane)


LaneAgainstList.TestCase.settings = settings(max_examples=60, stateful_step_count=30)


class TestLaneAgainstList(LaneAgainstList.TestCase):
    """In any sequence of operations the lane does what a sorted list would."""


@given(st.lists(times, max_size=30), st.sets(st.integers(0, 29)), times, times, st.integers(0, 31))
def test_due_from_finds_those_of_a_span_and_so_many_beyond(many, gone, start, stop, more):
    """In order, across chunks and past those that have left, whatever the span."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lane, "_CHUNK", 4)
        lane, entries = filled(*many)
        remove(lane, *(each for each in entries if each[1] in gone))
        left = sorted((each for each in entries if each[1] not in gone), key=itemgetter(0, 1))
        assert lane.due_from(start, stop, more) == due_from(left, start, stop, more)


def test_due_before_is_strict_and_due_from_is_not():
    """Who has exactly 2 is not due before 2, but from 2 on; together they are all."""
    lane, entries = filled(3.0, 2.0, 1.0, 2.0)
    assert lane.due_before(2.0) == [entries[2]]
    assert lane.due_before(1.0) == []
    assert lane.due_from(2.0, 3.0, 0) == [entries[1], entries[3]]
    assert (
        lane.due_from(2.0, 3.0, 1)
        == lane.due_from(2.0, 2.0, 3)
        == [
            entries[1],
            entries[3],
            entries[0],
        ]
    )


def test_a_span_over_several_chunks_needs_none_beyond(small):
    """None more is asked for than the span has, and it ends chunks later."""
    lane, entries = filled(*map(float, range(20)))
    assert lane.due_from(3.0, 15.0, 0) == entries[3:15]
    assert lane.due_from(3.0, 99.0, 0) == entries[3:]


@pytest.mark.parametrize("deadline", [-math.inf, 0.0, math.inf])
def test_the_first_are_found_past_those_that_left(deadline, small):
    """So many, in order, whatever the deadlines; all, if there are not so many."""
    lane, entries = filled(*[deadline] * 20)
    remove(lane, *entries[1:9], *entries[12:14])
    left = [entries[i] for i in (0, 9, 10, 11, 14, 15, 16, 17, 18, 19)]
    assert [lane.first(count) for count in range(12)] == [left[:count] for count in range(12)]


def test_an_empty_lane_has_nothing_due():
    """No deadline, no request."""
    lane = Lane(Tally(2.0))
    assert (lane.weight, lane.size, lane.earliest) == (2.0, 0, math.inf)
    assert list(lane) == lane.due_before(math.inf) == lane.due_from(-math.inf, 0.0, 9) == []
    assert lane.first(3) == []
    lane.tidy(0)
    check_structure(lane)


def test_a_lane_that_was_emptied_can_be_used_again(small):
    """Whatever was in it before."""
    lane, entries = filled(*map(float, range(20)))
    remove(lane, *entries)
    assert entries_held(lane) == 0
    again = [entry(float(-i), 20 + i) for i in range(9)]
    for each in again:
        lane.add(each)
    assert list(lane) == again[::-1]
    check_structure(lane)


def test_requests_are_never_compared_with_one_another():
    """Equal deadlines: the number decides."""

    class Incomparable(Request):
        def __eq__(self, other):
            raise AssertionError

        __lt__ = __eq__
        __hash__ = Request.__hash__

    lane = Lane(Tally(1.0))
    lane.add((2.0, 0, Incomparable(0, 2.0, 0.0)))  # so that the others are inserted before it
    for number in range(1, 50):
        lane.add((1.0, number, Incomparable(number, 1.0, 0.0)))
    assert [number for _, number, _ in lane] == [*range(1, 50), 0]
    assert [number for _, number, _ in lane.due_from(1.0, 1.0, 3)] == [1, 2, 3]


def test_looking_changes_nothing(small):
    """`first`, `due_before`, `due_from` and iterating leave the lane as it is."""
    lane, entries = filled(*(float(i % 7) for i in range(30)))
    remove(lane, *entries[::3])
    before = [list(chunk) for chunk in lane._chunks], lane.size, lane.earliest
    for time in (-1.0, 0.0, 3.0, 9.0):
        lane.first(int(time + 1.0))
        lane.due_before(time)
        lane.due_from(time, time + 2.0, 5)
        list(lane)
    assert ([list(chunk) for chunk in lane._chunks], lane.size, lane.earliest) == before


def test_memory_is_bounded_while_the_head_stays_for_ever():
    """One urgent old request at the front does not keep the litter behind it alive."""
    lane, (head,) = filled(-1.0)
    for i in range(1, 5_000):
        passing = entry(float(i), i)
        lane.add(passing)
        remove(lane, passing)
        check_memory(lane)
    assert list(lane) == [head]


@pytest.mark.parametrize("pattern", ["rising", "falling", "to and fro"])
def test_full_size_chunks_split_and_stay_sorted(pattern):
    """With the real chunk size and thousands of requests, in any order of deadlines."""
    count = 3 * _lane._CHUNK
    order = {
        "rising": float,
        "falling": lambda i: float(-i),
        "to and fro": lambda i: float(i * 7919 % count),
    }[pattern]
    lane, entries = filled(*map(order, range(count)))
    assert len(lane._chunks) >= 3
    check_structure(lane)
    remove(lane, *entries[::2])
    expected = sorted(entries[1::2], key=itemgetter(0, 1))
    assert list(lane) == expected
    middle = expected[len(expected) // 2][0]
    assert lane.due_before(middle) == expected[: len(expected) // 2]
    assert lane.due_from(middle, middle, 40) == expected[len(expected) // 2 :][:40]
    check_structure(lane)
    check_memory(lane)


def test_an_entry_between_two_chunks_finds_its_place(small):
    """Later than all of one chunk, earlier than all of the next: either will do."""
    lane, entries = filled(*map(float, range(0, 20, 2)))
    between = [entry(float(i), 99 - i) for i in range(1, 19, 2)]
    for each in reversed(between):
        lane.add(each)
        check_structure(lane)
    assert list(lane) == sorted([*entries, *between])


def test_a_request_can_be_told_in_a_log():
    """Its representation has the item and both times, and whoever is parked for it not."""
    shown = repr(Request("item", 2.5, 1.5))
    assert all(part in shown for part in ("'item'", "deadline=2.5", "arrived=1.5"))


def test_a_request_is_a_slim_record():
    """No dictionary each: a hundred thousand of them may wait. Alone, it has no group."""
    single = Request("item", math.inf, 0.0)
    assert not hasattr(single, "__dict__")
    assert (single.weight, single.group, single.index) == (1.0, None, 0)
    assert single.caller is single.lane is None


def test_of_very_many_between_two_instants_some_are_found(small):
    """So many one after another, at places all over them; and as many beyond as ever."""
    lane, entries = filled(*map(float, range(100)))
    found = lane.due_from(10.0, 90.0, 5, 3)
    between = [int(due) for due, _, _ in found[:-5]]
    assert found[-5:] == entries[90:95]
    assert 8 <= len(between) <= 16
    assert between[0] == 10
    assert max(between) >= 70
    assert between == sorted({*between})
    assert lane.due_from(10.0, 90.0, 5, 20) == entries[10:95]


def test_of_very_many_who_are_late_some_are_found(small):
    """No fewer than were asked for, the earliest ones."""
    lane, entries = filled(*map(float, range(100)))
    late = lane.due_before(90.0, 10)
    assert 10 <= len(late) <= 20
    assert late == entries[: len(late)]


def test_the_front_is_a_deadline_or_an_arrival():
    """Of those with deadlines the nearest, of those without when the first came."""
    assert filled(3.0, 2.0)[0].front == 2.0
    lane, entries = filled(math.inf, math.inf)
    entries[0][2].arrived = 7.0
    assert lane.front == 7.0
    assert filled()[0].front == math.inf


def test_who_is_put_back_stands_before_its_like():
    """Numbered lower than all before; what lay about of it is gone."""
    lane, entries = filled(2.0, 2.0, 1.0)
    remove(lane, entries[0])
    back = (2.0, -1, entries[0][2])
    lane.put_back([back])
    assert list(lane) == [entries[2], back, entries[1]]
    assert lane.size == 3


@pytest.mark.usefixtures("small")
@given(st.lists(times, max_size=20), st.lists(times, max_size=20))
def test_who_moves_in_from_another_lane_waits_where_it_would_have_from_the_start(here, there):
    """By deadline, then by number, even if that is lower than those of others."""
    tally = Tally(1.0)
    lane, other = Lane(tally), Lane(tally)
    came = [entry(deadline, number) for number, deadline in enumerate([*there, *here])]
    moving, staying = came[: len(there)], came[len(there) :]
    for each in staying:
        lane.add(each)
    for each in moving:
        other.add(each)
    for each in moving:
        each[2].lane = None
        other.tidy(1)
        lane.move_in(each)
    assert [*lane] == sorted(came, key=itemgetter(0, 1))
    assert (lane.size, other.size) == (len(came), 0)
    assert [*other] == []
