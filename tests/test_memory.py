"""Memory: what does not fit is run in parts, what fits is remembered, more is tried again."""

from __future__ import annotations

import math
from itertools import chain

import pytest
from hypothesis import given, settings, strategies as st

from trio_batcher._memory import SafeSize, runs_of
from trio_batcher._padding import Sizes


class Memory:
    """Holds runs up to a capacity, and notes their sizes."""

    def __init__(self, capacity, allowed=None):
        self.capacity = capacity
        self.sizes = Sizes(allowed)
        self.safe = SafeSize()
        self.fitted = []
        self.failures = 0

    def size(self, lengths):
        return self.sizes.filled(len(lengths)) * max(lengths)

    def run(self, lengths):
        """Run a batch; return the runs that fitted, and the rows that never did."""
        runs = runs_of(lengths, self.sizes, self.safe)
        fits, fitted = None, []
        while True:
            try:
                rows = runs.send(fits)
            except StopIteration as finished:
                self.fitted += fitted
                return fitted, finished.value
            fits = self.size([lengths[row] for row in rows]) <= self.capacity
            if fits:
                fitted.append(rows)
            else:
                self.failures += 1


lengths = st.lists(st.integers(1, 100), min_size=1, max_size=40)
allowed = st.none() | st.sets(st.integers(1, 40), min_size=1)


@given(st.lists(st.tuples(lengths, st.integers(0, 2000)), max_size=8), allowed)
def test_each_row_fits_once_or_does_not_fit_alone(batches, sizes):
    """Whatever memory is left from batch to batch; and rows stay in their order."""
    memory = Memory(0, sizes)
    for batch, capacity in batches:
        memory.capacity = capacity
        fitted, misfits = memory.run(batch)
        assert sorted(chain(*fitted, misfits)) == list(range(len(batch)))
        assert list(chain(*fitted)) == sorted(chain(*fitted))
        assert all(memory.size([batch[row]]) > capacity for row in misfits)
        assert all(len(rows) <= memory.sizes.most for rows in fitted)


def test_nothing_is_split_that_fits():
    """Without a failure there is no limit but the allowed sizes'."""
    memory = Memory(math.inf)
    assert memory.run([5] * 1000) == ([list(range(1000))], [])
    assert memory.safe.safe == math.inf
    assert Memory(math.inf, [4, 2]).run([5] * 6)[0] == [[0, 1, 2, 3], [4, 5]]


def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    """And the next one is not tried whole."""
    memory = Memory(capacity=9)
    fitted, misfits = memory.run([1] * 32)
    assert not misfits
    assert [len(rows) for rows in fitted] == [8, 8, 8, 8]
    assert memory.failures == 2
    memory.run([1] * 16)
    assert memory.failures == 2


def test_a_row_that_does_not_fit_alone_fails_alone():
    """Its companions' runs get no shorter for it than they have to be to leave it out."""
    memory = Memory(capacity=100)
    fitted, misfits = memory.run([1, 1, 1, 1000, 1, 1, 1, 1])
    assert misfits == [3]
    assert sorted(chain(*fitted)) == [0, 1, 2, 4, 5, 6, 7]
    memory.failures = 0
    assert memory.run([1000] * 3) == ([], [0, 1, 2])
    assert memory.failures == 3
    assert len(memory.run([1] * 50)[0]) == 1, "those that are too long say nothing of the others"
    assert memory.safe._patience == 8, "nor were they attempts"


def test_rows_that_are_filled_up_to_the_same_size_are_not_tried_one_by_one():
    """Five rows and one row take as much memory where the smallest size is eight."""
    memory = Memory(capacity=7, allowed=[8])
    assert memory.run([1] * 5) == ([], [0, 1, 2, 3, 4])
    assert memory.failures == 1


@pytest.mark.parametrize("sizes", [None, [1, 8, 16, 32], [1, 32], [5, 7, 32]])
@pytest.mark.parametrize("short", [0, 1, 5, 9, 20, 31])
def test_the_size_recovers(sizes, short):
    """Once there is memory again, batches run whole again, after a few hundred."""
    memory = Memory(short, sizes)
    for _ in range(20):
        memory.run([1] * 32)
    memory.capacity = 32
    for _ in range(400):
        fitted, misfits = memory.run([1] * 32)
        assert not misfits
    assert len(fitted) == 1


@given(st.integers(1, 200), st.integers(1, 200), allowed)
@settings(max_examples=40)
def test_failures_grow_rarer(capacity, rows, sizes):
    """Of any number of batches, few meet one, in a memory that stays as it is."""
    memory = Memory(capacity, sizes)
    if memory.size([1]) > capacity:
        return
    for _ in range(600):
        memory.run([1] * rows)
    # Halvings, a climb, and attempts at 8, 16, … 1024 runs' distance and each 1024 from then on.
    assert memory.failures <= 8 + 9 + len(memory.fitted) / 1024


def test_what_is_safe_is_exceeded_by_a_little_and_not_before_its_time():
    """An eighth after eight runs that could have been larger, and an eighth of that again."""
    memory = Memory(capacity=32)
    memory.run([1] * 64)
    assert (memory.safe.safe, memory.failures) == (32, 1)
    memory.fitted.clear()
    memory.capacity = math.inf
    memory.run([1] * 1000)
    assert [len(rows) for rows in memory.fitted][:19] == [32] * 7 + [36] * 8 + [40] * 4


def test_rows_share_a_run_if_that_takes_no_more_memory_than_one_of_them():
    """Where one row is filled up to five, five are run, whatever is known to be safe."""
    memory = Memory(capacity=5, allowed=[5, 16])
    memory.run([1] * 16)
    assert [len(rows) for rows in memory.fitted] == [5, 5, 5, 1]
    memory.safe.safe = 1
    memory.fitted.clear()
    memory.run([1] * 10)
    assert [len(rows) for rows in memory.fitted] == [5, 5]


def test_where_rows_are_filled_up_the_next_size_is_tried():
    """However far it is."""
    memory = Memory(capacity=8, allowed=[8, 100])
    memory.run([1] * 16)
    memory.capacity = math.inf
    memory.run([1] * 200)
    assert [len(rows) for rows in memory.fitted] == [8] * 9 + [100, 44]


def test_small_batches_are_no_reason_to_try_a_larger_one():
    """Only a run that would have been larger counts."""
    memory = Memory(capacity=10)
    memory.run([1] * 20)
    for _ in range(100):
        memory.run([1] * 10)
    assert not memory.safe.trying
