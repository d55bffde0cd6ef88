"""Which requests form the next batch, which are hopeless, or until when to wait.

Pure: the one entry point, `decide`, looks at a queue, a latency model and the time,
and returns a value that says what to do. It changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from ._latency import LatencyModel
    from ._queue import Request, RequestQueue

__all__ = ["Decision", "Dispatch", "Idle", "Limits", "WaitUntil", "decide"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user asked for.

    Attributes:
        max_batch_size: most requests in a batch.
        max_delay: longest wait for companions while a device is idle, seconds.
    """

    max_batch_size: int
    max_delay: float


@dataclass(frozen=True, slots=True)
class Idle(Generic[T]):
    """Nothing that could be run is waiting."""

    hopeless: list[Request[T]]


@dataclass(frozen=True, slots=True)
class WaitUntil(Generic[T]):
    """Leave the device idle until ``time`` unless more requests come."""

    time: float
    hopeless: list[Request[T]]


@dataclass(frozen=True, slots=True)
class Dispatch(Generic[T]):
    """Run ``batch`` on the device now."""

    batch: list[Request[T]]
    hopeless: list[Request[T]]


Decision: TypeAlias = Idle[T] | WaitUntil[T] | Dispatch[T]


def decide(
    queue: RequestQueue[T],
    *,
    now: float,
    latency: LatencyModel,
    limits: Limits,
    others_done_at: float = math.inf,
    patient: bool = True,
) -> Decision[T]:
    """Decide what a free device does.

    In order of deadlines; as many as there are, up to the maximum; at once, unless the
    user allowed a wait for companions. A request is hopeless when even a batch of its
    own, started as early as any device could start it, ends after its deadline.

    Args:
        queue: the waiting requests.
        now: the time, in the same seconds as the deadlines.
        latency: what is known of the device that asks.
        limits: the user's limits.
        others_done_at: when any of the other devices could be done with a batch of one, at
            the earliest.
        patient: whether it may wait for companions at all; not when closing.
    """
    # What follows is done while the device waits: nothing is computed that nobody needs.
    anybody_due = queue.earliest_deadline < math.inf
    hopeless: list[Request[T]] = []
    if anybody_due:
        alone = latency.at_least(1, now)
        hopeless = queue.due_before(min(now + alone, others_done_at))
    batch = queue.first(limits.max_batch_size, after=len(hopeless))
    if not batch:
        return Idle(hopeless)
    if patient and limits.max_delay and len(batch) < limits.max_batch_size:
        # A wait that would cost the most urgent of them its deadline is no use to it; as
        # long as nothing is known of the device, any wait might.
        expected = latency.at_most(len(batch)) or math.inf
        urgent = batch[0].deadline
        latest = urgent - expected if urgent < math.inf else math.inf
        time = min(queue.oldest_arrival + limits.max_delay, latest)
        if now < time:
            return WaitUntil(time, hopeless)
    leaving = len(hopeless) + len(batch)
    if anybody_due and queue.size > leaving:
        # Those that stay behind cannot start before this batch, or another device's, ends.
        next_done = now + latency.at_least(len(batch), now) + alone
        overdue = queue.due_before(min(next_done, others_done_at))
        hopeless += overdue[leaving:]
    return Dispatch(batch, hopeless)
