"""`open_batcher`: from a model and what the user asked for to a `Batcher` and back."""

from __future__ import annotations

import math
import operator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from ._arguments import (
    check_limits,
    check_shapes,
    check_timeout,
    checked_items,
    with_hints,
)
from ._batcher import Batcher
from ._device import Device
from ._engine import Engine
from ._entry import Entry
from ._errors import BatcherCrashed
from ._hosts import current_host
from ._interpreter import prompt_switching
from ._lifecycle import loaded, warm_up
from ._model import as_sources
from ._nesting import Place
from ._policy import Limits
from ._process import in_processes
from ._session import serving
from ._shapes import Shapes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import TypeVar

    from ._hosts import CapacityLimiter, Host
    from ._model import (
        AsyncFunction,
        BlockingFunction,
        Infers,
        Model,
        Replica,
    )

    # Without an annotation, a lambda takes and returns anything.
    T = TypeVar("T", bound=Any, default=Any)
    R = TypeVar("R", default=Any)
    Opened: TypeAlias = AbstractAsyncContextManager[Batcher[T, R]]

__all__ = ["open_batcher"]

# One overload for each kind of model, so that `infer` has the model's own types. The order
# matters: a class has to be known for one before it meets a protocol for instances.


@overload
def open_batcher(
    model: Model[T, R] | Sequence[Model[T, R]],
    *,
    max_batch_size: int = ...,
    max_delay: float = ...,
    max_queue_size: float = ...,
    key: Callable[[T], Hashable] | None = ...,
    cost: Callable[[T], float] | None = ...,
    max_batch_cost: float | None = ...,
    limiter: CapacityLimiter | None = ...,
    warmup: Iterable[T] = ...,
    run_in: Literal["thread", "process"] = ...,
    batch_timeout: float = ...,
) -> Opened[T, R]: ...
@overload
def open_batcher(
    model: Sequence[Replica[T, R]],
    *,
    max_batch_size: int = ...,
    max_delay: float = ...,
    max_queue_size: float = ...,
    key: Callable[[T], Hashable] | None = ...,
    cost: Callable[[T], float] | None = ...,
    max_batch_cost: float | None = ...,
    limiter: CapacityLimiter | None = ...,
    warmup: Iterable[T] = ...,
    run_in: Literal["thread", "process"] = ...,
    batch_timeout: float = ...,
) -> Opened[T, R]: ...
@overload
def open_batcher(
    model: Infers[T, R],
    *,
    max_batch_size: int = ...,
    max_delay: float = ...,
    max_queue_size: float = ...,
    key: Callable[[T], Hashable] | None = ...,
    cost: Callable[[T], float] | None = ...,
    max_batch_cost: float | None = ...,
    limiter: CapacityLimiter | None = ...,
    warmup: Iterable[T] = ...,
    run_in: Literal["thread", "process"] = ...,
    batch_timeout: float = ...,
) -> Opened[T, R]: ...
@overload
def open_batcher(
    model: AsyncFunction[T, R],
    *,
    max_batch_size: int = ...,
    max_delay: float = ...,
    max_queue_size: float = ...,
    key: Callable[[T], Hashable] | None = ...,
    cost: Callable[[T], float] | None = ...,
    max_batch_cost: float | None = ...,
    limiter: CapacityLimiter | None = ...,
    warmup: Iterable[T] = ...,
    run_in: Literal["thread", "process"] = ...,
    batch_timeout: float = ...,
) -> Opened[T, R]: ...
@overload
def open_batcher(
    model: BlockingFunction[T, R],
    *,
    max_batch_size: int = ...,
    max_delay: float = ...,
    max_queue_size: float = ...,
    key: Callable[[T], Hashable] | None = ...,
    cost: Callable[[T], float] | None = ...,
    max_batch_cost: float | None = ...,
    limiter: CapacityLimiter | None = ...,
    warmup: Iterable[T] = ...,
    run_in: Literal["thread", "process"] = ...,
    batch_timeout: float = ...,
) -> Opened[T, R]: ...
@with_hints
def open_batcher(
    model: Any,
    *,
    max_batch_size: int = 32,
    max_delay: float = 0.0,
    max_queue_size: float = 1024,
    key: Callable[[Any], Hashable] | None = None,
    cost: Callable[[Any], float] | None = None,
    max_batch_cost: float | None = None,
    limiter: CapacityLimiter | None = None,
    warmup: Iterable[Any] = (),
    run_in: Literal["thread", "process"] = "thread",
    batch_timeout: float = math.inf,
) -> Opened[Any, Any]:
    """Put a model behind a `Batcher` for the length of an ``async with`` block.

    A device that becomes free takes the waiting requests at once, as many as there are, up to
    ``max_batch_size``; when not all can be in time, those that gain the most by it. While it
    runs them the next ones gather. So batches grow with the load, and a lone request does not wait.

    Leaving the block normally runs everything that was accepted first. Leaving it by an
    exception or a cancellation turns away what waits (`BatcherClosed`), cancels an async
    model's running batch, waits for a thread's, and lets that exception through as it is.
    Batches whose callers have all left are treated likewise in either case.
    No task or thread of the batcher's is left afterwards, but for one that ``batch_timeout`` has
    given up.

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
        key: gives an item's key; only items with equal keys share a batch. Say, the size of an
            image for a model that does not pad. Called in the event loop, for each item once.
        cost: gives what an item costs: how many tokens it is, or pixels. A batch is padded to
            its dearest item, so it costs that much for each; which items share one is chosen
            by what padding costs and what a further batch does. Called likewise.
        max_batch_cost: most that a batch may cost, in the same unit; needed with ``cost``.
        limiter: the capacity of the device, a `trio.CapacityLimiter`, or under asyncio an
            `anyio.CapacityLimiter`, which will do under trio too. Each batch runs under one of
            its tokens, in the warm-up as well. Batchers that share a GPU share a limiter and
            take turns: between two batches a token is given up if anybody else waits for it, and
            limiters serve first come, first served. So nobody waits for more than one batch of
            each of the others, whatever their load. By earliest deadline, one with tight
            deadlines would starve the others. Each replica has turns of its own. By default
            each batcher has a limiter of its own with a token for each replica.
        warmup: inputs that are run, repeated as needed, in batches of 1, 2, 3, 5, 9, … up to
            the maximum before the block starts, each size twice; those of each key by
            themselves. What it has shown of the model's speed is in the log.
        run_in: ``"process"``: each model is made and run in a process of its own, which is
            spawned on entering and ends with the block, and with this process however that
            ends. Needs a class, or a `functools.partial` of one, that can be pickled, as well
            as the items and results; of those, arrays and tensors cross in shared memory.
            When a process dies it is replaced, and its batch run again, first as a whole,
            then bisected.
        batch_timeout: longest that a run of the model may take, in seconds; `math.inf` for no
            limit. An async model is cancelled then, a process killed and replaced; both as if the
            model had raised a `TimeoutError`: parts of the batch are run, so that an input that
            hangs fails alone. A thread cannot be stopped: it is left behind, the callers of its
            batch have a `ModelError`, and that replica is used no more; the last one's loss is
            a `BatcherCrashed`.

    Returns:
        An async context manager, to be entered once; that gives the `Batcher`.

    Raises:
        TypeError: an argument has the wrong type; the message names it. On entering, if the
            limiter is another event loop's.
        ValueError: an argument has an impossible value; the message names both.
        RuntimeError: on entering, if the event loop that runs is not a supported one, or if it
            was entered before; on leaving, if another loop runs, or on trio another task.
        ThreadNotStarted: on entering, if the system has no thread to make a model in.
        ChildDied: on entering, if a model's process died before the model was made; on leaving,
            if it had to be killed.
        Exception: on entering, what a model's constructor raises, unwrapped.
        ModelError, ResultCountError: on entering, if the model fails on the warm-up.
        BatcherCrashed: on leaving normally, if the batcher itself failed.
    """
    sources = as_sources(model)
    check_limits(max_batch_size, max_delay, max_queue_size, limiter)
    max_batch_size = operator.index(max_batch_size)
    check_timeout(batch_timeout)
    check_shapes(key, cost, max_batch_cost)
    if run_in == "process":
        in_processes(sources)
    elif run_in != "thread":
        raise ValueError(f"run_in must be 'thread' or 'process', not {run_in!r}")
    shapes = None
    if key is not None or cost is not None:
        shapes = Shapes(key, cost, max_batch_cost or math.inf, max_batch_size)
    limits = Limits(max_batch_size, max_delay, len(sources), shapes)
    items = checked_items("warmup", warmup)

    def opened() -> AbstractAsyncContextManager[Batcher[Any, Any]]:
        host = current_host()
        devices: list[Device[Any]] = [
            Device(source, limits.most, host, batch_timeout, number)
            for number, source in enumerate(sources)
        ]
        block = _open(
            host, devices, limits, max_queue_size=max_queue_size, limiter=limiter, warmup=items
        )
        return host.own_task(block)

    return Entry(opened)


