"""What the engine needs of an event loop, and which one is running.

The engine is written once against `Host`; a module beside this one implements it for
each event loop.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import sniffio
from trio.lowlevel import enable_ki_protection as ki_protected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from types import TracebackType

__all__ = [
    "CancelScope",
    "CapacityLimiter",
    "Doorbell",
    "Event",
    "Host",
    "LocalEvent",
    "Nursery",
    "Sleeper",
    "TaskLost",
    "current_host",
    "elsewhere",
    "ki_protected",
    "refuse_limiter_of",
]

S = TypeVar("S", bound="Sleeper")
V = TypeVar("V")


class Sleeper(Protocol):
    """Whatever a caller is parked for: it knows its caller while there is one."""

    caller: Any


class Event(Protocol):
    """Something that happens once; `trio.Event` is one."""

    def is_set(self) -> bool:
        """Return whether it has happened."""
        ...

    def set(self) -> None:
        """Make it happen, waking all who wait."""
        ...

    async def wait(self) -> None:
        """Wait until it has happened; a checkpoint also if it has already."""
        ...


class LimiterStatistics(Protocol):
    """The one figure needed of a limiter."""

    @property
    def tasks_waiting(self) -> int:
        """How many tasks wait for a token."""
        ...


class LocalEvent:
    """An event that any thread may ask, and that only tasks of the host's loop may wait for."""

    __slots__ = ("_event", "_host")

    def __init__(self, host: Host, event: Event) -> None:
        self._host, self._event = host, event

    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._host.effective_deadline()
        self._event.set()

    async def wait(self) -> None:
        self._host.effective_deadline()
        await self._event.wait()


class CapacityLimiter(Protocol):
    """A device's capacity; `trio.CapacityLimiter` is one."""

    def statistics(self) -> LimiterStatistics:
        """Return a snapshot. It is read from worker threads too."""
        ...

    async def acquire_on_behalf_of(self, borrower: Any) -> None:
        """Take a token for ``borrower``, waiting for one."""
        ...

    def release_on_behalf_of(self, borrower: Any) -> None:
        """Put ``borrower``'s token back."""
        ...


class CancelScope(Protocol):
    """A cancel scope to be entered with ``with``.

    Attributes:
        deadline: when it is cancelled, as an absolute time.
    """

    deadline: float

    @property
    def cancel_called(self) -> bool:
        """Whether it was cancelled, or its deadline is over."""
        ...

    def cancel(self) -> None:
        """Cancel what runs inside, also if it is entered only later."""
        ...

    def __enter__(self) -> Any: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...


class Nursery(Protocol):
    """Where tasks are started."""

    @property
    def cancel_scope(self) -> CancelScope:
        """The scope around its tasks and its block."""
        ...

    def start_soon(self, function: Callable[..., Awaitable[object]], /, *args: Any) -> None:
        """Start a task."""
        ...


class Doorbell(Protocol):
    """A memory channel of one slot between callers and the gather task."""

    def ring(self) -> None:
        """Wake the listener, or its next `listen`. Rings in between count as one."""
        ...

    async def listen(self, until: float = math.inf) -> None:
        """Wait for a ring, or for the time ``until``."""
        ...


