"""What an item is like, and what a batch of such items counts as."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from trio_batcher import ItemError
from trio_batcher._shapes import Shape, Shapes


def by_cost(most: float = 1000.0, seats: int = 32) -> Shapes:
    return Shapes(None, float, most, seats)


costs = st.floats(1e-3, 1e6)


@given(costs)
def test_a_cost_is_rounded_up_by_an_eighth_at_most(cost):
    """So that there are few to tell apart; rounding again changes nothing."""
    shapes = by_cost(1e9)
    rounded = shapes.of(cost).cost
    assert cost <= rounded <= cost * 1.125
    assert shapes.rounded(rounded) == rounded


def test_there_are_eight_steps_to_a_doubling():
    """The steps are the same in each."""
    shapes = by_cost()
    assert [shapes.rounded(8 + each / 2) for each in range(17)] == [
        *(math.ceil(8 + each / 2) for each in range(17))
    ]


@given(costs, st.integers(1, 300), st.integers(1, 64))
def test_as_many_fit_as_the_cost_of_a_batch_allows(cost, parts, seats):
    """One at least, and as many as the batch may have at most."""
    shapes = by_cost(cost * parts, seats)
    fit = shapes.seats(shapes.rounded(cost))
    assert 1 <= fit <= seats
    assert fit * cost <= cost * parts * (1 + 1e-9)
    if shapes.rounded(cost) == cost:
        assert fit == min(parts, seats)


@given(costs, st.floats(1.0, 300.0))
def test_what_batches_count_as_grows_with_them(cost, parts):
    """From nothing for none to at most the largest load."""
    shapes = by_cost(cost * parts)
    loads = shapes.loads(shapes.rounded(cost))
    assert loads[0] == 0
    assert loads[1] >= 1
    assert all(one <= more for one, more in pairwise(loads))
    assert loads[-1] <= shapes.most


def test_a_full_batch_of_any_cost_counts_alike():
    """The same tokens take about the same time."""
    shapes = by_cost(1024.0, 1024)
    assert {shapes.loads(2.0**power)[-1] for power in range(11)} == {shapes.most}


def test_a_batch_counts_as_if_all_cost_what_the_dearest_does():
    """That is what padding does."""
    shapes = by_cost(640.0)
    assert shapes.load_of([Shape(None, 10.0), Shape(None, 20.0)]) == shapes.loads(20.0)[2] == 4


def test_without_costs_batches_count_by_their_size():
    """Keys say nothing about time."""
    shapes = Shapes(len, None, math.inf, 8)
    assert shapes.of("abc") == shapes.of("xyz") == Shape(shapes.of("123").key, 1.0, 1 / 8)
    assert shapes.of("abc") != shapes.of("ab")
    assert shapes.seats(1.0) == shapes.most == 8
    assert list(shapes.loads(1.0)) == [*range(9)]
    assert shapes.rounded(1.0) == 1.0


def test_a_cost_that_is_none_is_refused():
    """With what it was: see test_arguments for what can be wrong."""
    with pytest.raises(ItemError, match=r"max_batch_cost, 1000\.0, got 1000\.5"):
        by_cost().of(1000.5)


def test_a_key_has_to_be_hashable():
    """It is found out before anything is queued."""
    with pytest.raises(TypeError, match=r"something that can be hashed, .* not \['item'\]"):
        Shapes(lambda item: [item], None, math.inf, 32).of("item")


def test_equal_keys_are_one_and_others_are_not():
    """As long as anybody has them; what stands for them is compared without the user's code."""
    shapes = Shapes(lambda item: item, None, math.inf, 8)
    kept = [shapes.of(number) for number in range(500)]
    assert [shapes.of(float(number)) for number in range(500)] == kept
    assert len({each.key for each in kept}) == 500


def test_keys_that_nobody_has_are_forgotten():
    """A hundred thousand, one after another, and a few that stay."""
    shapes = Shapes(lambda item: item, None, math.inf, 8)
    kept = [shapes.of(("kept", number)) for number in range(10)]
    for number in range(100_000):
        shapes.of(number)
    assert len(shapes._keys._known) <= 200
    assert [shapes.of(("kept", number)) for number in range(10)] == kept


class Odd:
    """A key that can be compared with nothing."""

    def __hash__(self):
        return 1

    def __eq__(self, other):
        raise LookupError


def test_what_comparing_a_key_raises_is_for_whom_it_was_compared():
    """Who comes with another key hears nothing of it, whatever is forgotten meanwhile."""
    shapes = Shapes(lambda item: item, None, math.inf, 8)
    kept = [shapes.of(Odd())]
    for _ in range(3):
        with pytest.raises(LookupError):
            shapes.of(Odd())
    kept += [shapes.of(("another", number)) for number in range(1000)]
    assert len({each.key for each in kept}) == 1001
