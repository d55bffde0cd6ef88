"""Deadlines are the callers' own cancel scopes; nothing else has to be passed."""

from __future__ import annotations

import math

import pytest

from trio_batcher import DeadlineUnreachable, open_batcher

from .hosts import host, wait_all_tasks_blocked
from .models import GatedModel, TimedModel

pytestmark = pytest.mark.usefixtures("on_host")


async def test_the_nearest_deadline_goes_first(virtual_time):
    """Among those who wait, the order of deadlines decides, not the order of arrival."""
    model = TimedModel()
    async with open_batcher(model, max_batch_size=1) as batcher, host.open_nursery() as nursery:

        async def caller(item: int, seconds: float) -> None:
            with host.fail_after(seconds):
                await batcher.infer(item)

        nursery.start_soon(caller, 0, math.inf)
        await wait_all_tasks_blocked()
        for item, seconds in [(1, math.inf), (2, 0.1), (3, 0.06), (4, 0.08), (5, math.inf)]:
            nursery.start_soon(caller, item, seconds)
            await wait_all_tasks_blocked()
    assert model.executed == [0, 3, 4, 2, 1, 5]


async def test_the_deadline_is_the_nearest_of_all_scopes_around_the_call(virtual_time):
    """An outer scope's deadline counts when it is the nearer one."""
    model = TimedModel()
    async with open_batcher(model, max_batch_size=1) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()

        async def caller(item: int, outer: float, inner: float) -> None:
            with host.fail_after(outer), host.fail_after(inner):
                await batcher.infer(item)

        nursery.start_soon(caller, 1, 5.0, 4.0)
        await wait_all_tasks_blocked()
        nursery.start_soon(caller, 2, 3.0, 9.0)
    assert model.executed == [0, 2, 1]


async def test_an_expired_caller_is_cancelled_by_its_own_scope(virtual_time):
    """Nothing known of the model's speed: the deadline is kept by trio, to the instant."""
    model = TimedModel(fixed=1.0)
    async with open_batcher(model) as batcher:
        start = host.current_time()
        with pytest.raises(host.TooSlowError), host.fail_after(0.25):
            await batcher.infer(1)
        assert host.current_time() == start + 0.25


async def test_an_unreachable_deadline_is_told_at_once(virtual_time):
    """With the model's speed known, and the device taken: nearer than a batch of one."""
    model = TimedModel(fixed=0.1, per_item=0.0)
    async with (
        open_batcher(model, warmup=[0], max_batch_size=4) as batcher,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        start = host.current_time()
        with host.fail_after(0.05), pytest.raises(DeadlineUnreachable) as caught:
            await batcher.infer(1)
        assert host.current_time() == start
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.seconds_left == pytest.approx(0.05)
        with host.fail_after(0.21):
            assert await batcher.infer(2) == 4
        assert batcher.statistics().rejected["deadline"] == 1


async def test_a_free_device_refuses_nobody(virtual_time):
    """Its time is worth saving for others only: the caller's own scope is the judge."""
    model = TimedModel(fixed=0.1, per_item=0.0)
    async with open_batcher(model, warmup=[0], max_batch_size=4) as batcher:
        start = host.current_time()
        with pytest.raises(host.TooSlowError), host.fail_after(0.05):
            await batcher.infer(1)
        assert host.current_time() == start + 0.05
        assert batcher.statistics().rejected["deadline"] == 0
        assert batcher.statistics().cancelled == 1


async def test_a_request_behind_a_running_batch_is_refused_before_its_deadline(virtual_time):
    """The running batch's end counts: 0.1 s more, and a deadline in 0.15 s is hopeless."""
    model = TimedModel(fixed=0.1, per_item=0.0)
    async with (
        open_batcher(model, warmup=[0], max_batch_size=4) as batcher,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        with host.fail_after(0.15), pytest.raises(DeadlineUnreachable):
            await batcher.infer(1)
        with host.fail_after(0.21):
            assert await batcher.infer(2) == 4


async def test_a_request_that_becomes_hopeless_in_the_queue_is_told_before_its_deadline(
    virtual_time,
):
    """It is refused when a batch goes before it, not when it is too late."""
    model = TimedModel(fixed=0.1, per_item=0.0)
    refused_at = []
    async with (
        open_batcher(model, warmup=[0], max_batch_size=1) as batcher,
        host.open_nursery() as nursery,
    ):
        for known in range(4):  # so that it is sure that batches always take the same
            await batcher.infer(known)
        start = host.current_time()

        async def urgent(item: int, seconds: float) -> None:
            with host.fail_after(seconds):
                await batcher.infer(item)

        async def hopeless() -> None:
            with host.fail_after(0.25), pytest.raises(DeadlineUnreachable):
                await batcher.infer(2)
            refused_at.append(host.current_time() - start)

        nursery.start_soon(urgent, 0, 9.0)
        await wait_all_tasks_blocked()
        nursery.start_soon(hopeless)  # could still be done at 0.2
        nursery.start_soon(urgent, 1, 0.24)  # but this one is more urgent
    assert len(refused_at) == 1
    assert 0.1 - 1e-9 <= refused_at[0] < 0.21


async def test_no_deadline_is_called_unreachable_on_old_evidence(virtual_time):
    """A model that was slow a while ago gets the chance to be fast again."""
    model = TimedModel(fixed=1.0, per_item=0.0)
    async with open_batcher(model, warmup=[0], max_batch_size=2) as batcher:
        model.fixed = 0.01
        with host.fail_after(0.5):
            assert await batcher.infer(1) == 2


async def test_a_group_with_an_unreachable_deadline_is_refused_as_one(virtual_time):
    """`infer_many` queues all or none."""
    model = TimedModel(fixed=0.1, per_item=0.0)
    async with open_batcher(model, warmup=[0]) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        runs = len(model.runs)
        with host.fail_after(0.05), pytest.raises(DeadlineUnreachable):
            await batcher.infer_many([1, 2, 3])
        assert batcher.statistics().rejected["deadline"] == 3
    assert len(model.runs) == runs


async def test_deadlines_hold_in_front_of_a_thread():
    """A caller in front of a busy thread is cancelled by its scope all the same."""
    model = GatedModel()
    async with open_batcher(model) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 1)
        await model.started()
        with host.move_on_after(0.001) as scope:
            await batcher.infer(2)
        assert scope.cancelled_caught
        model.open()
    assert model.executed == [1]
