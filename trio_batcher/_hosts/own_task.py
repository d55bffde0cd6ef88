"""A block that lives in a task of its own, so that one task may enter it and another leave it.

Cancel scopes and task groups have to be left by the task that has entered them. On asyncio those
that open something and close it are often two: fixtures, notebooks, hooks for start and stop.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from . import TaskLost, elsewhere

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from . import CancelScope

__all__ = ["OwnTask", "wait_out"]

V = TypeVar("V")


class OwnTask(Generic[V]):
    """An async context manager that is entered and left in a task of its own.

    Who enters waits until it is ready, who leaves until the task has ended. A cancellation of
    either is passed on to that task, which is waited for, and raised afterwards.
    """

    _value: V

    def __init__(self, manager: AbstractAsyncContextManager[V]) -> None:
        self._manager = manager
        self._loop = asyncio.get_running_loop()
        self._scope = anyio.CancelScope()
        self._entered, self._left, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        # With what it is left, and what comes of it. In between it may be cancelled by others.
        self._reason: BaseException | None = None
        self._error: BaseException | None = None
        self._lost = False

    async def __aenter__(self) -> V:
        task = asyncio.create_task(self._live(), name="trio_batcher")
        # Cancelled before its first step, it never begins.
        task.add_done_callback(self._note_end)
        await self._until(self._entered)
        if task.done():
            raise self._failure() or TaskLost
        return self._value

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        reason: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if asyncio._get_running_loop() is not self._loop:  # noqa: SLF001  documented for such as us
            raise elsewhere("left")
        self._reason = reason
        self._left.set()
        if reason is None:
            await self._until(self._ended)  # noqa: ASYNC102  the task sees to that
            failure = self._failure()
            if failure is not None:
                raise failure
            return
        # It turns everybody away already: a cancellation has nothing to add.
        with anyio.CancelScope(shield=True):
            try:
                await wait_out(self._ended)
            except asyncio.CancelledError as cancellation:
                cancellation.__context__ = reason
                raise
        failure, self._reason = self._failure(), None
        if failure is reason:
            reason.__traceback__ = traceback
        elif failure is not None and not self._lost:
            raise failure

    async def _live(self) -> None:
        with self._scope:
            try:
                async with self._manager as self._value:
                    self._entered.set()
                    await self._leaving()
            except BaseException as exc:  # noqa: BLE001, ASYNC103  raised by who enters or leaves
                self._error = exc

    async def _leaving(self) -> None:
        try:
            await self._left.wait()
        except asyncio.CancelledError as exc:  # noqa: ASYNC103  or the reason
            if not self._left.is_set() and not self._scope.cancel_called:
                self._lost = True
                raise TaskLost from exc  # noqa: ASYNC104
            if self._reason is None:
                raise
        if self._reason is not None:
            raise self._reason

    async def _until(self, event: asyncio.Event) -> None:
        try:
            await event.wait()
        except asyncio.CancelledError as cancellation:
            self._scope.cancel()
            with anyio.CancelScope(shield=True), suppress(asyncio.CancelledError):
                await wait_out(self._ended)  # noqa: ASYNC102
            error, self._error = self._error, None
            if isinstance(error, asyncio.CancelledError):
                for note in getattr(error, "__notes__", ()):
                    cancellation.add_note(note)
            elif error is not None and not self._lost:
                raise error  # noqa: ASYNC104, B904  no cause of its own: the model may have named one
            raise

    def _failure(self) -> BaseException | None:
        error, self._error = self._error, None
        if isinstance(error, asyncio.CancelledError) and error is not self._reason:
            # Who enters or leaves was not cancelled.
            lost = TaskLost()
            lost.__cause__ = error
            return lost
        return error

    def _note_end(self, _: object) -> None:
        self._entered.set()
        self._ended.set()


async def wait_out(event: asyncio.Event, until: CancelScope | None = None) -> None:
    """Wait for it, however often the task is cancelled; the cancellation is raised afterwards.

    When that scope is cancelled, it is raised at once.
    """
    try:
        await event.wait()
    except asyncio.CancelledError:
        while not (event.is_set() or (until is not None and until.cancel_called)):
            with suppress(asyncio.CancelledError):
                await event.wait()  # noqa: ASYNC102  as it says
        raise
