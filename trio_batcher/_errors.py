"""What `infer` can raise, one class for each thing a caller can do about it.

Every instance is raised in one task only: tracebacks of shared exceptions grow with
each task that raises them. What several callers share is the ``__cause__``. All of them
can be copied and pickled, to leave a process.
"""

from __future__ import annotations

from functools import partial
from typing import Any

__all__ = [
    "BatchTooLarge",
    "BatcherClosed",
    "BatcherCrashed",
    "BatcherError",
    "ChildDied",
    "DeadlineUnreachable",
    "DeviceLost",
    "ItemError",
    "ModelError",
    "Overloaded",
    "ResultCountError",
    "ThreadNotStarted",
]


class BatcherError(Exception):
    """The base of everything a batcher itself raises from `Batcher.infer`."""


class Overloaded(BatcherError):
    """The queue is full. Nothing was queued; ask again later.

    Attributes:
        retry_after: estimated seconds until there is room in the queue.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after: float = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), retry_after=self.retry_after), self.args, self.__dict__


class DeadlineUnreachable(BatcherError, TimeoutError):
    """The request's deadline cannot be met, as far as the latest batches tell.

    Raised before the deadline passes, instead of letting the caller wait for a
    cancellation that is as good as certain, so that there is still time to answer someone.

    Attributes:
        seconds_left: how far away the deadline was.
        seconds_needed: in how long a batch with this request could have ended, at the earliest;
            `None` if whoever raises it does not say.
    """

    def __init__(self, seconds_left: float, seconds_needed: float | None = None) -> None:
        earliest = "sooner than even a batch of this request alone could end"
        if seconds_needed is not None:
            earliest = (
                f"a batch with this request could end in {seconds_needed:.3g} s at the earliest"
            )
        super().__init__(f"the deadline is in {seconds_left:.3g} s, {earliest}")
        self.seconds_left: float = seconds_left
        self.seconds_needed: float | None = seconds_needed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seconds_left, self.seconds_needed), self.__dict__


class BatcherClosed(BatcherError):
    """The batcher's ``async with`` block has been left, or is being left."""


class BatcherCrashed(BatcherError):
    """The batcher itself failed; the reason is the ``__cause__``.

    A model that raises gives `ModelError`, never this. A model that is lost does, if there is
    no other: then the reason is a `DeviceLost`.
    """


class DeviceLost(BatcherError):
    """A model can run no more batches; why is the ``__cause__``, if there is more to say.

    With ``run_in="process"``: its process died, and could not be started again. Any model may
    raise it, to be used no more. The requests that it held go to the other replicas. It is the
    ``__cause__`` of `BatcherCrashed` if there are none, and raised on entering if it comes during
    the warm-up.
    """


class ChildDied(BatcherError):
    """A model's process died, as by a signal, a segmentation fault or ``os._exit``.

    It is the ``__cause__`` of a `ModelError`, if an input has killed the process each time that
    it was run; raised on entering, if the process dies before the model is made; raised on
    leaving, if the process had to be killed.

    Attributes:
        exit_code: what it has ended with; negative for a signal, `None` if nobody knows.
    """

    def __init__(self, message: str, *, exit_code: int | None) -> None:
        super().__init__(message)
        self.exit_code: int | None = exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), exit_code=self.exit_code), self.args, self.__dict__


class ThreadNotStarted(BatcherError, RuntimeError):
    """The system has no thread to run a model in; what it said is the ``__cause__``.

    Raised on entering; models that were made already have been closed. It is the ``__cause__`` of
    `BatcherCrashed` if it comes later: nothing would run, and nobody could say until when.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"no thread could be started for a model: {reason}; the process or its container is "
            "at its limit of threads (ulimit -u, a cgroup's pids.max) or of memory: raise that, "
            "or have fewer replicas"
        )
        self.reason: str = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,), self.__dict__


class BatchTooLarge(Exception):
    """A model raises this if it cannot take so many items at a time, or such large ones.

    As where memory is short: nothing is wrong with any of them. They are run again in halves, and
    the next batches are no larger than what the model was able to run; every now and then a
    somewhat larger one is tried. The caller of an item that is too large by itself has an
    `ItemError`, with this as its ``__cause__``.
    """


class ModelError(BatcherError):
    """The model raised; its exception is the ``__cause__``.

    Attributes:
        batch_size: how many inputs failed together. 1 means that this very input fails
            alone; more, that the whole batch was given up without running this one alone,
            as everything that was tried of it had failed alike.
    """

    def __init__(self, message: str, *, batch_size: int) -> None:
        super().__init__(message)
        self.batch_size: int = batch_size

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), batch_size=self.batch_size), self.args, self.__dict__


class ResultCountError(BatcherError):
    """The model returned another number of results than it was given inputs.

    Attributes:
        expected: number of inputs.
        got: number of results.
    """

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(
            f"the model returned {got} results for {expected} inputs; "
            "it has to return exactly one for each, in the same order"
        )
        self.expected: int = expected
        self.got: int = got

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.expected, self.got), self.__dict__


class ItemError(BatcherError, ValueError):
    """The item is refused: it costs too much, or is nothing that the model takes.

    Nobody else hears of it. Nothing was run for it, unless the model itself had to say so by a
    `BatchTooLarge`.

    Attributes:
        part: which part of the item, such as ``item['input_ids']``.
        expected: what it should be.
        got: what it is.
    """

    def __init__(self, part: str, expected: str, got: str) -> None:
        super().__init__(f"{part}: expected {expected}, got {got}")
        self.part: str = part
        self.expected: str = expected
        self.got: str = got

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.part, self.expected, self.got), self.__dict__
