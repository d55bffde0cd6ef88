"""Parent and child: an answer goes to its question, whatever happens on the way."""

from __future__ import annotations

import errno
import logging
import math
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
from functools import partial
from multiprocessing import resource_tracker, spawn
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from trio_batcher import ChildDied, DeviceLost, ModelError, _popen, _process, _shared, _spawned
from trio_batcher._block import Block, Garbled, new_block
from trio_batcher._child import Kind
from trio_batcher._model import as_sources
from trio_batcher._process import Keeper, in_processes
from trio_batcher._shared import Line, pack

from .models import PATIENCE
from .puppets import Greedy, Talker, Unloadable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are POSIX's")

TOO_LARGE = r"no memory"


@pytest.fixture(autouse=True)
def no_delays(monkeypatch):
    """A child that died is replaced at once."""
    monkeypatch.setattr(_process, "SHORTEST_DELAY", 0.0)


@pytest.fixture(scope="module")
def shared_keeper():
    """One for all tests, as it takes a while to start a child."""
    resource_tracker.ensure_running()
    keeper = Keeper(Talker)
    keeper.load()
    yield keeper
    keeper.close()
    assert multiprocessing.active_children() == []


@pytest.fixture
def keeper(shared_keeper):
    """One that has a child, as after a start, and has one after the test."""
    shared_keeper.ready()
    shared_keeper.restarts = 0
    yield shared_keeper
    shared_keeper.batch_timeout = math.inf


@pytest.fixture(autouse=True)
def nothing_is_left(shared_keeper):
    """But for the child and the descriptors that are everybody's."""
    shared_keeper.ready()
    descriptors = open_descriptors()
    yield
    shared_keeper.ready()
    assert multiprocessing.active_children() == [shared_keeper._child._process]
    assert open_descriptors() == descriptors


def open_descriptors():
    path = Path("/proc/self/fd")
    return len(list(path.iterdir())) if path.exists() else 0


def child_of(keeper):
    return keeper._child


def is_well(keeper):
    """It answers each question by its own answer."""
    keeper.ready()
    for question in ("one", "two", "three"):
        assert keeper.infer([question]) == [f"answer to {question}"]


# Exceptions and results that do not cross


@pytest.mark.parametrize("way", ["exception", "raised"])
@pytest.mark.parametrize("which", ["plain", "own", "picky", "stubborn", "exit", "group"])
def test_an_exception_arrives_whatever_its_class(keeper, way, which):
    """Among results or raised: as itself if it can, else quoted, with class and message."""
    items = ["a", (way, which), "b"]
    if way == "raised":
        with pytest.raises(BaseException) as caught:
            keeper.infer(items)
        error = caught.value
        assert "puppets.py" in "".join(error.__notes__)
    else:
        first, error, last = keeper.infer(items)
        assert (first, last) == ("answer to a", "answer to b")
    if which in ("own", "picky", "stubborn"):
        if way == "exception":
            assert type(error) is ModelError
            assert error.batch_size == 1
            error = error.__cause__
        assert type(error) is RuntimeError
        assert which in str(error).lower()
        assert "cannot be" in error.__notes__[0]
    else:
        kind = {"plain": LookupError, "exit": SystemExit, "group": ExceptionGroup}[which]
        assert type(error) is kind
    assert {"stubborn": "stubborn", "picky": "error 719"}.get(which, "error 719") in str(error)
    assert keeper.restarts == 0


def test_an_exception_group_keeps_what_can_cross(keeper):
    """Its members are themselves, or quoted, each with a traceback or reason of its own."""
    (group,) = keeper.infer([("exception", "group")])
    lookup, own = group.exceptions
    assert type(lookup) is LookupError
    assert type(own) is RuntimeError
    assert "only_here.Own: error 719" in str(own)


def test_an_exception_that_cannot_be_printed_is_named(keeper):
    """By its class."""
    (error,) = keeper.infer([("exception", "speechless")])
    assert "Speechless" in str(error)


