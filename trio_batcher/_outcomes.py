"""Each caller gets exactly one outcome, and each outcome is counted once.

Everything here happens in the event loop. `caller` of a request or a group is the one
mark of who still waits: whoever answers a caller, or sees it leave, sets it to `None`. A group's
request that has its outcome has no group any more: a device may still have it in hand.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._bisection import Failure
from ._errors import (
    BatcherClosed,
    BatcherCrashed,
    BatcherError,
    DeadlineUnreachable,
    Overloaded,
)
from ._queue import Request
from ._statistics import BatcherStatistics, RejectionReason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from ._hosts import Doorbell, Host
    from ._latency import LatencyFit
    from ._shapes import Shape

__all__ = [
    "Group",
    "Member",
    "Outcomes",
    "ShapedRequest",
    "TimedRequest",
    "closing_error",
    "is_awaited",
    "overload_error",
]

T = TypeVar("T")

_logger = logging.getLogger("trio_batcher")

# Seconds between two lines in the log about rejections.
_LOG_EVERY = 1.0

_REASONS: dict[type[BatcherError], RejectionReason] = {
    Overloaded: "overloaded",
    DeadlineUnreachable: "deadline",
    BatcherClosed: "closed",
    BatcherCrashed: "crashed",
}


def closing_error(
    failure: BaseException | None, *, ended: bool = False
) -> BatcherClosed | BatcherCrashed:
    """Return what a request gets that comes too late, or after the batcher's own failure."""
    if failure is None:
        state = "closed: its async with block has" if ended else "closing: its async with block is"
        return BatcherClosed(f"the batcher is {state} {'been' if ended else 'being'} left")
    error = BatcherCrashed(f"the batcher itself failed: {failure!r}")
    error.__cause__ = failure
    return error


def overload_error(max_queue_size: float, waiting: int, seconds: float) -> Overloaded:
    """Return what a request gets that finds the queue full.

    There is room when the next batch is taken, in about ``seconds``.
    """
    return Overloaded(
        f"max_queue_size is {max_queue_size} and {waiting} requests are waiting; "
        f"there should be room in {seconds:.3g} s",
        retry_after=seconds,
    )


def is_awaited(request: Request[Any]) -> bool:
    """Return whether anybody still waits for its outcome."""
    sleeper = request if request.group is None else request.group
    return sleeper.caller is not None


class TimedRequest(Request[T]):
    """A request whose caller may want to know when its batch was ``started``."""

    __slots__ = ("started",)

    started: float


class ShapedRequest(TimedRequest[T]):
    """A request that cannot share a batch with everybody at the same cost."""

    __slots__ = ("shape",)

    def __init__(
        self, item: T, deadline: float, arrived: float, weight: float, shape: Shape
    ) -> None:
        super().__init__(item, deadline, arrived, weight)
        self.shape = shape


class Member(Request[T]):
    """A request of a group's."""

    __slots__ = ("group", "index", "shape")

    def __init__(
        self,
        item: T,
        deadline: float,
        arrived: float,
        weight: float,
        *,
        group: Any,
        index: int,
        shape: Shape | None,
    ) -> None:
        super().__init__(item, deadline, arrived, weight)
        self.group = group
        self.index = index
        self.shape = shape


class Group(Generic[T]):
    """The requests of one `infer_many`: one caller, woken when all are done or one fails.

    Those of a `map` have another group, which `goes_on` when one of them fails: it takes a
    `Failure` as it takes a result, and for its caller it has whoever is inside the block.
    """

    __slots__ = ("caller", "missing", "requests", "results", "started")

    goes_on = False

    # When the batch of the last one that was answered was started; only if anybody is timed.
    started: float

    def __init__(
        self,
        items: Sequence[T],
        deadline: float,
        now: float,
        weight: float,
        shapes: Sequence[Shape | None],
    ) -> None:
        self.caller: Any = None
        self.requests: list[Request[T]] = [
            Member(item, deadline, now, weight, group=self, index=index, shape=shape)
            for index, (item, shape) in enumerate(zip(items, shapes, strict=True))
        ]
        self.results: list[Any] = [None] * len(items)
        self.missing = len(items)

    def take(self, request: Request[T], result: Any) -> bool:
        """Take one's result, and return whether the caller has been waiting for just that."""
        self.results[request.index] = result
        self.missing -= 1
        return not self.missing

    def dissolved(self) -> list[Request[T]]:
        """Return its requests, when there is nothing more to come: they and it are a cycle."""
        requests, self.requests = self.requests, []
        return requests


