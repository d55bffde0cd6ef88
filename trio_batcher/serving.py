"""Serving an application from one process, until it is told to stop: on hypercorn."""

from __future__ import annotations

import logging
import math
import signal
import threading
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any

import anyio
import sniffio

from ._gate import Gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence

    from anyio.abc import TaskStatus
    from hypercorn.config import Config

    from ._hosts import Event
    from .asgi import ASGIApp

__all__ = ["serve"]

# Seconds that the last answers have to leave when the grace has run out.
_HANG_UP = 0.25
_logger = logging.getLogger("trio_batcher.serving")


async def serve(
    app: ASGIApp,
    config: Config,
    *,
    until: Iterable[Event] = (),
    grace: float = 7.0,
    signals: Iterable[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
) -> None:
    """Serve an ASGI application on hypercorn until a signal or an event; answer; return.

    Open the batcher outside, and join its failure to what stops the server:
    ``await serve(app, config, until=[batcher.failed])``. Runs on trio and on asyncio.

    Told to stop, it answers every request that had arrived, and later ones by 503 and
    ``Connection: close``. When the last answer is out, or the grace is over, it closes the
    listening sockets and the connections, ends the application's lifespan and returns. So a
    program whose last act this is exits with 0. Requests that outlast the grace are cancelled
    and answered by 503, or broken off if their answer has started, or is not taken; what cannot be
    cancelled, such as a thread that a handler waits for, is waited for all the same. WebSockets
    have hypercorn's ``config.graceful_timeout`` from then on.

    What is sent to an HTTP/2 client that has left, which hypercorn would have wait for ever, is
    given up half a second later.

    A second signal ends the process at once, without any cleanup: from the first one on until
    the task that has called this ends, or trio's run, the signals have their default effect. So
    a model that hangs does not keep the process when its batcher closes.

    The logger ``trio_batcher.serving`` has two lines of level ``INFO``, how many requests are
    in flight when the server stops, and how many of them were cut off.

    Cancellation: ends the server without answering.

    Args:
        app: the application.
        config: hypercorn's configuration. What it says of workers and event loops is for
            hypercorn's own command, and is ignored.
        until: events of which each stops the server.
        grace: seconds for the requests that were accepted, once it stops. The default fits into
            the ten that ``docker stop`` gives.
        signals: what stops the server. None for a program that handles its signals itself,
            or does not serve in its main thread.

    Raises:
        TypeError, ValueError: the grace is not a finite number of seconds >= 0.
        RuntimeError: signals are to be received, and this is not the main thread.
        Exception: what hypercorn raises, say on an address that is taken.
    """
    _check_grace(grace)
    listed = list(signals)
    if listed and threading.current_thread() is not threading.main_thread():
        msg = "signals can be received in the main thread only; elsewhere, pass signals=()"
        raise RuntimeError(msg)
    run: Callable[..., Awaitable[None]]
    if sniffio.current_async_library() == "trio":
        from hypercorn.trio import serve as run  # noqa: PLC0415  imports its event loop
    else:
        from hypercorn.asyncio import serve as run  # noqa: PLC0415
    gate = Gate(app)
    stopping = anyio.Event()

    async def stop_after(wait: Callable[[], Awaitable[object]]) -> None:
        await wait()
        stopping.set()

    async def stopped() -> None:
        await stopping.wait()
        await gate.let_in()
        gate.close(grace)
        _logger.info("Stopping: %d requests in flight", gate.in_flight)
        with anyio.move_on_after(grace + _HANG_UP):
            await gate.wait_drained()
        gate.hang_up()  # on those who do not take their answers
        # Hypercorn keeps to these itself, but not with asyncio on Python 3.12 and later.
        longest = config.graceful_timeout + config.shutdown_timeout + _HANG_UP
        tasks.cancel_scope.deadline = anyio.current_time() + longest

    failure: Exception | None = None
    guarded: Any = gate  # which hypercorn's types want to be many things

    # In a task of its own: on Python 3.11, asyncio's TaskGroup, which hypercorn uses, leaves its
    # task with a cancellation that counts as pending.
    async def run_hypercorn() -> None:
        nonlocal failure
        try:
            await run(guarded, config, shutdown_trigger=stopped)
        except Exception as exc:  # noqa: BLE001  raised below: the group would wrap it
            failure = exc
        tasks.cancel_scope.cancel()

    with _handlers_kept(listed) as told:
        try:
            async with anyio.create_task_group() as tasks:
                if listed:
                    await tasks.start(_wait_for_signal, listed, stopping, told)
                for event in until:
                    tasks.start_soon(stop_after, event.wait)
                tasks.start_soon(run_hypercorn)
        finally:
            # When it is cancelled, hypercorn leaves them running, with asyncio on Python 3.12 and
            # later.
            await gate.evict(_HANG_UP)  # noqa: ASYNC102  shielded in there
    if failure is not None:
        raise failure
    _logger.info("Stopped: %d accepted requests were cut off", gate.cut_off)


async def _wait_for_signal(
    signals: Sequence[signal.Signals],
    stopping: anyio.Event,
    told: anyio.Event,
    *,
    task_status: TaskStatus[None],
) -> None:
    with anyio.open_signal_receiver(*signals) as received:
        task_status.started()
        async for _ in received:
            break
    told.set()
    stopping.set()
    for each in signals:
        signal.signal(each, signal.SIG_DFL)


@contextmanager
def _handlers_kept(signals: Iterable[signal.Signals]) -> Generator[anyio.Event]:
    """Put the handlers back; if the event that this yields is set, when the task has ended."""
    handlers: dict[signal.Signals, Any] = {each: signal.getsignal(each) for each in signals}
    told = anyio.Event()

    def put_back(*_: object) -> None:
        for each, handler in handlers.items():
            if handler is not None:  # else it is not Python's
                signal.signal(each, handler)

    try:
        yield told
    finally:
        if told.is_set():
            _when_the_task_has_ended(put_back)
        else:
            put_back()


def _when_the_task_has_ended(function: Callable[..., None]) -> None:
    """Call a function once this task has ended; on trio, once its run's main task has."""
    if sniffio.current_async_library() == "trio":
        import trio  # noqa: PLC0415  as above

        async def wait() -> None:
            try:
                await trio.sleep_forever()
            finally:
                function()

        trio.lowlevel.spawn_system_task(wait)
    else:
        import asyncio  # noqa: PLC0415  as above

        task = asyncio.current_task()
        assert task is not None  # noqa: S101  it is in this function
        task.add_done_callback(function)


def _check_grace(grace: float) -> None:
    if isinstance(grace, bool) or not isinstance(grace, Real):
        raise TypeError(f"grace must be a number of seconds, not {grace!r}")
    if not 0 <= grace < math.inf:
        raise ValueError(f"grace must be finite and >= 0 seconds, not {grace!r}")
