"""Which requests form the next batch, which are hopeless, or until when to wait.

Pure: `decide` looks at a queue, a latency model and the time, and returns a value that says
what to do. `plan` does the same ahead of time. They change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ._packing import TURNS, best_pack, first_pack, out_of_reach
from ._selection import PATIENCE, ROUNDING, best_batch, load_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._latency import LatencyModel
    from ._queue import Request, RequestQueue
    from ._shapes import Shapes

__all__ = ["Decision", "Dispatch", "Idle", "Limits", "Plan", "WaitUntil", "decide", "plan"]

T = TypeVar("T")

# A plan is good for a device that is free so much earlier or later, in full batches, and as long
# as this part of it can be kept.
_NEAR, _MOST = 1.0 / 32.0, 7.0 / 8.0
# Devices are short of time above this load. That is told by the last 64 arrivals, so it is a tenth
# off by chance: with 0.9 cells at a load of 0.6 lost more (`bench-goodput --worlds`).
_SPARE = 1.1
# Unless as many wait as so many full batches.
_BACKLOG = 2.0
# Of very many who stay behind and will be too late, about so many are told at once, while others
# wait for the decision; the others hear of it when the batch ends.
_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user asked for.

    Attributes:
        max_batch_size: most requests in a batch.
        max_delay: longest wait for companions while a device is idle, seconds.
        devices: how many take batches from the queue.
        shapes: how items differ; `None` if any may share a batch at the same cost.
    """

    max_batch_size: int
    max_delay: float
    devices: int = 1
    shapes: Shapes | None = None

    def patience(self, waiting: int) -> float:
        """Return after how many full batches a request without a deadline has its turn."""
        turns = 0.0 if self.shapes is None else TURNS * waiting / self.max_batch_size
        return PATIENCE + turns

    @property
    def most(self) -> int:
        """The largest size, or load, that a latency model has to know."""
        return self.shapes.most if self.shapes else self.max_batch_size

    def size(self, batch: Sequence[Request[Any]]) -> float:
        """Return how large a run of it is: how many, each as dear as the dearest."""
        dearest = max([request.shape.cost if request.shape else 1.0 for request in batch])
        return len(batch) * dearest

    def load(self, batch: Sequence[Request[Any]]) -> int:
        """Return what a latency model has a batch under: its size, or its load."""
        if self.shapes is None:
            return len(batch)
        return self.shapes.load_of([request.shape for request in batch if request.shape])


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
    """Run ``batch`` on the device now.

    Attributes:
        batch: the requests to run.
        hopeless: those to be turned away.
        chosen: whether there was a choice to make, which takes its time.
    """

    batch: list[Request[T]]
    hopeless: list[Request[T]]
    chosen: bool = field(default=False, compare=False)


Decision: TypeAlias = Idle[T] | WaitUntil[T] | Dispatch[T]


@dataclass(frozen=True, slots=True)
class Plan(Generic[T]):
    """A batch chosen ahead, for the instant at which a device should be free.

    Attributes:
        batch: the requests.
        start: when that is, and what the delivery of results takes is added.
        load: of the batch.
    """

    batch: list[Request[T]]
    start: float
    load: int

    def carried_out(self, start: float, latency: LatencyModel) -> list[Request[T]]:
        """Return those in it who still wait and will be on time, none if it is better to decide.

        Args:
            start: the time from which the batch's duration counts for its members.
            latency: what is known of the device.
        """
        if abs(start - self.start) > _NEAR * latency.expected[-1]:
            return []
        by = start + latency.bounds[self.load] - ROUNDING
        batch = [request for request in self.batch if request.lane and request.deadline >= by]
        return batch if len(batch) >= _MOST * len(self.batch) else []


