"""A job of any number of items: those under way, who advances the input, who takes the results.

One task, the feeder, advances the input and queues requests, as long as fewer items than the
bound are under way: taken from the input and their results not yet given away. Outcomes
come in batch by batch, as those of a group's requests do, and wait here to be given. So a
batch wakes the consumer once and the feeder once at most, whatever its size.

Everything here is in the event loop.
"""

from __future__ import annotations

import copy
import math
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar

from ._bisection import Failure
from ._errors import BatcherClosed, BatcherCrashed
from ._hosts import ki_protected
from ._nesting import waiting_for
from ._outcomes import Member

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from ._errors import BatcherError
    from ._hosts import Host
    from ._nesting import Place
    from ._outcomes import Outcomes
    from ._shapes import Shapes

__all__ = ["Job", "Source"]

T = TypeVar("T")

Source: TypeAlias = Iterator[T] | AsyncIterable[T]

# Seconds that others wait at most, while the input and the consumer could go on without a pause.
_TURN = 1e-3


class Job(Generic[T]):
    """Takes items in and gives results away; to the engine, a group of requests.

    Each outcome has its turn: its item's place in the input, or its own among outcomes.

    Args:
        host: the event loop.
        source: gives the items.
        shapes: how they differ, if they do.
        place: where the results come from.
        outcomes: whoever answers requests.
        submit_all: queues requests that come together, or none and says why.
        room: says how many more may be queued.
        in_order: whether outcomes are given in the order of the items.
        returns_errors: whether an error is given like a result.
        bound: most items under way.
        weight: of each.

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
        source: Source[T],
        *,
        shapes: Shapes | None,
        place: Place,
        outcomes: Outcomes[T],
        submit_all: Callable[[list[Member[T]]], BatcherError | None],
        room: Callable[[], float],
        in_order: bool,
        returns_errors: bool,
        bound: int,
        weight: float,
    ) -> None:
        self._host, self._shapes, self._place, self._outcomes = host, shapes, place, outcomes
        self._submit_all, self._room = submit_all, room
        self._source: Source[T] | None = source
        self._in_order, self._returns_errors = in_order, returns_errors
        self._bound, self._weight = bound, weight
        # When so few are under way the feeder goes on, so that it is woken once for many of them.
        self._low = bound // 2
        # How many items were taken in, up to how many may be, and how many outcomes given away.
        self._taken = self._given = 0
        self._most = bound
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
        self._fed = False
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
        self._outcomes.abandon_members(late)
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
        index, outcome = self._done.pop(self._given)
        self._given += 1
        if self._taken - self._given == self._low:
            self._feeder.ring()
        if type(outcome) is Failure:
            outcome = outcome.error
            if self._is_last(outcome):
                outcome.add_note(f"Batcher.map: this was item {index} of its input, from 0")
                self._ending, outcome = outcome, None
                self._end()
        return outcome if self._in_order else (index, outcome)

    def _end(self) -> NoReturn:
        ending, self._ending = self._ending, None
        try:
            if isinstance(ending, StopAsyncIteration):  # it would look like the end of the input
                msg = "an item of Batcher.map raised StopAsyncIteration"
                raise RuntimeError(msg) from ending  # noqa: TRY004
            raise ending or StopAsyncIteration
        finally:
            del ending  # an exception whose frame keeps it is kept for long

    async def _wait_for_outcome(self) -> None:
        """Wait until the next outcome is there; a checkpoint also if it is. Raise at the end."""
        self._host.effective_deadline()  # which raises outside of the event loop
        waited = False
        self._has_consumer = True
        try:
            while self._given not in self._done and not self._is_over():
                waited = self._listening = True
                with waiting_for(self._place):
                    await self._consumer.listen()
            # Where there is none, as the feeder has been cancelled, so may this task be.
            if not waited or self._given not in self._done:
                await self._host.checkpoint()
        finally:
            self._has_consumer = self._listening = False
        if self._given not in self._done:
            self._end()
        self._yield_at = self._host.now() + _TURN

    def _is_over(self) -> bool:
        if self._given > self._ends_at:
            return True
        return self._fed and not self._flying and self._given not in self._done

    def _wake_consumer(self) -> None:
        self._listening = False
        self._consumer.ring()

    # The feeder

    def check_begun(self) -> None:
        """Raise if the feeder never began: asyncio can cancel a task before its first step."""
        if self._source is not None:
            raise RuntimeError("a task of Batcher.map's was cancelled before it began")

    async def feed(self) -> None:
        """Queue a request for each item, as long as there are items and places."""
        source, self._source = self._source, None
        self._pause_at = self._host.now() + _TURN
        self._ending = RuntimeError("what takes items in for Batcher.map was cancelled")
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
                # It has struck items before the one whose error ends the job, if there is one.
                if self._given <= self._ends_at:
                    self._ending = self._refusal
            elif self._ends_at == math.inf:
                self._ending = ending
        except self._host.cancelled:
            # By no scope, but by itself, as asyncio can: the consumer hears of it, nobody else.
            if self._host.effective_deadline() == -math.inf:
                raise
        finally:
            ending = None
            self._fed = True
            self._wake_consumer()

    async def _feed_from(self, source: Iterator[T]) -> None:
        for item in source:
            self._take_in(item)
            if self._taken == self._most or self._host.now() >= self._pause_at:
                await self._submit()
                await self._pause()
            if self._stopped:
                return

    async def _feed_from_async(self, source: AsyncIterable[T]) -> None:
        # A generator's cleanup belongs into the task that it has run in.
        owned: AbstractAsyncContextManager[object] = (
            aclosing(source) if isinstance(source, AsyncGenerator) else nullcontext()
        )
        async with owned:
            async for item in source:
                if self._stopped:  # while it was waited for
                    return
                self._take_in(item)
                # It may be long until the next one comes.
                await self._submit()
                if self._taken == self._most or self._host.now() >= self._pause_at:
                    await self._pause()
                if self._stopped:
                    return

    async def _pause(self) -> None:
        """Let others run, and wait until enough is given away that it is worth going on."""
        await self._host.checkpoint()
        while self._taken == self._most and not self._stopped:
            if self._taken - self._given <= self._low:
                self._most = self._given + self._bound
            else:
                await self._feeder.listen()
        self._pause_at = self._host.now() + _TURN

    def _take_in(self, item: T) -> None:
        # When it comes, and is due, is known when it is queued.
        member = Member(
            item, math.inf, 0.0, self._weight, group=self, index=self._taken, shape=None
        )
        self._taken += 1
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
            short_of_room = self._outcomes.short_of_room
            short_of_room.add(self._feeder)
            try:
                await self._feeder.listen()
            finally:
                short_of_room.remove(self._feeder)

    @ki_protected
    def _offer(self, deadline: float, now: float) -> bool:
        """Queue as many as there is room for, and return whether there was any."""
        count = int(min(len(self._in_hand), self._room()))
        if count < 1:
            return False
        members = self._in_hand[:count]
        del self._in_hand[:count]
        for member in members:
            member.deadline, member.arrived = deadline, now
        refusal = self._submit_all(members)
        if refusal is None:
            self._flying.update(members)
        elif isinstance(refusal, BatcherClosed | BatcherCrashed):
            # What was queued before may be answered yet.
            self._refusal, self._stopped = refusal, True
            self._in_hand.clear()
        else:
            if self._is_last(refusal):
                del members[1:]
            for member in members:
                self.take(member, Failure(copy.copy(refusal)))
        return True
