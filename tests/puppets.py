"""Models for processes of their own; `Puppet` asks the test before each step it takes.

Imported by the children too, so that it imports little.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from contextlib import suppress
from pathlib import Path

from trio_batcher import _shared

# Longer than any test waits for anything; that of `tests.models`, which imports event loops.
PATIENCE = 30


class Picky(Exception):
    """Says more than its arguments."""

    def __init__(self, item, *, hint):
        super().__init__(f"{item} {hint}")


class Stubborn(Exception):
    """Cannot be pickled."""

    def __init__(self):
        super().__init__("stubborn")
        self.lock = threading.Lock()


class Doubler:
    """Doubles what can be doubled, and does as it is told by a string."""

    def infer(self, items):
        return [self.answer(item) for item in items]

    def answer(self, item):
        match item:
            case "pid":
                return os.getpid()
            case "exit":
                os._exit(7)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                ctypes.string_at(0)
            case "raise":
                raise LookupError(item)
            case "leave":
                raise SystemExit(item)
            case "stubborn":
                raise Stubborn
            case "picky":
                raise Picky(item, hint="is not easy")
            case "returned":
                return LookupError(item)
            case "unpicklable":
                return threading.Lock()
            case "fork":
                return self.fork()
            case "loops":
                return sorted({"anyio", "asyncio", "trio"} & sys.modules.keys())
        return item * 2

    def fork(self):
        """Leave a process behind that has all our descriptors, until it is killed."""
        pid = os.fork()
        if not pid:
            signal.pause()
        return pid


class Unloadable:
    """Can be pickled, and not unpickled."""

    def __reduce__(self):
        return int, ("no number",)


class Unsendable:
    """Cannot be pickled, and says so as it likes."""

    def __reduce__(self):
        raise SystemExit("not me")


class Greedy:
    """There is no memory for it: on the way there, or for nobody."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        if self.where == "here":
            raise MemoryError("no room to pickle it")
        return _take, (self.where,)


def _take(_):
    raise MemoryError("no room to unpickle it")


class Talker:
    """Answers to what it is asked, and does before what is asked for by a tuple."""

    def __init__(self):
        module = types.ModuleType("only_here")
        module.Own = type("Own", (Exception,), {"__module__": "only_here"})
        module.Result = type("Result", (), {"__module__": "only_here"})
        sys.modules["only_here"] = self.module = module

    def infer(self, items):
        return [self.answer(item) for item in items]

    def answer(self, item):
        if not isinstance(item, tuple):
            return f"answer to {item}"
        command, *arguments = item
        return getattr(self, command)(*arguments)

    def exception(self, which):
        if which == "group":
            return ExceptionGroup("error 719", [LookupError("a"), self.exception("own")])
        kinds = {"own": self.module.Own, "plain": LookupError, "exit": SystemExit}
        match which:
            case "picky":
                return Picky("error", hint="719")
            case "stubborn":
                return Stubborn()
            case "speechless":
                return type("Speechless", (Exception,), {"__str__": lambda _: 1 / 0})()
        return kinds[which]("error 719")

    def raised(self, which):
        raise self.exception(which)

    def result(self, which):
        match which:
            case "own":
                return {"of": [self.module.Result()]}
            case "unloadable":
                return Unloadable()
            case "unsendable":
                return [Unsendable()]
            case "lock":
                return threading.Lock()
        raise AssertionError(which)

    def fork(self, then):
        """Have a copy that comes back; it has the time to do harm."""
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return "forked"
        match then:
            case "return":
                return "forked"
            case "raise":
                raise LookupError("of the copy")
            case "leave":
                raise SystemExit(3)
            case "unsendable":
                return Unsendable()
        raise AssertionError(then)

    def leave_a_copy(self, end):
        """Die; the copy comes back when the other end of a fifo is closed."""
        if os.fork():
            os._exit(9)
        Path(end).read_bytes()
        return "of the copy"

    def write(self, what):
        """Write to whatever is open."""
        for fd in range(3, 64):
            with suppress(OSError):
                os.write(fd, what)
        return "written"

    def shut(self, path):
        """Close all that is open, and use the descriptors for something else."""
        os.closerange(3, 256)
        for _ in range(32):
            os.open(path, os.O_RDWR | os.O_CREAT)
        return "shut"

    def hang_up(self):
        """Go on without any descriptor."""
        os.closerange(3, 256)
        signal.pause()

    def starve(self, times):
        """Have no memory for the next messages."""

        def no_bytearray(_):
            nonlocal times
            times -= 1
            if not times:
                del _shared.bytearray
            raise MemoryError

        _shared.bytearray = no_bytearray
        return "starved"

    def hang(self):
        signal.pause()


class Signaller:
    """Sends signals to its own process, and to those that it starts."""

    def infer(self, items):
        return [getattr(self, item)() for item in items]

    def interrupt(self):
        os.kill(os.getpid(), signal.SIGINT)
        return "ignored"

    def terminate(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return "ignored"

    def terminate_a_program(self):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as program:
            program.terminate()
            return program.wait(PATIENCE)

    def terminate_a_fork(self):
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(write, b"x")  # what comes before Python has noticed the fork is forgotten
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                pass  # in a system call it could miss the signal
            os._exit(0)
        os.read(read, 1)
        os.kill(pid, signal.SIGTERM)
        os.close(read)
        os.close(write)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Echo:
    """Returns its inputs, and keeps those of the first batch."""

    def __init__(self):
        self.first = None

    def infer(self, items):
        if isinstance(items[0], str) and items[0] == "first":
            return [self.first]
        if self.first is None:
            self.first = items[0]
        return items


class Broken:
    """Cannot be made."""

    def __init__(self, how):
        if how == "raise":
            raise FileNotFoundError("weights.bin")
        if how == "leave":
            raise SystemExit("no weights")
        os._exit(3)

    def infer(self, items):
        return items


class Puppet:
    """Asks before each step, over a socket, and waits for the answer."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.file = self.socket.makefile("rw")
        self.ask("init")

    def infer(self, items):
        self.ask("infer")
        return [item * 2 for item in items]

    def close(self):
        self.ask("close")

    def ask(self, step):
        print(step, os.getpid(), file=self.file, flush=True)
        match self.file.readline().strip():
            case "raise":
                raise ValueError(f"told to raise in {step}")
            case "exit":
                os._exit(3)
            case "hold the lock":
                # As a model in C can: no other thread of the process runs any more.
                ctypes.PyDLL(None).pause()
