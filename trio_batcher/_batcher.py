"""What callers hold: the `Batcher` that `open_batcher` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, Never, TypeVar, overload

from ._arguments import checked_items, checked_weight, refuse_unknown
from ._bulk import mapping
from ._errors import ItemError
from ._hosts import LocalEvent, ki_protected
from ._nesting import model_at_work
from ._outcomes import Group, ShapedRequest, TimedRequest
from ._queue import Request
from ._timings import current_timings

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
    )
    from contextlib import AbstractAsyncContextManager

    from ._engine import Engine
    from ._errors import BatcherError
    from ._hosts import Event, Host
    from ._nesting import Place, Work
    from ._shapes import Shape, Shapes
    from ._statistics import BatcherStatistics

__all__ = ["Batcher"]

# Who may ask with any text, and wants any sequence, takes a batcher of objects that gives lists.
T = TypeVar("T", contravariant=True)  # noqa: PLC0105  named as in every other room
R = TypeVar("R", covariant=True)  # noqa: PLC0105
V = TypeVar("V")


class Batcher(Generic[T, R]):
    """Answers single requests with a model that wants batches; made by `open_batcher`.

    Any number of tasks may call it at the same time.
    """

    _host: Host
    _engine: Engine[T]
    _shapes: Shapes | None
    _place: Place
    # What each request needs, looked up once.
    _now: Callable[[], float]
    _deadline: Callable[[], float]
    _submit: Callable[[Request[T]], BatcherError | None]
    _park: Callable[[Request[T], Callable[[Request[T]], None]], Awaitable[Any]]
    _abandon: Callable[[Request[T]], None]

    __slots__ = (
        "_abandon",
        "_deadline",
        "_engine",
        "_host",
        "_now",
        "_park",
        "_place",
        "_shapes",
        "_submit",
    )

    def __init__(self) -> None:
        raise TypeError(
            "Batcher has no public constructor; use: async with open_batcher(model) as batcher"
        )

    @classmethod
    def _of(
        cls, host: Host, engine: Engine[T], shapes: Shapes | None, place: Place
    ) -> Batcher[T, R]:
        batcher: Batcher[T, R] = cls.__new__(cls)
        batcher._host = host
        batcher._engine = engine
        batcher._shapes = shapes
        batcher._place = place
        batcher._now = host.now
        batcher._deadline = host.effective_deadline
        batcher._submit = engine.submit
        batcher._park = host.park
        batcher._abandon = engine.outcomes.abandon
        return batcher

    @ki_protected
    async def infer(  # noqa: C901  each call that it makes costs every request
        self, item: T, *, weight: float = 1.0, **_unknown: Never
    ) -> R:
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
            TypeError, ValueError: the weight is not a number from 1e-9 to 1e9, or the item's cost
                none above 0, or its key cannot be hashed.
            ItemError: the item costs nothing, or more than ``max_batch_cost``, or is nothing the
                model takes.
            Overloaded: ``max_queue_size`` requests are waiting.
            DeadlineUnreachable: the deadline cannot be met; raised before it passes.
            ModelError: the model raises on this item, or on everything.
            ResultCountError: the model returned too many or too few results.
            BatcherClosed: the batcher's block has been left.
            BatcherCrashed: the batcher itself failed.
            RuntimeError: it is called from outside of the event loop that it was opened in;
                or by a model, its own say, that keeps it from ever being answered.
            Exception: what the model returned in this result's place, if that is an exception.
        """
        deadline, now = self._deadline(), self._now()
        if (work := model_at_work.get()) is not None:
            return await self._nested(work, self.infer(item, weight=weight, **_unknown))
        try:
            if _unknown:
                refuse_unknown("infer", _unknown)
            if weight != 1.0:
                weight = checked_weight(weight)
            shape = None if self._shapes is None else self._shapes.of(item)
        except Exception:
            # Whoever is cancelled does not hear of it; and others run, however often this comes.
            await self._host.checkpoint()  # noqa: ASYNC120
            raise
        if deadline <= now:
            await self._host.checkpoint()
        timings = current_timings.get()
        request: Request[T]
        if shape is not None:
            request = ShapedRequest(item, deadline, now, weight, shape)
        elif timings is None:
            request = Request(item, deadline, now, weight)
        else:
            request = TimedRequest(item, deadline, now, weight)
        if timings is not None:
            self._engine.outcomes.timed = True
        refusal = self._submit(request)
        if refusal is not None:
            try:
                await self._host.checkpoint()
                raise refusal
            finally:
                del refusal  # whose traceback has this frame, and that the item
        result: R = await self._park(request, self._abandon)
        if timings is not None and isinstance(request, TimedRequest):
            timings.add(request.started - now, self._now() - request.started)
        return result

    @ki_protected
    async def infer_many(
        self, items: Iterable[T], *, weight: float = 1.0, **_unknown: Never
    ) -> list[R]:
        """Return the results for several items, in their order, after a single wait.

        They are separate requests that may share a batch, among themselves and with
        other callers', or be split over several. All are queued or none. When one
        fails, its error is raised and the others are given up, as if cancelled.

        Cancellation: as for `infer`, for all of them.

        Args:
            items: any number of inputs. An error that is about one of them says which.
            weight: of each of them, as for `infer`.

        Returns:
            As many results as items.

        Raises:
            TypeError: ``items`` is a text, a mapping, a set or an async iterator.
            ValueError: there are more items than ``max_queue_size``, so that they could
                never be queued together.
            Exception: as for `infer`.
        """
        host, engine = self._host, self._engine
        deadline, now = host.effective_deadline(), host.now()
        try:
            refuse_unknown("infer_many", _unknown)
            weight = checked_weight(weight)
            listed = checked_items("items", items)
            _check_room(len(listed), engine.max_queue_size)
            shapes = [_shape(self._shapes, item, i) for i, item in enumerate(listed)]
        except Exception:
            await host.checkpoint()  # noqa: ASYNC120
            raise
        if listed and (work := model_at_work.get()) is not None:
            return await self._nested(work, self.infer_many(listed, weight=weight))
        if deadline <= now or not listed:
            await host.checkpoint()
        if not listed:
            return []
        group, timings = Group(listed, deadline, now, weight, shapes), current_timings.get()
        if timings is not None:
            engine.outcomes.timed = True
        refusal = engine.submit_all(group.requests)
        if refusal is not None:
            try:
                await host.checkpoint()
                raise refusal
            finally:
                del refusal
                group.dissolved()
        results: list[R] = await host.park(group, engine.outcomes.abandon_group)
        if timings is not None:
            timings.add(group.started - now, host.now() - group.started)
        return results

    @overload
    def map(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        order: Literal["input"] = ...,
        errors: Literal["raise"] = ...,
        max_in_flight: int | None = ...,
        weight: float = ...,
    ) -> AbstractAsyncContextManager[AsyncIterator[R]]: ...
    @overload
    def map(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        order: Literal["input"] = ...,
        errors: Literal["return"],
        max_in_flight: int | None = ...,
        weight: float = ...,
    ) -> AbstractAsyncContextManager[AsyncIterator[R | Exception]]: ...
    @overload
    def map(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        order: Literal["completion"],
        errors: Literal["raise"] = ...,
        max_in_flight: int | None = ...,
        weight: float = ...,
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[int, R]]]: ...
    @overload
    def map(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        order: Literal["completion"],
        errors: Literal["return"],
        max_in_flight: int | None = ...,
        weight: float = ...,
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[int, R | Exception]]]: ...
    def map(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        order: Literal["input", "completion"] = "input",
        errors: Literal["raise", "return"] = "raise",
        max_in_flight: int | None = None,
        weight: float = 1.0,
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Give any number of items to the model, and iterate over the results as they come in.

        ``async with batcher.map(items) as results: async for result in results: ...``. Each
        item is a request of its own, which shares batches with the others and with other
        callers'. Enough of them are under way to keep every device full, and never more than
        ``max_in_flight``: when the consumer is slow the input waits. So memory does not depend
        on how many items there are. When the queue is full the items wait for room,
        nothing is `Overloaded`.

        A sync iterable is advanced in the event loop: one that reads slowly holds everybody up.
        An async one is advanced by one task; an async generator is closed with the block.
        Results are iterated over by one task at a time.

        The deadline of each item is that of the scopes around the block, as of the moment at
        which it is queued. A scope around the loop inside the block only ends the loop.

        Cancellation: leaving the block gives up whatever has no result yet, as a cancellation
        of `infer` does: the model never sees what waits, and nothing is left behind. What the
        body raises leaves the block unwrapped. Entering and leaving are checkpoints. So is
        each step of the loop, but for one thing: while results are there and nobody is
        cancelled, others get to run every millisecond only. A step that is cancelled loses nothing.

        Args:
            items: any number of inputs. Those that are not queued yet are not looked at.
            order: ``"input"`` gives each result in its item's place. ``"completion"`` gives
                ``(index, result)`` as soon as it is there, with the item's place in the input,
                from 0: nothing else would tell which item it belongs to.
            errors: ``"raise"``: the first item that fails ends the loop with its error, after
                the results whose turn comes before it; a note has its index. The others are
                given up. ``"return"``: errors are given like results, each in its place: what
                `infer` would raise for that item. No result is ever an exception, so that
                ``isinstance(result, Exception)`` tells. `BatcherClosed` and `BatcherCrashed`
                are raised even so, as they would be the outcome of all that follow.
            max_in_flight: most items under way: taken from the input, and the result not yet
                given to the loop. By default four times as many as all devices run at a time.
                Half of that keeps them full if the loop never waits.
            weight: of each item, as for `infer`.

        Returns:
            An async context manager; entering it gives an async iterator of the results.

        Raises:
            TypeError, ValueError: an argument is wrong; the message names it.
            RuntimeError: in the loop, if another task waits for the next result, or the block
                has been left.
            Exception: in the loop, what `infer` raises for an item, but for `Overloaded`; and,
                after the results of all items before it, what the input raises, as it is.
        """
        return mapping(
            self._host,
            self._engine,
            self._shapes,
            self._place,
            items,
            order=order,
            errors=errors,
            max_in_flight=max_in_flight,
            weight=weight,
        )

    async def _nested(self, work: Work, call: Coroutine[Any, Any, V]) -> V:
        refusal = work.call(self._place)
        if refusal is not None:
            call.close()
            await self._host.checkpoint()
            raise refusal
        model_at_work.set(None)
        try:
            return await call
        finally:
            model_at_work.set(work)
            work.hang_up(self._place)

    def statistics(self) -> BatcherStatistics:
        """Return a frozen snapshot of what waits, runs and has been done so far."""
        return self._engine.statistics()

    @property
    def failed(self) -> Event:
        """An event that is set if the batcher itself fails, or has lost its last model.

        From then on every request raises `BatcherCrashed`, and so does leaving the
        block normally. A server joins it to what makes it stop: ``await batcher.failed.wait()``.
        """
        return LocalEvent(self._host, self._engine.failed)


def _check_room(count: int, max_queue_size: float) -> None:
    if count > max_queue_size:
        raise ValueError(
            f"infer_many was given {count} items, more than max_queue_size "
            f"({max_queue_size}) lets wait at a time; split them, or raise it"
        )


def _shape(shapes: Shapes | None, item: Any, index: int) -> Shape | None:
    """Return the shape of one of several items; what is wrong with it says which one it is."""
    if shapes is None:
        return None
    try:
        return shapes.of(item)
    except ItemError as error:
        part = f"items[{index}]: {error.part}"
        raise ItemError(part, error.expected, error.got) from error.__cause__
    except Exception as error:
        error.add_note(f"for items[{index}] of infer_many")
        raise
