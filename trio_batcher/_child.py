"""What runs in a model's own process: it makes the model, runs it, and leaves with its parent.

Parent and child take turns; the child answers each message with one.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from enum import IntEnum
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from ._shared import Line, pack, unpack

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ._shared import Block, Packed

__all__ = ["LEFT_TO_THE_PARENT", "Kind", "main"]

# Who sends these to a whole service means the service, and the parent is to end it in good order.
LEFT_TO_THE_PARENT = frozenset({signal.SIGINT, signal.SIGTERM})


class Kind(IntEnum):
    """What a message is about."""

    # The parent's.
    LOAD = 1
    RUN = 2
    CLOSE = 3
    # The child's: a value, or an exception and its traceback.
    DONE = 4
    FAILED = 5


def main(connection: Connection, incoming: Block | None, outgoing: Block | None) -> None:
    """Serve the parent until it says that this is the end, or is no more."""
    _leave_with_the_parent()
    _leave_signals_to_the_parent()
    line = Line(connection, outgoing, incoming)
    # Says that the parent's main module could be imported here.
    line.send(Kind.DONE)
    model: Any = None
    kind = 0
    while kind != Kind.CLOSE:
        try:
            kind, parts = line.receive()
        except EOFError:
            return
        try:
            result: Any = None
            match kind:
                case Kind.LOAD:
                    model = unpack(parts)()
                case Kind.RUN:
                    result = model.infer(unpack(parts))
                case Kind.CLOSE:
                    _close(model)
            answer = Kind.DONE, _packed(result)
        except BaseException as exc:  # noqa: BLE001, ASYNC103  the parent's to judge
            answer = Kind.FAILED, _packed_error(exc)
        # Not to be kept alive until the next batch.
        result, parts = None, []
        line.send(*answer)
        del answer


def _close(model: Any) -> None:
    close = getattr(model, "close", None)
    if close is not None:
        close()


def _packed(result: Any) -> Packed:
    try:
        return pack(result)
    except Exception as exc:
        msg = f"what the model returned cannot be sent to the batcher's process: {exc}"
        raise TypeError(msg) from exc


def _packed_error(error: BaseException) -> Packed:
    text = "".join(traceback.format_exception(error)).rstrip()
    try:
        twin = pickle.loads(pickle.dumps(error))  # noqa: S301  made in this very line
        if type(twin) is type(error):
            return pack((error, text))
    except Exception as exc:  # noqa: BLE001  whatever its class does; told instead
        text += f"\n(it cannot be pickled: {exc!r})"
    last = traceback.format_exception_only(error)[-1].strip()
    return pack((RuntimeError(f"{last} (in the model's process; it cannot leave that)"), text))


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
        try:
            lifelines.append(os.pidfd_open(parent.pid or 0))
        except OSError:
            os._exit(1)
    threading.Thread(target=_follow, args=(lifelines,), name="lifeline", daemon=True).start()
    _have_the_kernel_see_to_it(parent.sentinel)
    if os.getppid() != parent.pid:  # it had ended before anything of this was ready
        os._exit(1)


def _follow(lifelines: list[int]) -> None:
    wait(lifelines)
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
