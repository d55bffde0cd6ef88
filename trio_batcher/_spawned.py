"""One child process and the conversation with it, as the parent has them."""

from __future__ import annotations

import atexit
import math
import multiprocessing
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from ._child import LEFT_TO_THE_PARENT, Kind, main
from ._shared import Garbled, Line

if sys.platform != "win32":
    from ._popen import Popen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from ._shared import Block, Packed

__all__ = ["Child"]

# Seconds that the kernel has to kill a child in: a driver can keep it from that for ever.
_KILLING = 5.0
# Seconds in which some of a message that has begun comes or goes.
_STALLED = 5.0
# Seconds between two looks at what nothing tells of by itself.
_GLANCE = 0.2
# Seconds that are waited for in one go.
_LONG = 1e5
# Seconds between a process's last descriptor and its end.
_MOMENT = 0.001
_ANSWERS = {
    None: {Kind.DONE},
    Kind.LOAD: {Kind.DONE, Kind.FAILED, Kind.NO_MEMORY},
    Kind.RUN: {Kind.DONE, Kind.MIXED, Kind.EACH, Kind.FAILED, Kind.NO_MEMORY},
    Kind.AGAIN: {Kind.DONE, Kind.EACH, Kind.FAILED, Kind.NO_MEMORY},
    Kind.CLOSE: {Kind.DONE, Kind.FAILED, Kind.NO_MEMORY},
}


class _Process(SpawnProcess):
    def join(self, timeout: float | None = None) -> None:
        """Wait for its end; a forked copy of its parent, which ends before, does not."""
        if os.getpid() == self._parent_pid:  # type: ignore[attr-defined]
            super().join(timeout)

    if sys.platform != "win32":

        @staticmethod
        def _Popen(process_obj: Any) -> Popen:  # noqa: N802  multiprocessing's own name for it
            return Popen(process_obj)


