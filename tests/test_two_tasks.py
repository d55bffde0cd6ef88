"""Opened in one task and closed in another, as fixtures, notebooks and start and stop hooks do."""

from __future__ import annotations

import asyncio
import threading
import unittest
from contextlib import AsyncExitStack
from contextvars import ContextVar
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from trio_batcher import BatcherClosed, BatcherCrashed, InferenceModel, open_batcher

from .hosts import host, loop_factory, wait_all_tasks_blocked
from .models import PATIENCE, GatedModel

pytestmark = [
    pytest.mark.usefixtures("on_host"),
    pytest.mark.only_on("asyncio", "uvloop"),
]


def double(items):
    return [item * 2 for item in items]


async def double_async(items):
    await anyio.lowlevel.checkpoint()
    return double(items)


class Noting(InferenceModel[int, int]):
    """A model that notes when it is made, run and closed."""

    def __init__(self, events):
        self.events = events
        events.append("made")

    def infer(self, inputs):
        self.events.append("ran")
        return double(inputs)

    def close(self):
        self.events.append("closed")


async def in_a_task(function, *args):
    return await asyncio.create_task(function(*args))


async def leave(block, error=None):
    return await block.__aexit__(type(error) if error else None, error, None)


async def told(call, outcomes):
    """Note what a caller gets."""
    try:
        outcomes.append(await call)
    except (BatcherClosed, BatcherCrashed) as exc:
        outcomes.append(type(exc))


def own_task():
    """Return the task that the batcher lives in."""
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "trio_batcher")
    return task


MODELS = {
    "blocking": double,
    "async": double_async,
    "replicas": [double, double_async],
    "class": partial(Noting, []),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
async def test_any_model_can_be_opened_in_one_task_and_closed_in_another(model):
    """It serves whoever asks in between, and leaves nothing behind."""
    before = host.tasks_living()
    block = open_batcher(model)
    batcher = await in_a_task(block.__aenter__)
    assert await batcher.infer(1) == 2
    assert await in_a_task(batcher.infer_many, [2, 3]) == [4, 6]
    await in_a_task(leave, block)
    assert host.tasks_living() == before
    assert host.threads_busy() == 0
    with pytest.raises(BatcherClosed):
        await batcher.infer(1)


async def test_several_can_be_closed_in_any_order():
    """Also in that in which they were opened, which no nesting of blocks would allow."""
    events = [[], [], []]
    blocks = [open_batcher(partial(Noting, each)) for each in events]
    batchers = [await in_a_task(block.__aenter__) for block in blocks]
    for block, batcher in zip(blocks, batchers, strict=True):
        assert await batcher.infer(1) == 2
        await leave(block)
    assert events == [["made", "ran", "closed"]] * 3


async def test_a_start_hook_and_a_stop_hook_share_a_stack():
    """The start hook's own scopes and groups are over by the time that it is stopped."""
    stack, events = AsyncExitStack(), []

    async def on_start():
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0)
                batcher = await stack.enter_async_context(open_batcher(Noting(events)))
            assert await batcher.infer(1) == 2
            scope.cancel()
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        return batcher

    batcher = await in_a_task(on_start)
    assert await batcher.infer(2) == 4
    await in_a_task(stack.aclose)
    assert events == ["made", "ran", "ran", "closed"]


async def test_a_fixture_is_set_up_and_torn_down_in_two_tasks():
    """It is an async generator, of which a test runner awaits one half in each."""
    events = []

    async def fixture():
        async with open_batcher(partial(Noting, events)) as batcher:
            yield batcher  # noqa: ASYNC119  as fixtures do

    generator = fixture()
    batcher = await in_a_task(generator.__anext__)
    assert await in_a_task(batcher.infer, 1) == 2
    with pytest.raises(StopAsyncIteration):
        await generator.__anext__()
    assert events == ["made", "ran", "closed"]


def test_unittest_enters_it_for_a_test(on_host):
    """`enterAsyncContext`, whose clean-up is in a task of its own."""
    events = []

    class Case(unittest.IsolatedAsyncioTestCase):
        loop_factory = staticmethod(loop_factory(on_host, virtual=False))

        async def asyncSetUp(self):
            self.batcher = await self.enterAsyncContext(open_batcher(partial(Noting, events)))

        async def test(self):
            assert await self.batcher.infer(1) == 2

    result = unittest.TestResult()
    Case("test").run(result)
    assert result.wasSuccessful(), result
    assert events == ["made", "ran", "closed"]


