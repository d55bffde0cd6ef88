"""A model in a process of its own: the parent's side.

A worker thread of the batcher's sends a batch to the child and waits for the answer, for the
child's end or for an interruption, whichever comes first. A child that died is replaced before the
next run: the first time at once, then with growing delays until a run has ended well. So is one
that took too long, that said anything else than an answer, or that was not heard to the end.
"""

from __future__ import annotations

import functools
import logging
import math
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from ._answers import CannotUnpickleError, error_in, results_in
from ._child import Kind
from ._errors import ChildDied, DeviceLost
from ._results import not_sent
from ._shared import NOTHING, Garbled, new_block, pack
from ._spawned import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from ._model import ModelSource
    from ._shared import Block, Packed

__all__ = [
    "GRACE",
    "LONGEST_DELAY",
    "SHORTEST_DELAY",
    "START_ATTEMPTS",
    "UNWANTED",
    "Keeper",
    "in_processes",
]

_log = logging.getLogger("trio_batcher")
# Seconds that a child has to end in, once it was told to; then it is killed.
GRACE = 5.0
# Seconds that a run has to end in whose answer nobody wants any more; then its child is killed.
UNWANTED = 0.25
# Seconds in which a child that has hung up should have ended: then it is killed.
_ENDING = 0.5
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
        _check_importable(source.factory)
        source.keeper = keeper = Keeper(source.factory)
        source.factory = keeper.load


def _check_importable(factory: Any) -> None:
    """Refuse a class that the child cannot import, since the main module is no file."""
    made_by = factory.func if isinstance(factory, functools.partial) else factory
    main = sys.modules.get("__main__")
    if (
        getattr(made_by, "__module__", "") == "__main__"
        and getattr(main, "__file__", None) is None
        and getattr(main, "__spec__", None) is None
    ):
        msg = (
            f"run_in='process' cannot import {made_by.__name__} in the model's process: it was "
            "defined in a notebook or an interactive session; put it into a module, a .py file"
        )
        raise TypeError(msg)


