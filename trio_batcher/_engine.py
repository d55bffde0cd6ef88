"""The way of a request from its caller to a device and back.

Three parties meet here. *Callers* (tasks) put requests into the queue and park. The
*gather task* (one) has a burst begin on a free device when the policy says so. A *burst*
(one per busy device, in a worker thread or in the device's own task, its *attendant*) takes
batch after batch, each composed at the last instant, and posts the outcomes back into the
event loop.

Who may touch what:

- the scheduler and its queue and devices: only under its lock, which is never held while
  anything else is waited for or run;
- `caller` of a request or group, the counters, `free`, `_ring_at`: only in the event
  loop. So a caller that left is gone for good when the outcome of its batch comes in.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, assert_never

from ._attendants import Attendants
from ._bursts import Bursts
from ._errors import BatcherError, DeadlineUnreachable, DeviceLost
from ._hosts import ki_protected
from ._outcomes import Outcomes, closing_error, is_awaited, overload_error
from ._policy import Dispatch, Idle, Limits, WaitUntil
from ._scheduler import Scheduler
from ._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ._bursts import Done
    from ._device import Device
    from ._hosts import CapacityLimiter, Host
    from ._queue import Request
    from ._statistics import BatcherStatistics

__all__ = ["Engine"]

T = TypeVar("T")

_NEVER = math.inf
_logger = logging.getLogger("trio_batcher")


class Engine(Generic[T]):
    """The tasks and bursts between callers and devices."""

    def __init__(
        self,
        host: Host,
        devices: Sequence[Device[T]],
        *,
        limits: Limits,
        max_queue_size: float,
        limiter: CapacityLimiter | None,
    ) -> None:
        self._host = host
        self._scheduler = Scheduler(devices, limits, host.now, is_awaited)
        self._max_batch_size = limits.max_batch_size
        self.outcomes: Outcomes[T] = Outcomes(host, self._discard)
        watch = Watch(host, self._scheduler, self.outcomes.deliver)
        self.max_queue_size = max_queue_size
        self.most_at_once = limits.max_batch_size * len(devices)
        self._bursts = Bursts(
            host,
            self._scheduler,
            limiter,
            outcomes=self.outcomes,
            deliver=self._deliver,
            ring=self._ring,
            watch=watch,
        )
        self._doorbell = host.doorbell()
        # A new request wakes the gather task if the queue is so long, or its deadline so near.
        self._ring_at: float = _NEVER
        self._ring_before = -_NEVER
        self._scope = host.shield()
        self._attendants = Attendants(
            devices, self._burst, watch, self._faults_kept, self._set_free
        )
        self._aborted = False
        self.failure: BaseException | None = None
        self.failed = host.event()
        self.begun, self.ended = host.event(), host.event()

    # Callers, in the event loop

    def submit(self, request: Request[T]) -> BatcherError | None:
        """Queue a request, or return the reason why not."""
        deadline, now, scheduler = request.deadline, request.arrived, self._scheduler
        with scheduler.lock:
            queue, fleet = scheduler.queue, scheduler.fleet
            if fleet.changed:
                fleet.refresh()
            if (
                scheduler.closing
                or queue.size >= self.max_queue_size
                or deadline < now + fleet.alone
                or deadline < fleet.busy_until + fleet.alone
            ) and (refusal := self._refusal(1, deadline, now)) is not None:
                return self.outcomes.refused(refusal, 1)
            queue.add(request)
            if due := now >= scheduler.plan_from:
                scheduler.call_for_plan()
            enough = queue.size >= self._ring_at
        if due or enough or deadline < self._ring_before:
            self._notify(due=due, enough=enough)
        return None

    def room(self) -> float:
        """Return how many more requests may wait. It becomes less in the event loop only."""
        return self.max_queue_size - self._scheduler.queue.size

    def submit_all(self, requests: Sequence[Request[T]]) -> BatcherError | None:
        """Queue requests that come together, or none of them and return the reason."""
        scheduler, count, first = self._scheduler, len(requests), requests[0]
        with scheduler.lock:
            refusal = self._refusal(count, first.deadline, first.arrived)
            if refusal is not None:
                return self.outcomes.refused(refusal, count)
            for request in requests:
                scheduler.queue.add(request)
            if due := first.arrived >= scheduler.plan_from:
                scheduler.call_for_plan()
            enough = scheduler.queue.size >= self._ring_at
        if due or enough or first.deadline < self._ring_before:
            self._notify(due=due, enough=enough)
        return None

    def _notify(self, *, due: bool, enough: bool) -> None:
        if due:
            self._doorbell.ring()
        if enough:
            self._call_for_burst()
        elif not due:
            self._ring()

    def _discard(self, requests: Iterable[Request[T]]) -> None:
        with self._scheduler.lock:
            for request in requests:
                self._scheduler.queue.discard(request)
        if self._scheduler.closing:
            self._ring()
        if self._aborted:
            self._interrupt()

    def _refusal(self, count: int, deadline: float, now: float) -> BatcherError | None:
        if self._scheduler.closing:
            return closing_error(self.failure, ended=self.ended.is_set())
        if self._scheduler.queue.size + count > self.max_queue_size:
            seconds = self._scheduler.fleet.expected_free(now) - now
            return overload_error(self.max_queue_size, self._scheduler.queue.size, seconds)
        if deadline < _NEVER and not self._scheduler.free:
            earliest = self._scheduler.fleet.earliest_end(now)
            if deadline < earliest:
                return DeadlineUnreachable(deadline - now, earliest - now)
        return None

    # The gather task, in the event loop

    @ki_protected
    async def serve(self) -> None:
        """Start bursts until the engine is closed and everything accepted is answered.

        A cancellation from outside does not reach it; `abort` ends it at once.
        """
        self.begun.set()
        try:
            with self._scope, self._faults_kept():
                async with self._host.open_nursery() as nursery:
                    with self._faults_kept():
                        await self._attendants.begin(self._host, nursery)
                        await self._gather()
                    self._attendants.dismiss()
        finally:
            self.abort()
            self.ended.set()

    async def _gather(self) -> None:
        scheduler = self._scheduler
        while not scheduler.closing or self.outcomes.missing(scheduler.queue.added):
            until = self._start_bursts()
            await self._doorbell.listen(min(until, self._look_out()))
            self._ring_at, self._ring_before = _NEVER, -_NEVER
            if scheduler.plan_due:
                scheduler.plan_ahead()
        if len(scheduler.free) < len(scheduler.fleet.devices):
            # They have just answered, or nobody waits for an answer any more.
            self.abort()

    def _start_bursts(self) -> float:
        """Start what can be started; return until when to sleep unless the doorbell rings."""
        until = _NEVER
        for device in self._scheduler.by_speed():
            # Another device is worth starting for those only that no burst on its way will take.
            starting = self._scheduler.fleet.starting()
            unspoken_for = self._scheduler.unspoken_for(starting)
            if starting and unspoken_for <= 0:
                self._ring_at = self._scheduler.queue.size - unspoken_for + 1
                return _NEVER
            decision, now = self._scheduler.look(device)
            self.outcomes.refuse(decision.hopeless, now)
            match decision:
                case Idle():  # nobody waits, or nobody that this device could serve in time
                    self._ring_at = 1
                case WaitUntil(time=time):
                    self._ring_at = min(self._ring_at, self._max_batch_size)
                    with self._scheduler.lock:  # another device may be taking from it
                        self._ring_before = self._scheduler.queue.earliest_deadline
                    until = min(until, time)
                case Dispatch():
                    self._scheduler.free.remove(device)
                    device.bell.ring()
                case never:
                    assert_never(never)
        return until

    def _look_out(self) -> float:
        """Turn away whom it is too late for; return until when it is not for anybody else.

        Bursts that wait for a shared limiter do not look after those who wait for them.
        """
        if not self._bursts.shared:
            return _NEVER
        look = self._scheduler.look_out()
        self.outcomes.refuse(look.hopeless, look.now)
        self._ring_before = max(self._ring_before, look.earliest)
        return look.until

    def _call_for_burst(self) -> None:
        """Have those who wait served, as there are enough of them for a free device.

        Where there is one device, and nobody to take turns with, the gather task would do nothing
        else than start a burst; a pass of the event loop is saved. The burst decides again.
        """
        if self._bursts.shared or len(self._scheduler.fleet.devices) > 1:
            self._ring()
            return
        self._ring_at, self._ring_before = _NEVER, -_NEVER
        device = self._scheduler.free.pop()
        with self._scheduler.lock:
            device.starting = True
        device.bell.ring()

    def _ring(self) -> None:
        # Once is enough until the gather task has looked again.
        self._ring_at, self._ring_before = _NEVER, -_NEVER
        self._doorbell.ring()

    async def _burst(self, device: Device[T]) -> None:
        lost = False
        parting: list[Done[T]] = []
        try:
            with self._faults_kept():
                try:
                    await self._bursts.run(device, parting)
                except DeviceLost as exc:
                    # Of an aborted batcher it has only been interrupted.
                    if lost := not self._aborted:
                        if len(self._scheduler.fleet.devices) == 1:
                            raise
                        _logger.warning("%s is lost, the others go on: %s", device, exc)
        finally:
            while parting:
                self._deliver(*parting.pop(0))
            if lost and self.failure is None:
                self._scheduler.retire(device)
                self._ring()
            else:
                self._set_free(device)
                if self._aborted or self.failure is not None:
                    self._empty()

    def _set_free(self, device: Device[T]) -> None:
        with self._scheduler.lock:
            stranded = [*(device.batch or ()), *device.staged]
            device.put_down()
        self._scheduler.free.append(device)
        # Cancelled, or crashed, with a batch in hand: its callers must hear of it.
        self._turn_away(stranded)
        self._ring()

    # Outcomes, in the event loop

    def _deliver(
        self,
        device: Device[T],
        batch: Sequence[Request[T]],
        outcomes: Sequence[Any],
        started: float,
        ended: float,
    ) -> None:
        try:
            # From here on no deadline is looked at before all of them have their results.
            now = self._host.now()
            self.outcomes.deliver(batch, outcomes, started)
            hopeless = self._scheduler.note_delivery(device, now, now - ended)
            if hopeless:
                self.outcomes.refuse(hopeless, now)
        except Exception as exc:  # noqa: BLE001  leaving here, it would end the event loop
            self.crash(exc)
            self._turn_away(batch)

    def _turn_away(self, requests: Sequence[Request[T]]) -> None:
        self.outcomes.reject(requests, lambda _: closing_error(self.failure))

    # Closing

    def close(self) -> None:
        """Accept nothing more; `ended` is set when all that was accepted is answered."""
        self._scheduler.closing = True
        self._ring()

    def abort(self) -> None:
        """Turn away who waits, cancel what can be cancelled; a running thread is waited for."""
        self._aborted = True
        self._empty()
        self._interrupt()
        self._attendants.dismiss()
        self._scope.cancel()

    def _interrupt(self) -> None:
        wanted = self.outcomes.missing(self._scheduler.queue.added)
        for device in self._scheduler.devices:
            if wanted:
                device.interrupt()
            else:
                device.give_up()

    @contextmanager
    def _faults_kept(self) -> Iterator[None]:
        """Keep an error of our own: the nursery that it would crash is in the host's code.

        Only `abort` cancels anything in here: any other cancellation (asyncio has some) is one.
        """
        try:
            yield
        except BaseException as exc:  # noqa: ASYNC103
            # What the user has interrupted is not the batcher's to keep.
            if self._aborted or isinstance(exc, KeyboardInterrupt):
                raise
            self.crash(exc)

    def crash(self, error: BaseException) -> None:
        """Turn everybody away from now on; the error is raised when the block is left."""
        if self.failure is None:
            self.failure = error
            _logger.error("the batcher itself failed", exc_info=error)
        self._empty()
        self.failed.set()
        self._ring()

    def _empty(self) -> None:
        self._scheduler.closing = True
        self._bursts.emptied.set()
        self._turn_away(self._scheduler.clear())

    def statistics(self) -> BatcherStatistics:
        """Return a snapshot."""
        return self._scheduler.reported(self.outcomes.snapshot)
