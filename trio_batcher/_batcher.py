"""The public face: `open_batcher` and the `Batcher` it gives."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ._arguments import check_limits, checked_weight
from ._device import Device
from ._engine import Engine
from ._errors import BatcherCrashed
from ._hosts import current_host, ki_protected
from ._interpreter import prompt_switching
from ._lifecycle import loaded, warm_up
from ._model import as_sources
from ._outcomes import Group, TimedRequest
from ._policy import Limits
from ._queue import Request
from ._timings import current_timings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ._errors import BatcherError
    from ._hosts import CapacityLimiter, Event, Host
    from ._model import (
        AsyncFunction,
        BlockingFunction,
        Infers,
        ModelFactory,
        ModelSource,
    )
    from ._statistics import BatcherStatistics

__all__ = ["Batcher", "open_batcher"]

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Answers single requests with a model that wants batches; made by `open_batcher`.

    Any number of tasks may call it at the same time.
    """

    _host: Host
    _engine: Engine[T]
    # What each request needs, looked up once.
    _now: Callable[[], float]
    _deadline: Callable[[], float]
    _submit: Callable[[Request[T]], BatcherError | None]
    _park: Callable[[Request[T], Callable[[Request[T]], None]], Awaitable[Any]]
    _abandon: Callable[[Request[T]], None]

    __slots__ = ("_abandon", "_deadline", "_engine", "_host", "_now", "_park", "_submit")

    def __init__(self) -> None:
        raise TypeError(
            "Batcher has no public constructor; use: async with open_batcher(model) as batcher"
        )

    @classmethod
    def _of(cls, host: Host, engine: Engine[T]) -> Batcher[T, R]:
        batcher: Batcher[T, R] = cls.__new__(cls)
        batcher._host = host
        batcher._engine = engine
        batcher._now = host.now
        batcher._deadline = host.effective_deadline
        batcher._submit = engine.submit
        batcher._park = host.park
        batcher._abandon = engine.outcomes.abandon
        return batcher

    @ki_protected
    async def infer(self, item: T, *, weight: float = 1.0) -> R:
        """Return the model's result for one item, computed in a batch with others'.

        The request's deadline is the caller's own: that of the nearest cancel scope
        around the call, as `trio.current_effective_deadline` has it at this moment, or
        under asyncio `anyio.current_effective_deadline`.

        Cancellation: always a checkpoint. A caller that is cancelled while its request
        waits takes the request along: the model never sees the item. One that is
        cancelled while its batch runs leaves at once; the batch runs on without it. A
        result that has been delivered is not lost to a cancellation that comes later; to
        an `asyncio.Task.cancel` that comes before the task has run again, it is.

        Args:
            item: one input, as the model has it in its list.
            weight: what an answer in time is worth, beside others' answers; any unit will
                do. When not everybody can be served, a request of twice the weight counts
                for two. Kept to within a sixteenth.

        Returns:
            That input's result.

        Raises:
            TypeError, ValueError: the weight is not a number from 1e-9 to 1e9.
            Overloaded: ``max_queue_size`` requests are waiting.
            DeadlineUnreachable: the deadline cannot be met; raised before it passes.
            ModelError: the model raises on this item, or on everything.
            ResultCountError: the model returned too many or too few results.
            BatcherClosed: the batcher's block has been left.
            BatcherCrashed: the batcher itself failed.
            Exception: what the model returned in this result's place, if that is an exception.
        """
        if weight != 1.0:
            weight = checked_weight(weight)
        deadline, now = self._deadline(), self._now()
        if deadline <= now:
            await self._host.checkpoint()
        timings = current_timings.get()
        if timings is None:
            request = Request(item, deadline, now, weight)
        else:
            request = TimedRequest(item, deadline, now, weight)
            self._engine.outcomes.timed = True
        refusal = self._submit(request)
        if refusal is not None:
            await self._host.checkpoint()
            raise refusal
        result: R = await self._park(request, self._abandon)
        if timings is not None and isinstance(request, TimedRequest):
            timings.add(request.started - now, self._now() - request.started)
        return result

    @ki_protected
    async def infer_many(self, items: Iterable[T], *, weight: float = 1.0) -> list[R]:
        """Return the results for several items, in their order, after a single wait.

        They are separate requests that may share a batch, among themselves and with
        other callers', or be split over several. All are queued or none. When one
        fails, its error is raised and the others are given up, as if cancelled.

        Cancellation: as for `infer`, for all of them.

        Args:
            items: any number of inputs.
            weight: of each of them, as for `infer`.

        Returns:
            As many results as items.

        Raises:
            ValueError: there are more items than ``max_queue_size``, so that they could
                never be queued together.
            Exception: as for `infer`.
        """
        host, engine = self._host, self._engine
        weight = checked_weight(weight)
        listed = list(items)
        if len(listed) > engine.max_queue_size:
            msg = (
                f"infer_many was given {len(listed)} items, more than max_queue_size "
                f"({engine.max_queue_size}) lets wait at a time; split them, or raise it"
            )
            raise ValueError(msg)
        deadline, now = host.effective_deadline(), host.now()
        if deadline <= now or not listed:
            await host.checkpoint()
        if not listed:
            return []
        group, timings = Group(listed, deadline, now, weight), current_timings.get()
        if timings is not None:
            engine.outcomes.timed = True
        refusal = engine.submit_group(group)
        if refusal is not None:
            await host.checkpoint()
            raise refusal
        results: list[R] = await host.park(group, engine.outcomes.abandon_group)
        if timings is not None:
            timings.add(group.started - now, host.now() - group.started)
        return results

    def statistics(self) -> BatcherStatistics:
        """Return a frozen snapshot of what waits, runs and has been done so far."""
        return self._engine.statistics()

    @property
    def failed(self) -> Event:
        """An event that is set if the batcher itself fails, never by a model's failure.

        From then on every request raises `BatcherCrashed`, and so does leaving the
        block normally. A server joins it to what makes it stop: ``await batcher.failed.wait()``.
        """
        return self._engine.failed


