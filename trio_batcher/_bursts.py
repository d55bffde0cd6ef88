"""Bursts: batch after batch on a device, in a worker thread or in a task."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ._bisection import Raised, failures
from ._interpreter import prompt_waking
from ._overlap import Overlap
from ._reruns import Bisection, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._assignments import Taken
    from ._bisection import Attempt
    from ._device import Device
    from ._hosts import CapacityLimiter, Host
    from ._outcomes import Outcomes
    from ._queue import Request
    from ._scheduler import Scheduler
    from ._watch import Watch

__all__ = ["Bursts", "Done"]

T = TypeVar("T")

_logger = logging.getLogger("trio_batcher")

# A device, those whose outcome is settled, the outcomes, when their batch was started and ended.
Done: TypeAlias = "tuple[Device[T], Sequence[Request[T]], Sequence[Any], float, float]"


class Bursts(Generic[T]):
    """Takes batches from the scheduler, runs them, and posts what comes of them.

    Args:
        host: the event loop.
        scheduler: the queue and the devices.
        limiter: the user's, which others may wait for, or `None`.
        outcomes: whoever answers requests, in the event loop.
        deliver: delivers what is done; called in the event loop, like the next one.
        ring: has the gather task look again.
        watch: sees to it that no thread keeps its device for too long.

    Attributes:
        shared: whether bursts may have to wait for somebody else's.
        emptied: set when nobody waits for anything any more.
    """

    def __init__(
        self,
        host: Host,
        scheduler: Scheduler[T],
        limiter: CapacityLimiter | None,
        *,
        outcomes: Outcomes[T],
        deliver: Callable[..., None],
        ring: Callable[[], None],
        watch: Watch[T],
    ) -> None:
        self._host, self._scheduler = host, scheduler
        # A limiter of our own has a token for each device: nobody waits for one.
        self.shared = limiter is not None
        own = host.limiter(len(scheduler.fleet.devices))
        self._limiter = own if limiter is None else limiter
        self._own_limiter = own
        self._outcomes, self._deliver, self._ring = outcomes, deliver, ring
        self._watch = watch
        self.emptied = threading.Event()

    async def run(self, device: Device[T], parting: list[Done[T]]) -> None:
        """Run batches until nobody is to be run, or somebody else waits for the limiter.

        Cancellation: an async model's batch is cancelled, a thread is waited for. One that the
        watch gives up is left behind.

        Args:
            device: what to run them on.
            parting: gets what is still to be delivered when the token is on its way: for the
                next one a device idles.
        """
        if device.is_async:
            await self._work_async(device, parting)
        else:
            if device.has_to_be_prepared:
                await self._prepare(device)
            work = self._work_ahead if device.overlaps else self._work
            if device.is_watched:
                await self._watch.in_thread(work, device, parting, limiter=self._limiter)
            else:
                await self._host.in_thread(work, device, parting, limiter=self._limiter)

    # While a model runs, no frame below has anything of the batches before: each exception that
    # ever left a model has those frames in its traceback, or behind it.

    async def _prepare(self, device: Device[T]) -> None:
        """Have a model made anew: meanwhile others have the token, and other devices the queue."""
        with self._scheduler.lock:
            device.put_down()
        self._ring()
        await self._host.in_thread(device.prepare, limiter=self._own_limiter)

    def _work(self, device: Device[T], parting: list[Done[T]]) -> None:
        with prompt_waking():
            batch = self._take(device)
            while batch:
                batch = self._go_on(self._run(device, batch), parting)

    def _run(self, device: Device[T], batch: list[Request[T]]) -> Done[T]:
        return self.done(
            device,
            batch,
            device.run([request.item for request in batch], device.batch_load),
            device.started,
        )

    def _work_ahead(self, device: Device[T], parting: list[Done[T]]) -> None:
        with prompt_waking():
            Overlap(
                self._scheduler,
                device,
                heed=self._heed,
                done=self.done,
                post=lambda done: self._host.post(self._deliver, *done),
                go_on=lambda done: self._go_on(done, parting),
                wanted=self._is_wanted,
                aborted=self.emptied,
            ).run(self._take(device))

    def _go_on(self, done: Done[T], parting: list[Done[T]]) -> list[Request[T]]:
        device = done[0]
        if device.abandoned:
            return []
        if self._token_given_up(device):
            parting.append(done)
            return []
        # If anybody waits for the device, that comes first. Else the answers do.
        waited_for = self._scheduler.waiting
        if not waited_for:
            self._host.post(self._deliver, *done)
        try:
            return self._take(device)
        finally:
            if waited_for:
                self._host.post(self._deliver, *done)

    async def _work_async(self, device: Device[T], parting: list[Done[T]]) -> None:
        if self.shared:
            await self._limiter.acquire_on_behalf_of(device)
        try:
            while batch := self._take(device):
                goes_on = self._deliver_async(await self._run_async(device, batch), parting)
                del batch
                if not goes_on:
                    return
                if self._scheduler.waiting:
                    # A model that never waits must not keep everybody else from running.
                    await self._host.checkpoint()
        finally:
            if self.shared:
                self._limiter.release_on_behalf_of(device)

    def _deliver_async(self, done: Done[T], parting: list[Done[T]]) -> bool:
        if self._token_given_up(done[0]):
            parting.append(done)
            return False
        self._deliver(*done)
        return True

    async def _run_async(self, device: Device[T], batch: list[Request[T]]) -> Done[T]:
        return self.done(
            device,
            batch,
            await device.run_async([request.item for request in batch], device.batch_load),
            device.started,
        )

    def done(
        self, device: Device[T], batch: list[Request[T]], attempt: Attempt, started: float
    ) -> Done[T]:
        """Return whose outcome a run settles, and what it is; the rest is to be run again."""
        if device.abandoned:
            return device, [], [], started, started
        if _logger.isEnabledFor(logging.DEBUG):
            self._log(device, batch, attempt, started)
        if isinstance(attempt, Raised):
            settled, outcomes = self._failed(device, batch, attempt.error)
            return device, settled, outcomes, started, device.ended
        if isinstance(batch, Segment) or device.safe_size.safe < math.inf:
            with self._scheduler.lock:
                device.note_size(batch, self._scheduler.size(batch), None)
                if isinstance(batch, Segment):
                    self._scheduler.reruns.succeeded(batch)
        return device, batch, attempt.results, started, device.ended

    def _failed(
        self, device: Device[T], batch: list[Request[T]], error: BaseException
    ) -> tuple[list[Request[T]], list[Any]]:
        # What takes as long as the batch is large, or is users' code, is done without the lock.
        segment = batch if isinstance(batch, Segment) else Bisection.of(batch)
        parts, total = segment.parts(error), self._scheduler.size(segment)
        with self._scheduler.lock:
            device.note_size(segment, total, error)
            settled = self._scheduler.reruns.failed(segment, error, parts)
        failed: list[Request[T]] = []
        outcomes: list[Any] = []
        for requests, reason, size in settled:
            failed += requests
            outcomes += failures(reason, len(requests), size)
        return failed, outcomes

    def _log(
        self, device: Device[T], batch: Sequence[Request[T]], attempt: Attempt, started: float
    ) -> None:
        what = f"raised {type(attempt.error).__name__}" if isinstance(attempt, Raised) else "ran"
        _logger.debug(
            "%s: %s of %d %s in %.6f s",
            device,
            "a rerun" if isinstance(batch, Segment) else "a batch",
            len(batch),
            what,
            device.ended - started,
        )

    def _take(self, device: Device[T]) -> list[Request[T]]:
        return self._heed(self._scheduler.take(device))

    def _heed(self, taken: Taken[T]) -> list[Request[T]]:
        if taken.hopeless:
            self._host.post(self._outcomes.refuse, taken.hopeless, taken.now)
        if taken.batch and self._outcomes.short_of_room:
            self._host.post(self._outcomes.announce_room)
        if taken.batch and taken.unclaimed:
            self._host.post(self._ring)
        return taken.batch

    def _is_wanted(self) -> bool:
        """Whether somebody else waits for the limiter."""
        return self.shared and self._limiter.statistics().tasks_waiting > 0

    def _token_given_up(self, device: Device[T]) -> bool:
        """Whether the burst ends here: others wait for the limiter, or the model is gone."""
        if not self._is_wanted() and not device.has_to_be_prepared:
            return False
        with self._scheduler.lock:
            device.put_down()
        return True
