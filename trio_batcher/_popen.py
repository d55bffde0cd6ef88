"""A child process: started without waiting for it, told apart from whoever has its pid later.

`multiprocessing` sends signals to a pid and waits for a pid. Where SIGCHLD is ignored, or somebody
else reaps, that pid may be another process by then. It also writes to a child that starts while it
holds the reading end itself, which blocks for ever if that is much and the child dies.
"""

from __future__ import annotations

import io
import os
import select
import signal
import threading
from contextlib import nullcontext, suppress
from multiprocessing import context, popen_spawn_posix, reduction, resource_tracker, spawn, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Popen"]

# What `multiprocessing` is told where nobody knows the exit code, so that it asks no more.
_UNKNOWN = 255


class Popen(popen_spawn_posix.Popen):
    """The handle of a child that was spawned.

    Attributes:
        pidfd: readable once it has ended; `None` where the kernel has, or allows, no such thing.
        is_known: whether `returncode` is what it has ended with.
    """

    def _launch(self, process_obj: Any) -> None:
        self.is_known = True
        self.pidfd: int | None = None
        self._owner, self._lock = os.getpid(), threading.Lock()
        tracker: Any = resource_tracker.getfd()
        self._fds: list[int] = [tracker]
        data = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process_obj.name), data)
            reduction.dump(process_obj, data)
        finally:
            context.set_spawning_popen(None)
        self._unsent = data.getbuffer()
        ours: list[int] = []
        theirs: list[int] = []
        try:
            self.sentinel, end = os.pipe()
            ours.append(self.sentinel)
            theirs.append(end)
            end, self._feed = os.pipe()
            ours.append(self._feed)
            theirs.append(end)
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=end)
            self.pid = util.spawnv_passfds(
                os.fsencode(spawn.get_executable()), command, [*self._fds, *theirs]
            )
        finally:
            self.finalizer = util.Finalize(self, _close, ours)
            _close(*theirs)
        self._born = _birth(self.pid)
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                self.pidfd = os.pidfd_open(self.pid)
        if self.pidfd is not None and _is_readable(self.sentinel):
            # It is over already, and that may be another process if somebody has reaped it.
            os.close(self.pidfd)
            self.pidfd = None

    def feed(self, bell: Connection | None) -> None:
        """Tell the child what it starts with, until the bell is readable.

        Raises:
            EOFError: it has ended.
            TimeoutError: the bell is.
        """
        os.set_blocking(self._feed, False)
        poll = select.poll()
        poll.register(self._feed, select.POLLOUT)
        for pulse in (self.sentinel if self.pidfd is None else self.pidfd, bell):
            if pulse is not None:
                poll.register(pulse, select.POLLIN)
        left = self._unsent
        while left:
            try:
                left = left[os.write(self._feed, left) :]
            except BlockingIOError:
                ready = {fd for fd, _ in poll.poll()}
                if bell is not None and bell.fileno() in ready:
                    raise TimeoutError from None
                if self._feed not in ready:
                    raise EOFError from None
            except OSError as exc:
                raise EOFError from exc
        self._unsent = memoryview(b"")

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return what it has ended with, or `None` if it has not ended."""
        with self._lock if flag else nullcontext():  # it can be reaped once only
            if self.returncode is None:
                try:
                    self.returncode = self._reaped(flag)
                except ChildProcessError:  # somebody else has
                    # As seen by a forked copy of its parent, it is nobody's.
                    if self.pidfd is None or _is_readable(self.pidfd):
                        self.is_known, self.returncode = False, _UNKNOWN
        return self.returncode

    def _reaped(self, flag: int) -> int | None:
        if self.pidfd is not None:
            try:
                found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | flag)
            except ChildProcessError:
                raise
            except OSError:
                if not _is_readable(self.pidfd):
                    return None
            else:
                if found is None:
                    return None
                exited = found.si_code == os.CLD_EXITED
                return found.si_status if exited else -found.si_status
        elif _birth(self.pid) != self._born:
            raise ChildProcessError
        pid, status = os.waitpid(self.pid, flag)
        return os.waitstatus_to_exitcode(status) if pid == self.pid else None

    def _send_signal(self, sig: int) -> None:
        """Send it a signal, and nobody else; a forked copy of its parent sends none."""
        if os.getpid() != self._owner or self.poll() is not None:
            return
        with suppress(ProcessLookupError):
            if self.pidfd is not None and hasattr(signal, "pidfd_send_signal"):
                try:
                    signal.pidfd_send_signal(self.pidfd, sig)
                except ProcessLookupError:
                    raise
                except OSError:  # not allowed; it has not ended, so that the pid is its own
                    os.kill(self.pid, sig)
            else:
                os.kill(self.pid, sig)

    def close(self) -> None:
        """Let go of its descriptors."""
        super().close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _birth(pid: int) -> bytes | None:
    """Return what tells a process from a later one of the same pid, if there is such a thing."""
    try:
        # After the name, which may have any characters in it; the 22nd field is the start time.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]
    except (OSError, IndexError):
        return None
