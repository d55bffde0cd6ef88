"""With what status a process ends that was told to stop."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["clean_exit_status"]


@contextmanager
def clean_exit_status() -> Generator[None]:
    """Let uvicorn end with status 0 when it has been stopped by SIGTERM and all went well.

    It is put around the body of a lifespan. Once uvicorn has answered everything and the lifespan
    is over, it raises the signal that stopped it again, so that the process ends by that: with
    status -15, which a shell calls 143, and some supervisors a failure. With this the signal stays
    blocked in that thread, in which nothing but the end of the process is left to be done.

    Leaving the block by an exception changes nothing. Nor does it do anything where something
    else than uvicorn handles the signal, as in tests, or where signals cannot be blocked, as on
    Windows. A program that goes on after uvicorn's end is deaf to SIGTERM.
    """
    yield
    handler = signal.getsignal(signal.SIGTERM)
    # It handles them in the main thread alone, and by a method of its server.
    if getattr(handler, "__module__", None) == "uvicorn.server" and hasattr(
        signal, "pthread_sigmask"
    ):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
