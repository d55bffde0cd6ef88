"""Calls from plain threads: the loop's own, others beside it, and where there is no loop."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from anyio.from_thread import start_blocking_portal

from tests.models import PATIENCE, GatedModel
from trio_batcher import BatcherClosed, DeadlineUnreachable, ModelError, open_batcher

CALLERS = 8


def doubled(items):
    if "bad" in items:
        raise ValueError(items)
    return [item * 2 for item in items]


@pytest.mark.trio
async def test_threads_of_the_event_loop_call_it():
    """Those that trio started know their way back."""

    def in_thread(number):
        return trio.from_thread.run(batcher.infer, number)

    async with open_batcher(doubled) as batcher:
        assert await trio.to_thread.run_sync(in_thread, 3) == 6


@pytest.mark.trio
async def test_other_threads_need_the_loops_token():
    """Several at a time share batches, and each gets its own answer or error."""
    token = trio.lowlevel.current_trio_token()

    def ask(item):
        return trio.from_thread.run(batcher.infer, item, trio_token=token)

    def all_of_them():
        with ThreadPoolExecutor(CALLERS) as pool:
            good = pool.map(ask, range(CALLERS - 1))
            with pytest.raises(ModelError):
                pool.submit(ask, "bad").result(PATIENCE)
            return list(good)

    async with open_batcher(doubled) as batcher:
        answers = await trio.to_thread.run_sync(all_of_them)
    assert answers == [0, 2, 4, 6, 8, 10, 12]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_threads_of_anyio_call_it(anyio_backend):
    """Such as FastAPI's plain handlers, on either event loop."""

    def in_thread(number):
        return anyio.from_thread.run(batcher.infer, number)

    async with open_batcher(doubled) as batcher:
        assert await anyio.to_thread.run_sync(in_thread, 3) == 6


@pytest.fixture(params=["asyncio", "trio"])
def portal(request):
    """An event loop in a thread of its own, for a program that has none."""
    with start_blocking_portal(request.param) as portal:
        yield portal


def test_where_there_is_no_loop_a_portal_runs_one(portal):
    """Threads that call at the same time share batches."""
    model = GatedModel()
    started = threading.Barrier(CALLERS + 1)

    def ask(number):
        call = portal.start_task_soon(batcher.infer, number)
        started.wait(PATIENCE)
        return call.result(PATIENCE)

    opened = portal.wrap_async_context_manager(open_batcher(model))
    with opened as batcher, ThreadPoolExecutor(CALLERS) as pool:
        first = portal.start_task_soon(batcher.infer, 100)
        portal.call(model_started, model)
        answers = pool.map(ask, range(CALLERS))
        started.wait(PATIENCE)
        portal.call(anyio.lowlevel.checkpoint)  # all of them are queued by now
        model.open(2)
        assert first.result(PATIENCE) == 200
        assert list(answers) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert sorted(model.batches[1]) == list(range(CALLERS))


async def model_started(model):
    assert await anyio.to_thread.run_sync(model._started.acquire, True, PATIENCE)


def test_a_call_from_a_thread_has_a_scope_of_its_own(portal):
    """What its thread cannot be given, a deadline, the function that it has called can."""

    async def ask(item, seconds):
        with anyio.fail_after(seconds):
            return await batcher.infer(item)

    with portal.wrap_async_context_manager(open_batcher(doubled)) as batcher:
        assert portal.call(ask, 3, PATIENCE) == 6
        with pytest.raises((TimeoutError, DeadlineUnreachable)):
            portal.call(ask, 3, 0)


def test_the_end_of_the_block_answers_what_was_accepted(portal):
    """The thread that asked gets its answer; later ones are told that it is closed."""
    model = GatedModel()
    with portal.wrap_async_context_manager(open_batcher(model)) as batcher:
        call = portal.start_task_soon(batcher.infer, 3)
        portal.call(model_started, model)
        model.open()
    assert call.result(PATIENCE) == 6
    with pytest.raises(BatcherClosed):
        portal.call(batcher.infer, 4)


def test_a_future_that_is_cancelled_leaves_the_queue(portal):
    """The model never sees its item."""
    model = GatedModel()
    with portal.wrap_async_context_manager(open_batcher(model)) as batcher:
        first = portal.start_task_soon(batcher.infer, 1)
        portal.call(model_started, model)
        second = portal.start_task_soon(batcher.infer, 2)
        assert portal.call(waiting, batcher) == 1
        second.cancel()
        portal.call(anyio.wait_all_tasks_blocked)
        assert portal.call(waiting, batcher) == 0
        model.open()
        assert first.result(PATIENCE) == 2
    assert model.executed == [1]


async def waiting(batcher):
    await anyio.lowlevel.checkpoint()
    return batcher.statistics().waiting


def test_a_flask_view_asks_it(portal):
    """One thread for each request, as WSGI servers have them."""
    flask = pytest.importorskip("flask", reason="the view is Flask's")
    with portal.wrap_async_context_manager(open_batcher(doubled)) as batcher:
        app = flask.Flask(__name__)

        @app.get("/<int:number>")
        def view(number):
            return str(portal.call(batcher.infer, number))

        def get(number):
            return app.test_client().get(f"/{number}").text

        with ThreadPoolExecutor(CALLERS) as pool:
            assert list(pool.map(get, range(CALLERS))) == [str(2 * n) for n in range(CALLERS)]
