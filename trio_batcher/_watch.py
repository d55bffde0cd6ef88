"""How long a model in a thread may be at a run: nobody can stop it, but it can be left behind."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._device import Device
    from ._hosts import CancelScope, CapacityLimiter, Host

__all__ = ["Watch"]

T = TypeVar("T")


class Watch(Generic[T]):
    """Gives up devices whose model has been at a run for longer than `batch_timeout`.

    Args:
        host: the event loop.
        hung: is told of a device that seems to be one, and says whether it was still at it.
    """

    def __init__(self, host: Host, hung: Callable[[Device[T]], bool]) -> None:
        self._host, self._hung = host, hung
        self._bell = host.doorbell()
        self._busy: dict[Device[T], CancelScope] = {}
        self._dismissed = False

    async def in_thread(
        self, function: Callable[..., object], device: Device[T], *args: Any, limiter: CapacityLimiter
    ) -> None:
        """Call ``function(device, *args)`` in a worker thread that may have to be left behind.

        Cancellation: until there is a token; then the thread is waited for.
        """
        await limiter.acquire_on_behalf_of(device)
        try:
            with self._host.shield() as scope:
                self._busy[device] = scope
                self._bell.ring()
                try:
                    await self._host.in_thread(
                        function, device, *args, limiter=self._host.limiter(1), abandonable=True
                    )
                except Exception:
                    raise
                except BaseException:
                    # Left behind; by the watch, or as asyncio has cancelled us through the shield.
                    device.abandoned = True
                    raise
                finally:
                    del self._busy[device]
                    self._bell.ring()
        finally:
            limiter.release_on_behalf_of(device)

    def dismiss(self) -> None:
        """Let `serve` end, when no thread is waited for any more."""
        self._dismissed = True
        self._bell.ring()

    async def serve(self) -> None:
        """Watch until dismissed. A cancellation from outside does not reach it."""
        with self._host.shield():
            while self._busy or not self._dismissed:
                now = self._host.now()
                for device, scope in [*self._busy.items()]:
                    if device.since + device.batch_timeout <= now and self._hung(device):
                        scope.cancel()
                # One that is not at a run now cannot have been at one for too long before then.
                ends = [min(each.since, now) + each.batch_timeout for each in self._busy]
                await self._bell.listen(min(ends, default=inf))
