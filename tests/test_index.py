"""Where to look among many lanes: against looking at all of them."""

from __future__ import annotations

import math
import random

import pytest

from trio_batcher._outcomes import ShapedRequest
from trio_batcher._queue import RequestQueue
from trio_batcher._shapes import Key, Shape

KEYS = [Key() for _ in range(40)]


def request(rng: random.Random, now: float) -> ShapedRequest:
    """One of any key, cost and weight, due or not."""
    shape = Shape(rng.choice(KEYS), rng.choice([1.0, 3.0, 20.0, 512.0]), 0.125)
    deadline = math.inf if rng.random() < 0.3 else now + rng.choice([1.0, rng.random()])
    return ShapedRequest("item", deadline, now, rng.choice([0.5, 1.0, 8.0]), shape)


def played(seed: int, steps: int):
    """A queue to which requests come and from which some go, all sooner or later."""
    rng, queue, waiting = random.Random(seed), RequestQueue(), []
    for step in range(steps):
        if waiting and rng.random() < (0.3 if step < steps // 2 else 0.7):
            some = rng.sample(waiting, min(len(waiting), rng.choice([1, 1, 5])))
            queue.remove_all(some)
            waiting = [each for each in waiting if each not in some]
            if rng.random() < 0.1:
                queue.put_back(some)
                waiting += some
        else:
            waiting.append(request(rng, float(step)))
            queue.add(waiting[-1])
        yield queue, waiting


@pytest.mark.parametrize("seed", range(6))
def test_what_it_says_is_so(seed):
    """Who is due first, what waits of each cost and key, whatever came and went."""
    for queue, waiting in played(seed, 600):
        index = queue.index
        dues = [each.deadline for each in waiting]
        assert queue.earliest_deadline == index.earliest() == min(dues, default=math.inf)
        costs = [each.shape.cost for each in waiting]
        assert index.costs == {cost: costs.count(cost) for cost in costs}
        sizes = {key: family.size for key, family in index.families.items() if family.size}
        keys = [each.shape.key for each in waiting]
        assert sizes == {key: keys.count(key) for key in keys}
        for time in (min(dues, default=0.0), 0.3 + max([0.0, *[d for d in dues if d < math.inf]])):
            late = [each for each in waiting if each.deadline < time]
            assert {*queue.due_before(time)} == {*late}
            later = [due for due in dues if due >= time]
            assert queue.earliest_from(time) == min(later, default=math.inf)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_of_each_class_are_found(seed):
    """The most urgent and the oldest are among them; nobody twice, and no empty lane."""
    for queue, waiting in played(seed, 400):
        first = queue.index.first(8)
        assert len({*first}) == len(first)
        assert all(lane.size for lane in first)
        for dated in (True, False):
            some = [each for each in waiting if (each.deadline < math.inf) == dated]
            if some:
                front = min([each.deadline if dated else each.arrived for each in some])
                assert front in [lane.listed for lane in first]


@pytest.mark.parametrize("seed", range(3))
def test_the_fullest_families_come_first(seed):
    """Those that are the largest part of a batch, to within an eighth."""
    for queue, _ in played(seed, 400):
        families = [each for each in queue.index.families.values() if each.size]
        parts = sorted([min(1.0, each.batches) for each in families], reverse=True)
        found = [min(1.0, each.batches) for each in queue.index.fullest(5)]
        assert found == pytest.approx(parts[:5], rel=0.125)


def test_memory_is_in_proportion_to_what_waits():
    """A hundred thousand keys, one after another: nothing is left of those that have gone."""
    queue = RequestQueue()
    for number in range(20_000):
        passing = ShapedRequest(0, float(number), 0.0, 1.0, Shape(Key(), 1.0 + number % 7))
        queue.add(passing)
        assert queue.discard(passing)
    index = queue.index
    assert index.lanes <= 128
    assert len(index.families) <= 128
    assert sum(len(heap.entries) for heap in index._heaps.values()) <= 2000
    assert not index.costs
    assert not index.fullest(9)
