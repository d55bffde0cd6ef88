"""Any number of items: `Batcher.map`."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import signal
import weakref

import pytest

from trio_batcher import (
    BatcherClosed,
    BatcherCrashed,
    DeadlineUnreachable,
    DeviceLost,
    ItemError,
    ModelError,
    Overloaded,
    ResultCountError,
    open_batcher,
)

from .hosts import host, wait_all_tasks_blocked
from .models import GatedModel, TimedModel

pytestmark = pytest.mark.usefixtures("on_host")

ORDERS = pytest.mark.parametrize("order", ["input", "completion"])
ERRORS = pytest.mark.parametrize("errors", ["raise", "return"])


class PoisonError(Exception):
    """What a model raises, or an input."""


class Counted:
    """An input that counts what was taken from it."""

    def __init__(self, count=math.inf):
        self.taken = 0
        self.count = count

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken >= self.count:
            raise StopIteration
        self.taken += 1
        return self.taken - 1


async def asynchronous(items, between=0.0):
    for item in items:
        await host.sleep(between)
        yield item


async def everything(job):
    async with job as results:
        return [result async for result in results]


async def double(items):
    return [item * 2 for item in items]


def poisoned(*poison, seconds=0.010):
    """An async model that raises on a batch with any of these in it."""
    executed = []

    async def model(items):
        executed.extend(items)
        await host.sleep(seconds)
        if set(items) & set(poison):
            raise PoisonError(sorted(set(items) & set(poison)))
        return [item * 2 for item in items]

    model.executed = executed
    return model


# What it gives


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
async def test_results_come_in_the_order_of_the_items(count, virtual_time):
    """Each item's result, in its item's place, of a sync and of an async iterable."""
    async with open_batcher(TimedModel(), max_batch_size=8) as batcher:
        wanted = [2 * item for item in range(count)]
        assert await everything(batcher.map(range(count))) == wanted
        assert await everything(batcher.map(iter(range(count)))) == wanted
        assert await everything(batcher.map(asynchronous(range(count)))) == wanted


async def test_order_holds_however_the_replicas_differ(virtual_time):
    """Results that are there early wait for their turn."""
    replicas = [TimedModel(fixed=1.0), TimedModel(fixed=0.01)]
    async with open_batcher(replicas, max_batch_size=4) as batcher:
        assert await everything(batcher.map(range(100))) == [2 * item for item in range(100)]
    assert all(replica.runs for replica in replicas)


async def test_as_they_come_no_result_waits_for_another(virtual_time):
    """Each is given the moment it is there, with its item's place in the input."""
    slow, fast = TimedModel(fixed=1.0, per_item=0), TimedModel(fixed=0.01, per_item=0)
    came = {}
    async with (
        open_batcher([slow, fast], max_batch_size=4) as batcher,
        batcher.map(range(100), order="completion") as results,
    ):
        async for index, result in results:
            assert result == 2 * index
            came[index] = host.current_time()
    assert sorted(came) == list(range(100))
    for model in (slow, fast):
        for run in model.runs:
            assert {came[item] for item in run.items} == {run.start + model.fixed}


@ORDERS
async def test_an_item_that_comes_late_is_not_waited_for(order, virtual_time):
    """The results of what an async iterable has given are given before the next item is there."""
    times = []
    async with (
        open_batcher(TimedModel(fixed=0.01, per_item=0), max_batch_size=4) as batcher,
        batcher.map(asynchronous(range(5), between=10.0), order=order) as results,
    ):
        start = host.current_time()
        async for _ in results:
            times.append(host.current_time() - start)
    assert times == pytest.approx([10 * n + 0.01 for n in range(1, 6)])


async def test_the_devices_run_full_batches(virtual_time):
    """But for the first and the last ones; and no device is left idle, whatever the replicas."""
    for replicas in (1, 3):
        models = [TimedModel(fixed=0.02, per_item=0) for _ in range(replicas)]
        async with open_batcher(models, max_batch_size=16) as batcher:
            start = host.current_time()
            await everything(batcher.map(range(20_000)))
            elapsed = host.current_time() - start
            seen = batcher.statistics()
        assert seen.batch_sizes[16] > 0.99 * 20_000 / 16
        assert min(seen.busy) > 0.98 * elapsed


# What is under way


