"""Asyncio as the host, on any of its event loops: its own futures, and anyio for the rest.

A task can be cancelled in two ways here. An anyio cancel scope works like trio's, and waits
until a task that is about to be woken has run. `asyncio.Task.cancel` strikes once, at any
`await`, shielded or not: what must not be left half-way is waited for all the same, and the
cancellation raised afterwards.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import types
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
import anyio.lowlevel

from . import elsewhere, refuse_limiter_of
from .own_task import OwnTask, wait_out
from .workers import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
    from contextlib import AbstractAsyncContextManager

    from . import CancelScope, CapacityLimiter, Nursery, Sleeper

__all__ = ["AsyncioHost"]

S = TypeVar("S", bound="Sleeper")
V = TypeVar("V")


class _Park(asyncio.Future[Any]):
    """What a caller awaits. Its cancellation strikes the caller out in the same instant.

    `asyncio.Task.cancel` cancels the future that its task awaits; the task itself learns of
    it a pass of the event loop later, and until then it would look as if it still waited.
    """

    __slots__ = ("abandon", "sleeper")

    abandon: Callable[[Any], None]
    sleeper: Any

    def cancel(self, msg: Any = None) -> bool:
        if not super().cancel(msg):
            return False
        self.abandon(self.sleeper)
        return True


class _Doorbell:
    __slots__ = ("_grain", "_loop", "_now", "_rung", "_waiter")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, now: Callable[[], float], grain: float
    ) -> None:
        self._loop = loop
        self._now = now
        self._grain = grain
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def listen(self, until: float = math.inf) -> None:
        timer = None
        if self._rung:
            await anyio.lowlevel.checkpoint()
        else:
            self._waiter = self._loop.create_future()
            if until < math.inf:
                timer = self._timer(until)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        self._rung = False

    def _timer(self, until: float) -> asyncio.TimerHandle:
        if not self._grain:
            return self._loop.call_at(until, self._wake)
        # Rounded up: a timer that goes off early, time and again, would be a busy wait.
        grains = math.ceil((until - self._now()) / self._grain)
        return self._loop.call_later(max(0, grains) * self._grain, self._wake)


class AsyncioHost:
    """The `Host` of the asyncio event loop that is running when it is made."""

    cancelled: type[BaseException] = asyncio.CancelledError

    def __init__(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.now, self._grain = _clock(loop)
        self.post: Callable[..., Any] = loop.call_soon_threadsafe
        self.effective_deadline = _deadline_in(loop)
        # The same as anyio's, without finding out each time what runs.
        self.checkpoint_if_cancelled: Callable[[], Awaitable[None]] = (
            anyio.lowlevel.current_token().backend_class.checkpoint_if_cancelled
        )
        # Callable as `wake(caller, value)`.
        self.wake: Callable[[Any, Any], None] = asyncio.Future.set_result
        # Those that called last come first.
        self._idle: list[Worker] = []

    async def checkpoint(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.effective_deadline() <= self.now():
            # Its timer was due in the pass of the event loop that has just ended.
            await anyio.lowlevel.checkpoint()

    def park(self, sleeper: S, abandon: Callable[[S], None]) -> Awaitable[Any]:
        sleeper.caller = park = _Park(loop=self._loop)
        park.sleeper = sleeper
        park.abandon = abandon
        return park

    def wake_with_error(self, caller: _Park, error: BaseException) -> None:
        if isinstance(error, StopIteration):
            # A coroutine could not let it out either.
            stopped = RuntimeError("coroutine raised StopIteration")
            stopped.__cause__ = error
            error = stopped
        caller.set_exception(error)

    def doorbell(self) -> _Doorbell:
        return _Doorbell(self._loop, self.now, self._grain)

    def event(self) -> anyio.Event:
        return anyio.Event()

    def limiter(self, tokens: int) -> CapacityLimiter:  # noqa: ARG002
        return _NoLimiter()

    def check_limiter(self, limiter: CapacityLimiter) -> None:
        refuse_limiter_of("trio", limiter, "an anyio.CapacityLimiter")
        refuse_limiter_of("_trio", limiter, "an anyio.CapacityLimiter")

    def open_nursery(self) -> AbstractAsyncContextManager[Nursery]:
        return cast("AbstractAsyncContextManager[Nursery]", anyio.create_task_group())

    def shield(self) -> anyio.CancelScope:
        return anyio.CancelScope(shield=True)

    def own_task(self, manager: AbstractAsyncContextManager[V]) -> OwnTask[V]:
        return OwnTask(manager)

    def move_on_after(self, seconds: float) -> anyio.CancelScope:
        return anyio.move_on_after(seconds)  # noqa: ASYNC122  entered at once

    @contextmanager
    def threads(self) -> Iterator[None]:
        try:
            yield
        finally:
            for worker in self._idle:
                worker.dismiss()
            for worker in self._idle:
                worker.thread.join()
            self._idle.clear()

    async def in_thread(
        self,
        function: Callable[..., V],
        *args: Any,
        limiter: CapacityLimiter,
        until: CancelScope | None = None,
    ) -> V:
        token = object()
        await _acquire(limiter, token)
        try:
            worker = self._idle.pop() if self._idle else Worker()
            ended = asyncio.Event()
            answer = worker.start(function, args, lambda: self.post(ended.set))
            try:
                if until is not None:
                    await wait_out(ended, until)
                else:
                    with anyio.CancelScope(shield=True):
                        await wait_out(ended)
            finally:
                if ended.is_set():
                    self._idle.append(worker)
                else:
                    worker.dismiss()
            result: V = answer.pop().unwrap()
            return result
        finally:
            limiter.release_on_behalf_of(token)

    async def call(self, model: Callable[[Any], Awaitable[V]], inputs: Any) -> V:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        result: V = await _step_by_step(_awaited(model, inputs), task)
        return result

    def is_no_models(self, error: BaseException) -> bool:
        if isinstance(error, asyncio.CancelledError):
            return True
        if isinstance(error, GeneratorExit):
            return not _in_a_task()
        # Signals come to the main thread: the user's Ctrl-C is raised in whatever runs there.
        return threading.current_thread() is threading.main_thread() and (
            isinstance(error, KeyboardInterrupt)
            or (
                isinstance(error, BaseExceptionGroup)
                and error.subgroup(KeyboardInterrupt) is not None
            )
        )


async def _awaited(model: Callable[[Any], Awaitable[V]], inputs: Any) -> V:
    return await model(inputs)


@types.coroutine
def _step_by_step(model: Coroutine[Any, Any, V], task: asyncio.Task[Any]) -> Generator[Any, Any, V]:
    """Await a model; let a cancellation out only if it is one of the task itself.

    That it is can be told only while it comes in: it has been asked for since the last step. How
    often it has been altogether says nothing, as task groups of asyncio's leave that too high.
    """
    error: BaseException | None = None
    struck = ours = False
    before = asked = task.cancelling()
    try:
        while True:
            asked = task.cancelling()
            try:
                waits_for = model.send(None) if error is None else model.throw(error)
            except StopIteration as end:
                result: V = end.value
                return result
            except asyncio.CancelledError as exc:
                if struck:
                    ours = True
                    raise
                msg = "the model was not cancelled, but something that it awaited was"
                raise RuntimeError(msg) from exc  # noqa: ASYNC104
            finally:
                error = None  # it has this frame in its traceback
            struck = False
            try:
                yield waits_for
            except BaseException as exc:  # noqa: BLE001, ASYNC103  thrown on, above
                error, struck = exc, task.cancelling() > asked  # noqa: ASYNC104
    finally:
        # The others the model has dealt with: a scope around this must not take them for its own.
        for _ in range((asked if ours else task.cancelling()) - before):
            task.uncancel()


def _in_a_task() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def _deadline_in(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    # The same as anyio.current_effective_deadline, without finding out each time what runs.
    deadline: Callable[[], float] = (
        anyio.lowlevel.current_token().backend_class.current_effective_deadline
    )
    running_here, current_task = asyncio._get_running_loop, asyncio.current_task  # noqa: SLF001

    def effective_deadline() -> float:
        # A trio that is this loop's guest runs in the loop, and in no task of it.
        if running_here() is not loop or current_task(loop) is None:
            raise elsewhere()
        return deadline()

    return effective_deadline


class _NoLimiter:
    """For as many calls as there are tokens: nobody waits for one, nor for being told so."""

    __slots__ = ()

    def statistics(self) -> anyio.CapacityLimiterStatistics:
        return anyio.CapacityLimiterStatistics(0, math.inf, (), 0)

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        pass

    def release_on_behalf_of(self, borrower: object) -> None:
        pass


async def _acquire(limiter: CapacityLimiter, borrower: object) -> None:
    await anyio.lowlevel.checkpoint_if_cancelled()
    # A token that is free costs no pass of the event loop then; the thread call is one.
    if isinstance(limiter, anyio.CapacityLimiter):
        with suppress(anyio.WouldBlock):
            limiter.acquire_on_behalf_of_nowait(borrower)
            return
    await limiter.acquire_on_behalf_of(borrower)


def _clock(loop: asyncio.AbstractEventLoop) -> tuple[Callable[[], float], float]:
    """Return a clock that agrees with the loop's, and how coarse the loop's timers are.

    Deadlines are in the loop's time. Other loops than asyncio's own, such as uvloop's, read
    it once a pass and in whole milliseconds: too coarse, and too late for a thread to go by.
    """
    if isinstance(loop, asyncio.BaseEventLoop):
        return loop.time, 0.0
    # Such a reading is late or exact. So if it is ahead, it is another clock's.
    ahead = loop.time() - time.monotonic()
    if ahead <= 0.0:
        return time.monotonic, 1e-3
    return lambda: time.monotonic() + ahead, 1e-3
