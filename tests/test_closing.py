"""Closing: nothing hangs, nothing gets lost, nothing outlives the block."""

from __future__ import annotations

import ctypes
import sys
import threading

import pytest

from trio_batcher import BatcherClosed, InferenceModel, open_batcher

from .hosts import host, wait_all_tasks_blocked
from .models import GatedModel, TimedModel

pytestmark = pytest.mark.usefixtures("on_host")


async def test_leaving_normally_runs_everything_that_was_accepted(virtual_time):
    """All who wait when the body ends get their results before the block is left."""
    model = TimedModel()
    answers = []
    async with host.open_nursery() as nursery:
        async with open_batcher(model, max_batch_size=4, max_delay=100) as batcher:

            async def caller(item: int) -> None:
                answers.append(await batcher.infer(item))

            for item in range(10):
                nursery.start_soon(caller, item)
            await wait_all_tasks_blocked()
            assert batcher.statistics().waiting == 6
            start = host.current_time()
        # The last two were not kept waiting for companions that cannot come any more.
        assert host.current_time() < start + 1
        assert [len(batch) for batch in model.batches] == [4, 4, 2]
        assert batcher.statistics().waiting == batcher.statistics().running == 0
    assert sorted(answers) == [item * 2 for item in range(10)]


async def test_after_the_block_requests_raise_batcher_closed(virtual_time):
    """So do those made while the queue is being drained."""
    model = TimedModel(fixed=1.0)
    async with host.open_nursery() as nursery:
        async with open_batcher(model) as batcher:
            nursery.start_soon(batcher.infer, 1)  # noqa: ASYNC111
            await wait_all_tasks_blocked()

            async def late() -> None:
                await host.sleep(0.5)
                with pytest.raises(BatcherClosed):
                    await batcher.infer(2)

            nursery.start_soon(late)
    with pytest.raises(BatcherClosed):
        await batcher.infer(3)
    with pytest.raises(BatcherClosed):
        await batcher.infer_many([3])
    assert model.executed == [1]
    assert batcher.statistics().rejected["closed"] == 3


@pytest.mark.parametrize("error", [KeyError("mine"), SystemExit(3)])
async def test_the_bodys_exception_leaves_unwrapped(error, virtual_time):
    """Not in a group, and the very instance; who waits is turned away."""
    model = TimedModel(fixed=1.0)
    outcomes = []
    async with host.open_nursery() as nursery:

        async def caller(item: int) -> None:
            try:
                outcomes.append(await batcher.infer(item))
            except BatcherClosed:
                outcomes.append("closed")

        with pytest.raises(type(error)) as caught:
            async with open_batcher(model, max_batch_size=1) as batcher:
                nursery.start_soon(caller, 1)
                nursery.start_soon(caller, 2)
                await wait_all_tasks_blocked()
                raise error
        assert caught.value is error
    # An async model's running batch is cancelled: nobody can say how long it would take.
    assert outcomes == ["closed", "closed"]


async def test_a_running_thread_is_waited_for_and_its_callers_get_their_results():
    """Leaving by an exception cannot stop a thread; it can turn away those behind it."""
    model = GatedModel()
    outcomes = []
    async with host.open_nursery() as nursery:

        async def caller(item: int) -> None:
            try:
                outcomes.append(await batcher.infer(item))
            except BatcherClosed:
                outcomes.append("closed")
                model.open()

        with pytest.raises(KeyError):
            async with open_batcher(model, max_batch_size=1) as batcher:
                nursery.start_soon(caller, 1)
                await model.started()
                nursery.start_soon(caller, 2)
                await wait_all_tasks_blocked()
                raise KeyError
        # Left only after the batch that was let go by the caller that was turned away.
        assert model.batches == [[1]]
    assert outcomes == ["closed", 2]