@ORDERS
@pytest.mark.parametrize("max_in_flight", [1, 2, 7, 50])
async def test_no_more_than_so_many_are_under_way(order, max_in_flight, virtual_time):
    """Taken from the input and not yet given to the loop: never more than `max_in_flight`."""
    items = Counted(300)
    given, most = 0, 0
    async with (
        open_batcher(TimedModel(), max_batch_size=8) as batcher,
        batcher.map(items, order=order, max_in_flight=max_in_flight) as results,
    ):
        async for _ in results:
            most = max(most, items.taken - given)
            given += 1
            if given % 40 == 0:
                await host.sleep(1.0)
                most = max(most, items.taken - given)
                seen = batcher.statistics()
                assert seen.waiting + seen.running <= max_in_flight
    assert given == 300
    assert most == max_in_flight


@ORDERS
async def test_a_slow_consumer_holds_up_the_input(order, virtual_time):
    """Two million rows, or without end: no more of them are in memory than the default bound."""
    alive = weakref.WeakSet()

    class Row:
        def __init__(self):
            alive.add(self)

    async def echo(rows):
        await host.sleep(0.001)
        return rows

    async with (
        open_batcher(echo, max_batch_size=8) as batcher,
        batcher.map((Row() for _ in itertools.count()), order=order) as results,
    ):
        for _ in range(50):
            await anext(results)
            await host.sleep(0.1)
            assert len(alive) <= 4 * 8 + 1
    gc.collect()
    assert len(alive) <= 1


@pytest.mark.parametrize("max_queue_size", [1, 3, 8])
async def test_a_small_queue_is_waited_for(max_queue_size, virtual_time):
    """A full queue is never `Overloaded`, however small; the device runs all the same."""
    model = TimedModel(fixed=0.01, per_item=0)
    async with open_batcher(model, max_batch_size=8, max_queue_size=max_queue_size) as batcher:
        assert len(await everything(batcher.map(range(200)))) == 200
        seen = batcher.statistics()
    assert seen.rejected["overloaded"] == 0
    assert seen.peak_waiting <= max_queue_size
    assert seen.batch_sizes[max_queue_size] > 0.9 * 200 / max_queue_size
    assert seen.busy[0] == pytest.approx(model.runs[-1].start + 0.01 - model.runs[0].start)


async def test_beside_others_who_fill_the_queue_it_gets_on(virtual_time):
    """It takes the room that there is, as soon as there is any, and trips nothing."""
    model = TimedModel(fixed=0.01, per_item=0)
    async with (
        open_batcher(model, max_batch_size=4, max_queue_size=8) as batcher,
        host.open_nursery() as nursery,
    ):

        async def other():
            while True:
                try:
                    await batcher.infer(-1)
                except Overloaded:
                    await host.sleep(0.003)

        for _ in range(12):
            nursery.start_soon(other)
        await wait_all_tasks_blocked()
        results = await everything(batcher.map(range(100)))
        nursery.cancel_scope.cancel()
    assert results == [2 * item for item in range(100)]


@pytest.mark.parametrize("leaving", ["answered", "cancelled"])
async def test_whatever_makes_room_is_noticed(leaving, virtual_time):
    """With the queue full of others, and nothing of its own in it, it goes on when they go."""
    model = TimedModel(fixed=1.0, per_item=0)
    async with (
        open_batcher(model, max_batch_size=2, max_queue_size=2) as batcher,
        host.open_nursery() as nursery,
    ):
        await batcher.infer(0)
        await batcher.infer(0)
        scopes = []

        async def other():
            with host.CancelScope() as scope:
                scopes.append(scope)
                await batcher.infer_many([1, 1])

        for _ in range(2):
            nursery.start_soon(other)
            await wait_all_tasks_blocked()
        start = host.current_time()
        async with batcher.map([5]) as results:
            await wait_all_tasks_blocked()
            if leaving == "cancelled":
                scopes[1].cancel()
            assert await anext(results) == 10
        took = host.current_time() - start
    assert took == pytest.approx(3.0 if leaving == "answered" else 2.0)


async def test_an_endless_input_leaves_the_loop_to_others():
    """However fast the input and the loop over the results are."""
    async with open_batcher(double, max_batch_size=8) as batcher:
        turns = 0

        async def other():
            nonlocal turns
            while True:
                turns += 1
                await host.checkpoint()

        async with host.open_nursery() as nursery:
            nursery.start_soon(other)
            async with batcher.map(itertools.count(), max_in_flight=100_000) as results:
                async for result in results:
                    if result > 40_000:
                        break
            nursery.cancel_scope.cancel()
    assert turns > 20


