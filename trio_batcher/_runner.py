"""A model as a device has it: how it is loaded, run and closed, and what its runs took."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._bisection import Attempt, Raised, Returned, checked
from ._errors import DeviceLost
from ._nesting import Place, at_work, at_work_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._hosts import Host
    from ._model import ModelSource

__all__ = ["Runner", "took_too_long"]

T = TypeVar("T")


def _not_loaded(_: object) -> Any:
    msg = "a device runs nothing before its model is loaded"
    raise RuntimeError(msg)


def took_too_long(batch_timeout: float) -> TimeoutError:
    """Return what a run is taken to have raised that took longer than that."""
    return TimeoutError(f"no result within batch_timeout={batch_timeout!r} s")


class Runner(Generic[T]):
    """Runs one batch at a time, in a worker thread or in the event loop.

    Attributes:
        is_async: its model runs in the event loop.
        overlaps: its model can be launched, to prepare a batch while another one runs.
        batch_timeout: seconds that a run may take.
        since: since when its model has been at a run, in the worker; infinity if it is not.
        abandoned: a run has taken too long. Its thread is nobody's any more, and takes nothing.
        ended: when its last run ended.
        busy: seconds its model has spent running.
        latest: the load of the last batch that was launched and collected, and what it took.
        now: the time.
        place: what its model holds while it is at work.
    """

    def __init__(self, source: ModelSource, host: Host, batch_timeout: float) -> None:
        self.is_async = source.is_async
        self.overlaps = False
        self.batch_timeout = batch_timeout
        self.since = math.inf
        self.abandoned = False
        self.ended = -math.inf
        self.busy = 0.0
        self.latest = 0, 0.0
        self.now = host.now
        self.place = Place(1, None)
        self._host = host
        self._source = source
        self._keeper = source.keeper
        if self._keeper is not None:
            self._keeper.batch_timeout = batch_timeout
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
        return self._close is not None and not self.abandoned

    @property
    def can_be_interrupted(self) -> bool:
        """Whether `interrupt` and `give_up` have any effect."""
        return self._keeper is not None

    @property
    def is_watched(self) -> bool:
        """Whether somebody has to see to it that no run takes longer than `batch_timeout`."""
        return self.batch_timeout < math.inf and not self.is_async and self._keeper is None

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

    def give_up(self) -> None:
        """Have it end sooner still: nobody wants what comes of it."""
        if self._keeper is not None:
            self._keeper.give_up()

    def load(self) -> None:
        """Construct the model. Called in the worker."""
        if self._source.factory is not None:
            self._adopt(at_work(self, self._source.factory))

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
            at_work(self, close)

    def run(self, inputs: list[T], load: int) -> Attempt:
        """Run a batch in this thread, and return what came of it.

        Args:
            inputs: a list of the model's own: it may change that.
            load: what the latency model has such a batch under.

        Raises:
            DeviceLost: the model can run nothing any more.
        """
        if self._keeper is not None:
            self._keeper.ready()  # what that takes is not a batch's time
        if self.overlaps:
            started = self.now()
            collect = self.try_launch(inputs)
            return self.try_collect(collect, len(inputs), load, started, self.now())
        size = len(inputs)
        self.since = started = self.now()
        try:
            results = checked(at_work(self, self._call, inputs), size)
        except DeviceLost:
            raise
        # Not only Exception: a model that calls sys.exit() on one input must not take
        # everybody else's answers along.
        except BaseException as exc:  # noqa: BLE001, ASYNC103
            return self._raised(exc, started)  # noqa: ASYNC104
        finally:
            self.since = math.inf
        return self._returned(results, load, started)

    async def run_async(self, inputs: list[T], load: int) -> Attempt:
        """Run a batch in the event loop, and return what came of it, as `run` does.

        Cancellation: the model is cancelled.
        """
        started = self.now()
        try:
            outcomes = await self._answer(inputs)
        except DeviceLost:
            raise
        except BaseException as exc:  # noqa: ASYNC103  a cancellation comes again, below
            if self._host.is_no_models(exc):
                raise
            raised = self._raised(exc, started)
            try:
                # If we were cancelled ourselves, that comes again here.
                await self._host.checkpoint()  # noqa: ASYNC102
                return raised  # noqa: ASYNC104
            finally:
                # Its traceback has this frame.
                del raised
        return self._returned(outcomes, load, started)

    async def _answer(self, inputs: list[T]) -> list[Any]:
        if self.batch_timeout == math.inf:
            return await at_work_async(self, self._host.call, self._checked, inputs)
        with self._host.move_on_after(self.batch_timeout):
            return await at_work_async(self, self._host.call, self._checked, inputs)
        raise took_too_long(self.batch_timeout)

    async def _checked(self, inputs: list[T]) -> list[Any]:
        # Reading the results is a part of the run: it can be the model's code, and raise anything.
        size = len(inputs)
        return checked(await self._call(inputs), size)

    def try_launch(self, inputs: list[T]) -> Callable[[], Any] | Raised:
        """Launch a batch; return what waits for it, or what that raised."""
        self.since = self.now()
        try:
            return at_work(self, self._launch, inputs)
        except DeviceLost:
            raise
        except BaseException as exc:  # noqa: BLE001, ASYNC103  as above
            return Raised(exc)  # noqa: ASYNC104
        finally:
            self.since = math.inf

    def try_collect(
        self,
        collect: Callable[[], Any] | Raised,
        size: int,
        load: int,
        begun: float,
        launched: float,
    ) -> Attempt:
        """Wait for a batch that was launched. The time before another one had ended is not its."""
        begun, launched = max(begun, self.ended), max(launched, self.ended)
        if isinstance(collect, Raised):
            self._note_end(max(begun, launched))
            return collect
        self.since = launched
        try:
            results = checked(at_work(self, collect), size)
        except DeviceLost:
            raise
        except BaseException as exc:  # noqa: BLE001, ASYNC103  as above
            return self._raised(exc, begun)  # noqa: ASYNC104
        finally:
            self.since = math.inf
        self.busy += launched - begun
        returned = self._returned(results, load, launched)
        self.latest = load, self.ended - launched
        return returned

    def _returned(self, outcomes: list[Any], load: int, started: float) -> Returned:
        self._note_end(started)
        self._measured.append((load, self.ended - started, self.ended))
        return Returned(outcomes)

    def _raised(self, error: BaseException, started: float) -> Raised:
        self._note_end(started)
        return Raised(error)

    def _note_end(self, started: float) -> None:
        self.ended = self.now()
        self.busy += self.ended - started

    def forget(self) -> None:
        """Drop what was measured and not learned yet."""
        self._measured.clear()
