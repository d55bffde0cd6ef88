"""A device: a model, the batch it is running, and what is known of its speed."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ._bisection import Attempt, Raised, Returned, checked, outcomes_of
from ._delivery import DeliveryModel
from ._latency import LatencyModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._hosts import Host
    from ._model import ModelSource
    from ._policy import Plan
    from ._queue import Request, RequestQueue

__all__ = ["Device", "Fleet"]

T = TypeVar("T")

# If no more wait than this part of the largest batch, a busy device is waited for that should be
# done with them in this part of the time that a free one takes. Found by simulation: with more of
# either, there is nothing to gain under light load, and something to lose near the capacity.
_FEW, _SOONER = 0.25, 0.75


def _not_loaded(_: object) -> Any:
    msg = "a device runs nothing before its model is loaded"
    raise RuntimeError(msg)


class Device(Generic[T]):
    """Runs one batch at a time, in a worker thread or in the event loop.

    Attributes:
        is_async: its model runs in the event loop.
        latency: what its batches have taken. Guarded by the scheduler's lock.
        delivery: how long its results have been on their way. Guarded likewise.
        batch: the requests in the batch that is running, `None` between batches.
        starting: a burst was started on it and has not taken its first batch yet.
        plan: what was chosen for it to run next, while it runs. Guarded likewise.
        plan_from: when to begin with that; infinity if it is not worth while. Guarded likewise.
        plan_again: seconds after which a plan is stale. Guarded likewise.
        deciding: seconds that it waited for a choice the last time there was one.
        started: when its last batch was picked up. Guarded likewise.
        ended: when its last run ended.
        busy: seconds its model has spent running.
        reruns: runs made to find what a batch failed on.
        overlaps: its model can be launched, to prepare a batch while another one runs.
        staged: requests in hand beside `batch`: launched behind it, or failed before it. Guarded.
        latest: the size of the last batch that was launched and collected, and what it took.
        lead: how long it takes until a batch is launched. Guarded likewise.
        now: the time.
    """

    def __init__(self, source: ModelSource, max_batch_size: int, host: Host) -> None:
        self.is_async = source.is_async
        self.latency = LatencyModel(max_batch_size)
        self.delivery = DeliveryModel()
        self.batch: list[Request[T]] | None = None
        self.starting = False
        self.plan: Plan[T] | None = None
        self.plan_from = math.inf
        self.plan_again = math.inf
        self.deciding = 0.0
        self.ended = -math.inf
        self.busy = 0.0
        self.reruns = 0
        self.started = 0.0
        self.overlaps = False
        self.staged: list[Request[T]] = []
        self.latest = 0, 0.0
        self.lead = DeliveryModel()
        self.now = self._now = host.now
        self._source = source
        self._await = host.call
        self._call: Callable[[list[T]], Any] = _not_loaded
        self._launch: Callable[[list[T]], Callable[[], Any]] = _not_loaded
        self._close: Callable[[], None] | None = None
        if source.factory is None:
            self._adopt(source.model)
        # (size, seconds, ended) of runs that the latency model has not seen yet: it is
        # guarded by the scheduler's lock, which nobody holds while the model runs.
        self._measured: deque[tuple[int, float, float]] = deque()

    @property
    def has_to_be_loaded(self) -> bool:
        """Whether `load` is worth a trip to the worker."""
        return self._call is _not_loaded

    @property
    def has_to_be_closed(self) -> bool:
        """Whether `close` has anything to do."""
        return self._close is not None

    def load(self) -> None:
        """Construct the model. Called in the worker."""
        if self._source.factory is not None:
            self._adopt(self._source.factory())

    def _adopt(self, model: Any) -> None:
        if self._source.is_inference_model:
            self._call, self._close = model.infer, getattr(model, "close", None)
            self._launch = getattr(model, "launch", _not_loaded)
            self.overlaps = self._launch is not _not_loaded and getattr(model, "overlaps", True)
        else:
            self._call = model

    def close(self) -> None:
        """Let the model go. Called in the worker; does nothing the second time."""
        close, self._close = self._close, None
        if close is not None:
            close()

    def run(self, items: list[T]) -> list[Any]:
        """Run a batch in this thread and return an outcome for each item."""
        return self.outcomes(items, self._attempt(list(items)))

    def outcomes(self, items: list[T], attempt: Attempt) -> list[Any]:
        """Return an outcome for each item, given what the whole batch came to, in this thread."""
        if isinstance(attempt, Returned):
            return checked(attempt.results, len(items))
        runs = outcomes_of(items)
        next(runs)  # the whole batch, which was just tried
        while True:
            try:
                inputs = runs.send(attempt)
            except StopIteration as finished:
                return cast("list[Any]", finished.value)
            self.reruns += 1
            attempt = self._attempt(inputs)

    async def run_async(self, items: list[T]) -> list[Any]:
        """Await a batch in the event loop and return an outcome for each item."""
        attempt = await self._attempt_async(list(items))
        if isinstance(attempt, Returned):
            return checked(attempt.results, len(items))
        runs = outcomes_of(items)
        next(runs)  # the whole batch, which was just tried
        while True:
            try:
                inputs = runs.send(attempt)
            except StopIteration as finished:
                return cast("list[Any]", finished.value)
            self.reruns += 1
            attempt = await self._attempt_async(inputs)

    def try_launch(self, inputs: list[T]) -> Callable[[], Any] | Raised:
        """Launch a batch; return what waits for it, or what that raised."""
        try:
            return self._launch(inputs)
        except BaseException as exc:  # noqa: BLE001, ASYNC103  as below
            return Raised(exc)  # noqa: ASYNC104

    def try_collect(
        self, collect: Callable[[], Any] | Raised, size: int, begun: float, launched: float
    ) -> Attempt:
        """Wait for a batch that was launched. The time before another one had ended is not its."""
        begun, launched = max(begun, self.ended), max(launched, self.ended)
        if isinstance(collect, Raised):
            return self._raised(collect.error, max(begun, launched))
        try:
            results = collect()
        except BaseException as exc:  # noqa: BLE001, ASYNC103  as below
            return self._raised(exc, begun)  # noqa: ASYNC104
        self.busy += launched - begun
        returned = self._returned(results, size, launched)
        self.latest = size, self.ended - launched
        return returned

    def _attempt(self, inputs: list[T]) -> Attempt:
        if self.overlaps:
            size, begun = len(inputs), self._now()
            collect = self.try_launch(inputs)
            return self.try_collect(collect, size, begun, self._now())
        size, started = len(inputs), self._now()
        try:
            results = self._call(inputs)
        # Not only Exception: a model that calls sys.exit() on one input must not take
        # everybody else's answers along.
        except BaseException as exc:  # noqa: BLE001, ASYNC103
            return self._raised(exc, started)  # noqa: ASYNC104
        return self._returned(results, size, started)

    async def _attempt_async(self, inputs: list[T]) -> Attempt:
        size, started = len(inputs), self._now()
        try:
            results = await self._await(self._call, inputs)
        # As above, but a cancellation passes.
        except (Exception, SystemExit, KeyboardInterrupt) as exc:  # noqa: BLE001
            return self._raised(exc, started)
        return self._returned(results, size, started)

    def _returned(self, results: Any, size: int, started: float) -> Returned:
        self.ended = ended = self._now()
        self.busy += ended - started
        self._measured.append((size, ended - started, ended))
        return Returned(results)

    def _raised(self, error: BaseException, started: float) -> Raised:
        self.ended = self._now()
        self.busy += self.ended - started
        return Raised(error)

    def forget(self) -> None:
        """Drop what was measured and not learned yet."""
        self._measured.clear()

    def learn(self) -> None:
        """Let the latency model know what its runs took. The scheduler's lock is held."""
        # The worker may add to it meanwhile.
        while self._measured:
            self.latency.observe(*self._measured.popleft())

    def reset_counters(self) -> None:
        """Start counting busy time and reruns anew, after a warm-up."""
        self.busy, self.reruns = 0.0, 0

    def pick_up(self, batch: list[Request[T]], now: float) -> None:
        """Note that a batch is starting. The scheduler's lock is held."""
        self.starting = False
        self.batch = batch
        self.started = now

    def put_down(self) -> None:
        """Note that no batch is running. The scheduler's lock is held."""
        self.starting = False
        self.batch = self.plan = None
        self.staged = []
        self.plan_from = math.inf
        # What it taught is wanted at once, but later on not so much that a device waits for it.
        if self.latency.young:
            self.learn()

    def alone(self, now: float) -> float:
        """Return what a batch of one is sure to take, until it is delivered; 0 if nobody knows.

        The lock is held.
        """
        if not self.latency.trusted(now):
            return 0.0
        return self.latency.bounds[1] + self.delivery.seconds

    def free_at(self) -> float:
        """Return when what it has in hand should end; -inf if nobody knows. Lock held."""
        if self.batch is None or not self.latency.trusted(self.started):
            return -math.inf
        expected = self.latency.expected
        # What is staged may be two batches that failed, of which neither is larger than can be.
        staged = min(len(self.staged), len(expected) - 1)
        return self.started + expected[len(self.batch)] + expected[staged]

    def next_start(self, now: float) -> float:
        """Return when a batch that is composed now would have the device. The lock is held."""
        return max(now + self.lead.seconds, self.free_at()) if self.overlaps else now

    def done_at(self, now: float) -> float:
        """Return when it could be done with a batch of one. The lock is held."""
        return max(now + self.lead.seconds, self.free_at()) + self.alone(now)

    def expected_seconds(self, size: int) -> float:
        """Return what a batch should take, until it is delivered; 0 if nobody knows. Lock held."""
        seconds = self.latency.expected[size]
        return seconds and self.lead.seconds + seconds + self.delivery.seconds

    def expected_end(self, now: float) -> float:
        """Return when it should be free, as far as one can tell. The lock is held."""
        if self.batch is None:
            return now
        # Before anything was measured: it may well take as long again as it has taken.
        seconds = self.latency.expected[len(self.batch)] or 2.0 * (now - self.started)
        return max(now, self.started + seconds)


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
            device.lead.seconds + device.latency.bounds[1] + device.delivery.seconds
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
            over = other.started + other.latency.bounds[len(other.batch)]
            last = over + other.latency.bounds[largest] + other.delivery.seconds
            there = max(now, other.free_at()) + other.expected_seconds(size)
            if now < over and there < here and last <= queue.earliest_deadline:
                return over
        return -math.inf

    def expected_free(self, now: float) -> float:
        """Return when the first device should be free, as far as one can tell."""
        return min(device.expected_end(now) for device in self.devices)
