"""A model in a process of its own: the parent's side.

A worker thread of the batcher's sends a batch to the child and waits for the answer, for the
child's end or for an interruption, whichever comes first. A child that died is replaced before the
next run: the first time at once, then with growing delays until a run has ended well.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from ._child import Kind
from ._errors import ChildDied, DeviceLost
from ._results import not_sent
from ._shared import NOTHING, new_block, pack, unpack
from ._spawned import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from ._model import ModelSource
    from ._shared import Block

__all__ = ["GRACE", "LONGEST_DELAY", "SHORTEST_DELAY", "START_ATTEMPTS", "Keeper", "in_processes"]

# Seconds that a child has to end in, once it was told to; then it is killed.
GRACE = 5.0
# Seconds before a child that died is replaced, if no run has ended well since the death before:
# the shortest, then twice as long each time, up to the longest.
SHORTEST_DELAY, LONGEST_DELAY = 0.1, 1.0
# A child that could not be started again so many times in a row is given up.
START_ATTEMPTS = 5


def in_processes(sources: Sequence[ModelSource]) -> None:
    """Have each source's model made and run in a process of its own.

    Raises:
        TypeError: one is not a class, or a `functools.partial` of one.
    """
    for source in sources:
        if source.factory is None:
            msg = (
                "run_in='process' needs a model that can be made there: pass a class with a "
                "method infer, such as a subclass of InferenceModel, or a functools.partial "
                f"of one, not {source.model!r}"
            )
            raise TypeError(msg)
        source.keeper = keeper = Keeper(source.factory)
        source.factory = keeper.load


class Keeper:
    """Stands for the model in the parent; sees to it that there is a child.

    All but `interrupt` is called in worker threads, one call at a time.

    Attributes:
        restarts: how many times a child was replaced.
        blocks: the shared memory, to the child and from it.
    """

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.restarts = 0
        self.blocks: tuple[Block | None, Block | None] = None, None
        self._factory = factory
        self._packed = NOTHING
        self._child: Child | None = None
        # Since a run has ended well.
        self._deaths = 0
        self._give_up_at = float("inf")
        self._lock = threading.Lock()
        # Readable from an interruption on. The lock guards the end that is written to.
        self._bell: Connection | None = None
        self._ringer: Connection | None = None

    def load(self) -> Keeper:
        """Start the child and have it make the model.

        Raises:
            TypeError: the class cannot be pickled.
            ChildDied: the child has ended before the model was made.
            DeviceLost: interrupted.
            Exception: what the model's constructor raised.
        """
        try:
            self._packed = pack(self._factory)
        except Exception as exc:
            msg = (
                "run_in='process' needs a model that can be pickled: a class defined at the top "
                f"level of a module, and what a partial holds, not {self._factory!r}: {exc}"
            )
            raise TypeError(msg) from exc
        bell, ringer = multiprocessing.Pipe(duplex=False)
        with self._lock:
            self._bell, self._ringer = bell, ringer
            if self._give_up_at < float("inf"):
                ringer.send_bytes(b"!")
        self.blocks = new_block(), new_block()
        try:
            self._pause(0.0)
            self._child = self._started()
        except BaseException:
            self._release()
            raise
        return self

    def interrupt(self) -> None:
        """Let a run that is under way end within `GRACE`, loading and waiting at once."""
        with self._lock:
            if self._give_up_at == float("inf"):
                self._give_up_at = time.monotonic() + GRACE
                if self._ringer is not None:
                    self._ringer.send_bytes(b"!")

    def ready(self) -> None:
        """See to it that there is a child, starting one as often as it takes.

        Raises:
            DeviceLost: it cannot be started again; or interrupted.
        """
        if self._child is not None:
            if self._child.is_alive():
                return
            self._bury()
        reason: Exception | None = None
        for _ in range(START_ATTEMPTS):
            delay = SHORTEST_DELAY * 2 ** (self._deaths - 2) if self._deaths > 1 else 0.0
            self._pause(min(delay, LONGEST_DELAY))
            try:
                self._child = self._started()
            except DeviceLost:
                raise
            except Exception as exc:  # noqa: BLE001  the last one is raised below
                self._deaths += 1
                reason = exc
            else:
                self.restarts += 1
                return
        msg = (
            f"the model's process cannot be started again: {START_ATTEMPTS} attempts in a row "
            f"have failed, the last with {reason!r}"
        )
        raise DeviceLost(msg) from reason

    def infer(self, inputs: list[Any]) -> Any:
        """Run a batch in the child.

        Raises:
            TypeError: the inputs or the results cannot be pickled.
            ChildDied: the child has ended without an answer.
            DeviceLost: interrupted, and it took too long.
            BaseException: what the model raised, with the child's traceback as a note.
        """
        try:
            packed = pack(inputs)
        except Exception as exc:
            msg = f"the inputs cannot be sent to the model's process: {exc}"
            raise not_sent(msg) from exc
        if self._child is None or self._bell is None:
            raise DeviceLost("the model's process is not there")
        try:
            kind, answer = self._child.ask(Kind.RUN, packed, self._bell, self._time_left)
        except EOFError:
            raise self._bury() from None
        except TimeoutError:
            self._bury()
            raise DeviceLost("the model's process was killed, as the batcher is closing") from None
        self._deaths = 0
        return _opened(kind, answer)

    def close(self) -> None:
        """Have the child close the model and end, or kill it after `GRACE`.

        Raises:
            ChildDied: it was killed, or died while it closed.
            Exception: what the model's ``close`` raised.
        """
        child, self._child = self._child, None
        try:
            if child is None or not child.is_alive():
                return  # there is nothing to close
            try:
                kind, answer = child.ask(Kind.CLOSE, NOTHING, None, lambda: GRACE)
                ended = child.has_ended(GRACE)
            except EOFError:
                msg = f"the model's process died while it closed the model: {child.end()}"
                raise ChildDied(msg, exit_code=child.exit_code) from None
            except TimeoutError:
                ended = False
            if not ended:
                msg = f"the model's process had not ended {GRACE} s after it was asked to: killed"
                raise ChildDied(msg, exit_code=None)
            _ordinary(_opened, kind, answer)
        finally:
            if child is not None:
                child.end()
            self._release()

    def _started(self) -> Child:
        child = Child(*self.blocks)
        try:
            try:
                child.ask(None, NOTHING, self._bell, lambda: 0.0)
            except EOFError:
                msg = (
                    f"the model's process ended before it could begin: {child.end()}. It imports "
                    "the program's main module first: what that does when it is run has to be "
                    "under `if __name__ == '__main__':`. What it printed says more."
                )
                raise ChildDied(msg, exit_code=child.exit_code) from None
            try:
                kind, answer = child.ask(Kind.LOAD, self._packed, self._bell, lambda: 0.0)
            except EOFError:
                msg = f"the model's process died while it made the model: {child.end()}"
                raise ChildDied(msg, exit_code=child.exit_code) from None
            _ordinary(_opened, kind, answer)
        except TimeoutError:
            child.end()
            raise DeviceLost("interrupted while the model was being made") from None
        except BaseException:
            child.end()
            raise
        return child

    def _bury(self) -> ChildDied:
        child, self._child = self._child, None
        self._deaths += 1
        if child is None:
            return ChildDied("the model's process is not there", exit_code=None)
        how = child.end()
        return ChildDied(
            f"the model's process died while it ran a batch: {how}", exit_code=child.exit_code
        )

    def _pause(self, seconds: float) -> None:
        if self._bell is not None and wait([self._bell], seconds):
            raise DeviceLost("interrupted while the model's process was to be started")

    def _time_left(self) -> float:
        return max(0.0, self._give_up_at - time.monotonic())

    def _release(self) -> None:
        with self._lock:
            ends, self._bell, self._ringer = (self._bell, self._ringer), None, None
        blocks, self.blocks = self.blocks, (None, None)
        for each in (*ends, *blocks):
            if each is not None:
                each.close()


def _opened(kind: int, answer: list[memoryview]) -> Any:
    if kind == Kind.DONE:
        try:
            return unpack(answer)
        except Exception as exc:
            msg = f"what the model returned cannot be unpickled in the batcher's process: {exc}"
            raise TypeError(msg) from exc
    error, text = unpack(answer)
    error.add_note(f"In the model's process:\n{text}")
    raise error


def _ordinary(function: Callable[..., Any], *args: Any) -> None:
    """Call it; what it raises is an `Exception`: a model that exits does not end the parent."""
    try:
        function(*args)
    except Exception:
        raise
    except BaseException as exc:
        msg = f"the model raised {exc!r}"
        raise RuntimeError(msg) from exc  # noqa: ASYNC104
