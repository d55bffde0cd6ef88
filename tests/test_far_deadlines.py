"""A deadline that is far away: it makes its request no later than none would, nor is it missed."""

from __future__ import annotations

import gc
import weakref

import pytest

from trio_batcher import open_batcher

from .hosts import host, wait_all_tasks_blocked
from .models import TimedModel

pytestmark = pytest.mark.usefixtures("on_host")


class Item:
    """Something that can be referred to weakly."""


async def test_a_far_deadline_waits_in_turn_with_bulk_work(virtual_time):
    """It is served when a request without a deadline would have been, not at its own edge."""
    model = TimedModel(0.05, 0.0)
    async with open_batcher(model, max_batch_size=8, warmup=[0]) as batcher:
        for known in range(4):
            await batcher.infer(known)
        answered = {}

        async def ask(name, seconds):
            start = host.current_time()
            with host.fail_after(seconds):
                await batcher.infer(0)
            answered[name] = host.current_time() - start

        async with host.open_nursery() as nursery:
            nursery.start_soon(batcher.infer_many, [0] * 400)
            await wait_all_tasks_blocked()
            nursery.start_soon(ask, "none", float("inf"))
            nursery.start_soon(ask, "far", 30.0)
            nursery.start_soon(ask, "near", 0.2)
    assert answered["far"] <= answered["none"]
    assert answered["near"] < 0.2


async def test_a_far_deadline_is_near_in_time(virtual_time):
    """Its turn among bulk work would come too late: it is served before that."""
    model = TimedModel(0.05, 0.0)
    async with open_batcher(model, max_batch_size=8, max_queue_size=4000, warmup=[0]) as batcher:
        for known in range(4):
            await batcher.infer(known)
        async with host.open_nursery() as nursery:
            nursery.start_soon(batcher.infer_many, [0] * 2000)
            await wait_all_tasks_blocked()
            for seconds in (0.6, 1.0, 3.0):

                async def ask(seconds=seconds):
                    with host.fail_after(seconds):
                        assert await batcher.infer(1) == 2

                nursery.start_soon(ask)


async def test_no_wait_for_companions_makes_it_miss_a_far_deadline(virtual_time):
    """However long ``max_delay`` is beside what a batch takes."""
    model = TimedModel(0.001, 0.0)
    async with open_batcher(model, max_batch_size=8, max_delay=5.0, warmup=[0]) as batcher:
        with host.fail_after(6):
            await batcher.infer_many([0] * 8)
        with host.fail_after(1.0):
            assert await batcher.infer(1) == 2


async def test_nothing_is_kept_of_a_request_with_a_far_deadline(virtual_time):
    """Answered or cancelled, its item goes with its caller, long before the deadline."""
    gc.collect()
    gc.disable()
    try:

        async def model(items):
            await host.sleep(0.01)
            return [None] * len(items)

        async with open_batcher(model, max_batch_size=2, warmup=[Item()]) as batcher:
            known = []

            async def ask(scope):
                item = Item()
                known.append(weakref.ref(item))
                with scope, host.fail_after(1000):
                    await batcher.infer(item)

            for _ in range(3):
                async with host.open_nursery() as nursery:
                    scopes = [host.CancelScope() for _ in range(5)]
                    for scope in scopes:
                        nursery.start_soon(ask, scope)
                    await host.sleep(0.004)
                    scopes[-1].cancel()  # waits
                    await host.sleep(0.010)
                    scopes[2].cancel()  # runs
            await batcher.infer(None)
            assert [each for each in known if each() is not None] == []
    finally:
        gc.enable()
