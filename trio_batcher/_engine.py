"""The way of a request from its caller to a device and back.

Three parties meet here. *Callers* (tasks) put requests into the queue and park. The
*gather task* (one) starts a burst on a free device when the policy says so. A *burst*
(one per busy device, in a worker thread or a task) takes batch after batch, each
composed at the last instant, and posts the outcomes back into the event loop.

Who may touch what:

- the queue, the devices' `latency`, `delivery`, `batch` and `starting`:
  only under `_lock`, which is never held while anything else is waited for or run;
- `caller` of a request or group, the counters, `_free`, `_ring_at`: only in the event
  loop. So a caller that left is gone for good when the outcome of its batch comes in.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, assert_never

from ._device import Device, Fleet
from ._errors import BatcherError, DeadlineUnreachable
from ._hosts import ki_protected
from ._interpreter import prompt_waking
from ._outcomes import Group, Outcomes, closing_error, overload_error
from ._policy import Decision, Dispatch, Idle, Limits, WaitUntil, decide
from ._queue import Request, RequestQueue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ._hosts import CapacityLimiter, Host, Nursery
    from ._statistics import BatcherStatistics

__all__ = ["Engine"]

T = TypeVar("T")

_NEVER = math.inf


class Engine(Generic[T]):
    """One queue, its devices, and the tasks and bursts between them."""

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
        self._fleet = Fleet(devices)
        self._limits = limits
        self.max_queue_size = max_queue_size
        # A limiter of our own has a token for each device: nobody waits for one.
        self._is_shared = limiter is not None
        self._limiter = host.limiter(len(devices)) if limiter is None else limiter
        self._lock = threading.Lock()
        self._queue: RequestQueue[T] = RequestQueue()
        self._free = list(devices)
        self._doorbell = host.doorbell()
        # A new request wakes the gather task if the queue is so long, or its deadline so near.
        self._ring_at: float = _NEVER
        self._ring_before = -_NEVER
        self._scope = host.shield()
        self._closing = False
        self._aborted = False
        self.failure: BaseException | None = None
        self.failed = host.event()
        self.begun, self.ended = host.event(), host.event()
        self.outcomes: Outcomes[T] = Outcomes(host, self._discard)
        self._batch_sizes: Counter[int] = Counter()

    # Callers, in the event loop

    def submit(self, request: Request[T]) -> BatcherError | None:
        """Queue a request, or return the reason why not."""
        deadline, now = request.deadline, request.arrived
        with self._lock:
            queue, fleet = self._queue, self._fleet
            if fleet.changed:
                fleet.refresh()
            if (
                self._closing
                or queue.size >= self.max_queue_size
                or deadline < now + fleet.alone
                or deadline < fleet.busy_until + fleet.alone
            ) and (refusal := self._refusal(1, deadline, now)) is not None:
                return self.outcomes.refused(refusal, 1)
            queue.add(request)
            ring = queue.size >= self._ring_at or deadline < self._ring_before
        if ring:
            self._ring()
        return None

    def submit_group(self, group: Group[T]) -> BatcherError | None:
        """Queue all of a group's requests, or none and return the reason."""
        requests = group.requests
        count, first = len(requests), requests[0]
        with self._lock:
            refusal = self._refusal(count, first.deadline, first.arrived)
            if refusal is not None:
                return self.outcomes.refused(refusal, count)
            for request in requests:
                self._queue.add(request)
            ring = self._queue.size >= self._ring_at or first.deadline < self._ring_before
        if ring:
            self._ring()
        return None

    def _discard(self, requests: Iterable[Request[T]]) -> None:
        with self._lock:
            for request in requests:
                self._queue.discard(request)

    def _refusal(self, count: int, deadline: float, now: float) -> BatcherError | None:
        if self._closing:
            return closing_error(self.failure)
        if self._queue.size + count > self.max_queue_size:
            seconds = self._fleet.expected_free(now) - now
            return overload_error(self.max_queue_size, self._queue.size, seconds)
        if deadline < _NEVER and deadline < self._fleet.earliest_end(now):
            return DeadlineUnreachable(deadline - now)
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
                        await self._gather(nursery)
        finally:
            self.abort()
            self.ended.set()

    async def _gather(self, nursery: Nursery) -> None:
        devices = self._fleet.devices
        while not self._closing or self._queue.size or len(self._free) < len(devices):
            until = self._start_bursts(nursery)
            await self._doorbell.listen(until)
            self._ring_at, self._ring_before = _NEVER, -_NEVER

    def _start_bursts(self, nursery: Nursery) -> float:
        """Start what can be started; return until when to sleep unless the doorbell rings."""
        until = _NEVER
        for device in self._free[::-1]:
            # A burst takes its batch once it runs: what those on their way will take still
            # waits. Another device is worth starting for the rest only.
            spoken_for = self._limits.max_batch_size * self._fleet.starting()
            if spoken_for and self._queue.size <= spoken_for:
                self._ring_at = spoken_for + 1
                return _NEVER
            with self._lock:
                now = self._host.now()
                decision = self._decide(device, now)
                device.starting = isinstance(decision, Dispatch)
                earliest = self._queue.earliest_deadline
            self._refuse_hopeless(decision.hopeless, now)
            match decision:
                case Idle():  # nobody waits, or nobody that this device could serve in time
                    self._ring_at = 1
                case WaitUntil(time=time):
                    self._ring_at = min(self._ring_at, self._limits.max_batch_size)
                    self._ring_before = earliest
                    until = min(until, time)
                case Dispatch():
                    self._free.remove(device)
                    nursery.start_soon(self._burst, device)
                case never:
                    assert_never(never)
        return until

    def _ring(self) -> None:
        # Once is enough until the gather task has looked again.
        self._ring_at, self._ring_before = _NEVER, -_NEVER
        self._doorbell.ring()

    @ki_protected
    async def _burst(self, device: Device[T]) -> None:
        try:
            with self._faults_kept():
                if device.is_async:
                    await self._work_async(device)
                else:
                    await self._host.in_thread(self._work, device, limiter=self._limiter)
        finally:
            # Cancelled, or crashed, with a batch in hand: its callers must hear of it.
            with self._lock:
                stranded = device.batch or []
                device.put_down()
            self._turn_away(stranded)
            self._free.append(device)
            self._ring()

    # A burst, in a worker thread or in a task

    def _work(self, device: Device[T]) -> None:
        with prompt_waking():
            while batch := self._take(device):
                outcomes = device.run([request.item for request in batch])
                self._host.post(self._deliver, device, batch, outcomes, device.ended)
                if self._token_wanted(device):
                    return

    async def _work_async(self, device: Device[T]) -> None:
        await self._limiter.acquire_on_behalf_of(device)
        try:
            while batch := self._take(device):
                outcomes = await device.run_async([request.item for request in batch])
                self._deliver(device, batch, outcomes, device.ended)
                if self._token_wanted(device):
                    return
        finally:
            self._limiter.release_on_behalf_of(device)

    def _take(self, device: Device[T]) -> list[Request[T]] | None:
        """Take the best batch there is at this instant, `None` if the device has to wait."""
        with self._lock:
            device.put_down()
            now = self._host.now()
            decision = self._decide(device, now)
            batch = None
            if isinstance(decision, Dispatch):
                batch = decision.batch
                self._queue.remove_all(batch)
                device.pick_up(batch, now)
                self._batch_sizes[len(batch)] += 1
                self._fleet.changed = True
            # Others were not started for these because this burst was on its way.
            unclaimed = bool(self._free) and self._queue.size > 0
        if decision.hopeless:
            self._host.post(self._refuse_hopeless, decision.hopeless, now)
        if unclaimed and batch:
            self._host.post(self._ring)
        return batch

    def _token_wanted(self, device: Device[T]) -> bool:
        """Whether somebody else waits for the limiter: then the burst ends here."""
        if not self._is_shared or not self._limiter.statistics().tasks_waiting:
            return False
        with self._lock:
            device.put_down()
        return True

    def _decide(self, device: Device[T], now: float) -> Decision[T]:
        """Ask the policy and take the hopeless out of the queue. The lock is held."""
        decision = decide(
            self._queue,
            now=now,
            latency=device.latency,
            limits=self._limits,
            others_done_at=self._fleet.others_done_at(device, now),
            patient=not self._closing,
            delivery=device.delivery.seconds,
        )
        if decision.hopeless:
            self._queue.remove_all(decision.hopeless)
        return decision

    # Outcomes, in the event loop

    def _deliver(
        self,
        device: Device[T],
        batch: Sequence[Request[T]],
        outcomes: Sequence[Any],
        ended: float,
    ) -> None:
        try:
            self.outcomes.deliver(batch, outcomes)
            with self._lock:
                device.delivery.observe(self._host.now() - ended)
                device.latency.refresh()
                self._fleet.changed = True
        except Exception as exc:  # noqa: BLE001  leaving here, it would end the event loop
            self._crash(exc)
            self._turn_away(batch)

    def _refuse_hopeless(self, requests: Sequence[Request[T]], now: float) -> None:
        self.outcomes.reject(requests, lambda request: DeadlineUnreachable(request.deadline - now))

    def _turn_away(self, requests: Sequence[Request[T]]) -> None:
        self.outcomes.reject(requests, lambda _: closing_error(self.failure))

    # Closing

    def close(self) -> None:
        """Accept nothing more; `ended` is set when all that was accepted is answered."""
        self._closing = True
        self._ring()

    def abort(self) -> None:
        """Turn away who waits, cancel what can be cancelled; a running thread is waited for."""
        self._aborted = True
        self._empty()
        self._scope.cancel()

    @contextmanager
    def _faults_kept(self) -> Iterator[None]:
        """Keep an error of our own: the nursery that it would crash is in the host's code.

        Only `abort` cancels anything in here: any other cancellation (asyncio has some) is one.
        """
        try:
            yield
        except BaseException as exc:  # noqa: ASYNC103
            if self._aborted:
                raise
            self._crash(exc)

    def _crash(self, error: BaseException) -> None:
        """Turn everybody away from now on; the error is raised when the block is left."""
        self.failure = self.failure or error
        self._empty()
        self.failed.set()
        self._ring()

    def _empty(self) -> None:
        self._closing = True
        with self._lock:
            waiting = self._queue.clear()
        self._turn_away(waiting)

    def statistics(self) -> BatcherStatistics:
        """Return a snapshot."""
        with self._lock:
            devices = self._fleet.devices
            return self.outcomes.snapshot(
                accepted=self._queue.added,
                waiting=self._queue.size,
                peak_waiting=self._queue.peak,
                batch_sizes=self._batch_sizes,
                busy=tuple(device.busy for device in devices),
                reruns=sum(device.reruns for device in devices),
                latency=tuple(device.latency.fit for device in devices),
            )
