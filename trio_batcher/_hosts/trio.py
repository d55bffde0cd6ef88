"""Trio as the host: its own primitives, nothing in between."""

from __future__ import annotations

import math
from contextlib import nullcontext
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import trio
from outcome import Error, Outcome

from trio_batcher._errors import ThreadNotStarted

from . import elsewhere, refuse_limiter_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from types import TracebackType

    from . import CancelScope, CapacityLimiter, Sleeper

__all__ = ["TrioHost"]

S = TypeVar("S", bound="Sleeper")
V = TypeVar("V")


class _Answer(Outcome[Any]):
    # outcome.Value at half its price, of which every request pays one.

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def unwrap(self) -> Any:
        return self._value

    def send(self, gen: Generator[Any, Any, object]) -> Any:
        return gen.send(self._value)

    async def asend(self, agen: AsyncGenerator[Any, Any]) -> Any:
        return await agen.asend(self._value)


class _Doorbell:
    __slots__ = ("_receive", "_send")

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[None](1)

    def ring(self) -> None:
        try:
            self._send.send_nowait(None)
        except trio.WouldBlock:
            return  # it is ringing already

    async def listen(self, until: float = math.inf) -> None:
        if until == math.inf:
            await self._receive.receive()
            return
        with trio.move_on_at(until):
            await self._receive.receive()


class _SameTask(Generic[V]):
    """A block that the task which has entered it has to leave, as trio's own nurseries."""

    def __init__(self, manager: AbstractAsyncContextManager[V]) -> None:
        self._manager = manager
        self._task = trio.lowlevel.current_task()

    async def __aenter__(self) -> V:
        return await self._manager.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        reason: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not trio.lowlevel.in_trio_task() or trio.lowlevel.current_task() is not self._task:
            raise RuntimeError(
                "the batcher was opened in one task and is left in another, which a trio nursery "
                "cannot be: have one task do both, with `async with open_batcher(...)` around "
                "what needs it, in nursery.start() say"
            )
        await self._manager.__aexit__(kind, reason, traceback)  # noqa: ASYNC102  it sees to that


class _Turn:
    """One token, as `trio.to_thread` takes it: back when its thread ends, or is abandoned.

    Attributes:
        acquired: there was one.
        started: the thread that has it runs.
    """

    __slots__ = ("_held", "_limiter", "acquired", "started")

    def __init__(self, limiter: CapacityLimiter) -> None:
        self._limiter = limiter
        self._held = self.acquired = self.started = False

    async def acquire_on_behalf_of(self, _: object) -> None:
        await self._limiter.acquire_on_behalf_of(self)
        self._held = self.acquired = True

    def release_on_behalf_of(self, _: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        if self._held:
            self._held = False
            self._limiter.release_on_behalf_of(self)


class TrioHost:
    """The `Host` of the trio run that is current when it is made."""

    cancelled: type[BaseException] = trio.Cancelled

    def __init__(self) -> None:
        # Both are documented as callable from any thread; `trio.current_time` is not.
        self.now: Callable[[], float] = trio.lowlevel.current_clock().current_time
        self.post: Callable[..., None] = trio.lowlevel.current_trio_token().run_sync_soon
        self.effective_deadline = _deadline_here()
        self.checkpoint: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.checkpoint_if_cancelled: Callable[[], Awaitable[None]] = (
            trio.lowlevel.checkpoint_if_cancelled
        )

    def park(self, sleeper: S, abandon: Callable[[S], None]) -> Awaitable[Any]:
        def abort(_: object) -> trio.lowlevel.Abort:
            abandon(sleeper)
            return trio.lowlevel.Abort.SUCCEEDED

        sleeper.caller = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105  the caller awaits it

    def wake(self, caller: trio.lowlevel.Task, value: Any) -> None:
        trio.lowlevel.reschedule(caller, _Answer(value))

    def wake_with_error(self, caller: trio.lowlevel.Task, error: BaseException) -> None:
        trio.lowlevel.reschedule(caller, Error(error))

    def doorbell(self) -> _Doorbell:
        return _Doorbell()

    def event(self) -> trio.Event:
        return trio.Event()

    def limiter(self, tokens: int) -> trio.CapacityLimiter:
        return trio.CapacityLimiter(tokens)

    def check_limiter(self, limiter: CapacityLimiter) -> None:
        refuse_limiter_of(
            "_asyncio",
            limiter,
            "a trio.CapacityLimiter, or an anyio.CapacityLimiter that was made there,",
        )

    def open_nursery(self) -> AbstractAsyncContextManager[trio.Nursery]:
        return trio.open_nursery()

    def shield(self) -> trio.CancelScope:
        return trio.CancelScope(shield=True)

    def own_task(self, manager: AbstractAsyncContextManager[V]) -> _SameTask[V]:
        # Kept as long as its tasks run: collected, it would be left in some other task after all.
        self._opened = opened = _SameTask(manager)
        return opened

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        return trio.move_on_after(seconds)  # noqa: ASYNC122  entered at once

    def threads(self) -> AbstractContextManager[None]:
        return nullcontext()  # trio has its own

    async def in_thread(
        self,
        function: Callable[..., V],
        *args: Any,
        limiter: CapacityLimiter,
        until: CancelScope | None = None,
    ) -> V:
        turn = _Turn(limiter)

        def call() -> V:
            turn.started = True
            return function(*args)

        try:
            return await trio.to_thread.run_sync(
                call,
                thread_name="trio_batcher",
                abandon_on_cancel=until is not None,
                # to_thread documents that it needs no more of a limiter than this has.
                limiter=cast("trio.CapacityLimiter", turn),
            )
        except RuntimeError as exc:
            if turn.started or not turn.acquired:
                raise
            raise ThreadNotStarted(str(exc)) from exc
        finally:
            turn.give_back()  # of a thread that has ended, it has been

    def call(self, model: Callable[[Any], Awaitable[V]], inputs: Any) -> Awaitable[V]:
        return model(inputs)

    def is_no_models(self, error: BaseException) -> bool:
        # Nobody's Ctrl-C gets here, nor is a cancellation lost; but a coroutine may be thrown away.
        return isinstance(error, GeneratorExit) and not trio.lowlevel.in_trio_task()


def _deadline_here() -> Callable[[], float]:
    deadline, this_thread, here = trio.current_effective_deadline, get_ident, get_ident()

    def effective_deadline() -> float:
        # A thread has one run at a time. If this one is over, so is the batcher.
        if this_thread() != here:
            raise elsewhere()
        try:
            return deadline()
        except RuntimeError:  # no task: that of a host loop, say, whose guest trio is
            raise elsewhere() from None

    return effective_deadline