# Errors


async def test_the_first_error_ends_it_after_the_results_before_it(virtual_time):
    """It is raised in its item's place, unwrapped, with a note; what follows is given up."""
    model = poisoned(10)
    got = []
    async with open_batcher(model, max_batch_size=4) as batcher:
        with pytest.raises(ModelError) as caught:
            async with batcher.map(itertools.count()) as results:
                async for result in results:
                    got.append(result)
        assert got == [2 * item for item in range(10)]
        assert caught.value.batch_size == 1
        assert isinstance(caught.value.__cause__, PoisonError)
        assert "item 10 " in caught.value.__notes__[0]
        seen = batcher.statistics()
        assert seen.waiting == seen.running == 0
    assert max(model.executed) < 10 + 16 + 4


async def test_as_they_come_the_first_error_ends_it(virtual_time):
    """After those that were there before it; the others are given up at once."""
    model = poisoned(10)
    async with open_batcher(model, max_batch_size=4) as batcher:
        got = []
        with pytest.raises(ModelError):
            async with batcher.map(itertools.count(), order="completion") as results:
                async for index, result in results:
                    assert result == 2 * index
                    got.append(index)
        assert batcher.statistics().completed == len(got)
    assert 10 not in got


@ORDERS
async def test_errors_can_be_given_in_their_places(order, virtual_time):
    """Each item has exactly one outcome: its result, or what `infer` would raise."""

    async def model(items):
        await host.sleep(0.01)
        if 13 in items:
            raise PoisonError("raised")
        return [PoisonError(item) if item % 10 == 5 else item * 2 for item in items]

    async with open_batcher(model, max_batch_size=4) as batcher:
        got = await everything(batcher.map(range(100), errors="return", order=order))
    got = list(enumerate(got)) if order == "input" else got
    assert sorted(index for index, _ in got) == list(range(100))
    for index, result in got:
        if index == 13:
            assert isinstance(result, ModelError)
        elif index % 10 == 5:
            assert isinstance(result, PoisonError)
            assert result.args == (index,)
        else:
            assert result == 2 * index
    errors = [id(result) for _, result in got if isinstance(result, Exception)]
    assert len(errors) == len(set(errors)) == 11


async def test_a_wrong_number_of_results_is_an_error_like_others(virtual_time):
    """For the items of that batch."""

    async def model(items):
        await host.sleep(0.01)
        return [0] if 5 in items else items

    async with open_batcher(model, max_batch_size=4) as batcher:
        got = await everything(batcher.map(range(12), errors="return", max_in_flight=4))
        with pytest.raises(ResultCountError):
            await everything(batcher.map(range(12)))
    assert sum(isinstance(result, ResultCountError) for result in got) in range(1, 5)
    assert isinstance(got[5], ResultCountError)


@ORDERS
async def test_an_item_that_is_refused_is_an_error_of_its_own(order, virtual_time):
    """What `cost` and `key` raise, and an `ItemError`, have the item's place."""

    def cost(item):
        return {3: 99, 4: "dear"}.get(item, 1)

    def key(item):
        if item == 6:
            raise PoisonError(item)
        return item % 2

    async with open_batcher(
        TimedModel(), max_batch_size=4, key=key, cost=cost, max_batch_cost=4
    ) as batcher:
        got = await everything(batcher.map(range(9), errors="return", order=order))
        got = dict(got) if order == "completion" else dict(enumerate(got))
        assert isinstance(got.pop(3), ItemError)
        assert isinstance(got.pop(4), TypeError)
        assert isinstance(got.pop(6), PoisonError)
        assert got == {item: 2 * item for item in (0, 1, 2, 5, 7, 8)}
        seen = []
        with pytest.raises(ItemError):
            async with batcher.map(range(9)) as results:
                async for result in results:
                    seen.append(result)
        assert seen == [0, 2, 4]
        assert batcher.statistics().waiting == 0


