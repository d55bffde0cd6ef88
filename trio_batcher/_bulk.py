"""`Batcher.map`: a job for the length of a block, which owns the task that works on it.

An async generator could not: it must not leave a nursery open across its ``yield``.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ._arguments import check_several, checked_weight
from ._job import Job
from ._nesting import waiting_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from ._engine import Engine
    from ._hosts import Host
    from ._job import Source
    from ._nesting import Place
    from ._shapes import Shapes

__all__ = ["mapping"]

T = TypeVar("T")

# By default so many full batches of each device are under way: one runs, one waits for it, and
# the results of two more may wait for a consumer that is busy.
_BATCHES = 4


def mapping(
    host: Host,
    engine: Engine[T],
    shapes: Shapes | None,
    place: Place,
    items: Iterable[T] | AsyncIterable[T],
    *,
    order: str,
    errors: str,
    max_in_flight: int | None,
    weight: float,
) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
    """Return the block of a `Batcher.map`, or raise what is wrong with its arguments."""
    if order not in ("input", "completion"):
        raise ValueError(f"order must be 'input' or 'completion', not {order!r}")
    if errors not in ("raise", "return"):
        raise ValueError(f"errors must be 'raise' or 'return', not {errors!r}")
    job = Job(
        host,
        _source(items),
        shapes=shapes,
        place=place,
        outcomes=engine.outcomes,
        submit_all=engine.submit_all,
        room=engine.room,
        in_order=order == "input",
        returns_errors=errors == "return",
        bound=_bound(max_in_flight, engine.most_at_once),
        weight=checked_weight(weight),
    )
    return _working(host, job, place)


def _source(items: Iterable[T] | AsyncIterable[T]) -> Source[T]:
    if isinstance(items, AsyncIterable):
        return items
    check_several("items", items, "an iterable or an async iterable of items")
    return iter(items)


def _bound(max_in_flight: int | None, most_at_once: int) -> int:
    if max_in_flight is None:
        return _BATCHES * most_at_once
    if isinstance(max_in_flight, bool) or not isinstance(max_in_flight, int):
        raise TypeError(f"max_in_flight must be an int, not {max_in_flight!r}")
    if max_in_flight < 1:
        raise ValueError(f"max_in_flight must be >= 1, not {max_in_flight}")
    return max_in_flight


@asynccontextmanager
async def _working(host: Host, job: Job[T], place: Place) -> AsyncGenerator[AsyncIterator[Any]]:
    """Work on a job inside the block; what is not done at its end is given up."""
    host.effective_deadline()  # which raises where the block must not be
    try:
        with waiting_for(place):
            pass
    except RuntimeError:
        await host.checkpoint()  # noqa: ASYNC120
        raise
    failure: BaseException | None = None
    fault: BaseException | None = None
    try:
        async with host.open_nursery() as nursery:
            nursery.start_soon(job.feed)
            # The nursery never gets to see an exception: it would wrap it in a group.
            try:
                await host.checkpoint()
                await host.checkpoint()
                job.check_begun()
                yield job
            except BaseException as exc:  # noqa: BLE001, ASYNC103  raised again below
                failure = exc
            job.leave()
            nursery.cancel_scope.cancel()
    except BaseException as exc:  # noqa: BLE001, ASYNC103  raised again below
        # The feeder's: of an input that fails on being closed, or what nobody may hold back.
        fault = exc
        if isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
            fault = exc.exceptions[0]
    try:
        if fault is not None and not (
            isinstance(failure, Exception) and isinstance(fault, Exception)
        ):
            raise fault
        if failure is not None:
            if fault is not None:
                failure.add_note(f"Batcher.map: closing its input failed too: {fault!r}")
            raise failure
    finally:
        del failure, fault  # as in `Job._end`
    await host.checkpoint()
