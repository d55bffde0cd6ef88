"""The optimum that policies are measured against, against trying everything."""

from __future__ import annotations

import math
import random
from functools import cache
from itertools import accumulate, combinations

import pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip("numpy", reason="the optimum is worked out in numpy arrays")

from tests.simulation.optimum import (
    TOLERANCE,
    Class,
    compiled,
    equal_deadlines,
    heaviest,
    two_classes,
)

# Whole numbers, and few of them, so that much happens at the same time or just on time.
linear = st.builds(
    lambda alpha, beta, size: [0, *(alpha + beta * b for b in range(1, size + 1))],
    st.integers(0, 5),
    st.integers(0, 2),
    st.integers(1, 3),
)
staircase = st.lists(st.sampled_from([0, 0, 1, 4]), min_size=1, max_size=4).map(
    lambda steps: [0, *accumulate(steps, initial=1)]
)
latencies = linear | staircase


def arrivals(most: int, until: int = 12) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, until), max_size=most).map(sorted)


def classes(most: int, until: int = 12) -> st.SearchStrategy[Class]:
    return st.builds(Class, arrivals(most, until), st.integers(0, 14), st.integers(1, 4))


def tried(latency: list[int], *several: Class) -> int:
    """The largest weight on time: any arrived requests are a batch, any arrival is waited for."""
    requests = [(r, r + each.allowance, each.weight) for each in several for r in each.arrivals]
    moments = sorted({r for r, _, _ in requests})

    @cache
    def most(now: float, left: frozenset[int]) -> int:
        found = max((most(r, left) for r in moments if r > now), default=0)
        here = [k for k in left if requests[k][0] <= now]
        for size in range(1, min(len(here), len(latency) - 1) + 1):
            end = now + latency[size]
            for batch in combinations(here, size):
                worth = sum(requests[k][2] for k in batch if end <= requests[k][1])
                if worth:
                    found = max(found, worth + most(end, left.difference(batch)))
        return found

    return most(-math.inf, frozenset(range(len(requests))))


def unpruned(first: Class, second: Class, latency: list[float]) -> int:
    """The sum over both classes from every pair of prefixes and for every weight."""
    cells: dict[tuple[int, int], dict[int, float]] = {}
    for i in range(len(first.arrivals) + 1):
        for j in range(len(second.arrivals) + 1):
            cell = {0: -math.inf} if i == j == 0 else {}
            for drop in ((i - 1, j), (i, j - 1)):
                for weight, finish in cells.get(drop, {}).items():
                    cell[weight] = min(finish, cell.get(weight, math.inf))
            for b1 in range(min(i, len(latency) - 1) + 1):
                for b2 in range(0 if b1 else 1, min(j, len(latency) - 1 - b1) + 1):
                    batch1 = first.arrivals[i - b1 : i]
                    batch2 = second.arrivals[j - b2 : j]
                    start = max([*batch1, *batch2])
                    by = min(
                        [r + first.allowance for r in batch1]
                        + [r + second.allowance for r in batch2]
                    )
                    for before, finish in cells[i - b1, j - b2].items():
                        weight = before + b1 * first.weight + b2 * second.weight
                        end = max(finish, start) + latency[b1 + b2]
                        if end <= by + TOLERANCE:
                            cell[weight] = min(end, cell.get(weight, math.inf))
            cells[i, j] = cell
    return max(cell)


def trace(seed: int, count: int, load: float, share: float) -> tuple[list[float], list[float]]:
    """Poisson arrivals, each by chance of the one class or of the other."""
    rng = random.Random(seed)
    both: tuple[list[float], list[float]] = ([], [])
    now = 0.0
    for _ in range(count):
        now += rng.expovariate(load)
        both[rng.random() >= share].append(now)
    return both


@settings(max_examples=200, deadline=None)
@given(arrivals(7), st.integers(0, 14), latencies)
def test_one_deadline_is_what_trying_everything_finds(arrived, allowance, latency):
    assert equal_deadlines(arrived, allowance, latency) == tried(latency, Class(arrived, allowance))


@settings(max_examples=300, deadline=None)
@given(classes(4), classes(4), latencies)
def test_two_classes_are_what_trying_everything_finds(first, second, latency):
    assert two_classes(first, second, latency) == tried(latency, first, second)


@settings(max_examples=60, deadline=None)
@given(classes(12, until=40), classes(12, until=40), latencies)
def test_what_is_pruned_does_not_matter(first, second, latency):
    assert two_classes(first, second, latency) == unpruned(first, second, latency)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("allowances", [(40.0, 120.0), (60.0, 60.0), (50.0, 30.0)])