@ORDERS
@ERRORS
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_the_input_raises_comes_after_the_results_of_the_items_before(
    order, errors, kind, virtual_time
):
    """As it is, wrapped in nothing, and whatever is done with the items' errors."""
    error = PoisonError("the input")

    def failing():
        yield from range(21)
        raise error

    items = failing() if kind == "sync" else asynchronous(failing())
    got = []
    async with open_batcher(TimedModel(), max_batch_size=4) as batcher:
        with pytest.raises(PoisonError) as caught:
            async with batcher.map(items, order=order, errors=errors) as results:
                async for result in results:
                    got.append(result)
    assert caught.value is error
    if order == "completion":
        assert sorted(got) == [(item, 2 * item) for item in range(21)]
    else:
        assert got == [2 * item for item in range(21)]


@ORDERS
async def test_after_its_end_there_is_nothing_more(order, virtual_time):
    """After the last result, or after an error, the iterator is exhausted, and stays so."""
    async with open_batcher(poisoned(3), max_batch_size=2) as batcher:
        for items in (range(3), range(9)):
            async with batcher.map(items, order=order) as results:
                with pytest.raises((StopAsyncIteration, ModelError)):
                    while True:
                        await anext(results)
                for _ in range(2):
                    with pytest.raises(StopAsyncIteration):
                        await anext(results)


@ORDERS
@ERRORS
async def test_a_batcher_that_closes_answers_what_it_has_accepted(order, errors, virtual_time):
    """Then the job ends with `BatcherClosed`, even where errors are given."""
    got = []
    model = TimedModel()
    async with host.open_nursery() as nursery:

        async def work(batcher):
            with pytest.raises(BatcherClosed):
                async with batcher.map(itertools.count(), order=order, errors=errors) as results:
                    async for result in results:
                        got.append(result)

        async with open_batcher(model, max_batch_size=4) as batcher:
            nursery.start_soon(work, batcher)
            await host.sleep(0.1)
    assert sorted(model.executed) == list(range(len(got)))


async def test_a_batcher_that_has_closed_refuses_what_stands_before_a_failed_item(virtual_time):
    """The job ends with what comes first in the items' order, and does not wait for it."""
    async with open_batcher(
        TimedModel(), cost=lambda item: 99 if item == 2 else 1, max_batch_cost=8
    ) as batcher:
        pass
    got = []
    with pytest.raises(BatcherClosed):
        async with batcher.map(range(4)) as results:
            async for result in results:
                got.append(result)
    assert got == []


@ORDERS
@ERRORS
async def test_a_batcher_that_is_aborted_ends_the_job(order, errors, virtual_time):
    """With `BatcherClosed`; what has run but not ended is lost."""
    ended = []
    async with host.open_nursery() as nursery:

        async def work(batcher):
            with pytest.raises(BatcherClosed):
                async with batcher.map(itertools.count(), order=order, errors=errors) as results:
                    async for _ in results:
                        pass
            ended.append(True)

        with pytest.raises(PoisonError):
            async with open_batcher(TimedModel(fixed=9), max_batch_size=4) as batcher:
                nursery.start_soon(work, batcher)
                await host.sleep(0.1)
                raise PoisonError
    assert ended


@ORDERS
@ERRORS
@pytest.mark.parametrize("max_queue_size", [2, 1024])
async def test_a_batcher_that_crashes_ends_the_job(order, errors, max_queue_size, virtual_time):
    """With `BatcherCrashed`, whether its items wait in the queue or for room in it."""

    async def model(items):
        await host.sleep(0.01)
        if 8 in items:
            raise DeviceLost("gone")
        return items

    with pytest.raises(BatcherCrashed):
        async with open_batcher(model, max_batch_size=2, max_queue_size=max_queue_size) as batcher:
            with pytest.raises(BatcherCrashed):
                async with batcher.map(itertools.count(), order=order, errors=errors) as results:
                    async for _ in results:
                        pass
            assert batcher.failed.is_set()


# Deadlines


@ERRORS
async def test_a_deadline_is_the_whole_jobs(errors, virtual_time):
    """Under a scope that the job can keep no item is refused, however long it takes."""
    with host.fail_after(3600):
        async with open_batcher(TimedModel(fixed=1.0), max_batch_size=4) as batcher:
            got = await everything(batcher.map(range(8_000), errors=errors))
            assert got == [2 * item for item in range(8_000)]
            assert batcher.statistics().rejected["deadline"] == 0


