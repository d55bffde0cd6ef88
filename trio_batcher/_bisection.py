"""One outcome for each input of a batch, whatever the model does.

A batch that raises is run again in parts. What is still to be run, and what the runs so far
tell, is a `Bisection`; each part is a `Segment` of it, a batch like any other to whoever runs it.

Pure: it is told what came of a run and says what is to be run next.
"""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ._errors import BatchTooLarge, ChildDied, ItemError, ModelError, ResultCountError

if TYPE_CHECKING:
    from ._queue import Request

__all__ = [
    "Attempt",
    "Bisection",
    "Failure",
    "Raised",
    "Returned",
    "Segment",
    "checked",
    "failures",
]

T = TypeVar("T")

# What a segment is to its batch: all of it, a half, less than that, or a single one that is to
# tell whether the inputs are to blame at all.
_WHOLE, _HALF, _PART, _PROBE = range(4)


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


class Segment(list["Request[T]"], Generic[T]):
    """Requests to be run again together, in their batch's order.

    Attributes:
        bisection: that of the batch.
        rank: what part of it they are.
        deadline: the most urgent one's.
        arrived: when the first of them came.
    """

    __slots__ = ("arrived", "bisection", "deadline", "rank")

    def __init__(self, requests: Sequence[Request[T]], bisection: Bisection[T], rank: int) -> None:
        super().__init__(requests)
        self.bisection = bisection
        self.rank = rank
        self.deadline = min([request.deadline for request in requests])
        self.arrived = min([request.arrived for request in requests])

    def halves(self) -> list[Segment[T]]:
        """Return it in two; nothing of a single one."""
        middle, rank = (len(self) + 1) // 2, min(self.rank + 1, _PART)
        parts = (self[:middle], self[middle:]) if len(self) > 1 else ()
        return [Segment(part, self.bisection, rank) for part in parts]


