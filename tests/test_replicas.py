"""Replicas of different speed: who takes what, on virtual time."""

from __future__ import annotations

import math

import pytest

from trio_batcher import open_batcher

from .hosts import host, wait_all_tasks_blocked
from .models import TimedModel

pytestmark = pytest.mark.usefixtures("on_host", "virtual_time")


def fast_and_slow():
    return TimedModel(0.010, 0.001), TimedModel(0.040, 0.004)


def runs_after(model, start):
    return [run for run in model.runs if run.start >= start]


@pytest.mark.parametrize("swapped", [False, True])
async def test_a_lone_request_goes_to_the_fastest_that_is_free(swapped):
    """In whatever order they are listed, and whoever was busy last."""
    fast, slow = models = fast_and_slow()
    async with open_batcher(models[::-1] if swapped else models, warmup=[0]) as batcher:
        begun = host.current_time()
        for _ in range(10):
            start = host.current_time()
            await batcher.infer(1)
            assert host.current_time() - start == pytest.approx(0.011)
        assert len(runs_after(fast, begun)) == 10
        assert runs_after(slow, begun) == []


async def test_a_replica_of_which_nothing_is_known_is_tried():
    """Once, by the first who finds it free."""
    fast, slow = models = fast_and_slow()
    async with open_batcher(models) as batcher:
        for _ in range(10):
            await batcher.infer(1)
    assert len(slow.runs) == 1
    assert len(fast.runs) == 9


async def test_who_comes_while_one_replica_runs_starts_another_one():
    """It does not wait until that one is free again, however few have come."""
    models = [TimedModel(1.0, 0.0), TimedModel(1.0, 0.0)]
    async with open_batcher(models) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 1)
        await host.sleep(0.25)
        start = host.current_time()
        await batcher.infer(2)
        assert host.current_time() - start == pytest.approx(1.0)


async def busy(nursery, batcher, model):
    """Let the model run a batch of one, and return when it began."""
    nursery.start_soon(batcher.infer, 0)
    await wait_all_tasks_blocked()
    return model.runs[-1].start


async def test_a_few_wait_for_a_faster_one_that_will_be_done_sooner():
    """The slow one would take longer than the fast one does for its own batch and theirs."""
    fast, slow = models = fast_and_slow()
    async with open_batcher(models, warmup=[0]) as batcher, host.open_nursery() as nursery:
        begun = await busy(nursery, batcher, fast)
        await host.sleep(0.001)
        assert await batcher.infer_many([1, 2]) == [2, 4]
        assert host.current_time() - begun == pytest.approx(0.011 + 0.012)
        assert runs_after(slow, begun) == []


async def test_more_than_a_few_do_not_wait_for_it():
    """As many as that may be more than it can take: the more hands the better."""
    fast, slow = models = fast_and_slow()
    async with open_batcher(models, warmup=[0]) as batcher, host.open_nursery() as nursery:
        begun = await busy(nursery, batcher, fast)
        nursery.start_soon(batcher.infer_many, range(9))
        await wait_all_tasks_blocked()
        assert [len(run.items) for run in runs_after(slow, begun)] == [9]


async def test_who_might_be_late_if_more_came_does_not_wait():
    """A deadline that a full batch of the fast one might miss is no time to be clever."""
    fast, slow = models = fast_and_slow()
    async with open_batcher(models, warmup=[0]) as batcher, host.open_nursery() as nursery:
        begun = await busy(nursery, batcher, fast)
        with host.fail_after(0.050):
            await batcher.infer(1)
        assert len(runs_after(slow, begun)) == 1


@pytest.mark.parametrize("closing", [False, True])
async def test_one_that_is_not_done_when_it_should_be_is_not_waited_for(closing):
    """It may hang: then the slow one serves those who wait, also when the block is left."""
    hung = host.Event()
    slow = TimedModel(0.040, 0.004)

    class Hanging(TimedModel):
        async def __call__(self, items):
            if "hang" in items:
                await hung.wait()
            return await super().__call__(items)

    fast, start = Hanging(), math.nan

    async def later():
        await host.sleep(1.0)
        hung.set()

    async with host.open_nursery() as nursery:

        async def call():
            await batcher.infer(1)
            # Not before the fast one should surely have been done.
            assert 0.044 <= host.current_time() - start <= 0.044 + 0.012 + 1e-6

        async with open_batcher([fast, slow], warmup=[0]) as batcher:
            begun = host.current_time()
            nursery.start_soon(later)
            nursery.start_soon(batcher.infer, "hang")
            await wait_all_tasks_blocked()
            start = host.current_time()
            nursery.start_soon(call)
            await wait_all_tasks_blocked()
            if not closing:
                await host.sleep(0.5)
        assert [run.items for run in runs_after(slow, begun)] == [[1]]


@pytest.mark.parametrize("ratio", [1, 2, 4])
async def test_together_they_do_what_each_does_alone(ratio):
    """At saturation the throughput is the sum of both."""
    fast, slow = TimedModel(0.010, 0.001), TimedModel(0.010 * ratio, 0.001 * ratio)
    async with open_batcher([fast, slow], max_queue_size=math.inf, warmup=[0]) as batcher:
        begun = host.current_time()
        async with host.open_nursery() as nursery:
            nursery.start_soon(batcher.infer_many, range(5_000))
            await host.sleep(2.0)
            nursery.cancel_scope.cancel()
        elapsed = host.current_time() - begun
        for model, seconds in ((fast, 0.042), (slow, 0.042 * ratio)):
            runs = runs_after(model, begun)
            assert all(len(run.items) == 32 for run in runs)
            assert len(runs) * seconds >= elapsed - 1e-6
