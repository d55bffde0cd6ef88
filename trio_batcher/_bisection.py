"""What came of a run: one outcome for each input of a batch, whatever the model did.

Pure.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from ._errors import BatchTooLarge, ItemError, ModelError, ResultCountError

__all__ = [
    "Attempt",
    "Failure",
    "Raised",
    "Returned",
    "checked",
    "failures",
    "is_too_large",
]


@dataclass(frozen=True, slots=True)
class Returned:
    """The model returned; ``results`` has an outcome for each input, see `checked`."""

    results: list[Any]


@dataclass(frozen=True, slots=True)
class Raised:
    """The model raised."""

    error: BaseException


Attempt: TypeAlias = Returned | Raised


class Failure:
    """Stands in a result's place: ``error`` is to be raised in that caller's task."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def is_too_large(error: BaseException) -> bool:
    """Return whether a model said so, if only from a nursery or a task group of its own."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(BatchTooLarge) is not None
    return isinstance(error, BatchTooLarge)


def failures(error: BaseException, count: int, batch_size: int) -> list[Failure]:
    """Return an error of its own for each of so many inputs, of a batch that failed together."""
    text = _text(error)
    return [_model_failure(error, batch_size, text) for _ in range(count)]


def _model_failure(error: BaseException, batch_size: int, text: str) -> Failure:
    failure: ModelError | ItemError
    if batch_size == 1 and is_too_large(error):
        failure = ItemError("the item", "one that the model can run by itself", text)
    else:
        where = "this input alone" if batch_size == 1 else f"all of a batch of {batch_size}"
        failure = ModelError(f"the model failed on {where}: {text}", batch_size=batch_size)
    failure.__cause__ = error
    return Failure(failure)


def _unshared(error: Exception) -> Exception:
    # A model may return one instance in several places, or again in the next batch. The
    # first caller gets that instance, every other one a copy of its own.
    claim = object()
    if error.__dict__.setdefault("_trio_batcher_claim", claim) is claim:
        return error
    twin: Exception | None = None
    # A class that cannot be copied is no reason not to tell the caller.
    with suppress(Exception):
        twin = copy.copy(error)
    if twin is None or twin is error or type(twin) is not type(error):
        twin = ModelError(f"the model returned an exception: {_text(error)}", batch_size=1)
    twin.__cause__ = error
    return twin


def _text(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except BaseException:  # noqa: BLE001, ASYNC103  a message that cannot be made hides no failure
        return name  # noqa: ASYNC104


def checked(results: Any, size: int) -> list[Any]:
    """Return an outcome for each of ``size`` inputs, given what the model returned for them.

    Results may be a list, an array, a tensor: looking at them runs the model's code, and
    whatever that raises is the model's failure too.
    """
    try:
        # Always a list of our own: the model may use its list again.
        values = list(results if type(results) is list else iter(_listed(results)))
        for i, value in enumerate(values):
            if isinstance(value, Exception):
                values[i] = Failure(_unshared(value))
    except Exception as exc:  # noqa: BLE001  told to the callers, each by its own ModelError
        return list(failures(exc, size, size))
    if len(values) != size:
        return [Failure(ResultCountError(size, len(values))) for _ in range(size)]
    return values


def _listed(results: Any) -> Iterable[Any]:
    if inspect.iscoroutine(results):
        results.close()
        msg = (
            "the model returned a coroutine: give open_batcher the async function itself, "
            "not a plain function that calls it"
        )
        raise TypeError(msg)
    if isinstance(results, Mapping | AbstractSet) or not hasattr(results, "__len__"):
        msg = (
            f"the model returned a {type(results).__name__}: it has to return a sequence "
            "with one result for each input, in the same order"
        )
        raise TypeError(msg)
    listed: Iterable[Any] = results
    return listed
