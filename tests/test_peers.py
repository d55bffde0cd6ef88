"""The defects of other batchers, each as a test of this one.

What FastDynamicBatcher, batched, async-batcher, service-streamer, batch-inference, Ray
Serve, BentoML, LitServe and infinity were seen to get wrong. Tests that hold a promise of
ours on its own stand in the other files; these re-enact the situation.
"""

from __future__ import annotations

import pytest

from trio_batcher import BatcherClosed, InferenceModel, ModelError, Overloaded, open_batcher

from .hosts import host, run, wait_all_tasks_blocked
from .models import GatedModel, TimedModel

pytestmark = pytest.mark.usefixtures("on_host")


def double(items):
    return [item * 2 for item in items]


async def test_1_an_exception_in_the_model_leaves_nobody_hanging():
    """FastDynamicBatcher: the first exception ends the child, and every caller waits for ever."""

    class Model(InferenceModel[int, int]):
        def infer(self, inputs):
            raise RuntimeError("no such layer")

    failures = []
    async with open_batcher(Model, max_batch_size=4) as batcher, host.open_nursery() as nursery:

        async def caller(item):
            with pytest.raises(ModelError):
                await batcher.infer(item)
            failures.append(item)

        for item in range(10):
            nursery.start_soon(caller, item)
    assert sorted(failures) == list(range(10))


async def test_1_waiting_callers_cost_no_threads_so_batches_get_full():
    """FastDynamicBatcher: 64 callers hold the executor's threads, and the largest batch is 6."""
    model = GatedModel()
    async with open_batcher(model, max_batch_size=32) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, -1)
        await model.started()
        for item in range(64):
            nursery.start_soon(batcher.infer, item)
        await wait_all_tasks_blocked()
        model.open(3)
    assert [len(batch) for batch in model.batches] == [1, 32, 32]


async def test_1_an_input_of_any_type_is_served():
    """FastDynamicBatcher: an unpicklable input hangs its caller."""

    async def names(items):
        return [item.__name__ for item in items]

    async with open_batcher(names) as batcher:
        assert await batcher.infer(lambda: None) == "<lambda>"


async def test_2_every_caller_hears_of_the_shutdown():
    """batched: after a shutdown four of five callers hang. async-batcher: six of six."""

    async def model(items):
        await host.sleep_forever()

    heard = []
    async with host.open_nursery() as nursery:

        async def caller(item):
            try:
                heard.append(await batcher.infer(item))
            except BatcherClosed:
                heard.append(None)

        with pytest.raises(ZeroDivisionError):
            async with open_batcher(model, max_batch_size=2) as batcher:
                for item in range(6):
                    nursery.start_soon(caller, item)
                await wait_all_tasks_blocked()
                raise ZeroDivisionError
    assert heard == [None] * 6


async def test_2_an_input_that_raises_when_it_is_looked_at_is_left_alone(virtual_time):
    """batched: a `__len__` that raises ends its task, and all later callers hang."""

    class Hostile:
        def __len__(self):
            raise RuntimeError

        __hash__ = __eq__ = __bool__ = __lt__ = __repr__ = __len__

    async def count(items):
        return [1 for _ in items]

    async with open_batcher(count, max_batch_size=4) as batcher:
        assert await batcher.infer_many([Hostile() for _ in range(6)]) == [1] * 6
        assert await batcher.infer(Hostile()) == 1


async def test_2_one_model_serves_in_two_event_loops_one_after_the_other(on_host):
    """batched: a second run of the event loop fails."""

    async def main():
        async with open_batcher(double) as batcher:
            return await batcher.infer(21)

    for _ in range(2):
        assert await host.in_thread(run, on_host, main) == 42


async def test_2_inputs_and_results_are_not_converted():
    """batched: float features arrive as integers."""
    seen = []

    def model(items):
        seen.extend(items)
        return items

    item = object()
    async with open_batcher(model) as batcher:
        assert await batcher.infer(item) is item
        assert await batcher.infer(0.5) == 0.5
    assert seen[0] is item
    assert seen[1] == 0.5


async def test_3_a_cancelled_caller_does_not_take_its_batch_mates_down():
    """async-batcher: one cancelled, three hung for ever."""
    model = GatedModel()
    answers = []
    async with (
        open_batcher(model, max_batch_size=4, max_delay=30) as batcher,
        host.open_nursery() as nursery,
    ):
        scopes = [host.CancelScope() for _ in range(4)]

        async def caller(item):
            with scopes[item]:
                answers.append(await batcher.infer(item))

        for item in range(4):
            nursery.start_soon(caller, item)
        await model.started()
        scopes[0].cancel()
        await wait_all_tasks_blocked()
        assert batcher.statistics().cancelled == 1
        model.open()
    assert [sorted(batch) for batch in model.batches] == [[0, 1, 2, 3]]
    assert sorted(answers) == [2, 4, 6]


