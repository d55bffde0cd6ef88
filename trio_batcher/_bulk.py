"""A job of any number of items: what `Batcher.map` opens.

One task, the feeder, advances the input and queues requests, as long as fewer items than the
bound are under way: taken from the input and their results not yet given away. Outcomes
come in batch by batch, as those of a group's requests do, and wait here to be given. So a
batch wakes the consumer once and the feeder once, whatever its size.

The block owns the feeder's nursery: an async generator could not leave one open across its
``yield``. Everything here is in the event loop.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ._bisection import Failure
from ._errors import BatcherClosed, BatcherCrashed
from ._hosts import ki_protected
from ._outcomes import Member

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ._engine import Engine
    from ._errors import BatcherError
    from ._hosts import Host
    from ._shapes import Shapes

__all__ = ["Job", "checked_bound", "checked_source", "working"]

T = TypeVar("T")

Source: TypeAlias = Iterator[T] | AsyncIterable[T]

# By default so many full batches of each device are under way: one runs, one waits for it, and
# the results of two more may wait for a consumer that is busy.
_BATCHES = 4
# Seconds that others wait at most, while the input and the consumer could go on without a pause.
_TURN = 1e-3


def checked_source(items: Iterable[T] | AsyncIterable[T]) -> Source[T]:
    """Return what gives the items one by one, or raise what is wrong with them."""
    if isinstance(items, AsyncIterable):
        return items
    if isinstance(items, str | bytes | bytearray | Mapping):
        kind = type(items).__name__
        raise TypeError(f"items must be an iterable of inputs, not a single {kind}: pass [item]")
    try:
        return iter(items)
    except TypeError:
        raise TypeError(
            f"items must be an iterable or an async iterable of inputs, not {items!r}"
        ) from None


def checked_bound(max_in_flight: int | None, most_at_once: int) -> int:
    """Return how many items may be under way, or raise what is wrong with that."""
    if max_in_flight is None:
        return _BATCHES * most_at_once
    if isinstance(max_in_flight, bool) or not isinstance(max_in_flight, int):
        raise TypeError(f"max_in_flight must be an int, not {max_in_flight!r}")
    if max_in_flight < 1:
        raise ValueError(f"max_in_flight must be >= 1, not {max_in_flight}")
    return max_in_flight


@asynccontextmanager
async def working(host: Host, job: Job[T]) -> AsyncGenerator[AsyncIterator[Any]]:
    """Work on a job inside the block; what is not done at its end is given up."""
    failure: BaseException | None = None
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
    except BaseExceptionGroup as group:
        # The feeder's: what the input has raised on being closed, or no one may hold back.
        faults = group.exceptions
        raise faults[0] if len(faults) == 1 else group from failure
    if failure is not None:
        raise failure


class Job(Generic[T]):
    """Takes items in and gives results away; to the engine, a group of requests.

    Each outcome has its turn: its item's place in the input, or its own among outcomes.

    Attributes:
        caller, goes_on, started: as `Outcomes` wants them of a group. There is a caller as long
            as a request has the job as its group.
    """

    caller: Any = True
    goes_on = True
    started: float

    def __init__(
        self,
        host: Host,
        engine: Engine[T],
        shapes: Shapes | None,
        source: Source[T],
        *,
        in_order: bool,
        returns_errors: bool,
        bound: int,
        weight: float,
    ) -> None:
        self._host, self._engine, self._shapes = host, engine, shapes
        self._source: Source[T] | None = source
        self._in_order, self._returns_errors = in_order, returns_errors
        self._bound, self._weight = bound, weight
        # When so few are under way the feeder goes on: for a batch at a time, where it can.
        self._low = bound - max(1, min(engine.most_at_once, bound // _BATCHES))
        # How many items were taken in and outcomes given away, and how many more may be taken in.
        self._taken = self._given = 0
        self._places = bound
        # What is under way is in one of these, mostly moving from one to the next.
        self._in_hand: list[Member[T]] = []
        self._flying: set[Member[T]] = set()
        self._done: dict[int, tuple[int, Any]] = {}
        self._answered = 0
        # The turn of the error that ends the job.
        self._ends_at = math.inf
        # Nothing is taken in any more.
        self._stopped = False
        # What is raised when everything before it is given.
        self._ending: BaseException | None = None
        # What all that follow would get.
        self._refusal: BatcherError | None = None
        self._begun = self._fed = False
        self._feeder, self._consumer = host.doorbell(), host.doorbell()
        self._has_consumer = self._listening = False
        # When the feeder, and the consumer, let others run next.
        self._pause_at = self._yield_at = -math.inf

    @ki_protected
    def leave(self) -> None:
        """Give up what is not given away."""
        if not self._is_over():
            self._ending = RuntimeError("the block of Batcher.map has been left")
        self._end_at(-1)
        self._wake_consumer()

    # What the engine sees

    def take(self, request: Member[T], outcome: Any) -> bool:
        """Take a request's result, or a `Failure`; nobody is to be woken for it."""
        self._flying.discard(request)
        turn = index = request.index
        if not self._in_order:
            turn = self._answered
            self._answered += 1
        self._done[turn] = index, outcome
        if type(outcome) is Failure and self._is_last(outcome.error):
            self._end_at(turn)
        if self._listening and self._given in self._done:
            self._wake_consumer()
        return False

    def _is_last(self, error: BaseException) -> bool:
        return not self._returns_errors or isinstance(error, BatcherClosed | BatcherCrashed)

    def _end_at(self, turn: int) -> None:
        """Give up all whose turn would come later."""
        self._ends_at, self._stopped = turn, True
        late = self._flying
        if self._in_order:
            late = {each for each in late if each.index > turn}
            self._in_hand = [each for each in self._in_hand if each.index < turn]
        else:
            self._in_hand = []
        self._flying = self._flying - late
        self._done = {each: done for each, done in self._done.items() if each <= turn}
        self._engine.outcomes.abandon_members(late)
        self._feeder.ring()

    # The consumer

    def __aiter__(self) -> Job[T]:
        return self

    @ki_protected
    async def __anext__(self) -> Any:
        """Return the next outcome, or raise the last one.

        Cancellation: nothing is lost, the next call returns it.
        """
        host = self._host
        if self._has_consumer:
            await host.checkpoint()
            raise RuntimeError(
                "another task waits for the next result of this Batcher.map: only one may at a time"
            )
        if self._given in self._done and host.now() < self._yield_at:
            await host.checkpoint_if_cancelled()
        else:
            await self._wait_for_outcome()
        done = self._done.pop(self._given, None)
        if done is None:
            ending, self._ending = self._ending, None
            raise ending or StopAsyncIteration
        index, outcome = done
        self._given += 1
        if self._taken - self._given == self._low:
            self._feeder.ring()
        if type(outcome) is Failure:
            outcome = outcome.error
            if self._is_last(outcome):
                self._ending = None
                outcome.add_note(f"Batcher.map: this was item {index} of its input, from 0")
                raise outcome
        return outcome if self._in_order else (index, outcome)

    async def _wait_for_outcome(self) -> None:
        waited = False
        self._has_consumer = True
        try:
            while self._given not in self._done and not self._is_over():
                waited = self._listening = True
                await self._consumer.listen()
            if not waited:
                await self._host.checkpoint()
        finally:
            self._has_consumer = self._listening = False
        self._yield_at = self._host.now() + _TURN

    def _is_over(self) -> bool:
        return self._given > self._ends_at or (self._fed and not self._flying and not self._done)

    def _wake_consumer(self) -> None:
        self._listening = False
        self._consumer.ring()

    # The feeder

    def check_begun(self) -> None:
        """Raise if the feeder never began: asyncio can cancel a task before its first step."""
        if not self._begun:
            raise RuntimeError("a task of Batcher.map's was cancelled before it began")

    async def feed(self) -> None:
        """Queue a request for each item, as long as there are items and places."""
        source, self._source = self._source, None
        self._begun = True
        self._ending = RuntimeError(
            "what takes items in for Batcher.map was cancelled, by a scope around its block"
        )
        try:
            ending = None
            try:
                if isinstance(source, AsyncIterable):
                    await self._feed_from_async(source)
                elif source is not None:
                    await self._feed_from(source)
            except Exception as exc:
                if self._ends_at < 0:
                    raise
                ending = exc
            # Also what was taken in before the input failed.
            await self._submit()
            if self._refusal is not None:
                ending = self._refusal
            self._ending = ending if self._ends_at == math.inf else None
        finally:
            self._fed = True
            self._wake_consumer()

    async def _feed_from(self, source: Iterator[T]) -> None:
        for item in source:
            self._take_in(item)
            if not self._places or self._host.now() >= self._pause_at:
                await self._submit()
                await self._pause()
            if self._stopped:
                return

    async def _feed_from_async(self, source: AsyncIterable[T]) -> None:
        # A generator's cleanup belongs into the task that it has run in.
        owned = aclosing(source) if inspect.isasyncgen(source) else nullcontext()
        async with owned:
            async for item in source:
                if self._stopped:
                    return
                self._take_in(item)
                # It may be long until the next one comes.
                await self._submit()
                if not self._places or self._host.now() >= self._pause_at:
                    await self._pause()

    async def _pause(self) -> None:
        """Let others run, and wait for places if there are none."""
        await self._host.checkpoint()
        while not self._places and not self._stopped:
            under_way = self._taken - self._given
            if under_way <= self._low:
                self._places = self._bound - under_way
            else:
                await self._feeder.listen()
        self._pause_at = self._host.now() + _TURN

    def _take_in(self, item: T) -> None:
        # When it comes, and is due, is known when it is queued.
        member = Member(
            item, math.inf, 0.0, self._weight, group=self, index=self._taken, shape=None
        )
        self._taken += 1
        self._places -= 1
        if self._shapes is not None:
            try:
                member.shape = self._shapes.of(item)
            except Exception as exc:  # noqa: BLE001  this item's outcome
                self.take(member, Failure(exc))
                return
        self._in_hand.append(member)

    async def _submit(self) -> None:
        """Queue what is in hand, waiting for room in the queue."""
        while self._in_hand:
            deadline, now = self._host.effective_deadline(), self._host.now()
            if deadline <= now:
                await self._host.checkpoint()
            if self._offer(deadline, now):
                continue
            short_of_room = self._engine.outcomes.short_of_room
            short_of_room.add(self._feeder)
            try:
                await self._feeder.listen()
            finally:
                short_of_room.remove(self._feeder)

    @ki_protected
    def _offer(self, deadline: float, now: float) -> bool:
        """Queue as many as there is room for, and return whether there was any."""
        count = int(min(len(self._in_hand), self._engine.room))
        if count < 1:
            return False
        members = self._in_hand[:count]
        del self._in_hand[:count]
        for member in members:
            member.deadline, member.arrived = deadline, now
        refusal = self._engine.submit_all(members)
        if refusal is None:
            self._flying.update(members)
        elif isinstance(refusal, BatcherClosed | BatcherCrashed):
            # What was queued before may be answered yet.
            self._refusal, self._stopped = refusal, True
            self._in_hand.clear()
        else:
            for member in members:
                if member.index <= self._ends_at:
                    self.take(member, Failure(copy.copy(refusal)))
        return True
