"""Worker threads: those that are left behind, and those that the system refuses to start."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import ClassVar

import pytest
import trio

from trio_batcher import BatcherCrashed, InferenceModel, ThreadNotStarted, open_batcher
from trio_batcher._hosts import current_host

from .hosts import host, wait_all_tasks_blocked
from .models import PATIENCE, GatedModel

pytestmark = pytest.mark.usefixtures("on_host")


class Gate:
    """A function that blocks its thread until it is opened."""

    def __init__(self):
        self.started, self.opened, self.left = (threading.Event() for _ in range(3))

    def __call__(self):
        self.started.set()
        assert self.opened.wait(PATIENCE)
        self.left.set()

    async def wait_for(self, event):
        assert await host.in_thread(event.wait, PATIENCE)


@asynccontextmanager
async def abandoned(ours, gate, limiter):
    """Inside, a call has been abandoned while its thread runs; it is let go at the end."""
    try:
        async with host.open_nursery() as nursery:
            with host.CancelScope() as scope:

                async def cancel():
                    await gate.wait_for(gate.started)
                    scope.cancel()

                nursery.start_soon(cancel)
                await ours.in_thread(gate, limiter=limiter, until=scope)
        assert scope.cancelled_caught
        yield
    finally:
        gate.opened.set()
        await gate.wait_for(gate.left)  # noqa: ASYNC102  it is left normally


async def test_a_call_that_is_abandoned_gives_its_token_back_while_its_thread_runs():
    """The next call has a token at once, and a thread of its own."""
    ours, limiter, gate = current_host(), host.CapacityLimiter(1), Gate()
    with ours.threads():
        async with abandoned(ours, gate, limiter):
            assert limiter.borrowed_tokens == 0
            assert await ours.in_thread(int, "3", limiter=limiter, until=host.CancelScope()) == 3
            assert not gate.left.is_set()
        assert limiter.borrowed_tokens == 0


async def test_the_block_ends_without_the_threads_that_were_abandoned():
    """All others have ended by then."""
    ours, gate = current_host(), Gate()
    limiter = host.CapacityLimiter(3)
    stack = ours.threads()
    with stack:
        leaving = abandoned(ours, gate, limiter)
        await leaving.__aenter__()
        await ours.in_thread(int, limiter=limiter)
    assert not gate.left.is_set()
    await leaving.__aexit__(None, None, None)


async def test_what_an_abandoned_thread_raises_is_dropped():
    """Nobody is there to hear of it."""
    ours, gate = current_host(), Gate()

    class Failing(Gate):
        def __call__(self):
            super().__call__()
            raise SystemExit(3)

    gate = Failing()
    with ours.threads():
        async with abandoned(ours, gate, host.CapacityLimiter(1)):
            pass
        await wait_all_tasks_blocked()
        assert await ours.in_thread(int, limiter=host.CapacityLimiter(1)) == 0


async def test_a_call_that_is_not_abandonable_is_waited_for():
    """A cancellation while its thread runs leaves its result alone."""
    ours, gate, limiter = current_host(), Gate(), host.CapacityLimiter(1)
    results = []
    with ours.threads():
        async with host.open_nursery() as nursery:
            with host.CancelScope() as scope:

                async def cancel():
                    await gate.wait_for(gate.started)
                    scope.cancel()
                    await wait_all_tasks_blocked()
                    assert limiter.borrowed_tokens == 1
                    gate.opened.set()

                nursery.start_soon(cancel)
                results.append(await ours.in_thread(gate, limiter=limiter))
    assert results == [None]
    assert limiter.borrowed_tokens == 0


@pytest.mark.parametrize("abandonable", [False, True])
async def test_a_call_that_waits_for_its_token_starts_no_thread_once_it_is_cancelled(abandonable):
    """Abandonable or not."""
    ours, limiter = current_host(), host.CapacityLimiter(1)
    ran = []
    await limiter.acquire_on_behalf_of("somebody")
    with ours.threads(), host.move_on_after(0.01) as scope:
        until = scope if abandonable else None
        await ours.in_thread(ran.append, 1, limiter=limiter, until=until)
    assert scope.cancelled_caught
    assert limiter.statistics().tasks_waiting == 0
    limiter.release_on_behalf_of("somebody")
    assert ran == []


@pytest.mark.parametrize("abandonable", [False, True])
async def test_what_the_function_raises_is_raised_as_it_is(abandonable):
    """Also if it looks like the system's refusal of a thread."""
    ours, limiter, error = current_host(), host.CapacityLimiter(1), RuntimeError("can't start")

    def fail():
        raise error

    with ours.threads(), pytest.raises(RuntimeError) as caught:
        until = host.CancelScope() if abandonable else None
        await ours.in_thread(fail, limiter=limiter, until=until)
    assert caught.value is error
    assert limiter.borrowed_tokens == 0


