"""The interpreter lock, and how soon a worker thread gets it back.

A thread that wants the lock asks for it after CPython's switch interval, 5 ms by default,
and starts to count anew each time the lock changes hands. An event loop under load lets go
of it for microseconds at every system call, so that with the default a worker whose model
has just finished can wait for many batches' time before it may take the next.

So while a batcher with a worker thread is open the interval is 20 µs. And
since a wait of microseconds takes at least as long as the thread's timer slack, which on
Linux is 50 µs by default, a worker does without that slack. `make bench-duty` shows what
this is worth. The price is paid where both sides have much Python to run: they take turns
more often, and the worker is the more insistent one.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SWITCH_INTERVAL", "prompt_switching", "prompt_waking"]

# Seconds.
SWITCH_INTERVAL = 2e-5
# From <linux/prctl.h>.
_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
# Nanoseconds.
_TIMER_SLACK = 1_000


def _find_prctl() -> Callable[[int, int], int] | None:
    if sys.platform != "linux":
        return None
    # Called with the interpreter lock held: letting go of it is what this is about.
    prctl: Callable[[int, int], int] | None = getattr(ctypes.PyDLL(None), "prctl", None)
    return prctl


_prctl = _find_prctl()


class _SwitchInterval:
    """The interpreter's only switch interval, shared by whoever needs it short.

    The setting is the process's, so this bookkeeping has to be the process's too: the
    first to come remembers what it was, the last to go puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0.0
        self._set_to = 0.0

    def shorten(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = sys.getswitchinterval()
                if self._before > SWITCH_INTERVAL:
                    sys.setswitchinterval(SWITCH_INTERVAL)
                # Read back: the interpreter keeps it in whole microseconds.
                self._set_to = sys.getswitchinterval()

    def restore(self) -> None:
        with self._lock:
            self._users -= 1
            # Somebody who has set it since knows better.
            if self._users == 0 and sys.getswitchinterval() == self._set_to:
                sys.setswitchinterval(self._before)


_switch_interval = _SwitchInterval()


@contextmanager
def prompt_waking() -> Iterator[None]:
    """Let the calling thread's timed waits end on time inside the block.

    On Linux its timer slack (see prctl(2)) is 1 µs inside, and what it was afterwards.
    Elsewhere nothing happens.
    """
    if _prctl is None:
        yield
        return
    before = _prctl(_PR_GET_TIMERSLACK, 0)
    _prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK)
    try:
        yield
    finally:
        _prctl(_PR_SET_TIMERSLACK, before)


@contextmanager
def prompt_switching() -> Iterator[None]:
    """Keep the interpreter's switch interval at 20 µs or less inside the block.

    Blocks may overlap, in any thread; the interval is put back when the last one ends,
    unless it was set to something else in the meantime.
    """
    _switch_interval.shorten()
    try:
        yield
    finally:
        _switch_interval.restore()
