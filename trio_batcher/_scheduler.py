"""Who goes to which device, and when: the policy, applied to the queue and the devices.

Everything here is done under one lock, which is never held while anything else is waited for
or run. Callers, the gather task and the bursts come from several threads.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import TYPE_CHECKING, Generic, TypeVar

from ._assignments import Outlook, Taken
from ._fleet import Fleet
from ._planning import left_at_next_plan, spacing
from ._policy import Decision, Dispatch, Limits, WaitUntil, decide, plan
from ._queue import Request, RequestQueue
from ._reruns import Reruns, Segment
from ._selection import PATIENCE, ROUNDING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._device import Device
    from ._statistics import BatcherStatistics

__all__ = ["Scheduler"]

T = TypeVar("T")

# The next batch is composed as if the one that runs took so much of what is expected, or of what
# the last one has shown: what a device takes is known only if it is asked before it is ready.
_EARLY = 7.0 / 8.0


class Scheduler(Generic[T]):
    """One queue and its devices.

    Attributes:
        lock: guards all that follows, and the devices' `latency`, `delivery`, `batch`, `plan`
            and `starting`.
        queue: the waiting requests.
        devices: all that there were from the beginning.
        fleet: those that are left.
        free: those without a burst. Only the event loop changes the list.
        reruns: what is to be run again of batches that failed.
        closing: nobody is to wait for companions any more.
        batch_sizes: how many batches were taken, by size.
        plan_from: a request that comes then or later may be one to plan for.
        plan_due: one has come.
    """

    def __init__(
        self,
        devices: Sequence[Device[T]],
        limits: Limits,
        now: Callable[[], float],
        awaited: Callable[[Request[T]], bool] = lambda _: True,
    ) -> None:
        self.lock = threading.Lock()
        self.queue: RequestQueue[T] = RequestQueue()
        self.fleet = Fleet(devices)
        self.free = list(devices)
        self.reruns: Reruns[T] = Reruns(awaited)
        self.closing = False
        self.batch_sizes: Counter[int] = Counter()
        self.plan_from = math.inf
        self.plan_due = False
        self.devices = devices
        self._limits = limits
        self._now = now
        self._awaited = awaited

    @property
    def waiting(self) -> bool:
        """Whether anything waits for a device. True at that moment; needs no lock."""
        return self.queue.size > 0 or bool(self.reruns.pending)

    def by_speed(self) -> list[Device[T]]:
        """Return the free devices, those first that would be done first.

        Those of which nothing is known come first, so that they are tried. Of equals it is the
        one that was busy last.
        """
        if len(self.free) <= 1:
            return [*self.free]
        latest = self.free[::-1]
        with self.lock:
            size = min(max(1, self.queue.size), self._limits.max_batch_size, self._limits.most)
            seconds = {device: device.expected_seconds(size) for device in latest}
        return sorted(latest, key=seconds.__getitem__)

    def load(self, batch: Sequence[Request[T]]) -> int:
        """Return what a batch counts as."""
        return self._limits.load(batch)

    def size(self, batch: Sequence[Request[T]]) -> float:
        """Return how large a run of it is: how many, each as dear as the dearest."""
        return self._limits.size(batch)

    def unspoken_for(self, starting: int) -> int:
        """Return how many wait that no burst on its way will take; less than 0 if it could more.

        A burst takes its batch once it runs: what those on their way will take still waits.
        """
        spoken_for = starting - len(self.reruns.pending)
        return self.queue.size - spoken_for * self._limits.max_batch_size

    def look(self, device: Device[T]) -> tuple[Decision[T], float]:
        """Return what a free device should do, and when that was decided.

        The hopeless have left the queue; a batch has not. Its device counts as starting.
        """
        with self.lock:
            now = self._now()
            decision = self._decide(device, now)
            if self.reruns.pending and not isinstance(decision, Dispatch):
                decision = Dispatch([], decision.hopeless)
            device.starting = isinstance(decision, Dispatch)
            self._note_earliest(decision.hopeless, now)
        return decision, now

    def look_out(self) -> Outlook[T]:
        """Return whom no device could serve in time any more, if a burst has yet to begin."""
        with self.lock:
            now = self._now()
            if not self.fleet.starting():
                return Outlook([], now, math.inf, -math.inf)
            self.queue.promote(now)
            alone = self.fleet.earliest_end(now) - now
            # Beyond rounding: when it is time to look again, somebody is hopeless.
            hopeless = self.queue.due_before(now + alone + ROUNDING)
            self.queue.remove_all(hopeless)
            self._note_earliest(hopeless, now)
            earliest, near = self.queue.earliest_deadline, self.queue.settle()
        return Outlook(hopeless, now, min(earliest - alone, near), earliest)

    def take(self, device: Device[T]) -> Taken[T]:
        """Give a device the best batch there is at this instant.

        If it was planned, those whom that makes hopeless are found by `note_delivery`.
        """
        with self.lock:
            now, plan, beginning = self._now(), device.plan, device.starting
            if device.abandoned:
                return Taken([], [], now, unclaimed=False)
            device.put_down()
            hopeless: list[Request[T]] = []
            batch: list[Request[T]] | None = self._again(device) if self.reruns.pending else None
            if not batch and plan:
                batch = plan.carried_out(now + device.delivery.seconds, device.latency)
            if not batch:
                decision = self._decide(device, now)
                hopeless = decision.hopeless
                if isinstance(decision, Dispatch):
                    batch = decision.batch
                    # An async model runs where decisions are made: it would wait for a plan, too.
                    # So would one that overlaps, which chooses while it runs.
                    if decision.chosen and not (device.is_async or device.overlaps):
                        device.deciding = self._now() - now
            batch = self._taken(device, batch)
            if batch:
                device.pick_up(batch, self._limits.load(batch), now)
                if device.deciding:
                    self._plan_later(device, now)
            self.queue.settle()
            self._note_earliest(hopeless, now)
            # While this burst was on its way no other was started, nor is one for who comes now.
            unclaimed = bool(self.free) and (beginning or self.waiting)
        return Taken(batch, hopeless, now, unclaimed)

    def _taken(self, device: Device[T], batch: list[Request[T]] | None) -> list[Request[T]]:
        """Take a batch out of the queue, as much of it as the model can take; or what is rerun."""
        if not batch:
            batch = self.reruns.next()
        if batch is None:
            return []
        self.fleet.changed = True
        if isinstance(batch, Segment):
            device.reruns += 1
            return batch
        batch = device.fitting(batch, self._limits.size)
        self.queue.remove_all(batch)
        self.batch_sizes[len(batch)] += 1
        return batch

    def _again(self, device: Device[T]) -> Segment[T] | None:
        """Return what to run again, if nobody in the queue is more urgent."""
        # Of a device that has not answered yet: what its last run took.
        full = device.latency.expected[-1] or max(0.0, device.ended - device.started)
        # A batch that is taken apart is not overdue by that alone.
        return self.reruns.next_before(self.queue, 2.0 * PATIENCE * full)

    def clear(self) -> list[Request[T]]:
        """Return all who wait, to be turned away; from now on nothing is run again."""
        with self.lock:
            return [*self.queue.clear(), *self.reruns.clear()]

    # Devices that overlap: the next batch is taken while one runs

    def stage_at(self, device: Device[T]) -> float | None:
        """Return when to compose the batch behind the one that runs; `None` if nobody knows."""
        with self.lock:
            if device.batch is None or not device.latency.trusted(device.started):
                return None
            expected = device.latency.expected
            seconds = expected[device.batch_load]
            if device.latest[0]:
                seconds *= min(1.0, device.latest[1] / expected[device.latest[0]])
            return device.started + _EARLY * seconds - device.lead.seconds

    def stage(self, device: Device[T]) -> Taken[T]:
        """Give a device the best batch for when it should be free."""
        with self.lock:
            now, batch = self._now(), list[Request[T]]()
            if device.abandoned:
                return Taken([], [], now, unclaimed=False)
            again = self._again(device) if self.reruns.pending else None
            hopeless: list[Request[T]] = []
            if again:
                batch = again
            else:
                decision = self._decide(device, now)
                hopeless = decision.hopeless
                if isinstance(decision, Dispatch):
                    batch = decision.batch
            batch = self._taken(device, batch)
            if batch:
                device.stage(batch, self._limits.load(batch))
            self.queue.settle()
            self._note_earliest(hopeless, now)
            unclaimed = bool(self.free) and self.waiting
        return Taken(batch, hopeless, now, unclaimed)

    def note_launch(self, device: Device[T], now: float, seconds: float) -> None:
        """Learn that a launch was over now and has taken so long."""
        with self.lock:
            device.lead.observe(seconds)
            self.fleet.changed = True
            if not device.staged:
                device.started = now

    def advance(self, device: Device[T], batch: list[Request[T]], started: float) -> None:
        """Note that what was staged runs, since then."""
        with self.lock:
            if device.abandoned:
                return
            device.pick_up(batch, self._limits.load(batch), started)
            device.stage([], 0)
            self.fleet.changed = True
            if device.latency.young:
                device.learn()

    def note_delivery(self, device: Device[T], now: float, seconds: float) -> list[Request[T]]:
        """Learn from a batch whose results were delivered now, ``seconds`` after its end.

        Returns those whom no device could serve in time any more; they have left the queue.
        """
        with self.lock:
            device.delivery.observe(seconds)
            device.learn()
            device.latency.refresh()
            self.fleet.changed = True
            full = max(each.latency.expected[-1] for each in self.fleet.devices)
            self.queue.horizon = self._limits.patience(self.queue.size) * full or math.inf
            self.queue.settle()
            self.queue.promote(now)
            if self.queue.earliest_deadline == math.inf:
                return []
            hopeless = self.queue.due_before(self.fleet.earliest_end(now))
            free = any(each.batch is None for each in self.fleet.devices)
            if free and len(hopeless) == self.queue.size:
                return []  # a free device may run them: nobody else wants it
            self.queue.remove_all(hopeless)
            self._note_earliest(hopeless, now)
        return hopeless

    def retire(self, device: Device[T]) -> None:
        """Go on without a device, which is not the last one; others take what it had."""
        with self.lock:
            unanswered: list[Request[T]] = []
            for batch in (device.batch or [], device.staged):
                if isinstance(batch, Segment):
                    self.reruns.put_back(batch)
                else:
                    unanswered += [request for request in batch if self._awaited(request)]
            device.put_down()
            device.place.devices -= 1
            self.fleet.devices = [each for each in self.fleet.devices if each is not device]
            self.fleet.changed = True
            self.queue.put_back(unanswered)

    def reported(self, snapshot: Callable[..., BatcherStatistics]) -> BatcherStatistics:
        """Return a snapshot, given one of the outcomes."""
        with self.lock:
            devices, now = self.devices, self._now()
            return snapshot(
                accepted=self.queue.added,
                waiting=self.queue.size,
                peak_waiting=self.queue.peak,
                batch_sizes=self.batch_sizes,
                busy=tuple(device.busy for device in devices),
                reruns=sum(device.reruns for device in devices),
                restarts=sum(device.restarts for device in devices),
                running_for=tuple([device.running_for(now) for device in devices]),
                latency=tuple(device.latency.fit for device in devices),
            )

    def _note_earliest(self, unreachable: Sequence[Request[T]], now: float) -> None:
        """Note when a batch with each of those that were found unreachable could have ended."""
        if not unreachable:
            return
        earliest = self.fleet.earliest_end(now)
        floors = self.fleet.devices[0].latency.floors
        for request in unreachable:
            own = floors[self._limits.load([request])] - floors[1]
            request.earliest = max(earliest + own, request.deadline)

    def _decide(self, device: Device[T], now: float) -> Decision[T]:
        self.queue.promote(now)
        decision = decide(
            self.queue,
            now=device.next_start(now),
            latency=device.latency,
            limits=self._limits,
            others_done_at=self.fleet.others_done_at(device, now),
            patient=not self.closing,
            delivery=device.delivery.seconds,
        )
        if decision.hopeless:
            self.queue.remove_all(decision.hopeless)
        if isinstance(decision, WaitUntil):
            return WaitUntil(min(decision.time, self.queue.settle()), decision.hopeless)
        if (
            isinstance(decision, Dispatch)
            and len(self.fleet.devices) > 1
            and not self._limits.shapes
        ):
            late = self.fleet.sooner_elsewhere(device, now, self.queue)
            if late > now:
                return WaitUntil(late, decision.hopeless)
        return decision

    # Planning ahead: what is decided while a device runs, it need not wait for

    def _plan_later(self, device: Device[T], now: float) -> None:
        seconds = device.latency.expected[device.batch_load]
        ahead, device.plan_part = spacing(device.deciding, seconds)
        device.plan_from = now + seconds - ahead if ahead else math.inf
        self.plan_from = min(each.plan_from for each in self.fleet.devices)

    def call_for_plan(self) -> None:
        """Note that a request came at `plan_from` or later: `plan_ahead` is to be called.

        Requests often come several at a time: only the first of these calls. The lock is held.
        """
        self.plan_from, self.plan_due = math.inf, True

    def plan_ahead(self) -> None:
        """Plan for the devices that are about to be free, as somebody came."""
        with self.lock:
            now, self.plan_due = self._now(), False
            for device in self.fleet.devices:
                if device.plan_from <= now and device.batch is not None:
                    at = max(now, device.free_at())
                    left = left_at_next_plan(at - now, device.plan_part, device.deciding)
                    device.plan_from = at - left if left else math.inf
                    device.plan = plan(
                        self.queue,
                        now=at,
                        latency=device.latency,
                        limits=self._limits,
                        others_done_at=self.fleet.others_done_at(device, at),
                        delivery=device.delivery.seconds,
                    )
            self.plan_from = min(each.plan_from for each in self.fleet.devices)
