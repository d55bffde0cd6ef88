"""A device that can run nothing any more: the others go on, and nothing is lost."""

from __future__ import annotations

import threading

import pytest

from trio_batcher import BatcherClosed, BatcherCrashed, DeviceLost, open_batcher

from .hosts import host, wait_all_tasks_blocked
from .models import PATIENCE, GatedModel

pytestmark = pytest.mark.usefixtures("on_host")


class Failing(GatedModel):
    """The first of its runs, in whichever replica, loses that."""

    def __call__(self, items):
        results = super().__call__(items)
        if len(self.batches) == 1:
            raise DeviceLost("fell off the bus")
        return results


async def test_a_lost_devices_requests_are_run_by_another():
    """But for those whose callers have left, and before those that came later."""
    model, outcomes = Failing(), []

    async def caller(item: int) -> None:
        outcomes.append(await batcher.infer(item))

    async def impatient() -> None:
        with scope:
            await batcher.infer_many([3, 4])

    scope = host.CancelScope()
    async with open_batcher([model, model], max_batch_size=4) as batcher:
        async with host.open_nursery() as nursery:
            nursery.start_soon(caller, 1)
            nursery.start_soon(caller, 2)
            nursery.start_soon(impatient)
            await model.started()
            scope.cancel()
            await wait_all_tasks_blocked()
            model.open()
            await model.started()
            model.open()
        assert sorted(outcomes) == [2, 4]
        assert sorted(model.batches[0]) == [1, 2, 3, 4]
        assert sorted(model.batches[1]) == [1, 2]
        statistics = batcher.statistics()
        model.open()
        assert await batcher.infer(5) == 10
    assert (statistics.submitted, statistics.completed, statistics.cancelled) == (4, 2, 2)
    assert statistics.waiting == statistics.running == 0
    assert len(statistics.busy) == 2


async def test_the_last_devices_loss_crashes_the_batcher():
    """Those whom it held, those who wait and those who come are told the reason."""
    model, outcomes = Failing(), []

    async def caller(item: int) -> None:
        try:
            outcomes.append(await batcher.infer(item))
        except BatcherCrashed as exc:
            outcomes.append(exc.__cause__)

    with pytest.raises(BatcherCrashed) as caught:
        async with open_batcher(model, max_batch_size=1) as batcher:
            async with host.open_nursery() as nursery:
                nursery.start_soon(caller, 1)
                await model.started()
                nursery.start_soon(caller, 2)
                await wait_all_tasks_blocked()
                model.open()
            assert batcher.failed.is_set()
            await caller(3)
    assert [str(outcome) for outcome in outcomes] == ["fell off the bus"] * 3
    assert caught.value.__cause__ is outcomes[0]


async def test_an_async_model_is_lost_likewise(virtual_time):
    """It says so by the same exception."""
    runs = []

    async def model(items: list[int]) -> list[int]:
        runs.append(items)
        await host.sleep(1.0)
        if len(runs) == 1:
            raise DeviceLost("hung up")
        return items

    async with open_batcher([model, model]) as batcher:
        assert await batcher.infer(1) == 1
    assert runs == [[1], [1]]


async def test_a_loss_while_the_batcher_drains_loses_nothing():
    """What was accepted is run by those that are left."""
    model, outcomes = Failing(), []

    async def caller(item: int) -> None:
        outcomes.append(await batcher.infer(item))

    async with host.open_nursery() as nursery:
        async with open_batcher([model, model]) as batcher:
            nursery.start_soon(caller, 1)
            await model.started()
            model.open(2)
    assert outcomes == [2]


async def test_a_loss_of_an_aborted_batcher_is_nobodys_news():
    """Its block is left by the exception that aborted it, and callers are turned away."""
    model, outcomes = Failing(), []

    async def caller(item: int) -> None:
        try:
            outcomes.append(await batcher.infer(item))
        except BatcherClosed as exc:
            outcomes.append(exc)

    async with host.open_nursery() as nursery:
        with pytest.raises(KeyError):
            async with open_batcher([model, model]) as batcher:
                nursery.start_soon(caller, 1)
                await model.started()
                model.open()
                raise KeyError
    assert [type(outcome) for outcome in outcomes] == [BatcherClosed]


async def test_two_losses_at_the_same_time_crash_it_once():
    """Both batches' callers are told."""
    both, outcomes = threading.Barrier(2), []

    def model(items: list[int]) -> list[int]:
        both.wait(PATIENCE)
        raise DeviceLost("a power cut")

    async def caller(item: int) -> None:
        with pytest.raises(BatcherCrashed):
            await batcher.infer(item)
        outcomes.append(item)

    with pytest.raises(BatcherCrashed):
        async with open_batcher([model, model], max_batch_size=1) as batcher:
            async with host.open_nursery() as nursery:
                nursery.start_soon(caller, 1)
                nursery.start_soon(caller, 2)
    assert sorted(outcomes) == [1, 2]