def test_the_interpreter_ends_without_a_thread_that_was_abandoned(on_host):
    """Although that never ends."""
    program = """
import sys, threading
from tests import hosts
from tests.hosts import host
from trio_batcher._hosts import current_host
async def main():
    ours = current_host()
    with ours.threads(), host.move_on_after(0.01) as scope:
        await ours.in_thread(
            threading.Event().wait, limiter=host.CapacityLimiter(1), until=scope
        )
    print("over", flush=True)
import asyncio
if sys.argv[1] == "trio":
    import trio; trio.run(main)
else:
    asyncio.Runner(loop_factory=hosts.loop_factory(sys.argv[1], virtual=False)).run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, on_host],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout == "over\n"


@contextmanager
def threads_left(monkeypatch, count):
    """The system has so many more threads, and trio no idle ones of earlier tests."""
    real = threading.Thread.start

    def start(thread):
        nonlocal count
        if not count:
            raise RuntimeError("can't start new thread")
        count -= 1
        real(thread)

    with monkeypatch.context() as patch:
        patch.setattr(trio._core._thread_cache.THREAD_CACHE, "_idle_workers", {})
        patch.setattr(threading.Thread, "start", start)
        yield


@pytest.fixture
def model():
    """A class that keeps count of its instances."""

    class Model(InferenceModel[int, int]):
        made: ClassVar[list] = []
        closed: ClassVar[list] = []

        def __init__(self, when=None):
            if when is not None:
                assert when.wait(PATIENCE)
            self.made.append(self)

        def infer(self, inputs):
            return inputs

        def close(self):
            self.closed.append(self)

    return Model


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("replicas", [3, 5])
async def test_opening_without_threads_is_an_error_that_says_so(
    count, replicas, model, monkeypatch
):
    """Models that were made are closed, and the tokens are back."""
    limiter, asked = host.CapacityLimiter(replicas), threading.Event()
    with threads_left(monkeypatch, count):
        async with host.open_nursery() as nursery:

            async def let_go():
                await wait_all_tasks_blocked()  # each has asked for a thread, and none has two
                asked.set()

            nursery.start_soon(let_go)
            with pytest.raises(ThreadNotStarted, match="no thread could be started") as caught:
                async with open_batcher([partial(model, asked)] * replicas, limiter=limiter):
                    raise AssertionError
    assert str(caught.value.__cause__) == "can't start new thread"
    assert len(model.closed) == len(model.made) == count
    assert limiter.borrowed_tokens == 0


async def test_models_share_a_thread_to_be_closed_in_if_there_is_but_one(model, monkeypatch):
    """Each is closed once."""
    models = [model() for _ in range(4)]
    with threads_left(monkeypatch, 1):
        async with open_batcher(models):
            pass
    assert sorted(map(id, model.closed)) == sorted(map(id, models))


async def test_a_model_that_there_is_no_thread_to_close_in_is_an_error(model, monkeypatch):
    """It is not closed, and whoever leaves the block hears of it."""
    with threads_left(monkeypatch, 0):
        with pytest.raises(ThreadNotStarted):
            async with open_batcher([model(), model()]):
                pass
        with pytest.raises(KeyError) as caught:
            async with open_batcher(model()):
                raise KeyError
    assert "no thread could be started" in caught.value.__notes__[0]


async def test_a_warm_up_without_a_thread_is_the_same_error(monkeypatch):
    """Nothing has been served."""
    with threads_left(monkeypatch, 0), pytest.raises(ThreadNotStarted):
        async with open_batcher(lambda items: items, warmup=[1]):
            raise AssertionError


async def test_a_batch_without_a_thread_is_a_crash_and_nobody_waits(monkeypatch):
    """All who ask, then or later, are told the reason, and so is whoever leaves the block."""
    limiter = host.CapacityLimiter(1)
    with threads_left(monkeypatch, 0), pytest.raises(BatcherCrashed) as caught:
        async with open_batcher(lambda items: items, limiter=limiter) as batcher:
            for _ in range(2):
                with pytest.raises(BatcherCrashed, match="no thread could be started"):
                    await batcher.infer(1)
            assert batcher.failed.is_set()
    assert isinstance(caught.value.__cause__, ThreadNotStarted)
    assert limiter.borrowed_tokens == 0


async def test_a_replica_without_a_thread_leaves_the_others_batch_alone(monkeypatch):
    """What runs is answered; who waits is told the reason."""
    model = GatedModel()
    answers = []
    with pytest.raises(BatcherCrashed):
        async with (
            open_batcher([model, model], max_batch_size=1) as batcher,
            host.open_nursery() as nursery,
        ):

            async def ask(item):
                try:
                    answers.append(await batcher.infer(item))
                except BatcherCrashed:
                    answers.append("crashed")

            nursery.start_soon(ask, 1)
            await model.started()
            with threads_left(monkeypatch, 0):
                nursery.start_soon(ask, 2)
                await batcher.failed.wait()
                await wait_all_tasks_blocked()
            assert answers == ["crashed"]
            model.open()
    assert answers == ["crashed", 2]
