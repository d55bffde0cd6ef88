"""The devices of one batcher, asked as one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._device import Device
    from ._queue import RequestQueue

__all__ = ["Fleet"]

T = TypeVar("T")

# If no more wait than this part of the largest batch, a busy device is waited for that should be
# done with them in this part of the time that a free one takes. Found by simulation: with more of
# either, there is nothing to gain under light load, and something to lose near the capacity.
_FEW, _SOONER = 0.25, 0.75


class Fleet(Generic[T]):
    """All devices of one batcher, asked as one. The scheduler's lock is held around each call.

    Attributes:
        changed: a device's batch or latency model has changed since the last `refresh`.
        busy_until: no device is known to be busy for longer.
        alone: no device takes longer for a batch of one. A deadline that leaves this much
            after now and after `busy_until` is reachable without a closer look.
    """

    def __init__(self, devices: Sequence[Device[T]]) -> None:
        self.devices = devices
        self.changed = False
        self.busy_until = -math.inf
        self.alone = 0.0

    def refresh(self) -> None:
        """Bring `busy_until` and `alone` up to date."""
        self.changed = False
        self.busy_until = max(device.free_at() for device in self.devices)
        self.alone = max(
            device.lead.seconds + device.latency.expected[1] + device.delivery.seconds
            for device in self.devices
        )

    def starting(self) -> int:
        """Return on how many devices a burst was started that has not taken a batch yet."""
        return sum(device.starting for device in self.devices)

    def earliest_end(self, now: float) -> float:
        """Return when a request that comes now is done, at the very earliest."""
        return min(device.done_at(now) for device in self.devices)

    def others_done_at(self, device: Device[T], now: float) -> float:
        """Return when any other device could be done with a batch of one, at the earliest."""
        if len(self.devices) == 1:
            return math.inf
        return min(
            (other.done_at(now) for other in self.devices if other is not device),
        )

    def sooner_elsewhere(self, device: Device[T], now: float, queue: RequestQueue[T]) -> float:
        """Return until when all who wait had better wait for a faster device, -inf if not at all.

        That is until its batch is surely over. There must be no doubt that they are on time.
        """
        size, largest = queue.size, len(device.latency.bounds) - 1
        if size > _FEW * largest:
            return -math.inf
        here = now + _SOONER * device.expected_seconds(size)
        for other in self.devices:
            if other is device or not other.batch or other.staged or other.free_at() == -math.inf:
                continue
            over = other.started + other.latency.bounds[other.batch_load]
            last = over + other.latency.bounds[largest] + other.delivery.seconds
            there = max(now, other.free_at()) + other.expected_seconds(size)
            if now < over and there < here and last <= queue.earliest_deadline:
                return over
        return -math.inf

    def expected_free(self, now: float) -> float:
        """Return when the first device should be free, as far as one can tell."""
        return min(device.expected_end(now) for device in self.devices)
