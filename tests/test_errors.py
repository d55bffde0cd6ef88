"""What `infer` can raise: one class for each thing a caller can do about it."""

from __future__ import annotations

import copy
import pickle

import pytest

import trio_batcher
from trio_batcher import (
    BatcherClosed,
    BatcherCrashed,
    BatcherError,
    ChildDied,
    DeadlineUnreachable,
    DeviceLost,
    ItemError,
    ModelError,
    Overloaded,
    ResultCountError,
    ThreadNotStarted,
    _errors,
)

ONE_OF_EACH = [
    Overloaded("the queue is full", retry_after=0.25),
    DeadlineUnreachable(0.012345, 0.02),
    BatcherClosed("closed"),
    BatcherCrashed("crashed"),
    ModelError("failed", batch_size=3),
    ResultCountError(8, 7),
    ChildDied("died", exit_code=-9),
    DeviceLost("lost"),
    ThreadNotStarted("can't start new thread"),
    ItemError("item['input_ids']", "a tensor", "a str"),
    ThreadNotStarted("can't start new thread"),
]


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_everything_a_batcher_raises_has_one_base(error):
    """`except BatcherError` catches it, and it says something."""
    assert isinstance(error, BatcherError)
    assert type(error).__name__ in trio_batcher.__all__
    assert str(error)


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_an_error_can_leave_its_process(error):
    """Copied or pickled, it says the same, with all it carries."""
    error.add_note("while testing")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert (twin.args, vars(twin)) == (error.args, vars(error))


def test_every_error_is_public():
    """What can be raised can be caught by a name from the package."""
    assert set(_errors.__all__) <= set(trio_batcher.__all__)
    # What models raise is not the batcher's to raise.
    assert {type(error).__name__ for error in ONE_OF_EACH} == {
        name for name in _errors.__all__ if name not in {"BatcherError", "BatchTooLarge"}
    }


def test_nobody_catches_two_kinds_by_one_name():
    """But for the base, no class is another one's parent."""
    kinds = [type(error) for error in ONE_OF_EACH]
    assert not [(a, b) for a in kinds for b in kinds if a is not b and issubclass(a, b)]


def test_an_unreachable_deadline_is_a_timeout():
    """Code that handles a `TimeoutError` handles it; it tells what time was left, and needed."""
    error = DeadlineUnreachable(0.012345, 0.0234567)
    assert isinstance(error, TimeoutError)
    assert (error.seconds_left, error.seconds_needed) == (0.012345, 0.0234567)
    assert "the deadline is in 0.0123 s, a batch" in str(error)
    assert "in 0.0235 s at the earliest" in str(error)
    assert "alone could end" in str(DeadlineUnreachable(0.012345))


def test_overloaded_says_when_to_come_back():
    """A web server puts `retry_after` into its answer's header."""
    assert Overloaded("full", retry_after=0.25).retry_after == 0.25
    assert str(Overloaded("full", retry_after=0.25)) == "full"


def test_a_model_error_says_how_many_inputs_it_was_about():
    """1 means that this input fails alone."""
    assert ModelError("failed", batch_size=1).batch_size == 1


def test_a_wrong_count_says_both_numbers():
    """In its message and as attributes."""
    error = ResultCountError(8, 7)
    assert (error.expected, error.got) == (8, 7)
    assert "7 results for 8 inputs" in str(error)