class Keeper:
    """Stands for the model in the parent; sees to it that there is a child.

    All but `interrupt`, `give_up` and `is_ready` is called in worker threads, one call at a time.

    Attributes:
        batch_timeout: seconds that a run may take; then the child is killed.
        restarts: how many times a child was replaced.
        blocks: the shared memory, to the child and from it. Each child has its own: what a dead
            one has forked may still write to that.
    """

    batch_timeout: float = math.inf

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.restarts = 0
        self.blocks: tuple[Block | None, Block | None] = None, None
        self._factory = factory
        self._packed = NOTHING
        self._child: Child | None = None
        # Since a run has ended well, and how the last one was.
        self._deaths = 0
        self._last = ""
        self._give_up_at = math.inf
        self._lock, self._owner = threading.Lock(), os.getpid()
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
        self._owner = os.getpid()  # a server may fork between the call and the block
        bell, ringer = multiprocessing.Pipe(duplex=False)
        with self._lock:
            self._bell, self._ringer = bell, ringer
            if self._give_up_at < math.inf:
                ringer.send_bytes(b"!")
        try:
            self._pause(0.0)
            self._child = self._started()
        except BaseException:
            self._release()
            raise
        return self

    def interrupt(self) -> None:
        """Let a run that is under way end within `GRACE`, loading and waiting at once."""
        self._end_within(GRACE)

    def give_up(self) -> None:
        """Let a run that is under way end within `UNWANTED`, loading and waiting at once."""
        self._end_within(UNWANTED)

    def _end_within(self, seconds: float) -> None:
        if os.getpid() != self._owner:
            return  # a forked copy: the bell is its parent's too
        with self._lock:
            first = self._give_up_at == math.inf
            self._give_up_at = min(self._give_up_at, time.monotonic() + seconds)
            if first and self._ringer is not None:
                self._ringer.send_bytes(b"!")

    def is_ready(self) -> bool:
        """Return whether there is a child that waits for a batch; if not, `ready` helps."""
        return self._child is not None and self._child.is_ready()

    def ready(self) -> None:
        """See to it that there is a child, starting one as often as it takes.

        Raises:
            DeviceLost: it cannot be started again; or interrupted.
        """
        if self.is_ready():
            return
        if self._child is not None:
            self._bury("died between two batches")
        begun, reason = time.monotonic(), None
        for _ in range(START_ATTEMPTS):
            delay = SHORTEST_DELAY * 2 ** (self._deaths - 2) if self._deaths > 1 else 0.0
            self._pause(min(delay, LONGEST_DELAY))
            try:
                child = self._started()
            except DeviceLost:
                raise
            except Exception as exc:  # noqa: BLE001  the last one is raised below
                self._deaths += 1
                reason = exc
            else:
                self._child = child
                self.restarts += 1
                seconds = time.monotonic() - begun
                _log.warning("%s; replaced by %s within %.2f s", self._last, child.pid, seconds)
                return
        msg = (
            f"the model's process cannot be started again: {START_ATTEMPTS} attempts in a row "
            f"have failed, the last with {reason!r}"
        )
        _log.error("%s; %s", self._last, msg)
        raise DeviceLost(msg) from reason

    def infer(self, inputs: list[Any]) -> Any:
        """Run a batch in the child.

        Returns:
            The results; in the place of one that cannot cross a `ModelError` that says why.

        Raises:
            TypeError: the inputs cannot be pickled, or none of the results.
            ChildDied: the child has ended without an answer, or said something else.
            TimeoutError: it took longer than `batch_timeout`.
            MemoryError: there was no room for the inputs or the results, on one of the sides.
            DeviceLost: interrupted, and it took too long.
            BaseException: what the model raised, with the child's traceback as a note.
        """
        try:
            packed = pack(inputs)
        except MemoryError:
            raise
        except Exception as exc:
            msg = f"the inputs cannot be sent to the model's process: {exc}"
            raise not_sent(msg) from exc
        kind, answer = self._ask(Kind.RUN, packed)
        self._deaths = 0
        del packed
        try:
            return results_in(kind, answer)
        except CannotUnpickleError as exc:
            # Most of them can be, one by one.
            kind, answer = self._ask(Kind.AGAIN, NOTHING)
            if kind != Kind.EACH:
                raise exc.reason from exc.reason.__cause__
            return results_in(kind, answer)

    def _ask(self, kind: Kind, packed: Packed) -> tuple[int, list[memoryview]]:
        child = self._child
        if child is None or self._bell is None:
            raise DeviceLost("the model's process is not there")
        try:
            return child.ask(kind, packed, self._bell, self._time_left, self.batch_timeout)
        except Garbled as exc:
            raise self._bury(f"said something that is no answer: {exc}") from None
        except EOFError:
            raise self._bury("died while it ran a batch", _ENDING) from None
        except TimeoutError:
            if self._give_up_at < math.inf:
                self._bury("was at a batch when the batcher closed")
                msg = "the model's process was killed, as the batcher is closing"
                raise DeviceLost(msg) from None
            msg = f"no result within batch_timeout={self.batch_timeout!r} s"
            self._bury(f"gave {msg}")
            _log.warning("%s", self._last)
            raise TimeoutError(msg) from None
        except BaseException as exc:
            # Its answer may be still to come, and must not be taken for the next one's.
            if not child.is_ready():
                self._bury(f"was not heard to the end, because of {exc!r}")
            raise

    def close(self) -> None:
        """Have the child close the model and end, or kill it after `GRACE`.

        Raises:
            ChildDied: it was killed, or died while it closed.
            Exception: what the model's ``close`` raised.
        """
        child, self._child = self._child, None
        try:
            if child is None or os.getpid() != self._owner or not child.is_ready():
                return  # there is nothing to close
            until = time.monotonic() + GRACE
            try:
                kind, answer = child.ask(
                    Kind.CLOSE, NOTHING, None, lambda: until - time.monotonic()
                )
                ended = child.has_ended(max(0.0, until - time.monotonic()))
            except EOFError:
                msg = f"the model's process died while it closed the model: {child.end(_ENDING)}"
                raise ChildDied(msg, exit_code=child.exit_code) from None
            except TimeoutError:
                ended = False
            if not ended:
                msg = f"the model's process had not ended {GRACE} s after it was asked to: killed"
                raise ChildDied(msg, exit_code=None)
            if kind != Kind.DONE:
                _raise_as_exception(error_in(kind, answer))
        finally:
            if child is not None:
                child.end()
            self._release()

    def _started(self) -> Child:
        self._release_blocks()
        self.blocks = new_block(), new_block()
        child = Child(*self.blocks)
        try:
            kind, answer = self._loaded(child)
            if kind != Kind.DONE:
                _raise_as_exception(error_in(kind, answer))
        except BaseException:
            child.end()
            raise
        return child

    def _loaded(self, child: Child) -> tuple[int, list[memoryview]]:
        doing = "ended before it could begin"
        try:
            child.begin(self._bell)
            doing = "died while it made the model"
            return child.ask(Kind.LOAD, self._packed, self._bell, lambda: 0.0)
        except TimeoutError:
            raise DeviceLost("interrupted while the model was being made") from None
        except EOFError as exc:
            said = isinstance(exc, Garbled)
            msg = f"the model's process {doing}: {child.end(0.0 if said else _ENDING)}"
            msg += f" as it said something unexpected: {exc}" if said else ""
            if doing.startswith("ended"):
                msg += (
                    ". It imports the program's main module first: what that does when it is run "
                    "has to be under `if __name__ == '__main__':`. What it printed says more."
                )
            raise ChildDied(msg, exit_code=child.exit_code) from None

    def _bury(self, what: str, within: float = 0.0) -> ChildDied:
        """Kill the child, unless it has ended, and return what can be said of that."""
        child, self._child = self._child, None
        self._deaths += 1
        if child is None:
            return ChildDied("the model's process is not there", exit_code=None)
        how = child.end(within)
        msg = f"the model's process {what}: {how}"
        self._last = f"process {child.pid}: {msg}"
        return ChildDied(msg, exit_code=child.exit_code)

    def _pause(self, seconds: float) -> None:
        if self._bell is not None and wait([self._bell], seconds):
            raise DeviceLost("interrupted while the model's process was to be started")

    def _time_left(self) -> float:
        return max(0.0, self._give_up_at - time.monotonic())

    def _release(self) -> None:
        with self._lock:
            ends, self._bell, self._ringer = (self._bell, self._ringer), None, None
        for each in ends:
            if each is not None:
                each.close()
        self._release_blocks()

    def _release_blocks(self) -> None:
        blocks, self.blocks = self.blocks, (None, None)
        for each in blocks:
            if each is not None:
                each.close()


def _raise_as_exception(error: BaseException) -> None:
    """Raise it as an `Exception`: a model that exits does not end the parent."""
    if isinstance(error, Exception):
        raise error
    msg = f"the model raised {error!r}"
    raise RuntimeError(msg) from error
