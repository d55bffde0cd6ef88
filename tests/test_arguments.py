"""Validate once, at the edge, naming parameter and value."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import sniffio
from hypothesis import given, strategies as st

from trio_batcher import Batcher, InferenceModel, ItemError, open_batcher
from trio_batcher._arguments import check_limits, check_shapes, checked_cost, checked_weight


@pytest.mark.parametrize(
    ("arguments", "error", "story"),
    [
        ({"max_batch_size": 0}, ValueError, "max_batch_size must be >= 1, not 0"),
        ({"max_batch_size": 2.5}, TypeError, "max_batch_size must be an int, not 2.5"),
        ({"max_batch_size": True}, TypeError, "max_batch_size must be an int, not True"),
        ({"max_delay": -1}, ValueError, "max_delay must be >= 0 seconds and finite, not -1"),
        ({"max_delay": math.nan}, ValueError, "max_delay must be .* not nan"),
        ({"max_delay": math.inf}, ValueError, "max_delay must be .* not inf"),
        ({"max_queue_size": 0}, ValueError, "max_queue_size must be a whole number >= 1.* not 0"),
        ({"max_queue_size": 1.5}, ValueError, "max_queue_size must be .* not 1.5"),
        ({"max_queue_size": math.nan}, ValueError, "max_queue_size must be .* not nan"),
        ({"max_delay": "1"}, TypeError, "max_delay must be a number .* not '1'"),
        ({"max_queue_size": None}, TypeError, "max_queue_size must be .*math.inf.* not None"),
        ({"batch_timeout": 0}, ValueError, "batch_timeout must be > 0 seconds .* not 0"),
        ({"batch_timeout": -1.5}, ValueError, "batch_timeout must be > 0 seconds .* not -1.5"),
        ({"batch_timeout": math.nan}, ValueError, "batch_timeout must be > 0 seconds .* not nan"),
        ({"batch_timeout": None}, TypeError, "batch_timeout must be .*math.inf.* not None"),
        ({"batch_timeout": True}, TypeError, "batch_timeout must be a number .* not True"),
        ({"key": "size"}, TypeError, "key must be a function of an item, not 'size'"),
        ({"cost": 3, "max_batch_cost": 9}, TypeError, "cost must be a function of an item, not 3"),
        ({"cost": len}, ValueError, "cost needs max_batch_cost beside it"),
        ({"max_batch_cost": 9}, ValueError, "max_batch_cost needs cost beside it"),
        ({"cost": len, "max_batch_cost": 0}, ValueError, "max_batch_cost must be > 0 .* not 0"),
        ({"cost": len, "max_batch_cost": math.inf}, ValueError, "max_batch_cost .* not inf"),
        ({"cost": len, "max_batch_cost": "9"}, TypeError, "max_batch_cost must be .* not '9'"),
        ({"limiter": 1}, TypeError, "limiter must be a CapacityLimiter .* not 1"),
        ({"model": 3}, TypeError, "model must be a function .* not 3"),
        ({"model": int}, TypeError, "model must be a function .* not <class 'int'>"),
        ({"model": []}, ValueError, "model must not be an empty sequence"),
        ({"model": "model"}, TypeError, "model must be a function .* not 'model'"),
        ({"model": [print, 3]}, TypeError, "model must be a function .* not 3"),
    ],
)
def test_a_wrong_argument_is_named_at_once(arguments, error, story):
    """Before anything is opened, with parameter and value."""
    with pytest.raises(error, match=story):
        open_batcher(**{"model": print, **arguments})


@pytest.mark.parametrize(
    "arguments", [(1, 0, 1, None), (32, 0.5, math.inf, None), (10**6, Fraction(1, 3), 1e6, None)]
)
def test_what_can_be_is_not_complained_about(arguments):
    """The least and the most of everything, and any kind of number."""
    check_limits(*arguments)


@pytest.mark.parametrize(
    ("cost", "error", "story"),
    [
        (0, ValueError, "cost must return a number > 0 and finite, not 0"),
        (-1.0, ValueError, "cost must return .* not -1.0"),
        (math.nan, ValueError, "cost must return .* not nan"),
        (math.inf, ValueError, "cost must return .* not inf"),
        (True, TypeError, "cost must return a number, not True"),
        ("3", TypeError, "cost must return a number, not '3'"),
        (1000.5, ItemError, r"the item's cost: expected no more than .* 1000\.0, got 1000\.5"),
    ],
)
def test_a_wrong_cost_is_refused(cost, error, story):
    """With what it was."""
    with pytest.raises(error, match=story):
        checked_cost(cost, 1000.0)


def test_costs_that_can_be_are_not_complained_about():
    """Any kind of number, up to the most."""
    assert [checked_cost(cost, 1.5) for cost in (1, 1.5, Fraction(1, 2))] == [1.0, 1.5, 0.5]
    check_shapes(None, None, None)
    check_shapes(len, len, Fraction(1, 2))


@pytest.mark.parametrize(
    ("weight", "error", "story"),
    [
        (0, ValueError, "weight must be from 1e-09 to 1000000000.0, not 0"),
        (-1.0, ValueError, "weight must be .* not -1.0"),
        (1e-10, ValueError, "weight must be .* not 1e-10"),
        (1.1e9, ValueError, "weight must be .* not 1100000000.0"),
        (math.inf, ValueError, "weight must be .* not inf"),
        (math.nan, ValueError, "weight must be .* not nan"),
        ("4", TypeError, "weight must be a number .* not '4'"),
        (None, TypeError, "weight must be a number .* not None"),
        (True, TypeError, "weight must be a number .* not True"),
    ],
)
def test_a_wrong_weight_is_named_at_once(weight, error, story):
    """Neither so light nor so heavy that a float could not hold what it is compared with."""
    with pytest.raises(error, match=story):
        checked_weight(weight)


@pytest.mark.trio
@pytest.mark.parametrize("weight", [0.0, "4"])
@pytest.mark.parametrize(
    "call", [lambda b, w: b.infer(1, weight=w), lambda b, w: b.infer_many([1], weight=w)]
)
async def test_a_wrong_weight_reaches_no_queue(call, weight):
    """Whoever asks hears of it, and nothing has been submitted."""
    async with open_batcher(lambda inputs: inputs) as batcher:
        with pytest.raises((TypeError, ValueError), match="weight must be"):
            await call(batcher, weight)
        assert batcher.statistics().submitted == 0
        assert await batcher.infer_many([1, 2], weight=4) == [1, 2]
        assert await batcher.infer(3, weight=0.5) == 3


@given(st.floats(1e-9, 1e9))
def test_a_weight_is_hardly_changed_by_rounding(weight):
    """By a sixteenth at most; and what was rounded stays as it is."""
    rounded = checked_weight(weight)
    assert type(rounded) is float
    assert rounded == pytest.approx(weight, rel=1 / 16)
    assert checked_weight(min(max(rounded, 1e-9), 1e9)) == pytest.approx(rounded, rel=1e-3)


@given(st.lists(st.floats(1e-9, 1e9), min_size=2))
def test_a_heavier_weight_stays_the_heavier_one(weights):
    """Or becomes equal to one that is nearly as heavy."""
    rounded = [checked_weight(weight) for weight in sorted(weights)]
    assert all(lighter <= heavier for lighter, heavier in pairwise(rounded))


def test_there_are_eight_weights_to_a_doubling():
    """Whole numbers up to sixteen and powers of two are exact; thousands become a handful."""
    assert [checked_weight(n) for n in range(1, 17)] == list(range(1, 17))
    assert all(checked_weight(2.0**n) == 2.0**n for n in range(-29, 30))
    assert checked_weight(Fraction(1, 4)) == 0.25
    assert len({checked_weight(1.0 + n / 1000) for n in range(1001)}) == 9
    assert len({checked_weight(10.0 ** (n / 500)) for n in range(-4500, 4501)}) <= 500


def test_a_model_that_cannot_be_is_told_why():
    """An async `InferenceModel.infer`, one instance listed twice."""

    class Async(InferenceModel):
        async def infer(self, inputs):
            return inputs

    class Good(InferenceModel):
        def infer(self, inputs):
            return inputs

    with pytest.raises(TypeError, match=r"Async\.infer must not be async"):
        open_batcher(Async)
    with pytest.raises(TypeError, match=r"Async\.infer must not be async"):
        open_batcher(Async())
    model = Good()
    with pytest.raises(ValueError, match="lists the same instance twice"):
        open_batcher([model, model])


def test_a_batcher_is_made_by_open_batcher_only():
    """The story says how."""
    with pytest.raises(TypeError, match="async with open_batcher"):
        Batcher()


@pytest.mark.parametrize(("library", "named"), [(None, "none"), ("curio", "curio")])
def test_without_an_event_loop_the_story_names_those_that_will_do(library, named, monkeypatch):
    """Entering says what is needed and what is there, instead of failing somewhere deep."""
    monkeypatch.setattr(sniffio.thread_local, "name", library)
    coroutine = open_batcher(print).__aenter__()
    with pytest.raises(RuntimeError, match=f"needs trio or asyncio; .* running here: {named}$"):
        coroutine.send(None)
