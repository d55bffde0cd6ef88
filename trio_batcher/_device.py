"""A device: a model, the batch it is running, and what is known of its speed."""

from __future__ import annotations

import math
from copy import copy
from typing import TYPE_CHECKING, TypeVar

from ._bisection import too_large
from ._delivery import DeliveryModel
from ._latency import LatencyModel
from ._memory import SafeSize, those_that_fit
from ._reruns import Segment
from ._runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._hosts import Host
    from ._model import ModelSource
    from ._policy import Plan
    from ._queue import Request

__all__ = ["Device"]

T = TypeVar("T")


class Device(Runner[T]):
    """Where batches are run: what it has in hand, and what is known of it.

    Attributes:
        latency: what its batches have taken. Guarded by the scheduler's lock.
        delivery: how long its results have been on their way. Guarded likewise.
        batch: the requests in the batch that is running, `None` between batches.
        batch_load: what the latency model has that batch under: its size, if there are no costs.
        starting: a burst was started on it and has not taken its first batch yet.
        plan: what was chosen for it to run next, while it runs. Guarded likewise.
        plan_from: when to begin with that; infinity if it is not worth while. Guarded likewise.
        plan_part: the part of the time until it is free that is left when it is planned anew.
            Guarded likewise.
        deciding: seconds that it waited for a choice the last time there was one.
        started: when its last batch was picked up. Guarded likewise.
        reruns: runs made to find what a batch failed on.
        at: whose run the model is at, where that need not be `batch`.
        safe_size: how much its model can take at a time, see `Limits.size`.
        limited: the batch in hand is smaller because of that. Guarded.
        staged: requests in hand beside `batch`: launched behind it, or failed before it. Guarded.
        staged_load: what those count as, or the first of two batches.
        lead: how long it takes until a batch is launched. Guarded likewise.
        bell: has its attendant begin a burst.
    """

    def __init__(
        self,
        source: ModelSource,
        most: int,
        host: Host,
        batch_timeout: float = math.inf,
        number: int = 0,
    ) -> None:
        super().__init__(source, host, batch_timeout)
        self._number = number
        self.latency = LatencyModel(most)
        self.delivery = DeliveryModel()
        self.batch: list[Request[T]] | None = None
        self.batch_load = 0
        self.starting = False
        self.plan: Plan[T] | None = None
        self.plan_from = math.inf
        self.plan_part = 0.0
        self.deciding = 0.0
        self.reruns = 0
        self.started = 0.0
        self.at: list[Request[T]] | None = None
        self.safe_size = SafeSize()
        self.limited = False
        self.staged: list[Request[T]] = []
        self.staged_load = 0
        self.lead = DeliveryModel()
        self.bell = host.doorbell()

    def __str__(self) -> str:
        """Return its name in the log."""
        return f"device {self._number}"

    def fitting(
        self, batch: list[Request[T]], size_of: Callable[[list[Request[T]]], float]
    ) -> list[Request[T]]:
        """Return as much of a batch as the model can take, as far as is known. Lock held."""
        if self.safe_size.safe == math.inf:
            return batch
        fitting = those_that_fit(batch, size_of, self.safe_size)
        self.limited = len(fitting) < len(batch)
        return fitting

    def note_size(
        self, batch: Sequence[Request[T]], size: float, error: BaseException | None
    ) -> None:
        """Learn from what came of a batch how much the model can take at a time. Lock held.

        A single item that is too large says nothing of others: what its batch had taught is
        forgotten.
        """
        if error is None:
            if self.safe_size.safe < math.inf:
                self.safe_size.ran(size)
                if self.limited:
                    self.safe_size.limited()
        elif isinstance(batch, Segment) and too_large(error):
            before = batch.bisection.sizes_before
            if len(batch) > 1:
                before.setdefault(self, copy(self.safe_size))
                self.safe_size.failed(size)
            else:
                for device, known in before.items():
                    device.safe_size = known
                before.clear()

    def learn(self) -> None:
        """Let the latency model know what its runs took. The scheduler's lock is held."""
        # The worker may add to it meanwhile.
        while self._measured:
            self.latency.observe(*self._measured.popleft())

    def reset_counters(self) -> None:
        """Start counting busy time and reruns anew, after a warm-up."""
        self.busy, self.reruns = 0.0, 0

    def pick_up(self, batch: list[Request[T]], load: int, now: float) -> None:
        """Note that a batch is starting. The scheduler's lock is held."""
        self.starting = False
        self.batch = batch
        self.batch_load = load
        self.started = now

    def stage(self, requests: list[Request[T]], load: int) -> None:
        """Note what is in hand beside the batch that runs. The scheduler's lock is held."""
        self.staged, self.staged_load = requests, load

    def put_down(self) -> None:
        """Note that no batch is running. The scheduler's lock is held."""
        self.starting = self.limited = False
        self.batch = self.plan = None
        self.stage([], 0)
        self.plan_from = math.inf
        # What it taught is wanted at once, but later on not so much that a device waits for it.
        if self.latency.young:
            self.learn()

    def alone(self, now: float) -> float:
        """Return what even a batch of one takes, until it is delivered; 0 if nobody knows.

        The lock is held.
        """
        if not self.latency.trusted(now):
            return 0.0
        return self.latency.floors[1] + self.delivery.seconds

    def free_at(self) -> float:
        """Return when what it has in hand should end; -inf if nobody knows. Lock held."""
        if self.batch is None or not self.latency.trusted(self.started):
            return -math.inf
        return (
            self.started
            + self.latency.expected[self.batch_load]
            + self.latency.expected[self.staged_load]
        )

    def next_start(self, now: float) -> float:
        """Return when a batch that is composed now would have the device. The lock is held."""
        return max(now + self.lead.seconds, self.free_at()) if self.overlaps else now

    def done_at(self, now: float) -> float:
        """Return when it could be done with a batch of one, at the earliest. The lock is held."""
        begins = now + self.lead.seconds
        if (end := self.free_at()) > begins:
            begins = max(begins, self.started + self.latency.floor(end - self.started))
        return begins + self.alone(now)

    def expected_seconds(self, size: int) -> float:
        """Return what a batch should take, until it is delivered; 0 if nobody knows. Lock held."""
        seconds = self.latency.expected[size]
        return seconds and self.lead.seconds + seconds + self.delivery.seconds

    def running_for(self, now: float) -> float:
        """Return for how long it has been at its batch; 0 if it has none. Lock held."""
        if self.batch is None or self.ended > self.started:
            return 0.0
        return now - self.started

    def expected_end(self, now: float) -> float:
        """Return when it should be free, as far as one can tell. The lock is held."""
        if self.batch is None:
            return now
        # Before anything was measured: it may well take as long again as it has taken.
        seconds = self.latency.expected[self.batch_load] or 2.0 * (now - self.started)
        return max(now, self.started + seconds)