@ORDERS
async def test_a_job_that_is_too_long_ends_no_later_than_its_deadline(order, virtual_time):
    """With `DeadlineUnreachable` for an item, or the cancellation; until then all are served."""
    model = TimedModel(fixed=1.0, per_item=0)
    got = 0
    async with open_batcher(model, max_batch_size=4) as batcher:
        start = host.current_time()
        with pytest.raises((DeadlineUnreachable, host.TooSlowError)):
            with host.fail_after(20.5):
                async with batcher.map(itertools.count(), order=order) as results:
                    async for _ in results:
                        got += 1
        assert host.current_time() <= start + 20.5
    assert got >= 4 * 19 - 3


async def test_near_its_deadline_each_item_is_refused_by_itself(virtual_time):
    """Where errors are given: an instance for each, and the others have their results."""
    model = TimedModel(fixed=1.0, per_item=0)
    async with (
        open_batcher(model, max_batch_size=4) as batcher,
        host.open_nursery() as nursery,
    ):
        for size in (1, 1, 4, 4):
            await batcher.infer_many([0] * size)
        # The device is wanted: it runs nobody who would be late.
        nursery.start_soon(batcher.infer_many, [0] * 16)
        with host.move_on_after(2.5):
            got = await everything(batcher.map(range(16), errors="return"))
    refused = [result for result in got if isinstance(result, DeadlineUnreachable)]
    assert len(refused) == len({id(error) for error in refused}) == 8
    assert len(got) == 16
    assert sorted(set(got) - set(refused)) == [0, 2, 4, 6, 8, 10, 12, 14]


async def test_a_deadline_that_is_moved_counts_for_what_is_queued_later(virtual_time):
    """The scope around the block is looked at anew each time."""
    async with open_batcher(TimedModel(fixed=1.0, per_item=0), max_batch_size=4) as batcher:
        for _ in range(3):
            await batcher.infer(0)
        with host.move_on_after(5.5) as scope:
            async with batcher.map(range(60)) as results:
                got = [await anext(results)]
                scope.deadline += 100
                got += [result async for result in results]
        assert got == [2 * item for item in range(60)]


async def test_a_scope_around_the_loop_loses_nothing(virtual_time):
    """A step that is cancelled can be made again: the deadline of the items is the block's."""
    got = []
    async with (
        open_batcher(TimedModel(fixed=1.0, per_item=0), max_batch_size=2) as batcher,
        batcher.map(range(10)) as results,
    ):
        while len(got) < 10:
            with host.move_on_after(0.3):
                async for result in results:
                    got.append(result)
    assert got == [2 * item for item in range(10)]


async def test_weight_is_passed_on(virtual_time):
    """To each of the items' requests: when not all can be in time, the weightier ones are."""
    model = TimedModel(fixed=1.0, per_item=0)
    outcomes = {}
    async with open_batcher(model, max_batch_size=2) as batcher, host.open_nursery() as nursery:
        for _ in range(3):
            await batcher.infer(0)

        async def work(weight):
            with host.move_on_after(2.5):
                outcomes[weight] = await everything(
                    batcher.map(range(4), errors="return", weight=weight)
                )

        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        nursery.start_soon(work, 1.0)
        nursery.start_soon(work, 8.0)
    served = {
        weight: sum(not isinstance(outcome, Exception) for outcome in got)
        for weight, got in outcomes.items()
    }
    assert served == {1.0: 0, 8.0: 2}


# Leaving


@ORDERS
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_leaving_early_gives_up_the_rest(order, kind, virtual_time):
    """At once: what waits is never run, what runs is dropped, and nothing is left behind."""
    model = TimedModel(fixed=1.0)
    items = itertools.count() if kind == "sync" else asynchronous(itertools.count())
    async with open_batcher(model, max_batch_size=2) as batcher:
        tasks = host.tasks_living()
        async with batcher.map(items, order=order) as results:
            async for _ in results:
                break
            left_at = host.current_time()
        assert host.current_time() == left_at
        assert host.tasks_living() == tasks
        seen = batcher.statistics()
        assert seen.waiting == seen.running == 0
        assert seen.submitted == seen.completed + seen.cancelled
        runs = len(model.runs)
        await host.sleep(10)
        assert len(model.runs) <= runs + 1


async def test_a_thread_that_runs_is_not_waited_for():
    """The block is left while its batch is still running."""
    model = GatedModel()
    async with open_batcher(model, max_batch_size=2) as batcher:
        async with batcher.map(range(10)):
            await model.started()
        assert batcher.statistics().waiting == 0
        model.open()
    assert len(model.batches) == 1