def decide(
    queue: RequestQueue[T],
    *,
    now: float,
    latency: LatencyModel,
    limits: Limits,
    others_done_at: float = inf,
    patient: bool = True,
    delivery: float = 0.0,
) -> Decision[T]:
    """Decide what a free device does.

    If everybody who waits fits into one batch that is on time for all, that is run, at
    once unless the user allowed a wait for companions; likewise the first of those who are
    alike but for their deadlines, if the largest batch is. If not, `best_batch` chooses. A
    request is hopeless when even a batch of its own, started as early as any device could
    start it, would not be sure to be done by its deadline; nobody is called that on the word
    of a latency model that is not to be trusted.

    Args:
        queue: the waiting requests.
        now: the time, in the same seconds as the deadlines.
        latency: what is known of the device that asks.
        limits: the user's limits.
        others_done_at: when any of the other devices could be done with a batch of one, at
            the earliest.
        patient: whether it may wait for companions at all; not when closing.
        delivery: seconds from the end of a batch until the callers have the results.
    """
    if limits.shapes is not None:
        return _decide_by_shape(
            queue,
            limits.shapes,
            now=now,
            latency=latency,
            limits=limits,
            others_done_at=others_done_at,
            patient=patient,
            delivery=delivery,
        )
    # What follows is done while the device waits: nothing is computed that nobody needs.
    start = now + delivery
    bounds, limit = latency.bounds, limits.max_batch_size
    earliest = queue.earliest_deadline
    trusted = earliest < inf and latency.trusted(now)
    hopeless: list[Request[T]] = []
    if trusted:
        reachable = min(start + latency.floors[1], others_done_at) - ROUNDING
        hopeless, earliest = _out_of_time(queue, reachable, now)
    left = queue.size - len(hopeless)
    if not left:
        return Idle(hopeless)
    size = min(left, limit)
    in_time = earliest >= start + bounds[size] - ROUNDING
    chosen = not (in_time and (left <= limit or queue.is_uniform)) and _is_choosy(
        queue, now, latency, limits, left
    )
    if not chosen:
        if patient and limits.max_delay and left < limit:
            # A wait that would cost the most urgent of them its deadline is no use to it; as
            # long as nothing is known of the device, any wait might.
            latest = earliest - delivery - (bounds[size] or inf) if earliest < inf else inf
            time = min(queue.oldest_arrival + limits.max_delay, latest)
            if now < time:
                return WaitUntil(time, hopeless)
        batch = queue.first(size, hopeless)
    else:
        batch = best_batch(
            queue,
            hopeless,
            now=now,
            start=start,
            latency=latency,
            limit=limit,
            devices=limits.devices,
        )
        if not batch and trusted and others_done_at <= earliest and latency.residuals.steady:
            return Idle(hopeless)  # another device could still be in time for those who wait
        batch = batch or queue.first(limit, hopeless)
    if trusted and len(batch) < left:
        # Those that stay behind cannot start before this batch, or another device's, ends.
        behind = start + latency.floor(latency.expected[len(batch)]) + latency.floors[1]
        overdue = queue.due_before(min(behind, others_done_at) - ROUNDING, _AT_ONCE)
        leaving = {*hopeless, *batch}
        hopeless += [request for request in overdue if request not in leaving]
    return Dispatch(batch, hopeless, chosen)


def _out_of_time(
    queue: RequestQueue[T], reachable: float, now: float
) -> tuple[list[Request[T]], float]:
    """Return those that are lost, given when a batch could end, and the next deadline of all.

    A free device runs whatever waits if that is all there is: nobody else wants its time. Then
    only those are lost whose deadlines have passed.
    """
    lost = queue.due_before(reachable)
    if lost and len(lost) == queue.size:
        reachable, lost = now, queue.due_before(now)
    return lost, queue.earliest_from(reachable) if lost else queue.earliest_deadline


def _is_choosy(
    queue: RequestQueue[Any], now: float, latency: LatencyModel, limits: Limits, left: int
) -> bool:
    """Whether it is worth while to choose among those that wait, when not all can be in time.

    What a batch takes has to be known for that, or devices have to be short of time. If
    neither is so, first come, first served makes the largest batches.
    """
    if latency.residuals.steady or queue.undue_size:
        return True
    if left > _BACKLOG * limits.max_batch_size * limits.devices:
        return True
    if latency.residuals.chances and left <= limits.max_batch_size:
        return False
    seen = latency.largest
    return load_of(queue, now, latency.expected[seen], seen * limits.devices) > _SPARE


def _decide_by_shape(
    queue: RequestQueue[T],
    shapes: Shapes,
    *,
    now: float,
    latency: LatencyModel,
    limits: Limits,
    others_done_at: float,
    patient: bool,
    delivery: float,
) -> Decision[T]:
    start, bounds, floors = now + delivery, latency.bounds, latency.floors
    trusted = latency.trusted(now)
    late = out_of_reach(queue, start, others_done_at, floors, shapes) if trusted else []
    if nobody := len(late) == queue.size:  # as in `_out_of_time`
        late = queue.due_before(now)
    left = queue.size - len(late)
    if not left:
        return Idle(late)
    batch = best_pack(
        queue,
        late,
        now=now,
        start=start,
        latency=latency,
        shapes=shapes,
        devices=limits.devices,
    )
    if not batch and trusted and not nobody and latency.residuals.steady:
        return Idle(late)  # another device could still be in time for those who wait
    batch = batch or first_pack(queue, late, shapes)
    if patient and limits.max_delay and left < limits.max_batch_size:
        # As in `decide`, but companions may make the batch as dear as can be.
        earliest = queue.earliest_from(start)
        latest = earliest - delivery - (bounds[-1] or inf) if earliest < inf else inf
        time = min(queue.oldest_arrival + limits.max_delay, latest)
        if now < time:
            return WaitUntil(time, late)
    if trusted and len(batch) < left:
        behind = start + latency.floor(latency.expected[limits.load(batch)])
        leaving = {*late, *batch}
        overdue = out_of_reach(queue, behind, others_done_at, floors, shapes, most=_AT_ONCE)
        late += [request for request in overdue if request not in leaving]
    return Dispatch(batch, late, chosen=True)


def plan(
    queue: RequestQueue[T],
    *,
    now: float,
    latency: LatencyModel,
    limits: Limits,
    others_done_at: float = inf,
    delivery: float = 0.0,
) -> Plan[T] | None:
    """Choose what a device would run if it were free at ``now``; `None` if there is no choice.

    All arguments are those of `decide`.
    """
    decision = decide(
        queue,
        now=now,
        latency=latency,
        limits=limits,
        others_done_at=others_done_at,
        patient=False,
        delivery=delivery,
    )
    # Without a choice deciding takes no time, and those who are still to come may fit in as well.
    if not isinstance(decision, Dispatch) or not decision.chosen:
        return None
    return Plan(decision.batch, now + delivery, limits.load(decision.batch))
