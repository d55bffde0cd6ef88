"""What runs in a model's own process: it makes the model, runs it, and leaves with its parent.

Parent and child take turns; the child answers each message with one. What the model has forked may
come back into this code: it leaves at once, and touches nothing that the two have between them.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from ._shared import NOTHING, Line, pack, unpack
from ._told import Told, tell

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ._shared import Block, Packed

__all__ = ["LEFT_TO_THE_PARENT", "Kind", "main"]

# Who sends these to a whole service means the service, and the parent is to end it in good order.
LEFT_TO_THE_PARENT = frozenset({signal.SIGINT, signal.SIGTERM})
# Seconds between two looks at the parent where the kernel does not tell of its end.
_GLANCE = 0.5
# Seconds for which results are kept that the parent may ask for one by one.
_KEEPING = 1.0
# Results of these types can be unpickled in the parent.
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})


class Kind(IntEnum):
    """What a message is about."""

    # The parent's.
    LOAD = 1
    RUN = 2
    CLOSE = 3
    # The last run's results again, one by one.
    AGAIN = 4
    # The child's: a value; a list in which exceptions are as they are told; a list of results
    # that are packed one by one, or told why not; an exception, told.
    DONE = 5
    MIXED = 6
    EACH = 7
    FAILED = 8
    # There was no room for the message, or for an answer.
    NO_MEMORY = 9


def main(connection: Connection, incoming: Block | None, outgoing: Block | None) -> None:
    """Serve the parent until it says that this is the end, or is no more."""
    _leave_with_the_parent()
    _leave_signals_to_the_parent()
    line = Line(connection, outgoing, incoming)
    # Says that the parent's main module could be imported here.
    line.send(Kind.DONE)
    service = _Service()
    kind = 0
    while kind != Kind.CLOSE:
        if service.kept is not None and not connection.poll(_KEEPING):
            service.kept = None
        try:
            try:
                kind, parts = line.receive()
                answer = service.answer(kind, parts)
            except MemoryError:
                answer = Kind.NO_MEMORY, NOTHING
            # Not to be kept alive until the next batch.
            parts = []
            service.leave_if_forked()
            _say(line, answer)
        except EOFError:
            return
        del answer


def _say(line: Line, answer: tuple[Kind, Packed]) -> None:
    line.number = line.heard
    try:
        if not line.our_turn:
            raise EOFError  # what there was no room for is still in the pipe
        line.send(*answer)
    except MemoryError:
        if not line.our_turn:
            raise
        line.send(Kind.NO_MEMORY)


class _Service:
    """The model.

    Attributes:
        kept: the last run's results, if the parent may not be able to unpickle one of them.
    """

    def __init__(self) -> None:
        self.kept: Sequence[Any] | None = None
        self._model: Any = None
        self._here = os.getpid()

    def answer(self, kind: int, parts: list[memoryview]) -> tuple[Kind, Packed]:
        """Do as a message says and return the answer.

        Raises:
            MemoryError: there is no room for one.
        """
        kept, self.kept = self.kept, None
        try:
            return self._answer(kind, parts, kept)
        except BaseException as exc:  # noqa: BLE001, ASYNC103  the parent's to judge
            self.leave_if_forked(exc)
            return Kind.FAILED, pack(tell(exc))  # noqa: ASYNC104

    def leave_if_forked(self, error: BaseException | None = None) -> None:
        """End a forked copy of this process as Python would, but with nothing of ours touched."""
        if os.getpid() == self._here:
            return
        code = 0 if error is None else 1
        try:
            if isinstance(error, SystemExit):
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
            elif error is not None:
                traceback.print_exception(error)
        finally:
            os._exit(code & 0xFF)

    def _answer(
        self, kind: int, parts: list[memoryview], kept: Sequence[Any] | None
    ) -> tuple[Kind, Packed]:
        match kind:
            case Kind.LOAD:
                self._model = _unpacked("the model", parts)()
            case Kind.RUN:
                return self._packed(self._model.infer(_unpacked("an input", parts)))
            case Kind.AGAIN if kept is not None:
                return Kind.EACH, _one_by_one(kept)
            case Kind.CLOSE:
                close = getattr(self._model, "close", None)
                if close is not None:
                    close()
        return Kind.DONE, pack(None)

    def _packed(self, results: Any) -> tuple[Kind, Packed]:
        listed = _listed(results)
        types, kind = set(map(type, listed)), Kind.DONE
        if any(issubclass(each, BaseException) for each in types):
            results = listed = [
                tell(each) if issubclass(type(each), BaseException) else each for each in listed
            ]
            kind = Kind.MIXED
        try:
            packed = pack(results)
        except MemoryError:
            raise
        except BaseException as exc:  # noqa: ASYNC103  of a result's own class
            if not listed:
                raise _not_sent(exc) from exc  # noqa: ASYNC104
            return Kind.EACH, _one_by_one(listed)  # noqa: ASYNC104
        if not (_PLAIN.issuperset(types) or all(map(_is_plain, listed))):
            self.kept = listed
        return kind, packed


def _unpacked(what: str, parts: list[memoryview]) -> Any:
    try:
        return unpack(parts)
    except MemoryError:
        raise
    except BaseException as exc:
        msg = f"{what} cannot be unpickled in the model's process: {exc}"
        if "__main__" in msg:
            msg += (
                " (it is defined in the program's main module; of a notebook or an interactive "
                "session nothing can be imported there: put it into a module, a .py file)"
            )
        raise TypeError(msg) from exc  # noqa: ASYNC104


def _listed(results: Any) -> Sequence[Any]:
    """Return the results one by one; nothing if they are no objects, as in an array of numbers."""
    if isinstance(results, list | tuple):
        return results
    if isinstance(results, str | bytes | bytearray | memoryview | range):
        return ()
    with suppress(Exception):  # if that fails it does so for the parent, who tells everybody
        if isinstance(results, Sequence) or getattr(results, "dtype", None) == "O":
            return list(results)
    return ()


def _is_plain(result: Any) -> bool:
    """Return whether the parent can unpickle it for sure."""
    kind = type(result)
    return kind in _PLAIN or (
        kind.__module__ in ("numpy", "torch") and getattr(result, "dtype", None) != "O"
    )


def _one_by_one(results: Sequence[Any]) -> Packed:
    each: list[Any] = []
    for result in results:
        if isinstance(result, Told):
            each.append(result)
            continue
        try:
            pieces, buffers = pack(result)
        except MemoryError:
            raise
        except BaseException as exc:  # noqa: BLE001, ASYNC103  of the result's own class
            each.append(_not_sent(exc))  # noqa: ASYNC104
        else:
            each.append((b"".join(pieces), [pickle.PickleBuffer(it) for it in buffers]))
    return pack(each)


def _not_sent(error: BaseException) -> TypeError:
    return TypeError(f"what the model returned cannot be sent to the batcher's process: {error}")


def _leave_signals_to_the_parent() -> None:
    """Have Ctrl-C and SIGTERM do nothing here.

    A terminal sends the one to all processes in the foreground, a supervisor such as systemd the
    other to all of a service.
    """
    here = os.getpid()

    def pass_over(number: int, _: object) -> None:
        # A process that the model has forked can be told to end.
        if os.getpid() != here:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not ignored: what the model executes would ignore it too, and could not be terminated.
    signal.signal(signal.SIGTERM, pass_over)
    if hasattr(signal, "pthread_sigmask"):  # the parent had them blocked until here
        signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_PARENT)


def _leave_with_the_parent() -> None:
    """End this process when the parent ends, in whatever way, and whatever runs here then."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    # The read end of a pipe that nobody writes to, and on Linux the parent itself: a pipe is
    # held open by whatever the parent has forked.
    lifelines: list[int] = [parent.sentinel]
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):  # not allowed, or there is no parent any more
            lifelines.append(os.pidfd_open(parent.pid or 0))
    with suppress(RuntimeError):  # no thread to be had: there is still the kernel
        threading.Thread(
            target=_follow, args=(parent.pid, lifelines), name="lifeline", daemon=True
        ).start()
    _have_the_kernel_see_to_it(parent.sentinel)
    if os.getppid() != parent.pid:  # it had ended before anything of this was ready
        os._exit(1)


def _follow(parent: int, lifelines: list[int]) -> None:
    while not wait(lifelines, _GLANCE if len(lifelines) == 1 else None):
        if os.getppid() != parent:
            break
    os._exit(1)


def _have_the_kernel_see_to_it(pipe: int) -> None:
    # On Linux: the pipe's end is a signal then. The thread above has to wait for the interpreter
    # lock, which a model may hold for as long as it runs.
    try:
        import fcntl  # noqa: PLC0415  not everywhere

        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    except (ImportError, AttributeError, OSError):
        return  # there is still the thread
