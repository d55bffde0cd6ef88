"""Cancellation is exact (DESIGN: what a user may rely on)."""

from __future__ import annotations

import pytest

from trio_batcher import BatcherClosed, open_batcher

from .hosts import host, wait_all_tasks_blocked
from .models import GatedModel, TimedModel

pytestmark = pytest.mark.usefixtures("on_host")


async def test_a_caller_cancelled_while_waiting_takes_its_item_along(virtual_time):
    """The model never sees the item of a caller that was cancelled in the queue."""
    model = TimedModel()
    async with open_batcher(model, max_batch_size=4) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 1)
        await wait_all_tasks_blocked()  # 1 is running
        with host.move_on_after(0.005) as scope:
            await batcher.infer(2)
        assert scope.cancelled_caught
        assert host.current_time() == model.runs[0].start + 0.005
        assert batcher.statistics().waiting == 0
        nursery.start_soon(batcher.infer, 3)
    assert model.batches == [[1], [3]]


async def test_a_cancelled_callers_place_in_the_queue_is_free_again(virtual_time):
    """With the queue full, one cancellation makes room for one request, at once."""
    model = TimedModel()
    async with (
        open_batcher(model, max_batch_size=1, max_queue_size=1) as batcher,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(batcher.infer, 1)
        await wait_all_tasks_blocked()
        with host.move_on_after(0.001):
            await batcher.infer(2)
        assert await batcher.infer(3) == 6
    assert model.executed == [1, 3]


async def test_a_cancelled_callers_place_in_the_batch_goes_to_another(virtual_time):
    """A batch is filled by those who wait when it starts, not by those who once did."""
    model = TimedModel()
    async with open_batcher(model, max_batch_size=2) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        scope = host.CancelScope()

        async def leaves() -> None:
            with scope:
                await batcher.infer(1)

        nursery.start_soon(leaves)
        await wait_all_tasks_blocked()
        nursery.start_soon(batcher.infer, 2)
        nursery.start_soon(batcher.infer, 3)
        await wait_all_tasks_blocked()
        scope.cancel()
    assert [sorted(batch) for batch in model.batches] == [[0], [2, 3]]


async def test_a_caller_cancelled_while_its_batch_runs_leaves_at_once(virtual_time):
    """The batch runs on, its batch-mates are untouched, the result is dropped."""
    model = TimedModel(fixed=1.0)
    answers = []

    async with (
        open_batcher(model, max_delay=0.001, max_batch_size=3) as batcher,
        host.open_nursery() as nursery,
    ):

        async def mate(item: int) -> None:
            answers.append(await batcher.infer(item))

        nursery.start_soon(mate, 1)
        nursery.start_soon(mate, 2)
        with host.move_on_after(0.5) as scope:
            await batcher.infer(3)
        assert scope.cancelled_caught
        assert host.current_time() == pytest.approx(model.runs[0].start + 0.5)
        assert answers == []
        assert batcher.statistics().running == 2
    assert sorted(answers) == [2, 4]
    assert sorted(model.batches[0]) == [1, 2, 3]
    assert batcher.statistics().cancelled == 1


async def test_a_caller_leaves_while_a_thread_runs_its_batch():
    """A thread cannot be stopped, and a caller does not have to wait for it."""
    model = GatedModel()
    async with open_batcher(model) as batcher, host.open_nursery() as nursery:
        scope = host.CancelScope()
        left = host.Event()

        async def leaves() -> None:
            with scope:
                await batcher.infer(1)
            left.set()

        nursery.start_soon(leaves)
        await model.started()
        scope.cancel()
        await left.wait()
        assert model.batches == [[1]]
        model.open(2)
        assert await batcher.infer(2) == 4


async def test_infer_is_a_checkpoint_when_cancelled_beforehand(virtual_time):
    """A caller that is cancelled already submits nothing."""
    model = TimedModel()
    async with open_batcher(model) as batcher:
        with host.CancelScope() as scope:
            scope.cancel()
            await batcher.infer(1)
        assert scope.cancelled_caught
        with host.CancelScope() as scope:
            scope.cancel()
            await batcher.infer_many([1, 2])
        assert scope.cancelled_caught
        with host.CancelScope() as scope:
            scope.cancel()
            await batcher.infer_many([])
        assert scope.cancelled_caught
        assert batcher.statistics().submitted == 0
    assert model.runs == []


async def test_a_passed_deadline_cancels_as_it_always_does(virtual_time):
    """`fail_after(0)` around a request is a `TooSlowError`, not an error of ours."""
    model = TimedModel()
    async with open_batcher(model) as batcher:
        with pytest.raises(host.TooSlowError), host.fail_after(0):
            await batcher.infer(1)
    assert model.runs == []


async def test_infer_is_a_checkpoint_when_it_succeeds_and_when_it_fails(virtual_time):
    """Whatever comes of it, others get to run."""

    async def at_once(items: list[int]) -> list[int]:
        return items

    async with open_batcher(at_once, max_queue_size=1) as batcher:
        with host.assert_checkpoints():
            await batcher.infer(1)
        with host.assert_checkpoints():
            await batcher.infer_many([1])
        with host.assert_checkpoints():
            await batcher.infer_many([])
    with host.assert_checkpoints(), pytest.raises(BatcherClosed):
        await batcher.infer(2)


async def test_a_delivered_result_survives_a_later_cancellation(virtual_time):
    """Cancelled after its result was delivered, but before it ran again: it has the result."""
    done = host.Event()

    async def model(items: list[int]) -> list[int]:
        await done.wait()
        return items

    async with open_batcher(model) as batcher, host.open_nursery() as nursery:
        results = []
        scope = host.CancelScope()

        async def caller() -> None:
            with scope:
                results.append(await batcher.infer(7))

        nursery.start_soon(caller)
        await wait_all_tasks_blocked()
        done.set()
        # Delivery happens in this burst's next step; cancel in the very same pass.
        while not batcher.statistics().completed:
            await host.cancel_shielded_checkpoint()
            if batcher.statistics().completed:
                scope.cancel()
    assert results == [7]
    assert batcher.statistics().cancelled == 0


async def test_asking_again_after_a_cancellation_gives_the_new_answer(virtual_time):
    """A task that left one request behind does not get that one's result for its next."""
    model = TimedModel(fixed=1.0)
    async with open_batcher(model, max_batch_size=1) as batcher:
        with host.move_on_after(0.5):
            await batcher.infer(1)  # running when cancelled
        assert await batcher.infer(2) == 4
    assert model.executed == [1, 2]


async def test_cancelling_an_infer_many_takes_all_of_it_along(virtual_time):
    """Its waiting items never run; what runs is dropped; nobody else is touched."""
    model = TimedModel(fixed=1.0)
    async with open_batcher(model, max_batch_size=2) as batcher:
        with host.move_on_after(0.5) as scope:
            await batcher.infer_many([1, 2, 3, 4])
        assert scope.cancelled_caught
        statistics = batcher.statistics()
        assert (statistics.waiting, statistics.running, statistics.cancelled) == (0, 0, 4)
        assert await batcher.infer(5) == 10
    assert model.batches == [[1, 2], [5]]


async def test_a_caller_cancelled_while_the_batcher_closes(virtual_time):
    """While the queue is drained, cancellation is as exact as before."""
    model = TimedModel(fixed=1.0)
    async with host.open_nursery() as nursery:
        scopes = [host.CancelScope() for _ in range(3)]
        answers = []

        async def caller(item: int) -> None:
            with scopes[item]:
                answers.append(await batcher.infer(item))

        async with open_batcher(model, max_batch_size=1) as batcher:
            for item in range(3):
                nursery.start_soon(caller, item)
                await wait_all_tasks_blocked()

            async def cancel_later() -> None:
                await host.sleep(0.5)
                scopes[0].cancel()  # running
                scopes[1].cancel()  # waiting

            nursery.start_soon(cancel_later)
    assert answers == [4]
    assert model.executed == [0, 2]


async def test_a_shielded_caller_is_served_while_everything_around_is_cancelled(virtual_time):
    """A cancellation from outside ends the batcher when the block is left, not before."""
    model = TimedModel(fixed=1.0)
    answers = []
    with host.CancelScope() as outer:
        async with open_batcher(model) as batcher:
            outer.cancel()
            with host.CancelScope(shield=True):
                answers.append(await batcher.infer(1))
                answers.append(await batcher.infer(2))
    assert answers == [2, 4]
