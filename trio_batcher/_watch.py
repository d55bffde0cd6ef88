"""How long a model in a thread may be at a run: nobody can stop it, but it can be left behind."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._bisection import failures
from ._errors import DeviceLost
from ._runner import took_too_long

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._device import Device
    from ._hosts import CancelScope, CapacityLimiter, Host
    from ._queue import Request
    from ._scheduler import Scheduler

__all__ = ["Watch"]

T = TypeVar("T")

_logger = logging.getLogger("trio_batcher")


class Watch(Generic[T]):
    """Gives up devices whose model has been at a run for longer than `batch_timeout`.

    Args:
        host: the event loop.
        scheduler: whose lock guards what the devices note.
        deliver: answers the callers of a batch; it was started at that time.
    """

    def __init__(
        self,
        host: Host,
        scheduler: Scheduler[T],
        deliver: Callable[[Sequence[Request[T]], Sequence[Any], float], None],
    ) -> None:
        self._host, self._scheduler, self._deliver = host, scheduler, deliver
        self._bell = host.doorbell()
        self._busy: dict[Device[T], CancelScope] = {}
        self._dismissed = False

    async def in_thread(
        self,
        function: Callable[..., object],
        device: Device[T],
        *args: Any,
        limiter: CapacityLimiter,
    ) -> None:
        """Call ``function(device, *args)`` in a worker thread that may have to be left behind.

        Cancellation: until there is a token; then the thread is waited for.

        Raises:
            DeviceLost: it was left behind.
        """
        await limiter.acquire_on_behalf_of(device)
        try:
            with self._host.shield() as scope:
                self._busy[device] = scope
                self._bell.ring()
                try:
                    await self._host.in_thread(
                        function, device, *args, limiter=self._host.limiter(1), until=scope
                    )
                finally:
                    del self._busy[device]
                    self._bell.ring()
        finally:
            limiter.release_on_behalf_of(device)
        if device.abandoned:
            reason = took_too_long(device.batch_timeout)
            raise DeviceLost(f"a model's thread had to be left behind: {reason}") from reason

    def dismiss(self) -> None:
        """Let `serve` end, when no thread is waited for any more."""
        self._dismissed = True
        self._bell.ring()

    async def serve(self) -> None:
        """Watch until dismissed. A cancellation from outside does not reach it.

        One of asyncio's own does, and ends it when no thread is waited for any more.
        """
        cancelled: BaseException | None = None
        with self._host.shield():
            while self._busy or not (self._dismissed or cancelled):
                now = self._host.now()
                for device, scope in [*self._busy.items()]:
                    if device.since + device.batch_timeout <= now and self._given_up(device):
                        scope.cancel()
                # One that is not at a run now cannot have been at one for too long before then.
                ends = [min(each.since, now) + each.batch_timeout for each in self._busy]
                try:
                    await self._bell.listen(min(ends, default=inf))
                except self._host.cancelled as exc:
                    cancelled = exc
        if cancelled is not None:
            raise cancelled

    def _given_up(self, device: Device[T]) -> bool:
        """Give a device up if its thread is still at that run, and tell those whose batch it is."""
        with self._scheduler.lock:
            if self._host.now() < device.since + device.batch_timeout:
                return False
            device.abandoned = True
            batch = (device.batch if device.at is None else device.at) or []
        error = took_too_long(device.batch_timeout)
        _logger.error(
            "%s hangs with a batch of %d, its thread is left: %s", device, len(batch), error
        )
        self._deliver(batch, failures(error, len(batch), len(batch)), device.started)
        return True