async def test_leaving_by_cancellation_waits_for_the_thread_and_stays_a_cancellation():
    """The scope that was cancelled catches it, and no exception group comes of it."""
    model = GatedModel()
    answers = []
    async with host.open_nursery() as nursery:
        with host.CancelScope() as scope:
            async with open_batcher(model) as batcher:

                async def caller() -> None:
                    answers.append(await batcher.infer(1))

                nursery.start_soon(caller)
                await model.started()
                scope.cancel()
                model.open()
                await host.sleep_forever()
        assert scope.cancelled_caught
    assert answers == [2]


async def test_cancelling_the_drain_turns_the_queue_away(virtual_time):
    """A block whose scope is cancelled while it drains does not drain to the end."""
    model = TimedModel(fixed=1.0)
    outcomes = []
    async with host.open_nursery() as nursery:

        async def caller(item: int) -> None:
            try:
                outcomes.append(await batcher.infer(item))
            except BatcherClosed:
                outcomes.append("closed")

        with host.move_on_after(1.5) as scope:
            async with open_batcher(model, max_batch_size=1) as batcher:
                for item in range(4):
                    nursery.start_soon(caller, item)
                await wait_all_tasks_blocked()
        assert scope.cancelled_caught
    # One was answered in the first second, one was running and two were waiting.
    assert len(outcomes) == 4
    assert outcomes.count("closed") == 3
    assert len(model.runs) == 2


async def test_an_exception_while_the_outer_scope_is_cancelled_is_not_lost():
    """Both at once, with a thread still running: the body's exception leaves unwrapped."""
    model = GatedModel()
    async with host.open_nursery() as nursery:
        with host.CancelScope() as scope:
            with pytest.raises(KeyError):
                async with open_batcher(model) as batcher:
                    nursery.start_soon(batcher.infer, 1)  # noqa: ASYNC111
                    await model.started()
                    scope.cancel()
                    model.open()
                    raise KeyError
            await host.checkpoint()
        assert scope.cancelled_caught


async def test_no_task_and_no_thread_outlives_the_block():
    """Counted before and after, with a thread model, an async one and replicas."""

    async def asynchronous(items: list[int]) -> list[int]:
        await host.checkpoint()
        return items

    def blocking(items: list[int]) -> list[int]:
        return items

    before = host.tasks_living()
    for model in (asynchronous, blocking, [blocking, blocking], [asynchronous, blocking]):
        async with open_batcher(model) as batcher:
            assert await batcher.infer_many(range(100)) == list(range(100))
        assert host.tasks_living() == before
        assert host.threads_busy() == 0


async def test_the_model_is_constructed_and_closed_in_the_worker():
    """Construction, batches and closing all happen off the event loop, in that order."""
    events = []

    class Model(InferenceModel[int, int]):
        def __init__(self) -> None:
            events.append(("built", threading.current_thread() is threading.main_thread()))

        def infer(self, inputs: list[int]) -> list[int]:
            events.append(("ran", threading.current_thread() is threading.main_thread()))
            return inputs

        def close(self) -> None:
            events.append(("closed", threading.current_thread() is threading.main_thread()))

    async with open_batcher(Model) as batcher:
        assert events == [("built", False)]
        await batcher.infer(1)
    assert events == [("built", False), ("ran", False), ("closed", False)]

    events.clear()
    with pytest.raises(KeyError):
        async with open_batcher(Model):
            raise KeyError
    assert events == [("built", False), ("closed", False)]


async def test_a_failing_load_is_raised_unwrapped_and_closes_what_was_loaded():
    """With replicas, the ones that did load are closed before the error leaves."""
    closed = []
    loaded = threading.Event()

    class Good(InferenceModel[int, int]):
        def infer(self, inputs: list[int]) -> list[int]:
            return inputs

        def __init__(self) -> None:
            loaded.set()

        def close(self) -> None:
            closed.append(self)

    class Bad(Good):
        def __init__(self) -> None:
            assert loaded.wait(30)
            raise FileNotFoundError("weights.bin")

    with pytest.raises(FileNotFoundError, match=r"weights\.bin"):
        async with open_batcher([Good, Bad]):
            raise AssertionError
    assert len(closed) == 1


