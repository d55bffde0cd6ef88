"""The interpreter lock, and how soon a worker thread gets it back.

A thread that wants the lock asks for it after CPython's switch interval, 5 ms by
default, and starts to count anew each time the lock changes hands. An event loop under
load lets go of it for microseconds at every system call, so that with the default a
worker whose model has just finished can wait for many batches' time before it may take
the next. While a batcher with a worker thread is open the interval is short.
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SWITCH_INTERVAL", "prompt_switching"]

# Seconds. `make bench-duty` shows what it is worth.
SWITCH_INTERVAL = 2e-5


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
def prompt_switching() -> Iterator[None]:
    """Keep the interpreter's switch interval at 0.02 ms or less inside the block.

    Blocks may overlap, in any thread; the interval is put back when the last one ends,
    unless it was set to something else in the meantime.
    """
    _switch_interval.shorten()
    try:
        yield
    finally:
        _switch_interval.restore()