class Host(Protocol):
    """One event loop, while a batcher is open in it.

    Attributes:
        cancelled: what a task that is cancelled raises.
    """

    cancelled: type[BaseException]

    def now(self) -> float:
        """Return the loop's time in seconds. Callable from any thread."""
        ...

    def effective_deadline(self) -> float:
        """Return when the current task will be cancelled: -inf if it is already.

        Every call of a batcher begins with it.

        Raises:
            RuntimeError: it is not one of this loop's tasks.
        """
        ...

    def checkpoint(self) -> Awaitable[None]:
        """Let others run and raise a pending cancellation."""
        ...

    def checkpoint_if_cancelled(self) -> Awaitable[None]:
        """Raise a pending cancellation, of a cancel scope; nobody else runs if there is none."""
        ...

    def park(self, sleeper: S, abandon: Callable[[S], None]) -> Awaitable[Any]:
        """Sleep, as ``sleeper.caller``, until `wake` or `wake_with_error`.

        If the caller is cancelled first, ``abandon(sleeper)`` is called, which must see
        to it that nobody wakes that caller any more.
        """
        ...

    def wake(self, caller: Any, value: Any) -> None:
        """Let a parked caller return ``value``."""
        ...

    def wake_with_error(self, caller: Any, error: BaseException) -> None:
        """Let a parked caller raise ``error``."""
        ...

    def post(self, function: Callable[..., object], /, *args: Any) -> None:
        """Have the loop call ``function(*args)`` soon, in order. Callable from any thread."""
        ...

    def doorbell(self) -> Doorbell:
        """Return a new doorbell."""
        ...

    def event(self) -> Event:
        """Return a new event."""
        ...

    def limiter(self, tokens: int) -> CapacityLimiter:
        """Return a new limiter, for at most so many calls of `in_thread` at a time."""
        ...

    def check_limiter(self, limiter: CapacityLimiter) -> None:
        """Raise a `TypeError` if that is a limiter for another event loop."""
        ...

    def open_nursery(self) -> AbstractAsyncContextManager[Nursery]:
        """Open a nursery."""
        ...

    def shield(self) -> CancelScope:
        """Return a scope that cancellations from outside do not get through."""
        ...

    def own_task(
        self, manager: AbstractAsyncContextManager[V]
    ) -> AbstractAsyncContextManager[V, None]:
        """Have a block that can be left by another task than has entered it, where that is done.

        What it raises, and what leaves it, passes as it is.

        Raises:
            TaskLost: its task was cancelled. Inside the block, ``manager`` is left with that.
            RuntimeError: it is left where it cannot be.
        """
        ...

    def move_on_after(self, seconds: float) -> AbstractContextManager[object]:
        """Return a scope to be entered now, that is cancelled when it has taken so long."""
        ...

    def threads(self) -> AbstractContextManager[None]:
        """Have worker threads for `in_thread` inside the block; all but abandoned ones end then."""
        ...

    async def in_thread(
        self,
        function: Callable[..., V],
        *args: Any,
        limiter: CapacityLimiter,
        until: CancelScope | None = None,
    ) -> V:
        """Run ``function(*args)`` in a worker thread that holds one of the limiter's tokens.

        Cancellable until the thread has started; afterwards only by ``until``, a shield around
        the call. Then the token is given back at once, and the thread is left to itself: what it
        returns or raises is dropped, and neither the block nor the interpreter waits for it.

        Raises:
            ThreadNotStarted: the system has no thread.
        """
        ...

    def call(self, model: Callable[[Any], Awaitable[V]], inputs: Any) -> Awaitable[V]:
        """Await an async model. Only a cancellation of this task leaves as one."""
        ...

    def is_no_models(self, error: BaseException) -> bool:
        """Return whether what came out of `call` ends this task, or the program, on purpose.

        A cancellation that is not one for sure comes again at the next checkpoint.
        """
        ...


class TaskLost(RuntimeError):
    """The task that the batcher lives in was cancelled, and not by whoever opened it."""

    def __init__(self) -> None:
        super().__init__("the task that the batcher lives in was cancelled by somebody else")


def elsewhere(what: str = "called") -> RuntimeError:
    """Return what somebody gets who is no task of the batcher's event loop."""
    return RuntimeError(
        f"the batcher was opened in an event loop, and is {what} from outside of it: from another "
        "loop, from a thread, or from no task at all. Have its own loop make the call, as the "
        'page "Calling from threads" says, docs/threads.md'
    )


def refuse_limiter_of(library: str, limiter: object, right: str) -> None:
    """Raise a `TypeError` if a limiter, or what it derives from, is of that library's making.

    Args:
        library: as modules are called, such as ``_asyncio``.
        limiter: what the user passed.
        right: what it should have been.
    """
    for cls in type(limiter).__mro__:
        if library in cls.__module__.split("."):
            raise TypeError(
                f"limiter must be {right} in the event loop that runs here, not {limiter!r}, "
                "which is for another one"
            )


def current_host() -> Host:
    """Return a host for the event loop that is running.

    Raises:
        RuntimeError: none is, or one that has no host here.
    """
    try:
        library = sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        library = "none"
    if library == "trio":
        from .trio import TrioHost  # noqa: PLC0415, ASYNC106  a host is imported where it runs

        return TrioHost()
    if library == "asyncio":  # uvloop is one of its event loops
        from .asyncio import AsyncioHost  # noqa: PLC0415, ASYNC106

        return AsyncioHost()
    msg = f"open_batcher needs trio or asyncio; the event loop running here: {library}"
    raise RuntimeError(msg)