class Child:
    """One child process and the conversation with it.

    A forked copy of this process has no part in it: it neither talks to the child nor kills it.

    Attributes:
        pid: its own.
        exit_code: as in `multiprocessing.Process`, once it has ended.
    """

    def __init__(self, outgoing: Block | None, incoming: Block | None) -> None:
        self.exit_code: int | None = None
        self._how = "it belongs to another process"
        self._owner = os.getpid()
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        self._process = _Process(
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
        self._popen: Any = self._process._popen  # type: ignore[attr-defined]  # noqa: SLF001
        self._kill = self._process.kill
        # At the interpreter's end, multiprocessing would wait for it.
        atexit.register(self._kill)
        self.pid = self._process.pid
        _bound(ours)
        self._line = Line(ours, outgoing, incoming)
        self._connection = ours
        # Readable once it has ended. The pipe that multiprocessing has for that is held open by
        # whatever the child has forked, so Linux's own way is better.
        self._pidfd: int | None = getattr(self._popen, "pidfd", None)
        self._pulse = self._process.sentinel if self._pidfd is None else self._pidfd
        # Asked before each batch.
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(self._pulse, select.POLLIN)

    def is_ready(self) -> bool:
        """Return whether it has not ended yet, and waits for a message."""
        if not self._line.our_turn or self._connection.closed or self._is_over():
            return False
        return not (wait([self._pulse], 0.0) if self._poll is None else self._poll.poll(0))

    def has_ended(self, within: float) -> bool:
        """Wait for its end, so many seconds at most, and return whether that has come."""
        if self._pidfd is not None:
            return bool(wait([self._pulse], within))
        until = time.monotonic() + within
        while not self._is_over():
            left = until - time.monotonic()
            if left <= 0.0:
                return False
            if wait([self._pulse], min(left, _GLANCE)):
                time.sleep(_MOMENT)  # it has closed all descriptors: the rest takes no time
        return True

    def _is_over(self) -> bool:
        """Return whether it has ended, where the kernel does not tell of it by itself."""
        return self._pidfd is None and self._process.exitcode is not None

    def begin(self, bell: Connection | None) -> None:
        """Wait until it can take messages, or until the bell is readable.

        Raises:
            EOFError: it has ended, or hung up.
            Garbled: it has said something else.
            TimeoutError: the bell is readable.
        """
        if sys.platform != "win32":
            self._popen.feed(bell)
        self._answer(None, bell, lambda: 0.0, math.inf)

    def ask(
        self,
        kind: Kind,
        packed: Packed,
        bell: Connection | None,
        patience: Callable[[], float],
        at_most: float = math.inf,
    ) -> tuple[int, list[memoryview]]:
        """Send a message and return the answer.

        Whatever else is raised between the two, it does not wait for a message any more then.

        Args:
            kind: what the message is about.
            packed: what it consists of.
            bell: from when it is readable on, patience counts; `None`: from now on.
            patience: asked for seconds then, again and again: it may become less.
            at_most: seconds to wait for the answer in any case.

        Raises:
            EOFError: it has ended without an answer, or hung up.
            Garbled: what came is not the answer.
            MemoryError: there is no room for one of the two. It may wait for another message.
            TimeoutError: patience, or the time, has come to its end.
            RuntimeError: this is a forked copy of its parent.
        """
        if os.getpid() != self._owner:
            msg = (
                "this process was forked from the one that has the batcher, and cannot use its "
                "model's process: open a batcher after the fork"
            )
            raise RuntimeError(msg)
        self._line.number += 1
        self._line.send(kind, packed)
        return self._answer(kind, bell, patience, at_most)

    def _answer(
        self,
        asked: Kind | None,
        bell: Connection | None,
        patience: Callable[[], float],
        at_most: float,
    ) -> tuple[int, list[memoryview]]:
        self._listen(bell, patience, at_most)
        line = self._line
        try:
            kind, parts = line.receive()
        finally:
            if line.heard != line.number:
                line.our_turn = False
        if not line.our_turn or kind not in _ANSWERS[asked]:
            line.our_turn = False
            raise Garbled(f"message {line.heard}, of kind {kind}, was to answer {line.number}")
        return kind, parts

    def _listen(
        self, bell: Connection | None, patience: Callable[[], float], at_most: float
    ) -> None:
        """Return when there is an answer."""
        end = time.monotonic() + at_most
        glance = _GLANCE if self._pidfd is None or bell is None else math.inf
        signs: list[Any] = [self._connection, self._pulse]
        if bell is not None:
            signs.append(bell)
        while True:
            if bell not in signs:
                end = min(end, time.monotonic() + patience())
            left = min(glance, max(0.0, end - time.monotonic())) if end < math.inf else glance
            ready = _readable(signs, left)
            # An answer counts, also if it was the last thing the child did.
            if self._connection in ready:
                return
            if self._pulse in ready or self._is_over():
                raise EOFError
            if ready:
                signs.pop()
                glance = _GLANCE
            elif time.monotonic() >= end:
                raise TimeoutError

    def end(self, within: float = 0.0) -> str:
        """Kill it if need be, let go of all that belongs to it, and say how it has ended.

        Args:
            within: seconds that it has to end by itself.
        """
        if not self._connection.closed:
            self._connection.close()
            if os.getpid() == self._owner:
                self._how = self._ended(within)
        return self._how

    def _ended(self, within: float) -> str:
        by_itself = self.has_ended(within)
        self._process.kill()
        ended = self.has_ended(_KILLING)
        if ended:
            self._process.join()
            if getattr(self._popen, "is_known", True):
                self.exit_code = self._process.exitcode
            atexit.unregister(self._kill)
            with suppress(ValueError):  # it still counts as running
                self._process.close()
        if not by_itself:
            return "it had to be killed" if ended else "it could not even be killed"
        if self.exit_code is None:
            return "nobody knows how, as somebody else was told (or SIGCHLD is ignored)"
        return _how(self.exit_code)


def _readable(signs: list[Any], seconds: float) -> list[Any]:
    """Return which of them are readable, waiting for one; ten times as fast as `wait`."""
    if not hasattr(select, "poll"):
        return wait(signs, seconds if seconds < math.inf else None)
    poll = select.poll()
    for sign in signs:
        poll.register(sign, select.POLLIN)
    ready = dict(poll.poll(math.ceil(1e3 * min(seconds, _LONG)) if seconds < math.inf else None))
    return [each for each in signs if (each if isinstance(each, int) else each.fileno()) in ready]


def _bound(connection: Connection) -> None:
    """Have reading and writing fail, not wait for ever, on a message that stops in the middle."""
    if sys.platform == "win32":
        return
    limit = struct.pack("ll", int(_STALLED), 0)
    with socket.socket(fileno=os.dup(connection.fileno())) as twin, suppress(OSError):
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    if exit_code == -signal.SIGKILL:
        return "killed by SIGKILL, perhaps by the kernel's out-of-memory killer"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"


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