@ORDERS
async def test_what_the_body_raises_leaves_as_it_is(order, virtual_time):
    """In no group, and with nothing put in its place."""
    error = PoisonError("the body")
    async with open_batcher(TimedModel(), max_batch_size=2) as batcher:
        with pytest.raises(PoisonError) as caught:
            async with batcher.map(itertools.count(), order=order) as results:
                async for _ in results:
                    raise error
        assert caught.value is error
        assert batcher.statistics().waiting == 0
        assert await batcher.infer(1) == 2


@pytest.mark.parametrize("where", ["waiting for a result", "in the body", "before the first"])
async def test_a_cancellation_from_outside_is_prompt(where, virtual_time):
    """Wherever it strikes, the block is left at that instant with nothing left behind."""
    model = TimedModel(fixed=1.0)
    async with open_batcher(model, max_batch_size=2) as batcher:
        tasks = host.tasks_living()
        with host.move_on_after(0.0 if where == "before the first" else 1.5) as scope:
            async with batcher.map(itertools.count()) as results:
                async for _ in results:
                    if where == "in the body":
                        await host.sleep_forever()
        assert scope.cancelled_caught
        assert host.tasks_living() == tasks
        seen = batcher.statistics()
        assert seen.waiting == seen.running == 0


async def test_a_body_that_cancels_itself_gets_no_further_result(virtual_time):
    """Also if results are there already."""
    got = []
    async with open_batcher(double, max_batch_size=8) as batcher:
        with host.CancelScope() as scope:
            async with batcher.map(range(100)) as results:
                async for result in results:
                    got.append(result)
                    if len(got) == 3:
                        scope.cancel()
        assert scope.cancelled_caught
    assert got == [0, 2, 4]


async def test_each_step_is_a_checkpoint_when_it_has_to_wait_or_ends(virtual_time):
    """The first one, the last one, and one that raises."""
    async with open_batcher(poisoned(2), max_batch_size=1) as batcher:
        with host.assert_checkpoints():
            job = batcher.map(range(2))
            results = await job.__aenter__()
        for _ in range(2):
            with host.assert_checkpoints():
                await anext(results)
        for _ in range(2):
            with host.assert_checkpoints(), pytest.raises(StopAsyncIteration):
                await anext(results)
        with host.assert_checkpoints():
            await job.__aexit__(None, None, None)


async def test_results_are_waited_for_by_one_task_at_a_time(virtual_time):
    """A second one is told so, and takes nothing from the first."""
    async with (
        open_batcher(TimedModel(), max_batch_size=1) as batcher,
        batcher.map(range(2)) as results,
        host.open_nursery() as nursery,
    ):
        got = []

        async def first():
            got.append(await anext(results))

        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="only one"):
            await anext(results)
        await host.sleep(1)
        assert got == [0]
        assert await anext(results) == 2


async def test_after_the_block_there_are_no_results(virtual_time):
    """What was given up is not taken for the end of the input, nor waited for."""
    async with open_batcher(TimedModel(), max_batch_size=1) as batcher:
        async with batcher.map(range(9)) as results:
            await anext(results)
        with pytest.raises(RuntimeError, match="has been left"):
            await anext(results)
        async with batcher.map(range(1)) as results:
            assert [result async for result in results] == [0]
        with pytest.raises(StopAsyncIteration):
            await anext(results)


# The input


@pytest.mark.parametrize("end", ["exhausted", "left", "failed", "cancelled", "error"])
async def test_an_async_generator_is_closed_in_the_task_that_ran_it(end, virtual_time):
    """It may have a cancel scope open across its yields; it is closed before the block is left."""
    notes = []

    async def source():
        with host.CancelScope():
            try:
                for item in range(20):
                    await host.sleep(0.001)
                    yield item  # noqa: ASYNC119  that is what is tested
            finally:
                notes.append("closed")

    async with open_batcher(poisoned(*([7] if end == "error" else [])), max_batch_size=2) as b:
        with host.CancelScope() as scope:
            try:
                async with b.map(source()) as results:
                    async for result in results:
                        if end == "left" and result == 8:
                            break
                        if end == "failed" and result == 8:
                            raise PoisonError
                        if end == "cancelled" and result == 8:
                            scope.cancel()
            except (PoisonError, ModelError):
                assert end in ("failed", "error")
        assert notes == ["closed"]