async def test_4_a_lone_request_never_waits_for_a_window(virtual_time):
    """service-streamer: ten of ten lone requests wait the full 100 ms."""
    async with open_batcher(TimedModel(fixed=0.01, per_item=0.0)) as batcher:
        start = host.current_time()
        for item in range(10):
            await batcher.infer(item)
        assert host.current_time() == pytest.approx(start + 0.1)


async def test_5_no_wake_up_is_lost_between_callers_and_workers():
    """batch-inference: four callers of 500 requests each stall at the 1,071st."""
    async with open_batcher([double, double], max_batch_size=3) as batcher:

        async def caller(base):
            for item in range(base, base + 500):
                assert await batcher.infer(item) == item * 2

        async with host.open_nursery() as nursery:
            for base in range(0, 2000, 500):
                nursery.start_soon(caller, base)
        assert batcher.statistics().completed == 2000


async def test_6_who_does_not_fit_into_a_batch_is_first_in_the_next():
    """Ray Serve: an item that does not fit goes to the back of the queue."""
    model = GatedModel()
    async with open_batcher(model, max_batch_size=2) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 0)
        await model.started()
        for item in range(1, 7):
            nursery.start_soon(batcher.infer, item)
            await wait_all_tasks_blocked()
        model.open(4)
    assert model.batches == [[0], [1, 2], [3, 4], [5, 6]]


async def test_7_a_failed_batch_gives_its_capacity_back():
    """BentoML: a failed split leaks its semaphore, and the answer is 503 for ever."""

    class Unsplittable:
        def __len__(self):
            raise RuntimeError("cannot be split")

        def __iter__(self):
            raise RuntimeError("cannot be split")

    limiter = host.CapacityLimiter(1)
    async with open_batcher(
        lambda items: Unsplittable(), limiter=limiter, max_queue_size=1
    ) as batcher:
        for item in range(20):
            with pytest.raises(ModelError, match="cannot be split"):
                await batcher.infer(item)
    assert limiter.borrowed_tokens == 0


async def test_7_a_cancellation_is_not_swallowed():
    """BentoML: `CancelledError` is caught and the caller goes on as if nothing had been."""
    model = GatedModel()
    async with open_batcher(model) as batcher, host.open_nursery() as nursery:
        scope, after = host.CancelScope(), []

        async def caller():
            with scope:
                await batcher.infer(1)
                after.append("went on")
            after.append("left")

        nursery.start_soon(caller)
        await model.started()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert after == ["left"]
        model.open()


async def test_8_a_deadline_is_looked_at_while_waiting_and_not_when_dequeued(virtual_time):
    """LitServe: a timeout is noticed only when the request is taken from its queue."""
    async with (
        open_batcher(TimedModel(fixed=10.0)) as batcher,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        start = host.current_time()
        with host.move_on_after(0.2):
            await batcher.infer(1)
        assert host.current_time() == start + 0.2


async def test_9_a_failure_after_the_model_has_returned_is_a_failure_like_any_other():
    """infinity: an exception in a thread before, in or after the model ends that thread."""

    class Late(list):
        def __iter__(self):
            raise RuntimeError("in post-processing")

    poison = True
    async with open_batcher(lambda items: Late(items) if poison else items) as batcher:
        with pytest.raises(ModelError, match="in post-processing"):
            await batcher.infer(1)
        poison = False
        assert await batcher.infer(1) == 1


async def test_9_the_work_of_cancelled_callers_is_not_computed(virtual_time):
    """infinity: cancelled requests are run all the same once they have been popped."""
    model = TimedModel()
    async with open_batcher(model, max_batch_size=2) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        with host.CancelScope() as scope:
            async with host.open_nursery() as inner:
                for item in range(1, 100):
                    inner.start_soon(batcher.infer, item)
                await wait_all_tasks_blocked()
                scope.cancel()
        with host.fail_after(0.025):
            await batcher.infer(100)
    assert model.executed == [0, 100]


async def test_the_queue_is_bounded_and_says_so(virtual_time):
    """Most peers queue without bound, or block."""
    async with (
        open_batcher(TimedModel(), max_batch_size=1, max_queue_size=2) as batcher,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        nursery.start_soon(batcher.infer_many, [1, 2])
        await wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match="max_queue_size is 2 and 2 requests are waiting"):
            await batcher.infer(3)