async def test_what_the_block_is_left_with_passes_as_it_is():
    """The very instance, with the traceback it had; who waits is turned away."""
    model, outcomes = GatedModel(), []
    block = open_batcher(model, max_batch_size=1)
    batcher = await in_a_task(block.__aenter__)
    callers = [asyncio.create_task(told(batcher.infer(1), outcomes))]
    await model.started()
    callers.append(asyncio.create_task(told(batcher.infer(2), outcomes)))
    await wait_all_tasks_blocked()
    error = KeyError("mine")
    leaving = asyncio.create_task(leave(block, error))
    await wait_all_tasks_blocked()
    assert outcomes == [BatcherClosed]
    assert not leaving.done()
    model.open()
    assert not await leaving
    await asyncio.wait(callers)
    assert outcomes == [BatcherClosed, 2]
    assert error.__traceback__ is None


@pytest.mark.parametrize("error", [KeyError("mine"), SystemExit(3), asyncio.CancelledError()])
async def test_an_error_of_the_block_is_raised_with_its_own_frames_only(error):
    """What goes on in the batcher's task is no part of it."""

    async def whole():
        async with open_batcher(double):
            raise error

    with pytest.raises(type(error)) as caught:
        await whole()
    assert caught.value is error
    frames = [entry.name for entry in caught.traceback]
    assert "_live" not in frames
    assert "_leaving" not in frames


@pytest.mark.parametrize("where", ["opened", "closed"])
async def test_a_models_own_error_is_raised_unwrapped_where_it_belongs(where):
    """Its constructor's where it is opened, its `close`'s where it is closed."""
    error = OSError("mine")

    class Model(InferenceModel[int, int]):
        def __init__(self):
            if where == "opened":
                raise error

        def infer(self, inputs):
            return inputs

        def close(self):
            raise error

    block = open_batcher(Model)
    if where == "closed":
        await in_a_task(block.__aenter__)
    with pytest.raises(OSError, match="mine") as caught:
        await in_a_task(block.__aenter__ if where == "opened" else partial(leave, block))
    assert caught.value is error
    assert host.threads_busy() == 0


async def test_the_model_has_the_context_in_which_it_was_opened():
    """In its constructor, in its batches and when it is closed; not that of who calls it."""
    variable, seen = ContextVar("variable"), []

    class Model(InferenceModel[int, int]):
        def __init__(self):
            seen.append(variable.get())

        def infer(self, inputs):
            seen.append(variable.get())
            return inputs

        def close(self):
            seen.append(variable.get())

    async def opened(block):
        variable.set("opener's")
        return await block.__aenter__()

    async def asks(batcher):
        variable.set("caller's")
        await batcher.infer(1)

    block = open_batcher(Model)
    batcher = await in_a_task(opened, block)
    await in_a_task(asks, batcher)
    variable.set("closer's")
    await leave(block)
    assert seen == ["opener's"] * 3


def by_task(task, scope):
    task.cancel()


def by_scope(task, scope):
    scope.cancel()


async def scoped(function, scope, *args):
    """Await it in a scope, and return whether that was cancelled."""
    with scope:
        await function(*args)
    return scope.cancelled_caught


async def is_cancelled(task):
    """Wait for a task of `scoped`, and return whether it was cancelled in either way."""
    await asyncio.wait({task})
    return task.cancelled() or task.result()


cancellations = pytest.mark.parametrize("cancel", [by_task, by_scope])


@cancellations
async def test_opening_that_is_cancelled_waits_for_the_constructor_and_closes_the_model(cancel):
    """However often, and in whichever way."""
    building, go_on, events = threading.Event(), threading.Event(), []

    class Slow(Noting):
        def __init__(self):
            building.set()
            assert go_on.wait(PATIENCE)
            super().__init__(events)

    scope = anyio.CancelScope()
    opener = asyncio.create_task(scoped(open_batcher(Slow).__aenter__, scope))
    await host.in_thread(building.wait, PATIENCE)
    for _ in range(3):
        cancel(opener, scope)
        await wait_all_tasks_blocked()
        assert not opener.done()
    go_on.set()
    assert await is_cancelled(opener)
    assert events == ["made", "closed"]
    assert host.threads_busy() == 0


@cancellations
@pytest.mark.parametrize("steps", range(8))
async def test_opening_that_is_cancelled_at_any_step_leaves_nothing_behind(cancel, steps):
    """No task, no thread, no model; or it is open, and can be closed."""
    events, before = [], host.tasks_living()
    block, scope = open_batcher(Noting(events)), anyio.CancelScope()
    opener = asyncio.create_task(scoped(block.__aenter__, scope))
    for _ in range(steps):
        await asyncio.sleep(0)
    cancel(opener, scope)
    if not await is_cancelled(opener):
        await leave(block)
    assert host.tasks_living() == before
    assert host.threads_busy() == 0
    assert events in (["made"], ["made", "closed"])


