"""Validate once, at the edge, naming parameter and value."""

from __future__ import annotations

import asyncio
import math

import pytest

from trio_batcher import Batcher, InferenceModel, open_batcher


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
        ({"limiter": 1}, TypeError, "limiter must be a trio.CapacityLimiter, not 1"),
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


def test_without_an_event_loop_the_story_names_the_one_that_is_needed():
    """Entering under asyncio says what is needed instead of failing somewhere deep."""

    async def main() -> None:
        async with open_batcher(print):
            raise AssertionError

    with pytest.raises(RuntimeError, match=r"needs trio .* asyncio"):
        asyncio.run(main())
