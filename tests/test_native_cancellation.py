"""`asyncio.Task.cancel`: it strikes once, at any await, whatever shields there are."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from collections.abc import Sequence

import anyio
import pytest

from trio_batcher import BatcherClosed, BatcherCrashed, InferenceModel, ModelError, open_batcher

from .hosts import loop_factory, run, wait_all_tasks_blocked
from .models import PATIENCE, GatedModel

pytestmark = [
    pytest.mark.usefixtures("on_host"),
    pytest.mark.only_on("asyncio", "uvloop"),
]


def double(items):
    return [item * 2 for item in items]


class AsyncGate:
    """An async model that waits to be let go, once per run."""

    def __init__(self):
        self.batches = []
        self.gate = asyncio.Semaphore(0)

    async def __call__(self, items):
        self.batches.append(list(items))
        await self.gate.acquire()
        return double(items)


async def cancelled(task):
    """Wait for a task that has been cancelled, and see that it was once only."""
    await asyncio.wait({task})
    assert task.cancelled()
    assert task.cancelling() == 1


async def test_a_caller_cancelled_while_waiting_takes_its_item_along():
    """In the very instant of the call: its place is free and no batch will have its item."""
    model = AsyncGate()
    async with open_batcher(model, max_batch_size=1, max_queue_size=1) as batcher:
        first = asyncio.create_task(batcher.infer(1))
        await wait_all_tasks_blocked()
        second = asyncio.create_task(batcher.infer(2))
        await wait_all_tasks_blocked()
        second.cancel()
        statistics = batcher.statistics()
        assert (statistics.waiting, statistics.cancelled) == (0, 1)
        model.gate.release()
        model.gate.release()
        assert await batcher.infer(3) == 6
        assert await first == 2
        await cancelled(second)
    assert model.batches == [[1], [3]]


async def test_a_caller_cancelled_while_its_batch_runs_leaves_at_once():
    """Its batch-mates get their results, and it is counted once, as cancelled."""
    model = GatedModel()
    async with open_batcher(model, max_delay=30, max_batch_size=2) as batcher:
        leaves, stays = (asyncio.create_task(batcher.infer(item)) for item in (1, 2))
        await model.started()
        leaves.cancel()
        await cancelled(leaves)
        assert not stays.done()
        model.open()
        assert await stays == 4
        statistics = batcher.statistics()
        assert (statistics.completed, statistics.cancelled) == (1, 1)


async def test_cancelling_an_infer_many_takes_all_of_it_along():
    """What waits never runs, what runs is dropped."""
    model = AsyncGate()
    async with open_batcher(model, max_batch_size=2) as batcher:
        many = asyncio.create_task(batcher.infer_many(range(5)))
        await wait_all_tasks_blocked()
        many.cancel()
        assert batcher.statistics().cancelled == 5
        await cancelled(many)
        model.gate.release()
        model.gate.release()
        assert await batcher.infer(7) == 14
    assert model.batches == [[0, 1], [7]]


async def test_a_caller_cancelled_between_its_cancellation_and_its_next_step_is_not_answered():
    """A result that comes after the cancellation, in the same pass of the loop, is dropped."""
    model = AsyncGate()
    async with open_batcher(model) as batcher:
        caller = asyncio.create_task(batcher.infer(1))
        await wait_all_tasks_blocked()
        model.gate.release()  # the burst runs in the next pass, before the caller
        caller.cancel()
        await cancelled(caller)
    statistics = batcher.statistics()
    assert (statistics.completed, statistics.cancelled) == (0, 1)


async def test_a_native_cancellation_after_delivery_is_neither_swallowed_nor_left_over():
    """It is raised, as asyncio has it, and the result is dropped; counted once, as completed."""
    model = AsyncGate()
    async with open_batcher(model) as batcher:
        caller = asyncio.create_task(batcher.infer(1))
        await wait_all_tasks_blocked()
        model.gate.release()
        while not batcher.statistics().completed:
            await asyncio.sleep(0)
            if batcher.statistics().completed:
                caller.cancel()
        await cancelled(caller)
    statistics = batcher.statistics()
    assert (statistics.completed, statistics.cancelled) == (1, 0)


@pytest.mark.parametrize("limit", [asyncio.timeout, lambda seconds: None])
async def test_a_timeout_of_asyncios_own_cancels_exactly(limit):
    """It is no deadline to the batcher, and raises `TimeoutError` as it always does."""
    model = AsyncGate()
    async with open_batcher(model) as batcher:
        with pytest.raises(TimeoutError):
            if limit is asyncio.timeout:
                async with asyncio.timeout(0.001):
                    await batcher.infer(1)
            else:
                await asyncio.wait_for(batcher.infer(1), 0.001)
        assert asyncio.current_task().cancelling() == 0
        assert batcher.statistics().cancelled == 1
        model.gate.release()
        model.gate.release()
        assert await batcher.infer(2) == 4


async def test_a_task_group_of_asyncios_own_takes_its_requests_along():
    """One that fails cancels the others, which wait or run; the group's error is the one."""
    model = AsyncGate()

    async def fails():
        await wait_all_tasks_blocked()
        raise KeyError

    async with open_batcher(model, max_batch_size=1) as batcher:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(batcher.infer(1))
                group.create_task(batcher.infer(2))
                group.create_task(fails())
        assert caught.group_contains(KeyError, depth=1)
        assert len(caught.value.exceptions) == 1
        statistics = batcher.statistics()
        assert (statistics.waiting, statistics.cancelled) == (0, 2)
        model.gate.release()


