"""Trio as the host: its own primitives, nothing in between."""

from __future__ import annotations

import functools
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, cast

import trio
from outcome import Error, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from . import CapacityLimiter, Sleeper

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


class TrioHost:
    """The `Host` of the trio run that is current when it is made."""

    cancelled: type[BaseException] = trio.Cancelled

    def __init__(self) -> None:
        # Both are documented as callable from any thread; `trio.current_time` is not.
        self.now: Callable[[], float] = trio.lowlevel.current_clock().current_time
        self.post: Callable[..., None] = trio.lowlevel.current_trio_token().run_sync_soon
        self.effective_deadline: Callable[[], float] = trio.current_effective_deadline
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

    def open_nursery(self) -> AbstractAsyncContextManager[trio.Nursery]:
        return trio.open_nursery()

    def shield(self) -> trio.CancelScope:
        return trio.CancelScope(shield=True)

    def threads(self, most: int) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()  # trio has its own

    async def in_thread(
        self, function: Callable[..., V], *args: Any, limiter: CapacityLimiter
    ) -> V:
        return await trio.to_thread.run_sync(
            functools.partial(function, *args),
            thread_name="trio_batcher",
            # to_thread documents that it needs no more of a limiter than ours has.
            limiter=cast("trio.CapacityLimiter", limiter),
        )

    def call(self, model: Callable[[Any], Awaitable[V]], inputs: Any) -> Awaitable[V]:
        return model(inputs)