@asynccontextmanager
async def _open(
    host: Host,
    devices: Sequence[Device[T]],
    limits: Limits,
    *,
    max_queue_size: float,
    limiter: CapacityLimiter | None,
    warmup: Sequence[T],
) -> AsyncGenerator[Batcher[T, Any]]:
    place = Place(len(devices), limiter)
    for device in devices:
        device.place = place
    uses_threads = not all(device.is_async for device in devices)
    if limiter is not None:
        host.check_limiter(limiter)
    with (
        prompt_switching() if uses_threads else nullcontext(),
        host.threads() if uses_threads else nullcontext(),
    ):
        capacity = host.limiter(len(devices)) if limiter is None else limiter
        async with loaded(host, devices, capacity):
            await warm_up(host, devices, capacity, warmup, limits)
            # Cancelled while a constructor was running: the block is not entered.
            await host.checkpoint()
            engine = Engine(
                host, devices, limits=limits, max_queue_size=max_queue_size, limiter=limiter
            )
            try:
                async with serving(host, engine):
                    yield Batcher._of(host, engine, limits.shapes, place)  # noqa: SLF001  its constructor, for here only
            finally:
                engine.outcomes.log_rejections()
            if engine.failure is not None:
                msg = f"the batcher itself failed: {engine.failure!r}"
                raise BatcherCrashed(msg) from engine.failure