async def test_the_body_cancelled_once_and_again_waits_for_the_thread():
    """Who waits is turned away, what runs is finished and answered, and then it is cancelled."""
    model = GatedModel()
    outcomes = []

    async def serve(ready):
        async with open_batcher(model, max_batch_size=1) as batcher:
            ready.set_result(batcher)
            await asyncio.get_running_loop().create_future()

    async def ask(batcher, item):
        try:
            outcomes.append(await batcher.infer(item))
        except BatcherClosed:
            outcomes.append("closed")

    ready = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(ready))
    batcher = await ready
    running = asyncio.create_task(ask(batcher, 1))
    await model.started()
    waiting = asyncio.create_task(ask(batcher, 2))
    await wait_all_tasks_blocked()
    for _ in range(3):
        server.cancel()
        await wait_all_tasks_blocked()
        assert not server.done()
    assert outcomes == ["closed"]
    model.open()
    await asyncio.wait({server, running, waiting})
    assert server.cancelled()
    assert server.cancelling() == 3
    assert outcomes == ["closed", 2]


async def test_a_cancellation_while_the_bodys_exception_leaves_has_it_as_its_context():
    """Neither is lost, and the thread is waited for."""
    model = GatedModel()
    error = KeyError("mine")

    async def serve():
        async with open_batcher(model) as batcher:
            callers.append(asyncio.create_task(batcher.infer(1)))
            await model.started()
            raising.set()
            raise error

    callers, raising = [], asyncio.Event()
    server = asyncio.create_task(serve())
    await raising.wait()
    server.cancel()
    await wait_all_tasks_blocked()
    assert not server.done()
    model.open()
    with pytest.raises(asyncio.CancelledError) as caught:
        await server
    assert caught.value.__context__ is error
    assert await callers[0] == 2


async def test_cancelling_the_drain_turns_the_queue_away():
    """A block that is cancelled while it drains does not drain to the end."""
    model = AsyncGate()
    outcomes = []

    async def ask(batcher, item):
        try:
            outcomes.append(await batcher.infer(item))
        except BatcherClosed:
            outcomes.append("closed")

    async def serve():
        async with open_batcher(model, max_batch_size=1) as batcher:
            callers.extend(asyncio.create_task(ask(batcher, item)) for item in range(3))
            await asyncio.wait(callers, timeout=0)

    callers = []
    server = asyncio.create_task(serve())
    await wait_all_tasks_blocked()
    assert not server.done()
    server.cancel()
    await cancelled(server)
    await asyncio.wait(callers)
    assert outcomes == ["closed"] * 3