@pytest.mark.parametrize("which", ["own", "unloadable", "unsendable", "lock"])
def test_a_result_that_cannot_cross_fails_alone(keeper, which):
    """Nothing is run again for it, and exceptions beside it are told as ever."""
    items = ["a", ("result", which), ("exception", "picky"), ("exception", "plain"), "b"]
    first, error, picky, plain, last = keeper.infer(items)
    assert (first, last) == ("answer to a", "answer to b")
    assert type(error) is ModelError
    assert type(error.__cause__) is TypeError
    assert "cannot be" in str(error)
    assert "719" in str(picky)
    assert type(plain) is LookupError
    assert keeper.restarts == 0
    is_well(keeper)


def test_a_result_that_cannot_cross_any_more_fails_its_batch(keeper, monkeypatch):
    """The child keeps results for a second only: that of a slow parent is told for all."""
    real, asked = keeper._ask, []

    def ask(kind, packed):
        asked.append(kind)
        if kind == Kind.AGAIN:
            real(Kind.RUN, pack(["something else"]))
        return real(kind, packed)

    monkeypatch.setattr(keeper, "_ask", ask)
    with pytest.raises(TypeError, match="cannot be unpickled in the batcher's process"):
        keeper.infer(["a", ("result", "unloadable")])
    assert asked == [Kind.RUN, Kind.AGAIN]


def test_an_item_that_cannot_be_unpickled_is_named(keeper):
    """As one."""
    with pytest.raises(TypeError, match="an input cannot be unpickled in the model's process"):
        keeper.infer([Unloadable()])
    is_well(keeper)


# Memory


@pytest.mark.parametrize("where", ["here", "there"])
def test_no_memory_for_a_batch_is_told_as_that(keeper, where):
    """The child goes on."""
    with pytest.raises(MemoryError):
        keeper.infer([Greedy(where)])
    is_well(keeper)
    assert keeper.restarts == 0


@pytest.mark.parametrize("blocks", [new_block, lambda: None], ids=["memory", "pipe"])
def test_no_memory_for_a_message_is_told_as_that(monkeypatch, blocks):
    """It is passed over, in the child and in the parent."""
    monkeypatch.setattr(_process, "new_block", blocks)
    keeper = Keeper(Talker)
    keeper.load()
    try:
        keeper.infer([("starve", 2)])
        for _ in range(2):
            with pytest.raises(MemoryError, match=TOO_LARGE):
                keeper.infer(["x" * 3_000_000])
        is_well(keeper)
        with monkeypatch.context() as patch:
            patch.setattr(_shared, "bytearray", no_memory, raising=False)
            with pytest.raises(MemoryError):
                keeper.infer(["x" * 3_000_000])
        is_well(keeper)
        assert keeper.restarts == 0
    finally:
        keeper.close()


def no_memory(_):
    raise MemoryError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_not_the_end(keeper, monkeypatch, number):
    """What has no room in shared memory goes through the pipe."""
    written = []

    def full(block, views):
        written.append(block)
        raise OSError(number, "full")

    with monkeypatch.context() as patch:
        patch.setattr(Block, "write", full)
        large = "x" * 3_000_000
        assert keeper.infer([large, 1]) == [f"answer to {large}", "answer to 1"]
    assert len(written) == 1
    is_well(keeper)
    assert keeper.restarts == 0


# What is not an answer


STEPS = [
    (_spawned, "_readable"),
    (Line, "send"),
    (Line, "receive"),
    (Line, "_room"),
    (Line, "_filler"),
    (Block, "write"),
    (Block, "read_into"),
    (_process, "pack"),
    (_spawned.Child, "_listen"),
    (_spawned.Child, "_answer"),
]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    step=st.sampled_from(STEPS),
    error=st.sampled_from([MemoryError, KeyboardInterrupt, OSError, ValueError, RecursionError]),
    after=st.booleans(),
    batch=st.lists(st.sampled_from(["a", "b", ("result", "unloadable")]), min_size=1, max_size=3),
)
def test_what_fails_between_question_and_answer_shifts_nothing(keeper, step, error, after, batch):
    """Whatever is raised, and wherever: the next questions have their own answers."""
    owner, name = step
    real, raised = getattr(owner, name), []

    def failing(*args, **options):
        result = real(*args, **options) if after else None
        if not raised:
            raised.append(name)
            raise error("injected")
        return result if after else real(*args, **options)

    keeper.ready()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, failing)
        try:
            results = keeper.infer(batch)
        except BaseException:  # noqa: ASYNC103
            assert raised
        else:
            for item, result in zip(batch, results, strict=True):
                assert type(result) is ModelError or result == f"answer to {item}"
    is_well(keeper)