# One overload for each kind of model, so that `infer` has the model's own types.


@overload
def open_batcher(
    model: Infers[T, R] | Sequence[Infers[T, R]],
    *,
    max_batch_size: int = ...,
    max_delay: float = ...,
    max_queue_size: float = ...,
    limiter: CapacityLimiter | None = ...,
    warmup: Iterable[T] = ...,
) -> AbstractAsyncContextManager[Batcher[T, R]]: ...
@overload
def open_batcher(
    model: ModelFactory[T, R] | Sequence[ModelFactory[T, R]],
    *,
    max_batch_size: int = ...,
    max_delay: float = ...,
    max_queue_size: float = ...,
    limiter: CapacityLimiter | None = ...,
    warmup: Iterable[T] = ...,
) -> AbstractAsyncContextManager[Batcher[T, R]]: ...
@overload
def open_batcher(
    model: AsyncFunction[T, R] | Sequence[AsyncFunction[T, R]],
    *,
    max_batch_size: int = ...,
    max_delay: float = ...,
    max_queue_size: float = ...,
    limiter: CapacityLimiter | None = ...,
    warmup: Iterable[T] = ...,
) -> AbstractAsyncContextManager[Batcher[T, R]]: ...
@overload
def open_batcher(
    model: BlockingFunction[T, R] | Sequence[BlockingFunction[T, R]],
    *,
    max_batch_size: int = ...,
    max_delay: float = ...,
    max_queue_size: float = ...,
    limiter: CapacityLimiter | None = ...,
    warmup: Iterable[T] = ...,
) -> AbstractAsyncContextManager[Batcher[T, R]]: ...
def open_batcher(
    model: Any,
    *,
    max_batch_size: int = 32,
    max_delay: float = 0.0,
    max_queue_size: float = 1024,
    limiter: CapacityLimiter | None = None,
    warmup: Iterable[Any] = (),
) -> AbstractAsyncContextManager[Batcher[Any, Any]]:
    """Put a model behind a `Batcher` for the length of an ``async with`` block.

    A device that becomes free takes the waiting requests at once, as many as there are, up to
    ``max_batch_size``; when not all can be in time, those that gain the most by it. While it
    runs them the next ones gather. So batches grow with the load, and a lone request does not wait.

    Leaving the block normally runs everything that was accepted first. Leaving it by an
    exception or a cancellation turns away what waits (`BatcherClosed`), cancels an async
    model's running batch, waits for a thread's, and lets that exception through as it is.
    No task or thread of the batcher's is left afterwards.

    Cancellation: opening is a checkpoint, and so is leaving. Cancelled while a model is
    being constructed, it waits for the constructor, which is in a thread, and closes the model.

    Args:
        model: what turns a list of inputs into a sequence of as many results. A blocking
            function, run in a worker thread (not always the same one, but one batch at
            a time); an async function, run in the event loop; an `InferenceModel`, or a
            subclass of it (or a `functools.partial` of one), which is then constructed
            in a worker thread; or a sequence of these:
            replicas, each a device that takes its own batch from the one queue when it is free.
        max_batch_size: most inputs in one batch.
        max_delay: longest time, in seconds, that a device is left idle to wait for
            companions, counted from the arrival of the oldest waiting request.
        max_queue_size: most requests waiting, not counting those in a running batch;
            `math.inf` for no limit.
        limiter: the capacity of the device, a `trio.CapacityLimiter`, or under asyncio an
            `anyio.CapacityLimiter`. Each batch runs under one of its tokens. Batchers that
            share a GPU share a limiter and take turns: between two batches a token is given
            up if anybody else waits for it, and limiters serve first come, first served. So
            nobody waits for more than one batch of each of the others, whatever their load.
            By earliest deadline, one with tight deadlines would starve the others. Each
            replica has turns of its own. By default each batcher has a limiter of its own
            with a token for each replica.
        warmup: inputs that are run, repeated as needed, in batches of 1, 2, 3, 5, 9, … up to
            the maximum before the block starts, each size twice.

    Returns:
        An async context manager; entering it gives the `Batcher`.

    Raises:
        TypeError: an argument has the wrong type; the message names it.
        ValueError: an argument has an impossible value; the message names both.
        RuntimeError: on entering, if the event loop that runs is not a supported one.
        Exception: on entering, what a model's constructor raises, unwrapped.
        ModelError, ResultCountError: on entering, if the model fails on the warm-up.
        BatcherCrashed: on leaving normally, if the batcher itself failed.
    """
    sources = as_sources(model)
    check_limits(max_batch_size, max_delay, max_queue_size, limiter)
    limits = Limits(max_batch_size, max_delay, len(sources))
    return _open(sources, limits, max_queue_size, limiter, list(warmup))