class Bisection(Generic[T]):
    """What is left to be run of a batch that raised, and what its runs have told so far.

    Halves are run, then halves of the halves that raise, level by level: an input that fails alone
    is found with 2·log₂(n) further runs and no other input suffers. If the batch and both its
    halves raise the same kind of error, single inputs from all over the batch are tried next; if
    those fail alike too, it is not the inputs: all fail, after 2·log₂(n) further runs rather than
    2n. If the model's process has died, the whole batch is run again first: it may have been
    killed from outside.

    Several segments may run at a time. Those that nobody waits for are not run, and tell nothing.

    Attributes:
        reason: what the whole batch has raised.
        size: how many it had.
        sizes_before: what was known of how much a device takes, before this batch was too large.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.reason: BaseException | None = None
        self.sizes_before: dict[Any, Any] = {}
        self._kinds: set[type[BaseException]] = set()
        self._died = False
        self._halves_failed = 0
        self._succeeded = False
        self._untried: deque[Segment[T]] = deque()
        # Single inputs to be tried before anything else, and how many of them run.
        self._probes: deque[Segment[T]] = deque()
        self._probing = False
        self._running = 0
        self._probed: set[Request[T]] = set()

    @classmethod
    def of(cls, batch: Sequence[Request[T]]) -> Segment[T]:
        """Return a whole batch as a segment of its own bisection."""
        return Segment(batch, cls(len(batch)), _WHOLE)

    @property
    def pending(self) -> bool:
        """Whether there is anything to run now."""
        return bool(self._probes if self._probing else self._untried)

    def due(self, patience: float) -> float:
        """Return by when the most urgent of it should run.

        Args:
            patience: for so long after it came a request may wait, if its deadline allows that.
        """
        pending = self._probes if self._probing else self._untried
        return min([min(each.deadline, each.arrived + patience) for each in pending], default=inf)

    def next(self, wanted: Callable[[Request[T]], bool]) -> Segment[T] | None:
        """Return what to run next, without those that nobody waits for; `None` if nothing is."""
        while self.pending:
            if self._probing:
                probe = self._probes.popleft()
                self._probed.update(probe)
                if wanted(probe[0]):
                    self._running += 1
                    return probe
                self._replace_probe(wanted)
                continue
            segment = self._untried.popleft()
            left = [request for request in segment if wanted(request)]
            if len(left) == len(segment):
                return segment
            if left:
                return Segment(left, self, segment.rank)
        return None

    def succeeded(self, segment: Segment[T]) -> None:
        """Note that a run returned."""
        self._succeeded = True
        self._running -= segment.rank == _PROBE
        self._stop_probing()

    def failed(
        self, segment: Segment[T], error: BaseException, halves: Sequence[Segment[T]]
    ) -> tuple[list[Request[T]], list[Request[T]]]:
        """Note that a run raised.

        Returns:
            Who fails by itself, and those that are given up for the whole batch's failure.

        Args:
            segment: what was run.
            error: what was raised.
            halves: of the segment.
        """
        if segment.rank == _WHOLE and isinstance(error, ChildDied) and not self._died:
            self._died = True
            self._untried.append(segment)
            return [], []
        self._untried.extend(halves)
        if isinstance(error, BatchTooLarge) and halves:
            return [], []
        self._kinds.add(type(error))
        if segment.rank == _WHOLE or self.reason is None:
            self.reason, self._kinds = error, {type(error)}
        if segment.rank == _PROBE:
            self._running -= 1
        elif segment.rank == _HALF:
            self._halves_failed += 1
            if self._halves_failed == 2 and not self._succeeded:  # noqa: PLR2004
                # The batch and both its halves. A poison input spoils one half only.
                self._start_probing()
        if len(self._kinds) > 1:
            self._stop_probing()
        given_up: list[Request[T]] = []
        if self._probing and not self._probes and not self._running:
            given_up = self.clear()
        return [] if halves else [*segment], given_up

    def put_back(self, segment: Segment[T]) -> None:
        """Take back what was not run after all."""
        if segment.rank == _PROBE and self._probing:
            self._running -= 1
            self._probes.appendleft(segment)
        else:
            self._untried.appendleft(segment)

    def clear(self) -> list[Request[T]]:
        """Return all that has not been run, which never will be."""
        left = self._unprobed()
        left += [request for probe in self._probes for request in probe if request in self._probed]
        self._untried.clear()
        self._stop_probing()
        return left

    def _start_probing(self) -> None:
        left = self._unprobed()
        count = 2 * (self.size - 1).bit_length() - 2
        places = sorted({i * len(left) // count for i in range(count)}) if left else []
        self._probes.extend([Segment([left[place]], self, _PROBE) for place in places])
        self._probing = bool(self._probes)

    def _replace_probe(self, wanted: Callable[[Request[T]], bool]) -> None:
        """Choose another input in the place of one that nobody waits for any more."""
        chosen = {probe[0] for probe in self._probes}
        left = [each for each in self._unprobed() if each not in chosen and wanted(each)]
        if left:
            self._probes.append(Segment([left[len(left) // 2]], self, _PROBE))
        elif not self._probes and not self._running:
            self._stop_probing()

    def _stop_probing(self) -> None:
        if self._probing:
            self._probing = False
            self._probes.clear()
            parts = [
                ([each for each in segment if each not in self._probed], segment.rank)
                for segment in self._untried
            ]
            self._untried = deque([Segment(left, self, rank) for left, rank in parts if left])
            self._probed.clear()

    def _unprobed(self) -> list[Request[T]]:
        return [each for segment in self._untried for each in segment if each not in self._probed]


def failures(error: BaseException, count: int, batch_size: int) -> list[Failure]:
    """Return an error of its own for each of so many inputs, of a batch that failed together."""
    text = _text(error)
    return [_model_failure(error, batch_size, text) for _ in range(count)]


def _model_failure(error: BaseException, batch_size: int, text: str) -> Failure:
    failure: ModelError | ItemError
    if isinstance(error, BatchTooLarge) and batch_size == 1:
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
