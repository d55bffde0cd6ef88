"""What came of a run: one outcome for each input of a batch, whatever the model did.

Pure.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from ._errors import BatchTooLarge, ItemError, ModelError, ResultCountError
from ._results import NoResultsError, advice, is_not_sent, listed

__all__ = [
    "Attempt",
    "Failure",
    "Raised",
    "Returned",
    "checked",
    "failures",
    "too_large",
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


def too_large(error: BaseException) -> BatchTooLarge | None:
    """Return what a model said if it was that, if only from a nursery or task group of its own."""
    found: BaseException | None = error
    while isinstance(found, BaseExceptionGroup):
        part = found.subgroup(BatchTooLarge)
        found = part and part.exceptions[0]
    return found if isinstance(found, BatchTooLarge) else None


def failures(error: BaseException, count: int, batch_size: int) -> list[Failure]:
    """Return an error of its own for each of so many inputs, of a batch that failed together."""
    text = _text(too_large(error) or error)
    return [_model_failure(error, batch_size, text) for _ in range(count)]


def _model_failure(error: BaseException, batch_size: int, text: str) -> Failure:
    failure: ModelError | ItemError
    if batch_size == 1 and too_large(error):
        failure = ItemError("the item", "one that the model can run by itself", text)
    else:
        where = "this input alone" if batch_size == 1 else f"all of a batch of {batch_size}"
        story = f"the model failed on {where}: {text}{advice(error, text)}"
        if is_not_sent(error):
            story = f"the model was not run on {where}: {error}"
        failure = ModelError(story, batch_size=batch_size)
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
    with suppress(BaseException):
        twin = copy.copy(error)
        # Its constructor may have made other ones of them; and notes are added to each by itself.
        twin.args = error.args
        if notes := getattr(error, "__notes__", None):
            twin.__notes__ = list(notes)
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

    Raises:
        Exception: what the results raise when they are looked at. Results may be computed only
            then: so it is as if the model itself had raised it.
    """
    try:
        values = listed(results, size)
        for i, value in enumerate(values):
            # Not isinstance, which asks the value itself: it would fail for the others as well.
            if issubclass(type(value), _NO_RESULTS):
                values[i] = _in_place(value)
    except NoResultsError as exc:
        return _unusable(TypeError(*exc.args), size)
    except BaseException as exc:
        _leave_us_out(exc)
        raise
    if len(values) != size:
        return [Failure(ResultCountError(size, len(values))) for _ in range(size)]
    return values


_OURS = frozenset({__name__, listed.__module__})

# What is looked at twice if it stands in a result's place: exceptions, and classes of them.
_NO_RESULTS = BaseException, type


def _in_place(value: Any) -> Any:
    """Return the outcome for what stands in a result's place, an exception or a class."""
    if isinstance(value, Exception):
        _let_go(value)
        return Failure(_unshared(value))
    if isinstance(value, BaseException):
        # Raised in a caller's task it would end that, or the program.
        _let_go(value)
        failure = ModelError(f"the model returned an exception: {_text(value)}", batch_size=1)
        failure.__cause__ = value
        return Failure(failure)
    if issubclass(value, BaseException):
        msg = (
            f"the model returned the class {value.__name__} in this input's place: "
            "return an instance of it"
        )
        return Failure(ModelError(msg, batch_size=1))
    return value


def _unusable(error: TypeError, size: int) -> list[Any]:
    story = f"the model's results cannot be used: {_text(error)}"
    outcomes = [ModelError(story, batch_size=size) for _ in range(size)]
    for failure in outcomes:
        failure.__cause__ = error
    return [Failure(failure) for failure in outcomes]


def _leave_us_out(error: BaseException) -> None:
    """Have a traceback begin with the model's own code: our frames hold all the results."""
    while error.__traceback__ is not None:
        if error.__traceback__.tb_frame.f_globals.get("__name__") not in _OURS:
            return
        error.__traceback__ = error.__traceback__.tb_next


def _let_go(error: BaseException | None) -> None:
    """Have an exception that the model is done with keep none of its frames.

    They hold the batch, and often the exception too.
    """
    seen: set[int] = set()
    rest = [error]
    while rest:
        each = rest.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        BaseException.with_traceback(each, None)
        rest += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            rest += each.exceptions
