"""The devices' own tasks, each of which runs its device's bursts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ._hosts import ki_protected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractContextManager

    from ._device import Device
    from ._hosts import Host, Nursery
    from ._watch import Watch

__all__ = ["Attendants"]

T = TypeVar("T")


class Attendants(Generic[T]):
    """One task for each device; it runs a burst whenever the device's bell rings.

    So a burst costs no new task, and its context is none of a caller's.

    Args:
        devices: whose tasks they are.
        burst: runs a burst on a device, and keeps its faults to itself.
        watch: sees to it that no thread keeps its device for too long.
        faults_kept: keeps any other fault.
        forsake: is told of a device that was rung for and that nobody will come to any more.
    """

    def __init__(
        self,
        devices: Sequence[Device[T]],
        burst: Callable[[Device[T]], Awaitable[None]],
        watch: Watch[T],
        faults_kept: Callable[[], AbstractContextManager[None]],
        forsake: Callable[[Device[T]], None],
    ) -> None:
        self._devices = devices
        self._burst, self._faults_kept, self._forsake = burst, faults_kept, forsake
        self._watch = watch
        self._present = 0
        self._dismissed = False

    async def begin(self, host: Host, nursery: Nursery) -> None:
        """Start the tasks.

        Raises:
            RuntimeError: one never began, as in asyncio if it is cancelled before its first step.
        """
        for device in self._devices:
            nursery.start_soon(self._attend, device)
        if any(device.is_watched for device in self._devices):
            nursery.start_soon(self._watch.serve)
        # The second one comes after their first steps, in whatever order tasks are run.
        await host.checkpoint()
        await host.checkpoint()
        if self._present < len(self._devices):
            raise RuntimeError("a task of the batcher's own was cancelled before it began")

    def dismiss(self) -> None:
        """Let the tasks end, when their bursts have."""
        self._dismissed = True
        self._watch.dismiss()
        for device in self._devices:
            device.bell.ring()

    @ki_protected
    async def _attend(self, device: Device[T]) -> None:
        self._present += 1
        try:
            with self._faults_kept():
                while not self._dismissed:
                    await device.bell.listen()
                    if not self._dismissed:
                        await self._burst(device)
        finally:
            if device.starting:
                self._forsake(device)
