"""Worker threads for an event loop that has none which can be left behind.

Those of `concurrent.futures` are waited for at the end of the interpreter, whatever they do.
"""

from __future__ import annotations

import contextvars
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import outcome

from trio_batcher._errors import ThreadNotStarted

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Worker"]


class Worker:
    """A thread that makes one call after another until it is dismissed.

    Attributes:
        thread: a daemon, so that nobody has to wait for it.

    Raises:
        ThreadNotStarted: the system has no thread.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = threading.Thread(
            target=_work, args=(self._calls,), name="trio_batcher", daemon=True
        )
        try:
            self.thread.start()
        except RuntimeError as exc:
            raise ThreadNotStarted(str(exc)) from exc

    def start(
        self, function: Callable[..., Any], args: tuple[Any, ...], ended: Callable[[], object]
    ) -> list[outcome.Outcome[Any]]:
        """Have it call ``function(*args)`` in the present context, and then ``ended()``.

        Returns:
            A list that has the outcome in it by then.
        """
        context, answer = contextvars.copy_context(), list[outcome.Outcome[Any]]()

        def call() -> None:
            answer.append(outcome.capture(context.run, function, *args))
            # Nobody is there any more if the event loop has ended without it.
            with suppress(RuntimeError):
                ended()

        self._calls.put(call)
        return answer

    def dismiss(self) -> None:
        """Let it end, when it has made its call."""
        self._calls.put(None)


def _work(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        del call
