"""Calls from outside of the batcher's event loop are refused, and nothing else notices."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
import trio.lowlevel

from trio_batcher import open_batcher

from .hosts import host, loop_factory, run

on_each_host = pytest.mark.usefixtures("on_host")
not_trio = pytest.mark.only_on("asyncio", "uvloop")


async def mapped(batcher):
    async with batcher.map(["x"]):
        raise AssertionError("entered")


CALLS = {
    "infer": lambda batcher: batcher.infer("x"),
    "infer with a weight": lambda batcher: batcher.infer("x", weight=-1),
    "infer_many": lambda batcher: batcher.infer_many(["x", "y"]),
    "infer_many of none": lambda batcher: batcher.infer_many([]),
    "map": mapped,
    "failed": lambda batcher: batcher.failed.wait(),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def echo(items):
    return items


async def is_refused(call, batcher):
    with pytest.raises(RuntimeError, match=r"called from outside of it.*docs/threads\.md"):
        await call(batcher)


def to_its_end(coroutine):
    """Run one that never waits, in no event loop."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


ELSEWHERE = {
    "trio": lambda *args: run("trio", is_refused, *args),
    "asyncio": lambda *args: run("asyncio", is_refused, *args),
    "uvloop": lambda *args: run("uvloop", is_refused, *args),
    "no loop": lambda *args: to_its_end(is_refused(*args)),
}


@asynccontextmanager
async def untouched():
    """Inside, a batcher that nobody's request reaches; afterwards it answers."""
    keys = []
    async with open_batcher(echo, key=keys.append) as batcher:
        yield batcher
        assert batcher.statistics().submitted == 0
        assert keys == []
        assert await batcher.infer(1) == 1
        assert not batcher.failed.is_set()


@on_each_host
@calls
@pytest.mark.parametrize("elsewhere", ELSEWHERE)
async def test_a_thread_with_a_loop_of_its_own_or_none_is_refused(call, elsewhere):
    """Whatever its loop, and whatever the batcher's."""
    if elsewhere == "uvloop":
        pytest.importorskip("uvloop")
    async with untouched() as batcher:
        await host.in_thread(ELSEWHERE[elsewhere], call, batcher)


@on_each_host
async def test_results_of_a_map_are_taken_in_its_own_loop():
    """Whoever takes them elsewhere is refused, and takes nothing."""
    async with open_batcher(echo) as batcher, batcher.map([1, 2]) as results:
        await host.in_thread(ELSEWHERE["asyncio"], lambda _: anext(results), batcher)
        assert [result async for result in results] == [1, 2]


@on_each_host
async def test_any_thread_may_ask_whether_it_has_failed():
    """A health check, say. Only waiting needs the event loop."""
    async with open_batcher(echo) as batcher:
        assert await host.in_thread(batcher.failed.is_set) is False
        with pytest.raises(RuntimeError, match="Calling from threads"):
            await host.in_thread(batcher.failed.set)
        assert await host.in_thread(lambda: batcher.statistics().submitted) == 0


@not_trio
@calls
def test_a_callback_is_no_task(on_host, call):
    """It runs in the loop, and could not wait there."""

    async def main():
        async with untouched() as batcher:
            done = asyncio.get_running_loop().create_future()

            def callback():
                to_its_end(is_refused(call, batcher))
                done.set_result(None)

            asyncio.get_running_loop().call_soon(callback)
            await done

    run(on_host, main)


@not_trio
@calls
def test_another_loop_of_the_same_thread_is_refused(on_host, call):
    """While the batcher's own does not run."""
    first, second = loop_factory(on_host, virtual=False)(), asyncio.new_event_loop()
    block = untouched()
    try:
        batcher = first.run_until_complete(block.__aenter__())
        second.run_until_complete(is_refused(call, batcher))
        first.run_until_complete(block.__aexit__(None, None, None))
    finally:
        first.close()
        second.close()


def as_guest(function, *args):
    """Return a future that is done when trio, as the running asyncio loop's guest, has run it."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    trio.lowlevel.start_guest_run(
        function,
        *args,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        run_sync_soon_not_threadsafe=loop.call_soon,
        done_callback=done.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    return done


@calls
def test_a_guest_of_the_batchers_loop_is_refused(call):
    """It runs in the same thread, by turns with the batcher's own tasks."""

    async def main():
        async with untouched() as batcher:
            (await as_guest(is_refused, call, batcher)).unwrap()

    asyncio.run(main())


@calls
def test_the_host_of_the_batchers_loop_is_refused(call):
    """Where trio is the guest, and the batcher is trio's."""

    async def guest(opened, tried):
        async with untouched() as batcher:
            opened.set_result(batcher)
            for _ in iter(tried.is_set, True):
                await trio.lowlevel.checkpoint()

    async def main():
        opened, tried = asyncio.get_running_loop().create_future(), threading.Event()
        done = as_guest(guest, opened, tried)
        try:
            await is_refused(call, await opened)
        finally:
            tried.set()
        (await done).unwrap()

    asyncio.run(main())


@not_trio
def test_no_other_loop_can_leave_the_block(on_host):
    """The batcher goes on, and its own loop leaves it."""

    def leave(block):
        with pytest.raises(RuntimeError, match="left from outside of it"):
            asyncio.run(block.__aexit__(None, None, None))

    async def main():
        block = open_batcher(echo)
        batcher = await block.__aenter__()
        await anyio.to_thread.run_sync(leave, block)
        assert await batcher.infer(1) == 1
        await block.__aexit__(None, None, None)

    run(on_host, main)