async def test_cancelled_while_loading_waits_for_the_constructor_and_closes_the_model():
    """However often: what a thread has built is not leaked, and the block is not entered."""
    building, go_on, events = threading.Event(), threading.Event(), []

    class Model(InferenceModel[int, int]):
        def __init__(self):
            building.set()
            assert go_on.wait(PATIENCE)
            events.append("built")

        def infer(self, inputs):
            return inputs

        def close(self):
            events.append("closed")

    async def serve():
        async with open_batcher(Model):
            events.append("entered")

    server = asyncio.create_task(serve())
    await anyio.to_thread.run_sync(building.wait, PATIENCE)
    for _ in range(2):
        server.cancel()
        await wait_all_tasks_blocked()
        assert not server.done()
    go_on.set()
    await asyncio.wait({server})
    assert server.cancelled()
    assert events == ["built", "closed"]


async def test_cancelled_while_closing_a_model_waits_for_it():
    """Both models are closed, one after the other, and then the cancellation is raised."""
    closing, go_on, closed = threading.Semaphore(0), threading.Semaphore(0), []

    class Model(InferenceModel[int, int]):
        def infer(self, inputs):
            return inputs

        def close(self):
            closing.release()
            assert go_on.acquire(timeout=PATIENCE)
            closed.append(self)

    async def serve():
        limiter = anyio.CapacityLimiter(1)
        async with open_batcher([Model(), Model()], limiter=limiter):
            pass

    server = asyncio.create_task(serve())
    await anyio.to_thread.run_sync(lambda: closing.acquire(timeout=PATIENCE))
    server.cancel()
    await wait_all_tasks_blocked()
    assert not server.done()
    go_on.release(2)
    await cancelled(server)
    assert len(closed) == 2


# Anyio's, of a task that was cancelled before its first step.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("steps", range(12))
async def test_the_end_of_the_program_cancels_everything_at_once(steps, asynchronous):
    """As `asyncio.run` does, our own tasks among them, at any moment: nobody hangs."""
    model = AsyncGate() if asynchronous else GatedModel()

    async def serve():
        async with open_batcher(model, max_batch_size=1) as batcher:
            await asyncio.gather(*(batcher.infer(item) for item in range(3)))

    this = asyncio.current_task()
    server = asyncio.create_task(serve())
    for _ in range(steps):
        await asyncio.sleep(0)
    others = asyncio.all_tasks() - {this}
    for task in others:
        task.cancel()
    if not asynchronous:
        model.open(3)
    _, pending = await asyncio.wait({server, *others}, timeout=PATIENCE)
    assert not pending
    assert server.cancelled()


OURS = ["Engine.serve", "Attendants._attend"]


def task_of(function):
    """Return the batcher's task that runs a function."""
    (task,) = (task for task in asyncio.all_tasks() if task.get_name().endswith(function))
    return task


@pytest.mark.parametrize("ours", OURS)
async def test_a_cancellation_of_the_batchers_own_task_is_a_crash_and_not_a_hang(ours):
    """Nobody has any business to: its callers hear of it, the block itself runs on."""
    with pytest.raises(BatcherCrashed):
        async with open_batcher(double) as batcher:
            await wait_all_tasks_blocked()
            task_of(ours).cancel()
            await batcher.failed.wait()
            await asyncio.sleep(0)
            with pytest.raises(BatcherCrashed) as caught:
                await batcher.infer(1)
            assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert asyncio.current_task().cancelling() == 0


# Anyio's, of a task that was cancelled before its first step.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
async def test_a_task_that_is_cancelled_before_it_begins_is_a_crash_and_not_a_hang():
    """Without it nothing would ever run, although all else looks well."""
    with pytest.raises(BatcherCrashed):
        async with open_batcher(double) as batcher:
            task_of("Attendants._attend").cancel()
            with pytest.raises(BatcherCrashed):
                await batcher.infer(1)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_task_that_is_cancelled_when_it_is_called_on_leaves_nobody_waiting(asynchronous):
    """Its device was given away, and nothing runs there: whoever waits hears of it."""
    model = AsyncGate() if asynchronous else GatedModel()
    with pytest.raises(BatcherCrashed):
        async with open_batcher(model) as batcher:
            caller = asyncio.create_task(batcher.infer(1))
            await asyncio.sleep(0)
            assert batcher.statistics().waiting == 1
            task_of("Attendants._attend").cancel()
            with pytest.raises(BatcherCrashed):
                await caller
    assert model.batches == []