@pytest.mark.parametrize("body", ["leaves", "raises"])
async def test_an_input_that_fails_on_being_closed_is_not_passed_over(body, virtual_time):
    """Its error leaves the block, unwrapped; what the body raises goes before, with a note."""

    async def source():
        try:
            for item in itertools.count():
                yield item
                await host.checkpoint()
        finally:
            raise PoisonError("on being closed")

    async with open_batcher(TimedModel(), max_batch_size=2) as batcher:
        with pytest.raises((PoisonError, KeyError)) as caught:
            async with batcher.map(source()) as results:
                await anext(results)
                if body == "raises":
                    raise KeyError("the body")
        if body == "raises":
            assert caught.type is KeyError
            assert "on being closed" in caught.value.__notes__[0]
        else:
            assert caught.value.args == ("on being closed",)


async def test_an_async_iterable_is_advanced_by_one_task(virtual_time):
    """At a time, and always by the same one."""
    busy = 0

    class Source:
        def __init__(self):
            self.count = 0

        def __aiter__(self):
            return self

        async def __anext__(self):
            nonlocal busy
            busy += 1
            assert busy == 1
            await host.sleep(0.001)
            busy -= 1
            self.count += 1
            if self.count > 50:
                raise StopAsyncIteration
            return self.count

    async with open_batcher(TimedModel(), max_batch_size=4) as batcher:
        assert await everything(batcher.map(Source())) == [2 * n for n in range(1, 51)]


class Worse(BaseException):
    """What is no `Exception`."""


async def test_what_may_not_be_held_back_is_not(virtual_time):
    """A `BaseException` of the input, such as Ctrl-C, ends the block at once, as it is."""

    async def source():
        yield 1
        yield 2
        await host.sleep(0.5)
        raise Worse

    async with open_batcher(TimedModel(fixed=9), max_batch_size=2) as batcher:
        start = host.current_time()
        with pytest.raises(Worse):
            async with batcher.map(source()) as results:
                async for _ in results:
                    pass
        assert host.current_time() == start + 0.5
        assert batcher.statistics().running == 0


@pytest.mark.only_on("trio")
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_ctrl_c_while_the_input_computes_ends_the_block(kind):
    """However long the input's own code would have gone on, and as a plain KeyboardInterrupt."""

    def computing():
        yield 1
        yield 2
        signal.raise_signal(signal.SIGINT)
        yield 3

    async with open_batcher(double, max_batch_size=2) as batcher:
        items = computing() if kind == "sync" else asynchronous(computing())
        with pytest.raises(KeyboardInterrupt):
            async with batcher.map(items):
                await host.sleep_forever()
        assert await batcher.infer(1) == 2


async def test_an_item_that_raises_stop_async_iteration_does_not_end_the_loop(virtual_time):
    """It is an error like others, and not taken for the end of the input."""

    async def model(items):
        await host.sleep(0.01)
        return [StopAsyncIteration() if item == 3 else item for item in items]

    async with open_batcher(model, max_batch_size=2) as batcher:
        with pytest.raises(RuntimeError, match="StopAsyncIteration"):
            await everything(batcher.map(range(9)))
        got = await everything(batcher.map(range(9), errors="return"))
    assert isinstance(got[3], StopAsyncIteration)
    assert len(got) == 9


@pytest.mark.only_on("asyncio", "uvloop")
@ORDERS
async def test_a_native_cancellation_is_as_exact(order):
    """`asyncio.Task.cancel` of whoever is in the block: once, and nothing is left behind."""
    started = host.Event()

    async def model(items):
        started.set()
        await host.sleep_forever()

    async def work(batcher):
        async with batcher.map(itertools.count(), order=order) as results:
            async for _ in results:
                pass

    async with open_batcher(model, max_batch_size=2) as batcher:
        tasks = host.tasks_living()
        task = asyncio.create_task(work(batcher))
        await started.wait()
        await wait_all_tasks_blocked()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert task.cancelling() == 1
        assert host.tasks_living() == tasks
        assert batcher.statistics().waiting == batcher.statistics().running == 0
        with pytest.raises(BatcherClosed):
            async with batcher.map([1]) as results:
                batcher._engine.abort()
                await anext(results)


