"""One child process and the conversation with it, as the parent has them."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from ._child import LEFT_TO_THE_PARENT, main
from ._shared import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from ._child import Kind
    from ._shared import Block, Packed

__all__ = ["Child"]

# Seconds that the kernel has to kill a child in: a driver can keep it from that for ever.
_KILLING = 5.0


class Child:
    """One child process and the conversation with it.

    Attributes:
        exit_code: as in `multiprocessing.Process`, once it has ended.
    """

    def __init__(self, outgoing: Block | None, incoming: Block | None) -> None:
        self.exit_code: int | None = None
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(
            target=main,
            args=(theirs, outgoing, incoming),
            name="trio_batcher model",
            daemon=False,
        )
        try:
            with _signals_blocked(), _children_allowed():
                self._process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        # At the interpreter's end, multiprocessing would wait for it.
        atexit.register(self._process.kill)
        self._line = Line(ours, outgoing, incoming)
        self._connection = ours
        # Readable once it has ended. The pipe that multiprocessing has for that is held open by
        # whatever the child has forked, so Linux's own way is better.
        self._pidfd: int | None = None
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                self._pidfd = os.pidfd_open(self._process.pid or 0)
        self._pulse = self._process.sentinel if self._pidfd is None else self._pidfd

    def is_alive(self) -> bool:
        """Return whether it has not ended yet."""
        return not self.has_ended(0.0)

    def has_ended(self, within: float) -> bool:
        """Wait for its end, so many seconds at most, and return whether that has come."""
        return bool(wait([self._pulse], within))

    def ask(
        self,
        kind: Kind | None,
        packed: Packed,
        bell: Connection | None,
        patience: Callable[[], float],
    ) -> tuple[int, list[memoryview]]:
        """Send a message, if there is a kind, and return the answer.

        Args:
            kind: what the message is about.
            packed: what it consists of.
            bell: from when it is readable on, patience counts; `None`: from now on.
            patience: asked for seconds then.

        Raises:
            EOFError: it has ended without an answer, or hung up.
            TimeoutError: patience has come to its end.
        """
        if kind is not None:
            self._line.send(kind, packed)
        signs: list[Any] = [self._connection, self._pulse]
        ready = wait([*signs, bell]) if bell is not None else []
        if ready in ([], [bell]):
            ready = wait(signs, patience())
        # An answer counts, also if it was the last thing the child did.
        if self._connection in ready:
            return self._line.receive()
        if ready:
            raise EOFError
        raise TimeoutError

    def end(self) -> str:
        """Kill it if need be, let go of all that belongs to it, and say how it has ended."""
        if self._connection.closed:
            return _how(self.exit_code)
        self._connection.close()
        self._process.kill()
        if self.has_ended(_KILLING):
            self._process.join()
            self.exit_code = self._process.exitcode
            atexit.unregister(self._process.kill)
            with suppress(ValueError):  # somebody else has reaped it: then nobody knows
                self._process.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        return _how(self.exit_code)


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "nobody knows how"
    if exit_code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"


# Of the process, as the flag is that it guards.
_allowing = threading.Lock()


@contextmanager
def _children_allowed() -> Iterator[None]:
    """Let a daemonic process, such as a worker of Hypercorn's, have a child.

    `multiprocessing` forbids that as the child could outlive it, which ours cannot.
    """
    process = multiprocessing.current_process()
    with _allowing:
        if not process.daemon:
            yield
            return
        process.daemon = False
        try:
            yield
        finally:
            process.daemon = True


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keep signals from a child that starts, until it can leave them: the mask is inherited."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It is started with the first child otherwise, and that unblocks them.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
