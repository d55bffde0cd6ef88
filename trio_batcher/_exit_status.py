"""How a process ends that was told to stop by a signal, and by a second one."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["clean_exit_status"]

_STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def clean_exit_status() -> Generator[None]:
    """Let uvicorn end with status 0 after SIGTERM, and any server at once after a second signal.

    It is put around the body of a lifespan. Once uvicorn has answered everything and the lifespan
    is over, it raises the signal that stopped it again, so that the process ends by that: with
    status -15, which a shell calls 143, and some supervisors a failure. With this the signal stays
    blocked in that thread, in which nothing but the end of the process is left to be done.

    From the first SIGTERM or SIGINT that stops the server until the lifespan is over, both have
    their default effect: a second one ends the process at once, without any cleanup, whatever the
    server or the model is waiting for. By itself uvicorn lets nothing but SIGINT hurry it up, and
    nothing at all once the lifespan ends. This is not for processes that a server's own supervisor
    has started: gunicorn and ``uvicorn --workers`` may send them a signal twice and mean it once.

    Leaving the block by an exception changes nothing of the status. Nor is anything done where
    no server handles SIGTERM in this thread, as in tests and in hypercorn's worker processes, or
    where signals cannot be blocked, as on Windows. A program that goes on after uvicorn's end is
    deaf to SIGTERM.
    """
    handler = _handler()
    with _second_signal_ends_it(handler):
        yield
    if getattr(handler, "__module__", None) == "uvicorn.server" and hasattr(
        signal, "pthread_sigmask"
    ):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _handler() -> Any:
    """Return who handles SIGTERM in this thread, if a server does.

    Uvicorn does so by a method of its server, hypercorn by its event loop, in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(signal.SIGTERM)
    return handler if callable(handler) else None


@contextmanager
def _second_signal_ends_it(handler: Any) -> Generator[None]:
    supervised = "gunicorn" in sys.modules or multiprocessing.parent_process() is not None
    if handler is None or supervised:
        yield
        return
    handlers: dict[int, Any] = {each: signal.getsignal(each) for each in _STOPPING}

    def stop(number: int, frame: Any) -> None:
        for each in handlers:
            signal.signal(each, signal.SIG_DFL)
        handlers[number](number, frame)

    # Not of who asks for an interrupt only, and goes on.
    wrapped = [
        each
        for each, theirs in handlers.items()
        if callable(theirs) and theirs is not signal.default_int_handler
    ]
    for each in wrapped:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each, theirs in handlers.items():
            if signal.getsignal(each) in (stop, signal.SIG_DFL) and theirs is not None:
                signal.signal(each, theirs)