@pytest.mark.parametrize(
    "garbage",
    [b"x", b"garbage" * 10, b"\0\0\0\x1a" + b"x" * 26, b"\0\0\0\x1a" + bytes(26), b"\xff" * 12],
)
def test_garbage_ends_the_child(keeper, garbage):
    """Whatever it writes to the descriptors that it has, nothing is taken for an answer."""
    monkey = pytest.MonkeyPatch()
    monkey.setattr(_spawned, "_STALLED", 1.0)
    with pytest.raises(ChildDied):
        keeper.infer([("write", garbage)])
    monkey.undo()
    is_well(keeper)
    assert keeper.restarts == 1


def test_descriptors_that_are_somebody_elses_are_not_written_to(keeper, tmp_path):
    """A model that closes all, as daemons do, has its own files to itself."""
    path = tmp_path / "log"
    with pytest.raises(ChildDied):
        keeper.infer([("shut", str(path))])
    assert path.read_bytes() == b""
    is_well(keeper)


def test_a_child_that_hangs_up_and_goes_on_is_killed(keeper):
    """It says so, and nothing of a signal from outside."""
    with pytest.raises(ChildDied, match="it had to be killed"):
        keeper.infer([("hang_up",)])
    is_well(keeper)


@pytest.mark.parametrize("change", [1, -1])
def test_an_answer_to_another_question_ends_the_child(keeper, change):
    """One that is late, or comes before it was asked for."""
    child_of(keeper)._line.number += change
    real = Line.send

    def send(line, kind, packed):
        line.number -= change
        real(line, kind, packed)
        line.number += change

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Line, "send", send)
        with pytest.raises(ChildDied, match="no answer: message"):
            keeper.infer(["a"])
    is_well(keeper)


@pytest.mark.parametrize("kind", [Kind.LOAD, Kind.AGAIN, 0, 77])
def test_an_answer_of_another_kind_ends_the_child(keeper, monkeypatch, kind):
    """What does not answer the question is none."""
    with monkeypatch.context() as patch:
        real = Line.receive
        patch.setattr(Line, "receive", lambda line: (kind, real(line)[1]))
        with pytest.raises(ChildDied, match=f"of kind {int(kind)}"):
            keeper.infer(["a"])
    is_well(keeper)


def test_a_message_of_another_time_is_none():
    """Shared memory that has another message than the header says is not looked at."""
    ours, theirs = multiprocessing.Pipe()
    blocks = new_block(), new_block()
    sender, receiver = Line(ours, *blocks), Line(theirs, *blocks[::-1])
    try:
        sender.number = 1
        sender.send(7, pack("a" * 50))
        sender.number = 2
        sender._written([memoryview((3).to_bytes(8, sys.byteorder))])
        with pytest.raises(Garbled, match="another message"):
            receiver.receive()
        assert not receiver.our_turn
    finally:
        for each in (ours, theirs, *blocks):
            each.close()


# Forked copies


@pytest.mark.parametrize("then", ["return", "raise", "leave", "unsendable"])
def test_a_forked_copy_of_the_child_never_answers(keeper, then):
    """However it comes back, it leaves; the child's own answers are what is heard."""
    for _ in range(3):
        assert keeper.infer(["a", ("fork", then), "b"]) == ["answer to a", "forked", "answer to b"]
        is_well(keeper)
    assert keeper.restarts == 0


def test_a_copy_of_a_child_that_was_replaced_never_answers(keeper, tmp_path):
    """It comes back while the next child is asked, and has nothing in common with that."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(ChildDied, match="exit code 9"):
        keeper.infer([("leave_a_copy", str(fifo))])
    keeper.ready()
    with fifo.open("wb"):
        pass
    for _ in range(20):
        is_well(keeper)
    assert keeper.restarts == 1


def in_a_copy(function):
    """Call it in a forked copy of this process and return what it says."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, repr(function()).encode())
        except BaseException as exc:  # noqa: ASYNC103
            os.write(writing, repr(exc).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading, "rb") as file:
        return file.read().decode()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("pidfd", [True, False])