@pytest.mark.parametrize("batch_timeout", [math.inf, PATIENCE])
async def test_the_end_of_the_program_waits_for_a_thread_without_blocking_the_event_loop(
    batch_timeout,
):
    """Its batch is finished first; only then do our own tasks end, and the token is free again."""

    class Model(GatedModel, InferenceModel):
        infer = GatedModel.__call__

        def close(self):
            closed.append(self)

    model, closed = Model(), []
    limiter = anyio.CapacityLimiter(1)

    async def serve():
        async with open_batcher(model, limiter=limiter, batch_timeout=batch_timeout) as batcher:
            await batcher.infer(1)

    this = asyncio.current_task()
    server = asyncio.create_task(serve())
    await model.started()
    for _ in range(2):
        for task in asyncio.all_tasks() - {this}:
            task.cancel()
        await wait_all_tasks_blocked()
        assert not server.done()
        assert limiter.borrowed_tokens == 1
    model.open()
    await asyncio.wait({server})
    assert server.cancelled()
    assert limiter.borrowed_tokens == 0
    assert closed == [model]


async def test_the_end_of_the_program_leaves_a_thread_behind_that_hangs():
    """When its time is over, although whoever watches it is cancelled as well."""
    model = GatedModel()

    async def serve():
        async with open_batcher(model, batch_timeout=0.1) as batcher:
            await batcher.infer(1)

    this = asyncio.current_task()
    server = asyncio.create_task(serve())
    await model.started()
    for task in asyncio.all_tasks() - {this}:
        task.cancel()
    await asyncio.wait({server})
    assert server.cancelled()
    model.open()


@pytest.mark.parametrize("ours", OURS)
async def test_the_batchers_own_task_cancelled_again_while_it_ends_cancels_nobody_else(ours):
    """A crash already, it stays one: the body is not cancelled, and nothing is left over."""
    model = GatedModel()
    with pytest.raises(BatcherCrashed):
        async with open_batcher(model) as batcher:
            ours = task_of(ours)
            caller = asyncio.create_task(batcher.infer(1))
            await model.started()
            for _ in range(2):
                ours.cancel()
                await wait_all_tasks_blocked()
                assert not ours.done()
            model.open()
            await asyncio.wait({ours, caller})
            await asyncio.sleep(0)
            assert batcher.failed.is_set()
    assert await caller == 2
    assert asyncio.current_task().cancelling() == 0


async def test_a_model_that_awaits_what_was_cancelled_fails_like_any_other():
    """A `CancelledError` that is nobody's cancellation is an error of the model's."""

    async def model(items):
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with open_batcher(model) as batcher:
        with pytest.raises(ModelError, match="something that it awaited was") as caught:
            await batcher.infer(1)
        assert isinstance(caught.value.__cause__.__cause__, asyncio.CancelledError)
        assert not batcher.failed.is_set()


async def test_a_stop_iteration_is_an_error_like_any_other():
    """No coroutine can raise one: the caller gets a `RuntimeError` with it as its cause."""
    async with open_batcher(lambda items: [StopIteration() for _ in items]) as batcher:
        with pytest.raises(RuntimeError) as caught:
            await batcher.infer(1)
    assert isinstance(caught.value.__cause__, StopIteration)


def test_an_interrupt_while_results_are_read_is_not_lost(on_host):
    """Ctrl-C where nobody makes a cancellation of it: it is not taken for the model's failure."""

    class Results(Sequence):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            signal.raise_signal(signal.SIGINT)
            return 2

    async def model(items):
        await asyncio.sleep(0)
        return Results()

    async def main():
        async with open_batcher(model) as batcher:
            await batcher.infer(1)

    loop = loop_factory(on_host, virtual=False)()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main())
        # What is left of it ends in good order.
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    finally:
        loop.close()


def test_an_interrupt_leaves_by_way_of_the_block(on_host):
    """Ctrl-C cancels the main task: the thread is waited for, then `KeyboardInterrupt` raised."""
    model = GatedModel()
    events = []

    async def main():
        try:
            async with open_batcher(model) as batcher:
                caller = asyncio.create_task(batcher.infer(1))
                await model.started()
                asyncio.get_running_loop().call_soon(model.open)
                signal.raise_signal(signal.SIGINT)
                await asyncio.sleep(PATIENCE)
        finally:
            events.append(await caller)  # noqa: ASYNC102  asyncio cancels but once

    with pytest.raises(KeyboardInterrupt):
        run(on_host, main)
    assert events == [2]
