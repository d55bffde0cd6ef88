"""A device: a model, the batch it is running, and what is known of its speed."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ._bisection import Attempt, Raised, Returned, checked, outcomes_of
from ._delivery import DeliveryModel
from ._errors import DeviceLost
from ._latency import LatencyModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._hosts import Host
    from ._model import ModelSource
    from ._policy import Plan
    from ._queue import Request

__all__ = ["Device"]

T = TypeVar("T")


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
        batch_load: what the latency model has that batch under: its size, if there are no costs.
        starting: a burst was started on it and has not taken its first batch yet.
        plan: what was chosen for it to run next, while it runs. Guarded likewise.
        plan_from: when to begin with that; infinity if it is not worth while. Guarded likewise.
        plan_part: the part of the time until it is free that is left when it is planned anew.
            Guarded likewise.
        deciding: seconds that it waited for a choice the last time there was one.
        started: when its last batch was picked up. Guarded likewise.
        ended: when its last run ended.
        busy: seconds its model has spent running.
        reruns: runs made to find what a batch failed on.
        overlaps: its model can be launched, to prepare a batch while another one runs.
        staged: requests in hand beside `batch`: launched behind it, or failed before it. Guarded.
        staged_load: what those count as, or the first of two batches.
        latest: the load of the last batch that was launched and collected, and what it took.
        lead: how long it takes until a batch is launched. Guarded likewise.
        bell: has its attendant begin a burst.
        now: the time.
    """

    def __init__(self, source: ModelSource, most: int, host: Host) -> None:
        self.is_async = source.is_async
        self.latency = LatencyModel(most)
        self.delivery = DeliveryModel()
        self.batch: list[Request[T]] | None = None
        self.batch_load = 0
        self.starting = False
        self.plan: Plan[T] | None = None
        self.plan_from = math.inf
        self.plan_part = 0.0
        self.deciding = 0.0
        self.ended = -math.inf
        self.busy = 0.0
        self.reruns = 0
        self.started = 0.0
        self.overlaps = False
        self.staged: list[Request[T]] = []
        self.staged_load = 0
        self.latest = 0, 0.0
        self.lead = DeliveryModel()
        self.bell = host.doorbell()
        self.now = host.now
        self._source = source
        self._keeper = source.keeper
        self._await = host.call
        self._call: Callable[[list[T]], Any] = _not_loaded
        self._launch: Callable[[list[T]], Callable[[], Any]] = _not_loaded
        self._close: Callable[[], None] | None = None
        if source.factory is None:
            self._adopt(source.model)
        # (load, seconds, ended) of runs that the latency model has not seen yet: it is
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

    @property
    def can_be_interrupted(self) -> bool:
        """Whether `interrupt` has any effect."""
        return self._keeper is not None

    @property
    def has_to_be_prepared(self) -> bool:
        """Whether its model has to be made anew before it can run."""
        return self._keeper is not None and not self._keeper.is_ready()

    def prepare(self) -> None:
        """Make its model anew, with what delays there are. Called in the worker, without a token.

        Raises:
            DeviceLost: that cannot be done; or interrupted.
        """
        if self._keeper is not None:
            self._keeper.ready()

    @property
    def restarts(self) -> int:
        """How many times its model was made anew."""
        return 0 if self._keeper is None else self._keeper.restarts

    def interrupt(self) -> None:
        """Have what the worker does here end soon, as far as that is possible."""
        if self._keeper is not None:
            self._keeper.interrupt()

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

    def run(self, items: list[T], load: int | None = None) -> list[Any]:
        """Run a batch in this thread and return an outcome for each item.

        Args:
            items: the batch.
            load: of it, where that is not its size. Of its parts it is not known then.

        Raises:
            DeviceLost: it can run nothing any more, or was interrupted: no item's fault.
        """
        return self.outcomes(items, self._attempt(list(items), load or len(items)), load)

    def outcomes(self, items: list[T], attempt: Attempt, load: int | None = None) -> list[Any]:
        """Return an outcome for each item, given what the whole batch came to, in this thread.

        Raises:
            DeviceLost: as by `run`.
        """
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
            attempt = self._attempt(inputs, 0 if load else len(inputs))

    async def run_async(self, items: list[T], load: int | None = None) -> list[Any]:
        """Await a batch in the event loop and return an outcome for each item, as `run` does."""
        attempt = await self._attempt_async(list(items), load or len(items))
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
            attempt = await self._attempt_async(inputs, 0 if load else len(inputs))

    def try_launch(self, inputs: list[T]) -> Callable[[], Any] | Raised:
        """Launch a batch; return what waits for it, or what that raised."""
        try:
            return self._launch(inputs)
        except DeviceLost:
            raise
        except BaseException as exc:  # noqa: BLE001, ASYNC103  as below
            return Raised(exc)  # noqa: ASYNC104

    def try_collect(
        self, collect: Callable[[], Any] | Raised, load: int, begun: float, launched: float
    ) -> Attempt:
        """Wait for a batch that was launched. The time before another one had ended is not its."""
        begun, launched = max(begun, self.ended), max(launched, self.ended)
        if isinstance(collect, Raised):
            return self._raised(collect.error, max(begun, launched))
        try:
            results = collect()
        except DeviceLost:
            raise
        except BaseException as exc:  # noqa: BLE001, ASYNC103  as below
            return self._raised(exc, begun)  # noqa: ASYNC104
        self.busy += launched - begun
        returned = self._returned(results, load, launched)
        self.latest = load, self.ended - launched
        return returned

    def _attempt(self, inputs: list[T], load: int) -> Attempt:
        if self._keeper is not None:
            self._keeper.ready()  # what that takes is not a batch's time
        started = self.now()
        if self.overlaps:
            collect = self.try_launch(inputs)
            return self.try_collect(collect, load, started, self.now())
        try:
            results = self._call(inputs)
        except DeviceLost:
            raise
        # Not only Exception: a model that calls sys.exit() on one input must not take
        # everybody else's answers along.
        except BaseException as exc:  # noqa: BLE001, ASYNC103
            return self._raised(exc, started)  # noqa: ASYNC104
        return self._returned(results, load, started)

    async def _attempt_async(self, inputs: list[T], load: int) -> Attempt:
        started = self.now()
        try:
            results = await self._await(self._call, inputs)
        except DeviceLost:
            raise
        # As above, but a cancellation passes.
        except (Exception, SystemExit, KeyboardInterrupt) as exc:  # noqa: BLE001
            return self._raised(exc, started)
        return self._returned(results, load, started)

    def _returned(self, results: Any, load: int, started: float) -> Returned:
        self.ended = ended = self.now()
        self.busy += ended - started
        if load:
            self._measured.append((load, ended - started, ended))
        return Returned(results)

    def _raised(self, error: BaseException, started: float) -> Raised:
        self.ended = self.now()
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
        self.starting = False
        self.batch = self.plan = None
        self.stage([], 0)
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
        return (
            self.started
            + self.latency.expected[self.batch_load]
            + self.latency.expected[self.staged_load]
        )

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
        seconds = self.latency.expected[self.batch_load] or 2.0 * (now - self.started)
        return max(now, self.started + seconds)