@cancellations
async def test_a_drain_that_is_cancelled_turns_the_queue_away(cancel):
    """It waits for what runs, however often it is cancelled, and then is cancelled itself."""
    model, outcomes = GatedModel(), []
    block = open_batcher(model, max_batch_size=1)
    batcher = await in_a_task(block.__aenter__)
    callers = [asyncio.create_task(told(batcher.infer(1), outcomes))]
    await model.started()
    callers.append(asyncio.create_task(told(batcher.infer(2), outcomes)))
    await wait_all_tasks_blocked()
    scope = anyio.CancelScope()
    leaving = asyncio.create_task(scoped(leave, scope, block))
    await wait_all_tasks_blocked()
    assert outcomes == []
    for _ in range(3):
        cancel(leaving, scope)
        await wait_all_tasks_blocked()
        assert outcomes == [BatcherClosed]
        assert not leaving.done()
    model.open()
    assert await is_cancelled(leaving)
    await asyncio.wait(callers)
    assert outcomes == [BatcherClosed, 2]
    assert host.threads_busy() == 0


async def test_a_model_that_cannot_be_closed_is_a_note_on_the_cancellation():
    """As it is on anything else that the block is left with."""
    gated = GatedModel()

    class Model(InferenceModel[int, int]):
        def infer(self, inputs):
            return gated(inputs)

        def close(self):
            raise OSError("still in use")

    block = open_batcher(Model())
    batcher = await in_a_task(block.__aenter__)
    caller = asyncio.create_task(batcher.infer(1))
    await gated.started()
    leaving = asyncio.create_task(leave(block))
    await wait_all_tasks_blocked()
    leaving.cancel()
    gated.open()
    with pytest.raises(asyncio.CancelledError) as caught:
        await leaving
    assert "still in use" in caught.value.__notes__[0]
    assert await caller == 2


async def test_its_task_cancelled_by_somebody_else_is_a_crash_and_not_a_hang():
    """Its callers hear of it, the model is closed, and so does whoever leaves the block."""
    events, limiter = [], anyio.CapacityLimiter(1)
    block = open_batcher(Noting(events), limiter=limiter)
    batcher = await in_a_task(block.__aenter__)
    own_task().cancel()
    await batcher.failed.wait()
    with pytest.raises(BatcherCrashed, match="was cancelled by somebody else"):
        await batcher.infer(1)
    with pytest.raises(BatcherCrashed, match="was cancelled by somebody else"):
        await leave(block)
    assert events == ["made", "closed"]
    assert limiter.borrowed_tokens == 0
    assert asyncio.current_task().cancelling() == 0


async def test_its_task_cancelled_by_somebody_else_leaves_the_blocks_own_error_alone():
    """That is raised, as it is."""
    with pytest.raises(KeyError):
        async with open_batcher(double) as batcher:
            own_task().cancel()
            await batcher.failed.wait()
            raise KeyError


@pytest.mark.parametrize("steps", range(8))
async def test_its_task_cancelled_while_it_opens_is_an_error_and_not_a_cancellation(steps):
    """Of whoever opens it, who was not cancelled; if it was too late, of whoever leaves."""
    events, before = [], host.tasks_living()

    async def whole():
        async with open_batcher(Noting(events)):
            await asyncio.sleep(0)

    opener = asyncio.create_task(whole())
    await asyncio.sleep(0)
    task = own_task()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({opener})
    assert not opener.cancelled()
    assert opener.exception() is None or "was cancelled by somebody else" in str(opener.exception())
    assert host.tasks_living() == before
    assert host.threads_busy() == 0


async def test_its_task_cancelled_while_it_closes_is_an_error_and_not_a_cancellation():
    """What runs is waited for."""
    model = GatedModel()
    block = open_batcher(model)
    batcher = await in_a_task(block.__aenter__)
    caller = asyncio.create_task(batcher.infer(1))
    await model.started()
    leaving = asyncio.create_task(leave(block))
    await wait_all_tasks_blocked()
    own_task().cancel()
    await wait_all_tasks_blocked()
    assert not leaving.done()
    model.open()
    with pytest.raises(RuntimeError, match="was cancelled by somebody else"):
        await leaving
    assert await caller == 2


@pytest.mark.parametrize("running", [False, True])
def test_the_end_of_the_loop_closes_what_nobody_has_closed(on_host, running):
    """It hangs on nobody: a running batch is waited for, its caller is cancelled."""
    model, events = GatedModel(), []

    class Model(Noting):
        def infer(self, inputs):
            return model(inputs)

    blocks = []

    async def main():
        blocks.append(open_batcher(Model(events)))
        batcher = await in_a_task(blocks[0].__aenter__)
        if running:
            callers.append(asyncio.create_task(batcher.infer(1)))
            await model.started()
            model.open()

    callers = []
    before = set(threading.enumerate())
    with asyncio.Runner(loop_factory=loop_factory(on_host, virtual=False)) as runner:
        runner.run(main())
    assert events == ["made", "closed"]
    assert all(caller.done() for caller in callers)
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
    assert not [each for each in threading.enumerate() if each.name == "trio_batcher"]