def test_a_forked_copy_of_the_parent_leaves_the_child_alone(monkeypatch, pidfd):
    """Its exit kills nobody, and it neither asks nor interrupts."""
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    keeper = Keeper(Talker)
    keeper.load()
    try:
        child = child_of(keeper)
        assert "forked" in in_a_copy(lambda: keeper.infer(["of the copy"]))
        for call in (child._kill, keeper.interrupt, keeper.give_up, keeper.close, child.end):
            assert "forked" not in in_a_copy(call)
            is_well(keeper)
        assert keeper.restarts == 0
    finally:
        keeper.close()


# Signals


@pytest.fixture
def signals(monkeypatch):
    """Who was sent what."""
    sent = []
    real = os.kill, signal.pidfd_send_signal

    def by_pid(pid, number):
        sent.append((pid, number))
        real[0](pid, number)

    def by_pidfd(pidfd, number):
        real[1](pidfd, number)
        sent.append((pidfd, number))

    monkeypatch.setattr(_popen.os, "kill", by_pid)
    monkeypatch.setattr(_popen.signal, "pidfd_send_signal", by_pidfd)
    return sent


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
@pytest.mark.parametrize("pidfd", [True, False])
@pytest.mark.parametrize("reaped", [True, False])
def test_no_signal_is_sent_to_a_pid_that_is_over(monkeypatch, signals, pidfd, reaped):
    """Also if somebody else has waited for it, so that the pid may be another process's."""
    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", refused(errno.ENOSYS))
    keeper = Keeper(Talker)
    keeper.load()
    try:
        pid = child_of(keeper).pid
        subprocess.run([sys.executable, "-c", f"import os; os.kill({pid}, 9)"], check=True)
        os.waitid(os.P_PID, pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
        keeper.ready()
        assert signals == []
        is_well(keeper)
    finally:
        keeper.close()
    assert signals == []


def test_a_pid_that_was_given_away_is_told_by_its_age(monkeypatch, signals):
    """Where there are no pidfds: a process that began at another time is another."""
    monkeypatch.setattr(os, "pidfd_open", refused(errno.EPERM), raising=False)
    keeper = Keeper(Talker)
    keeper.load()
    popen = child_of(keeper)._popen
    pid, born = popen.pid, popen._born
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as innocent:
        popen.pid = innocent.pid
        popen.kill()
        assert innocent.poll() is None
        innocent.kill()
    assert signals[:-1] == []
    popen.pid, popen._born, popen.returncode = pid, born, None
    popen.is_known = True
    keeper.close()


# What a container refuses


def refused(number):
    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


CALLS = ["pidfd_open", "memfd_create", "pwritev", "preadv", "waitid"]


@pytest.mark.parametrize(
    ("call", "number"),
    [
        *[(call, errno.ENOSYS) for call in [*CALLS, "pidfd_send_signal", "all"]],
        *[(call, errno.EPERM) for call in ["pidfd_send_signal", "all"]],
    ],
)
def test_what_a_container_refuses_is_done_without(monkeypatch, call, number):
    """A child is started, answers, dies, is replaced and ends all the same."""
    for name in CALLS if call == "all" else [call]:
        owner = signal if name == "pidfd_send_signal" else os
        monkeypatch.setattr(owner, name, refused(number), raising=False)
    keeper = Keeper(Talker)
    keeper.load()
    try:
        large = "x" * 1_000_000
        assert keeper.infer([large]) == [f"answer to {large}"]
        with pytest.raises(ChildDied, match="it had to be killed"):
            keeper.infer([("hang_up",)])
        is_well(keeper)
        with pytest.raises(ChildDied, match="exit code 9"):
            keeper.infer([("leave_a_copy", "/dev/null")])
        is_well(keeper)
        keeper.batch_timeout = 0.0
        with pytest.raises(TimeoutError):
            keeper.infer([("hang",)])
    finally:
        keeper.close()


def test_no_directory_for_files_leaves_the_pipe(monkeypatch):
    """Neither files in memory nor others: there is no block then."""
    monkeypatch.setattr(os, "memfd_create", refused(errno.ENOSYS), raising=False)
    monkeypatch.setattr(_shared.new_block.__globals__["tempfile"], "TemporaryFile", refused(28))
    assert new_block() is None


# Starting


@pytest.fixture
def long_arguments(monkeypatch):
    """What the child starts with fills the pipe many times."""
    monkeypatch.setattr(sys, "argv", [sys.argv[0], "x" * 3_000_000])


@pytest.fixture
def executable(monkeypatch, tmp_path):
    """What is run in the place of Python."""

    def use(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(spawn, "_python_exe", os.fsencode(path))

    resource_tracker.ensure_running()
    return use


def test_long_arguments_arrive(long_arguments):
    """A child that reads them begins."""
    keeper = Keeper(Talker)
    keeper.load()
    keeper.close()


@pytest.mark.parametrize("pidfd", [True, False])
def test_a_child_that_dies_while_it_starts_is_told(long_arguments, executable, monkeypatch, pidfd):
    """Nobody waits for ever for it to read what it starts with."""
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    executable("exit 4")
    with pytest.raises(ChildDied, match="ended before it could begin: exit code 4"):
        Keeper(Talker).load()


def test_a_child_that_never_reads_can_be_interrupted(long_arguments, executable):
    """It is killed then."""
    executable("exec sleep 1000")
    keeper = Keeper(Talker)
    real, fed = _popen.Popen.feed, threading.Event()

    def feed(popen, bell):
        fed.set()
        real(popen, bell)

    def interrupt():
        assert fed.wait(PATIENCE)
        keeper.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_popen.Popen, "feed", feed)
        with pytest.raises(DeviceLost, match="interrupted"):
            keeper.load()
    thread.join()


def test_a_constructor_that_times_out_is_not_an_interruption():
    """Its exception is raised as it is."""
    with pytest.raises(TimeoutError, match="no weights"):
        Keeper(partial(Slow)).load()


class Slow:
    def __init__(self):
        raise TimeoutError("no weights in 10 s")

    def infer(self, items):
        return items


def test_a_class_of_a_notebook_is_refused_with_the_reason(monkeypatch):
    """Its main module is no file that could be imported."""
    monkeypatch.setattr(Slow, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    for model in (Slow, partial(Slow)):
        with pytest.raises(TypeError, match=r"cannot import Slow .* notebook .* \.py file"):
            in_processes(as_sources(model))


# Time


def test_a_batch_that_takes_too_long_is_ended(keeper, caplog):
    """Its child is killed and replaced; it is no death, and a warning says so."""
    keeper.batch_timeout = 0.25
    with caplog.at_level(logging.WARNING, "trio_batcher"):
        with pytest.raises(TimeoutError, match=r"no result within batch_timeout=0\.25 s"):
            keeper.infer([("hang",)])
        keeper.batch_timeout = PATIENCE
        is_well(keeper)
    assert keeper.restarts == 1
    hang, replaced = [record.getMessage() for record in caplog.records]
    assert "no result within batch_timeout=0.25 s" in hang
    assert "replaced by" in replaced


def test_a_death_is_logged_with_how_it_came(keeper, caplog):
    """SIGKILL is perhaps the kernel's; who replaces it, and within what time, is told."""
    os.kill(child_of(keeper).pid, signal.SIGKILL)
    child_of(keeper).has_ended(PATIENCE)
    with caplog.at_level(logging.WARNING, "trio_batcher"):
        is_well(keeper)
    (record,) = caplog.records
    assert "killed by SIGKILL, perhaps by the kernel's out-of-memory killer" in record.getMessage()
    assert f"replaced by {child_of(keeper).pid} within" in record.getMessage()


def test_a_child_that_cannot_be_started_again_is_logged(monkeypatch, caplog):
    """As an error."""
    keeper = Keeper(Talker)
    keeper.load()
    os.kill(child_of(keeper).pid, signal.SIGKILL)
    child_of(keeper).has_ended(PATIENCE)
    monkeypatch.setattr(keeper, "_started", lambda: 1 / 0)
    with caplog.at_level(logging.ERROR, "trio_batcher"), pytest.raises(DeviceLost):
        keeper.ready()
    assert "cannot be started again: 5 attempts" in caplog.records[-1].getMessage()
    keeper.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_before_the_block_is_entered_has_the_model_to_itself():
    """As in a server that makes its application first, and then its workers."""
    keeper = Keeper(Talker)

    def serve():
        keeper.load()
        try:
            return keeper.infer(["one"])
        finally:
            keeper.interrupt()
            keeper.close()

    assert in_a_copy(serve) == "['answer to one']"