@pytest.mark.only_on("asyncio", "uvloop")
async def test_a_job_whose_own_task_is_cancelled_says_so():
    """Nobody waits for ever: what was taken in is answered, and then comes a `RuntimeError`."""
    async with open_batcher(double, max_batch_size=2) as batcher:
        before = asyncio.all_tasks()
        async with batcher.map(asynchronous([1, 2, 3], between=0.001)) as results:
            assert await anext(results) == 2
            (task,) = asyncio.all_tasks() - before
            task.cancel()
            with pytest.raises(RuntimeError, match="was cancelled"):
                while True:
                    await anext(results)


async def test_jobs_share_a_batcher(virtual_time):
    """Each has all of its results, in its order, whatever the others do."""
    jobs = {}
    async with (
        open_batcher(TimedModel(), max_batch_size=4, max_queue_size=8) as batcher,
        host.open_nursery() as nursery,
    ):

        async def work(number):
            items = range(1000 * number, 1000 * number + 100)
            jobs[number] = await everything(batcher.map(items, max_in_flight=7))

        for number in range(5):
            nursery.start_soon(work, number)
    for number in range(5):
        assert jobs[number] == [2 * item for item in range(1000 * number, 1000 * number + 100)]


async def test_nothing_of_a_job_is_kept(virtual_time):
    """No item, result or error, also without the garbage collector, once the job has ended."""

    class Row:
        pass

    alive = weakref.WeakSet()

    def rows(count):
        for _ in range(count):
            row = Row()
            alive.add(row)
            yield row
            del row

    async def model(items):
        await host.sleep(0.01)
        return [PoisonError(item) if index == 2 else item for index, item in enumerate(items)]

    async def work(batcher, errors):
        try:
            async with batcher.map(rows(50), errors=errors) as results:
                async for _ in results:
                    pass
        except PoisonError:
            pass

    async with open_batcher(model, max_batch_size=4) as batcher:
        gc.collect()
        gc.disable()
        try:
            for errors in ("raise", "return"):
                await work(batcher, errors)
                await host.sleep(1)
                # What ran last may be in a frame of the model's or the device's.
                assert len(alive) <= 8
        finally:
            gc.enable()


# Arguments


@pytest.mark.parametrize("items", ["text", b"bytes", {"a": 1}, 3, None])
async def test_what_is_no_iterable_of_inputs_is_refused(items, virtual_time):
    """Before anything is opened, and so is what has its letters or keys for items."""
    async with open_batcher(double) as batcher:
        with pytest.raises(TypeError, match=r"items must be an .*iterable"):
            batcher.map(items)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"order": "sorted"}, ValueError, "order must be 'input' or 'completion', not 'sorted'"),
        ({"errors": "ignore"}, ValueError, "errors must be 'raise' or 'return', not 'ignore'"),
        ({"max_in_flight": 0}, ValueError, "max_in_flight must be >= 1, not 0"),
        ({"max_in_flight": math.inf}, TypeError, "max_in_flight must be an int, not inf"),
        ({"max_in_flight": True}, TypeError, "max_in_flight must be an int, not True"),
        ({"weight": 0}, ValueError, "weight must be from"),
    ],
)
async def test_arguments_are_checked_at_the_edge(keywords, error, message, virtual_time):
    """The message names the argument and its value."""
    async with open_batcher(double) as batcher:
        with pytest.raises(error, match=message):
            batcher.map([1], **keywords)


async def test_a_map_style_dataset_will_do(virtual_time):
    """Whatever `iter` takes is an iterable."""

    class Dataset:
        def __getitem__(self, index):
            if index == 5:
                raise IndexError
            return index

    async with open_batcher(double) as batcher:
        assert await everything(batcher.map(Dataset())) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("order", ["input", "completion"])
async def test_an_error_that_ends_it_while_the_batcher_drains_is_counted_once(virtual_time, order):
    """Nothing is left to run then: the device is stopped with the answered batch in hand."""

    async def model(items):
        await host.sleep(0.1)
        raise LookupError(items)

    errors = []

    async def job(batcher):
        try:
            async with batcher.map(range(8), order=order) as results:
                async for _ in results:
                    pass
        except ModelError as exc:
            errors.append(exc)

    async with host.open_nursery() as nursery:
        async with open_batcher(model, max_batch_size=8, max_delay=0.01) as batcher:
            nursery.start_soon(job, batcher)
            await host.sleep(0.05)
    statistics = batcher.statistics()
    assert len(errors) == 1
    assert (statistics.submitted, statistics.running) == (8, 0)
    assert statistics.failed + statistics.cancelled == 8
    assert sum(statistics.rejected.values()) == 0