def test_what_is_pruned_does_not_matter_over_time(seed, allowances):
    """Many batches one after another, so that most pairs of prefixes are out of reach."""
    latency = [0.0, *(10.0 + 4.0 * b for b in range(1, 7))]
    one, other = trace(seed, 60, 0.3, 0.4)
    first, second = Class(one, allowances[0], 1 + seed), Class(other, allowances[1])
    best = two_classes(first, second, latency)
    assert best == unpruned(first, second, latency)
    assert best == two_classes(second, first, latency)


@settings(max_examples=100, deadline=None)
@given(arrivals(14, until=40), st.data(), st.integers(0, 14), latencies)
def test_two_classes_alike_are_one(arrived, data, allowance, latency):
    chosen = data.draw(st.lists(st.booleans(), min_size=len(arrived), max_size=len(arrived)))
    first = [r for r, one in zip(arrived, chosen, strict=True) if one]
    second = [r for r, one in zip(arrived, chosen, strict=True) if not one]
    best = equal_deadlines(arrived, allowance, latency)
    assert two_classes(Class(first, allowance, 3), Class(second, allowance, 3), latency) == 3 * best


def test_two_classes_alike_are_one_over_time():
    latency = [0.0, *(10.0 + b for b in range(1, 17))]
    one, other = trace(0, 130, 0.9, 0.5)
    best = equal_deadlines(sorted(one + other), 50.0, latency)
    assert two_classes(Class(one, 50.0), Class(other, 50.0), latency) == best
    assert 50 < best < 120  # not a matter of all or none


@settings(max_examples=100, deadline=None)
@given(classes(8, until=25), classes(8, until=25), latencies, st.integers(0, 25))
def test_it_is_no_worse_to_have_more_of_anything(first, second, latency, when):
    def best(**changes):
        return two_classes(Class(**{**vars(first), **changes}), second, latency)

    alone = first.weight * equal_deadlines(first.arrivals, first.allowance, latency)
    rest = second.weight * equal_deadlines(second.arrivals, second.allowance, latency)
    assert best(arrivals=[]) == rest
    assert max(alone, rest) <= best() <= alone + rest
    assert best() <= best(allowance=first.allowance + 1)
    assert best() <= best(arrivals=sorted([*first.arrivals, when])) <= best() + first.weight
    assert best() <= best(weight=first.weight + 1)
    assert best() <= two_classes(first, second, [*latency, latency[-1] + 1])
    assert best() <= two_classes(first, second, [max(0, each - 1) for each in latency])


def test_a_moment_can_be_worth_more_than_a_request():
    """Who serves the first finishes a moment after the three have come, too late for them."""
    early, late, latency = Class([5, 9], 6), Class([9, 9], 6), [0, 5, 6, 6]
    assert two_classes(early, late, latency) == two_classes(late, early, latency) == 3
    assert two_classes(Class([4, 9], 6), late, latency) == 4


def test_everyone_is_served_where_arithmetic_says_so():
    """One batch waited for and one ridden in take 2 * (10 + 9) ms, if 9 come in 20 ms."""
    latency = [0.0, *(0.010 + 0.001 * b for b in range(1, 33))]
    arrived = [k / 450 for k in range(300)]
    assert equal_deadlines(arrived, 0.040, latency) == 300
    # As many as there can be, no more: full batches one after another.
    crowd = [0.0] * 500
    assert equal_deadlines(crowd, 0.420, latency) == 320
    assert equal_deadlines(crowd, 0.420 - 1e-6, latency) == 319
    assert equal_deadlines(crowd, 0.420 - 1e-12, latency) == 320


def test_disorder_is_refused():
    with pytest.raises(ValueError, match="sorted"):
        equal_deadlines([1.0, 0.0], 1.0, [0.0, 1.0])
    with pytest.raises(ValueError, match="sorted"):
        two_classes(Class([0.0], 1.0), Class([1.0, 0.0], 1.0), [0.0, 1.0])
    with pytest.raises(ValueError, match="quicker"):
        two_classes(Class([0.0], 1.0), Class([0.0], 1.0), [0.0, 2.0, 1.0])


def test_compiled_or_not_it_is_the_same():
    numba = pytest.importorskip("numba", reason="nothing to compile with")
    assert isinstance(compiled(), numba.core.dispatcher.Dispatcher)
    np = pytest.importorskip("numpy")
    one, other = (np.array(each) for each in trace(1, 60, 0.9, 0.3))
    latency = np.array([0.0, *(10.0 + b for b in range(1, 9))])
    given = (one, other, 40.0, 70.0, 2, 1, latency)
    assert compiled()(*given) == heaviest(*given)
