"""One outcome for each input of a batch, whatever the model does.

Pure: it says which inputs to run next and is told what came of it, so that a worker
thread, the event loop and a test can all drive it.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from ._errors import ChildDied, ModelError, ResultCountError
from ._results import advice, is_not_sent, listed

__all__ = ["Attempt", "Failure", "Raised", "Returned", "Runs", "checked", "outcomes_of"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Returned:
    """The model returned."""

    results: Any


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


Runs: TypeAlias = Generator[list[T], Attempt, list[Any]]


def outcomes_of(items: list[T]) -> Runs[T]:
    """Yield the inputs to run, be sent an `Attempt` each time, return an outcome for each item.

    An outcome is the result itself, or a `Failure`.

    The first run is the whole batch, and so is the second if the model's process has died: it
    may have been killed from outside. If that raises, halves are run, then halves of the
    halves that raise, level by level: an input that fails alone is found with
    2·log₂(n) further runs and no other input suffers. If the batch and both its halves
    raise the same kind of error, single inputs from all over the batch are tried next;
    if those fail alike too, it is not the inputs: all fail, after 2·log₂(n) further
    runs rather than 2n.
    """
    size = len(items)
    # Always a list of its own: the model may change what it is given.
    attempt = yield from _as_a_whole(items)
    if isinstance(attempt, Returned):
        return checked(attempt.results, size)
    outcomes: list[Any] = [None] * size
    if size == 1:
        return [_model_failure(attempt.error, 1)]

    raised: list[BaseException] = [attempt.error]
    succeeded = False
    untried: deque[Sequence[int]] = deque(_halves(range(size)))
    while untried:
        segment = untried.popleft()
        attempt = yield [items[i] for i in segment]
        if isinstance(attempt, Returned):
            succeeded = True
            _fill(outcomes, segment, checked(attempt.results, len(segment)))
            continue
        raised.append(attempt.error)
        if len(segment) == 1:
            outcomes[segment[0]] = _model_failure(attempt.error, 1)
            continue
        untried.extend(_halves(segment))
        if len(raised) == 3 and not succeeded and _alike(raised):  # noqa: PLR2004
            # The batch and both its halves. A poison input spoils one half only.
            probes = _spread(size, count=2 * (size - 1).bit_length() - 2)
            tried = set()
            for probe in probes:
                tried.add(probe)
                attempt = yield [items[probe]]
                if isinstance(attempt, Returned):
                    succeeded = True
                    _fill(outcomes, [probe], checked(attempt.results, 1))
                    break
                raised.append(attempt.error)
                outcomes[probe] = _model_failure(attempt.error, 1)
                if not _alike(raised):
                    break
            else:
                return [
                    _model_failure(raised[0], size) if outcome is None else outcome
                    for outcome in outcomes
                ]
            untried = deque(
                rest for segment in untried if (rest := [i for i in segment if i not in tried])
            )
    return outcomes


def _as_a_whole(items: list[T]) -> Generator[list[T], Attempt, Attempt]:
    attempt = yield list(items)
    if isinstance(attempt, Raised) and isinstance(attempt.error, ChildDied):
        attempt = yield list(items)
    return attempt


def _halves(segment: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    middle = (len(segment) + 1) // 2
    return segment[:middle], segment[middle:]


def _spread(size: int, count: int) -> list[int]:
    return sorted({i * size // count for i in range(count)})


def _alike(errors: list[BaseException]) -> bool:
    return len({type(error) for error in errors}) == 1


def _fill(outcomes: list[Any], segment: Sequence[int], values: list[Any]) -> None:
    for i, value in zip(segment, values, strict=True):
        outcomes[i] = value


def _model_failure(error: BaseException, batch_size: int) -> Failure:
    where = "this input alone" if batch_size == 1 else f"all of a batch of {batch_size}"
    text = _text(error)
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
    except Exception:  # noqa: BLE001  a message that cannot be made must not hide the failure
        return name


def checked(results: Any, size: int) -> list[Any]:
    """Return an outcome for each of ``size`` inputs, given what the model returned for them.

    Results may be a list, an array, a tensor: looking at them runs the model's code, and
    whatever that raises is the model's failure too.
    """
    try:
        values = listed(results, size)
        for i, value in enumerate(values):
            # Not isinstance, which asks the value itself: it would fail for the others as well.
            if issubclass(type(value), _NO_RESULTS):
                values[i] = _in_place(value)
    except BaseException as exc:  # noqa: BLE001, ASYNC103  told to the callers, each by its own
        _leave_us_out(exc)
        return [_unusable(exc, size) for _ in range(size)]  # noqa: ASYNC104
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


def _unusable(error: BaseException, size: int) -> Failure:
    failure = ModelError(f"the model's results cannot be used: {_text(error)}", batch_size=size)
    failure.__cause__ = error
    return Failure(failure)


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