@asynccontextmanager
async def _open(
    sources: Sequence[ModelSource],
    limits: Limits,
    max_queue_size: float,
    limiter: CapacityLimiter | None,
    warmup: Sequence[T],
) -> AsyncGenerator[Batcher[T, Any]]:
    host = current_host()
    devices: list[Device[T]] = [Device(source, limits.max_batch_size, host) for source in sources]
    uses_threads = not all(device.is_async for device in devices)
    with (
        prompt_switching() if uses_threads else nullcontext(),
        host.threads(len(devices)) if uses_threads else nullcontext(),
    ):
        capacity = host.limiter(len(devices)) if limiter is None else limiter
        async with loaded(host, devices, capacity):
            await warm_up(host, devices, capacity, warmup, limits.max_batch_size)
            # Cancelled while a constructor was running: the block is not entered.
            await host.checkpoint()
            engine = Engine(
                host, devices, limits=limits, max_queue_size=max_queue_size, limiter=limiter
            )
            async with _serving(host, engine):
                yield Batcher._of(host, engine)  # noqa: SLF001  its constructor, for here only
            if engine.failure is not None:
                msg = f"the batcher itself failed: {engine.failure!r}"
                raise BatcherCrashed(msg) from engine.failure


@asynccontextmanager
async def _serving(host: Host, engine: Engine[Any]) -> AsyncGenerator[None]:
    failure: BaseException | None = None
    async with host.open_nursery() as nursery:
        nursery.start_soon(engine.serve)  # noqa: ASYNC113  it says when, below
        # The nursery never gets to see an exception: it would wrap it in a group.
        try:
            # A task that asyncio cancels before its first step never begins, nor ends.
            await engine.begun.wait()
            yield
            engine.close()
            await engine.ended.wait()
        except BaseException as exc:  # noqa: BLE001, ASYNC103  raised again below
            failure = exc
            engine.abort()
            if engine.begun.is_set():
                with host.shield():
                    # Without a limit, as a thread cannot be stopped.
                    await engine.ended.wait()  # noqa: ASYNC102
    if failure is not None:
        raise failure
