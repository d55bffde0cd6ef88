"""Bursts: batch after batch on a device, in a worker thread or in a task."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ._interpreter import prompt_waking
from ._overlap import Overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._device import Device
    from ._hosts import CapacityLimiter, Host
    from ._queue import Request
    from ._scheduler import Scheduler, Taken

__all__ = ["Bursts", "Done"]

T = TypeVar("T")

# A device, its batch, the outcomes, when that was started and when it ended.
Done: TypeAlias = "tuple[Device[T], Sequence[Request[T]], Sequence[Any], float, float]"


class Bursts(Generic[T]):
    """Takes batches from the scheduler, runs them, and posts what comes of them.

    Args:
        host: the event loop.
        scheduler: the queue and the devices.
        limiter: the user's, which others may wait for, or `None`.
        deliver: delivers what is done; called in the event loop, like the next two.
        refuse: turns hopeless requests away, as of some time.
        ring: has the gather task look again.

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
        deliver: Callable[..., None],
        refuse: Callable[[Sequence[Request[T]], float], None],
        ring: Callable[[], None],
    ) -> None:
        self._host, self._scheduler = host, scheduler
        # A limiter of our own has a token for each device: nobody waits for one.
        self.shared = limiter is not None
        own = host.limiter(len(scheduler.fleet.devices))
        self._limiter = own if limiter is None else limiter
        self._own_limiter = own
        self._deliver, self._refuse, self._ring = deliver, refuse, ring
        self.emptied = threading.Event()

    async def run(self, device: Device[T], parting: list[Done[T]]) -> None:
        """Run batches until nobody is to be run, or somebody else waits for the limiter.

        Cancellation: an async model's batch is cancelled, a thread is waited for.

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
            await self._host.in_thread(work, device, parting, limiter=self._limiter)

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
                items = [request.item for request in batch]
                outcomes = device.run(items, self._scheduler.load(batch))
                done = (device, batch, outcomes, device.started, device.ended)
                batch = self._go_on(done, parting)

    def _work_ahead(self, device: Device[T], parting: list[Done[T]]) -> None:
        with prompt_waking():
            Overlap(
                self._scheduler,
                device,
                heed=self._heed,
                post=lambda done: self._host.post(self._deliver, *done),
                go_on=lambda done: self._go_on(done, parting),
                wanted=self._is_wanted,
                aborted=self.emptied,
            ).run(self._take(device))

    def _go_on(self, done: Done[T], parting: list[Done[T]]) -> list[Request[T]]:
        device = done[0]
        if self._token_given_up(device):
            parting.append(done)
            return []
        # If anybody waits for the device, that comes first. Else the answers do.
        waited_for = self._scheduler.queue.size > 0
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
                items = [request.item for request in batch]
                outcomes = await device.run_async(items, self._scheduler.load(batch))
                done = (device, batch, outcomes, device.started, device.ended)
                if self._token_given_up(device):
                    parting.append(done)
                    return
                self._deliver(*done)
        finally:
            if self.shared:
                self._limiter.release_on_behalf_of(device)

    def _take(self, device: Device[T]) -> list[Request[T]]:
        return self._heed(self._scheduler.take(device))

    def _heed(self, taken: Taken[T]) -> list[Request[T]]:
        if taken.hopeless:
            self._host.post(self._refuse, taken.hopeless, taken.now)
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
