"""What a model's process has answered, as results and exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._child import Kind
from ._errors import ModelError
from ._shared import unpack
from ._told import Told, error_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CannotUnpickleError", "error_in", "results_in"]


class CannotUnpickleError(Exception):
    """There are results, but not here.

    Attributes:
        reason: what to tell those who wait for them.
    """

    def __init__(self, reason: TypeError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def error_in(kind: int, answer: Sequence[memoryview]) -> BaseException:
    """Return the exception that the answer consists of."""
    if kind == Kind.NO_MEMORY:
        return MemoryError("the model's process has no memory for the batch, or for its results")
    return error_of(unpack(answer))[0]


def results_in(kind: int, answer: Sequence[memoryview]) -> Any:
    """Return the results that the answer consists of, or raise the exception.

    In the place of a result that cannot cross is a `ModelError` that says why.

    Raises:
        CannotUnpickleError: one of them at least cannot be unpickled.
        MemoryError: there is no room for them, here or there.
        BaseException: what the model raised, with the child's traceback as a note.
    """
    if kind in (Kind.FAILED, Kind.NO_MEMORY):
        raise error_in(kind, answer)
    try:
        results = unpack(answer)
    except MemoryError:
        raise
    except BaseException as exc:  # noqa: BLE001  of a result's own class
        raise CannotUnpickleError(_not_unpickled(exc)) from None  # noqa: ASYNC104
    if kind == Kind.MIXED:
        return [_returned(each) if isinstance(each, Told) else each for each in results]
    if kind == Kind.EACH:
        return [_each(packed) for packed in results]
    return results


def _each(packed: Told | TypeError | tuple[bytes, Sequence[memoryview]]) -> Any:
    """Return one of the results that were packed one by one."""
    if isinstance(packed, Told):
        return _returned(packed)
    if isinstance(packed, TypeError):
        return _failed(packed)
    pickled, buffers = packed
    try:
        return unpack([memoryview(pickled), *buffers])
    except MemoryError:
        raise
    except BaseException as exc:  # noqa: BLE001, ASYNC103  of the result's own class
        return _failed(_not_unpickled(exc))  # noqa: ASYNC104


def _not_unpickled(error: BaseException) -> TypeError:
    msg = f"what the model returned cannot be unpickled in the batcher's process: {error}"
    reason = TypeError(msg)
    reason.__cause__ = error
    return reason


def _returned(told: Told) -> BaseException:
    error, is_itself = error_of(told)
    return error if is_itself else _failed(error)


def _failed(error: BaseException) -> ModelError:
    msg = f"the model failed on this input alone: {type(error).__name__}: {error}"
    failure = ModelError(msg, batch_size=1)
    failure.__cause__ = error
    return failure