class Outcomes(Generic[T]):
    """Answers callers and keeps count.

    Attributes:
        completed, failed, cancelled, rejected: as in `BatcherStatistics`.
        timed: whether callers are told when their batches were started.
        refused_at_once: how many of the rejected ones never were in the queue.
        short_of_room: is rung whenever a full queue may have room again.
    """

    def __init__(self, host: Host, discard: Callable[[Iterable[Request[T]]], None]) -> None:
        self._host = host
        self._discard = discard
        self.timed = False
        self.refused_at_once = 0
        self.short_of_room: set[Doorbell] = set()
        self.completed = 0
        self.failed = 0
        self.cancelled = 0
        self.rejected: Counter[RejectionReason] = Counter()
        # What the log knows of it, since when, and when it may be told more.
        self._logged: Counter[RejectionReason] = Counter()
        self._logged_at, self._log_at = math.nan, -math.inf

    def refused(self, error: BatcherError, count: int) -> BatcherError:
        """Count requests that were not even queued, and return the error."""
        self.refused_at_once += count
        self.rejected[_REASONS[type(error)]] += count
        self._log_some()
        return error

    def missing(self, accepted: int) -> int:
        """Return how many requests have no outcome yet, given how many were ever queued."""
        settled = self.completed + self.failed + self.cancelled + sum(self.rejected.values())
        return accepted + self.refused_at_once - settled

    def deliver(self, batch: Sequence[Request[T]], outcomes: Sequence[Any], started: float) -> None:
        """Answer the callers of a batch that are still there; it was started at that time."""
        if self.timed:
            for request in batch:
                if isinstance(request, TimedRequest):
                    request.started = started
                elif request.group is not None:
                    request.group.started = started
        wake = self._host.wake
        completed = 0
        for request, outcome in zip(batch, outcomes, strict=True):
            if type(outcome) is Failure:
                self.failed += self._wake_with_error(request, outcome.error)
            elif request.group is not None:
                completed += self._wake_group(request, outcome)
            elif (caller := request.caller) is not None:
                request.caller = None
                wake(caller, outcome)
                completed += 1
        self.completed += completed

    def reject(
        self, requests: Iterable[Request[T]], error: Callable[[Request[T]], BatcherError]
    ) -> None:
        """Raise an error of its own in the caller of each request, if it is still there."""
        settled = 0
        for request in requests:
            refusal = error(request)
            count = self._wake_with_error(request, refusal)
            self.rejected[_REASONS[type(refusal)]] += count
            settled += count
        if settled:
            self._log_some()
        self.announce_room()

    def _log_some(self) -> None:
        if self._host.now() >= self._log_at:
            self.log_rejections()

    def log_rejections(self) -> None:
        """Have the log say how many were turned away since it last did so, if any were."""
        news = self.rejected - self._logged
        if not news:
            return
        now = self._host.now()
        since = "" if math.isnan(self._logged_at) else f" in the last {now - self._logged_at:.3g} s"
        reasons = ", ".join(f"{count} ({reason})" for reason, count in news.most_common())
        _logger.warning("requests turned away%s: %s", since, reasons)
        self._logged = self.rejected.copy()
        self._logged_at, self._log_at = now, now + _LOG_EVERY

    def refuse(self, requests: Sequence[Request[T]], now: float) -> None:
        """Tell the callers of each that its deadline cannot be met, as of some time.

        Those whose deadline has passed meanwhile, as the event loop was held up, are left to their
        own scopes, which are about to cancel them.
        """
        present = self._host.now()
        in_time = [request for request in requests if request.deadline > present]
        self._refuse_now(in_time, now)
        if len(in_time) < len(requests):
            late = [request for request in requests if request.deadline <= present]
            # The scopes' timers are due in the next pass of the event loop.
            self._host.post(self._host.post, self._refuse_late, late, now)

    def _refuse_now(self, requests: Sequence[Request[T]], now: float) -> None:
        self.reject(
            requests,
            lambda request: DeadlineUnreachable(request.deadline - now, request.earliest - now),
        )

    def _refuse_late(self, requests: Sequence[Request[T]], now: float) -> None:
        """Tell those whom no scope has cancelled: its deadline was moved, or it was shielded."""
        self._refuse_now(requests, now)
        self._discard(())  # who closes may have waited for these

    def abandon(self, request: Request[T]) -> None:
        """Forget a request whose caller left."""
        request.caller = None
        self.cancelled += 1
        self._discard((request,))
        self.announce_room()

    def abandon_group(self, group: Group[T]) -> None:
        """Forget all of a group's requests that have no outcome yet."""
        group.caller = None
        self.cancelled += group.missing
        self._discard(group.dissolved())
        self.announce_room()

    def abandon_members(self, members: Collection[Member[T]]) -> None:
        """Forget some of a group's requests; the group hears of them no more."""
        for member in members:
            member.group = None
        self.cancelled += len(members)
        self._discard(members)
        self.announce_room()

    def announce_room(self) -> None:
        """Have those look again who wait for room in the queue."""
        for bell in self.short_of_room:
            bell.ring()

    # Both return how many requests they settled: none, if the caller has gone.

    def _wake_group(self, request: Request[T], result: Any) -> int:
        group = request.group
        if group.caller is None:
            return 0
        request.group = None
        if group.take(request, result):
            caller, group.caller = group.caller, None
            group.dissolved()
            self._host.wake(caller, group.results)
        return 1

    def _wake_with_error(self, request: Request[T], error: BaseException) -> int:
        group = request.group
        sleeper = request if group is None else group
        caller = sleeper.caller
        if caller is None:
            return 0
        if group is not None and group.goes_on:
            request.group = None
            group.take(request, Failure(error))
            return 1
        sleeper.caller = None
        if group is not None:
            group.missing -= 1
            self.abandon_group(group)
        self._host.wake_with_error(caller, error)
        return 1

    def snapshot(
        self,
        *,
        accepted: int,
        waiting: int,
        peak_waiting: int,
        batch_sizes: Mapping[int, int],
        busy: tuple[float, ...],
        reruns: int,
        restarts: int,
        running_for: tuple[float, ...],
        latency: tuple[LatencyFit | None, ...],
    ) -> BatcherStatistics:
        """Return the statistics, given what the queue and the devices have to say."""
        rejected: dict[RejectionReason, int] = {
            reason: self.rejected[reason] for reason in _REASONS.values()
        }
        return BatcherStatistics(
            waiting=waiting,
            running=self.missing(accepted) - waiting,
            peak_waiting=peak_waiting,
            submitted=accepted + self.refused_at_once,
            completed=self.completed,
            failed=self.failed,
            cancelled=self.cancelled,
            rejected=rejected,
            batches=sum(batch_sizes.values()),
            reruns=reruns,
            restarts=restarts,
            items=sum(size * count for size, count in batch_sizes.items()),
            batch_sizes=dict(sorted(batch_sizes.items())),
            busy=busy,
            latency=latency,
            running_for=running_for,
        )