async def test_cancelled_while_loading_waits_for_the_constructor_and_closes_the_model():
    """A thread cannot be stopped; what it has built is not leaked."""
    building, go_on, closed = threading.Event(), threading.Event(), []

    class Model(InferenceModel[int, int]):
        def __init__(self) -> None:
            building.set()
            assert go_on.wait(30)

        def infer(self, inputs: list[int]) -> list[int]:
            return inputs

        def close(self) -> None:
            closed.append(self)

    async with host.open_nursery() as nursery:
        with host.CancelScope() as scope:

            async def cancel() -> None:
                await host.in_thread(lambda: building.wait(30))
                scope.cancel()
                go_on.set()

            nursery.start_soon(cancel)
            async with open_batcher(Model):
                raise AssertionError
    assert scope.cancelled_caught
    assert len(closed) == 1


async def test_a_failing_close_is_raised_or_noted():
    """On its own it is raised; beside the body's exception it is a note on that."""

    class Model(InferenceModel[int, int]):
        def infer(self, inputs: list[int]) -> list[int]:
            return inputs

        def close(self) -> None:
            raise OSError("still in use")

    with pytest.raises(OSError, match="still in use"):
        async with open_batcher(Model()):
            pass
    with pytest.raises(KeyError) as caught:
        async with open_batcher(Model()):
            raise KeyError("mine")
    assert any("still in use" in note for note in caught.value.__notes__)


async def test_the_switch_interval_is_put_back_when_the_last_batcher_closes():
    """Short while any batcher has a thread, the old one afterwards; none for async models."""
    before = sys.getswitchinterval()
    async with open_batcher(TimedModel()):
        assert sys.getswitchinterval() == before
    async with open_batcher(lambda items: items):
        assert sys.getswitchinterval() == pytest.approx(2e-5)
        async with open_batcher(lambda items: items):
            pass
        assert sys.getswitchinterval() == pytest.approx(2e-5)
    assert sys.getswitchinterval() == before


async def test_a_switch_interval_set_by_somebody_else_is_left_alone():
    """Whoever changes it while a batcher is open knows better."""
    before = sys.getswitchinterval()
    try:
        async with open_batcher(lambda items: items):
            sys.setswitchinterval(2e-3)
        assert sys.getswitchinterval() == pytest.approx(2e-3)
        sys.setswitchinterval(1e-6)
        async with open_batcher(lambda items: items):
            assert sys.getswitchinterval() == pytest.approx(1e-6)
        assert sys.getswitchinterval() == pytest.approx(1e-6)
    finally:
        sys.setswitchinterval(before)


@pytest.mark.only_on("trio")  # elsewhere any task may
@pytest.mark.parametrize("error", [None, KeyError("mine")])
async def test_another_task_cannot_leave_the_block(error):
    """It is told so before any harm is done: the batcher goes on, and its own task leaves it."""
    block = open_batcher(TimedModel(0.0, 0.0))
    batcher = await block.__aenter__()

    async def leave():
        with pytest.raises(RuntimeError, match="opened in one task and is left in another"):
            await block.__aexit__(type(error) if error else None, error, None)

    async with host.open_nursery() as nursery:
        nursery.start_soon(leave)
    await wait_all_tasks_blocked()
    assert await batcher.infer(1) == 2
    await block.__aexit__(None, None, None)


@pytest.mark.only_on("trio")  # elsewhere the threads are the batcher's own, and end with it
@pytest.mark.skipif(sys.platform != "linux", reason="timer slack is Linux's")
async def test_a_workers_timer_slack_is_put_back_after_its_burst():
    """A thread goes back to trio's pool as it came."""
    libc = ctypes.PyDLL(None)
    slack = {}

    def model(items: list[int]) -> list[int]:
        slack[threading.get_ident()] = libc.prctl(30, 0)
        return items

    def usual() -> tuple[int, int]:
        return threading.get_ident(), libc.prctl(30, 0)

    thread, before = await host.in_thread(usual)
    async with open_batcher(model) as batcher:
        await batcher.infer(1)
    assert slack == {thread: 1_000}
    assert before > 1_000
    assert await host.in_thread(usual) == (thread, before)
