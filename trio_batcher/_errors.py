"""What `infer` can raise, one class for each thing a caller can do about it.

Every instance is raised in one task only: tracebacks of shared exceptions grow with
each task that raises them. What several callers share is the ``__cause__``. All of them
can be copied and pickled, to leave a process.
"""

from __future__ import annotations

from functools import partial
from typing import Any

__all__ = [
    "BatcherClosed",
    "BatcherCrashed",
    "BatcherError",
    "DeadlineUnreachable",
    "ItemError",
    "ModelError",
    "Overloaded",
    "ResultCountError",
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
    """

    def __init__(self, seconds_left: float) -> None:
        super().__init__(
            f"the deadline is in {seconds_left:.3g} s, sooner than even a batch of this "
            "request alone could end"
        )
        self.seconds_left: float = seconds_left

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seconds_left,), self.__dict__


class BatcherClosed(BatcherError):
    """The batcher's ``async with`` block has been left, or is being left."""


class BatcherCrashed(BatcherError):
    """The batcher itself failed; the reason is the ``__cause__``.

    This is never a model's fault: a model that raises gives `ModelError`.
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

    Nothing was run for it, and nobody else hears of it.

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
