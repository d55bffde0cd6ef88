"""How batches form: late, full, fair, and never kept waiting without need."""

from __future__ import annotations

import asyncio
import functools
import math
import sys
from contextvars import ContextVar

import pytest
import trio
import trio.testing

from trio_batcher import InferenceModel, ItemError, ModelError, Overloaded, open_batcher
from trio_batcher._scheduler import Scheduler

from .hosts import host, wait_all_tasks_blocked
from .models import PATIENCE, GatedModel, TimedModel

pytestmark = pytest.mark.usefixtures("on_host")


async def test_a_lone_request_does_not_wait(virtual_time):
    """The device is free: it runs at once, whatever `max_batch_size` is."""
    model = TimedModel(fixed=0.01, per_item=0.0)
    async with open_batcher(model, max_batch_size=32) as batcher:
        for _ in range(10):
            start = host.current_time()
            await batcher.infer(1)
            assert host.current_time() == pytest.approx(start + 0.01)


async def test_a_lone_request_goes_straight_to_the_only_device(monkeypatch):
    """The gather task does not stand between them: a pass of the event loop is saved."""
    looked, look = [], Scheduler.look
    model = GatedModel()

    def noted(scheduler, device):
        looked.append(device)
        return look(scheduler, device)

    monkeypatch.setattr(Scheduler, "look", noted)
    async with open_batcher(model) as batcher, host.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        assert looked
        looked.clear()
        nursery.start_soon(batcher.infer, 1)
        await model.started()
        assert not looked
        model.open()


@pytest.mark.parametrize("together", [False, True])
async def test_who_comes_while_a_device_runs_is_planned_for(monkeypatch, together):
    """All who come at a time at once, when it is time to plan the next batch."""
    planned, take, plan_ahead = [], Scheduler.take, Scheduler.plan_ahead
    model = GatedModel()

    def at_once(scheduler, device):
        taken = take(scheduler, device)
        with scheduler.lock:
            scheduler.plan_from = -math.inf
        return taken

    def noted(scheduler):
        planned.append(scheduler.queue.size)
        plan_ahead(scheduler)

    monkeypatch.setattr(Scheduler, "take", at_once)
    monkeypatch.setattr(Scheduler, "plan_ahead", noted)
    async with open_batcher(model) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 1)
        await model.started()
        assert not planned
        if together:
            nursery.start_soon(batcher.infer_many, [2, 3, 4])
        else:
            for item in [2, 3, 4]:
                nursery.start_soon(batcher.infer, item)
        await wait_all_tasks_blocked()
        assert planned == [3]
        model.open(2)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("kind", ["async", "in a thread"])
async def test_a_model_sees_the_context_of_who_opened_and_no_callers(kind, replicas):
    """A batch is not one caller's, whoever it was started for."""
    variable: ContextVar[str] = ContextVar("variable")
    seen = []

    def model(items):
        seen.append(variable.get())
        return items

    async def async_model(items):
        return model(items)

    async def caller():
        variable.set("a caller's")
        await batcher.infer(0)

    variable.set("the opener's")
    models = [model if kind == "in a thread" else async_model] * replicas
    async with open_batcher(models) as batcher:
        for _ in range(3):
            async with host.open_nursery() as nursery:
                nursery.start_soon(caller)
    assert seen == ["the opener's"] * 3


# asyncio's own: that of Python 3.13.0 does not take what uvloop gives it.
@pytest.mark.only_on("asyncio")
@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has had eager tasks since 3.12")
@pytest.mark.parametrize("kind", ["async", "in a thread"])
async def test_a_program_whose_tasks_are_eager_is_served_as_any_other(kind):
    """Such a task takes its first steps inside the call that starts it, as our own do then."""

    async def model(items):
        return items

    if kind == "in a thread":
        model = functools.partial(sorted)
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    async with open_batcher(model) as batcher:
        with host.fail_after(PATIENCE):
            assert [await batcher.infer(item) for item in range(3)] == [0, 1, 2]


async def test_requests_gather_while_the_device_runs(virtual_time):
    """Those that came during a batch form the next one, together, up to the maximum."""
    model = TimedModel()
    async with open_batcher(model, max_batch_size=8) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        for item in range(1, 21):
            nursery.start_soon(batcher.infer, item)
    assert [len(batch) for batch in model.batches] == [1, 8, 8, 4]


async def test_a_batch_is_composed_when_it_starts_and_not_before():
    """Nothing is sealed while a worker thread runs: who comes last can go first."""
    model = GatedModel()
    async with open_batcher(model, max_batch_size=2) as batcher, host.open_nursery() as nursery:

        async def caller(item: int, seconds: float) -> None:
            with host.fail_after(seconds):
                await batcher.infer(item)

        nursery.start_soon(caller, 0, math.inf)
        await model.started()
        for item, seconds in [(1, 80.0), (2, 70.0), (3, 60.0), (4, 50.0)]:
            nursery.start_soon(caller, item, seconds)
            await wait_all_tasks_blocked()
        model.open(3)
    assert model.batches == [[0], [4, 3], [2, 1]]


async def test_max_delay_counts_from_the_oldest_waiting_request(virtual_time):
    """Later companions do not prolong it; the batch runs with who is there."""
    model = TimedModel()
    async with (
        open_batcher(model, max_batch_size=8, max_delay=0.1) as batcher,
        host.open_nursery() as nursery,
    ):
        start = host.current_time()
        for item in range(4):
            nursery.start_soon(batcher.infer, item)
            await host.sleep(0.03)
    assert [sorted(batch) for batch in model.batches] == [[0, 1, 2, 3]]
    assert model.runs[0].start == pytest.approx(start + 0.1)


async def test_a_batch_that_fills_early_runs_early(virtual_time):
    """`max_delay` is a limit and not a period."""
    model = TimedModel()
    async with (
        open_batcher(model, max_batch_size=3, max_delay=10.0) as batcher,
        host.open_nursery() as nursery,
    ):
        start = host.current_time()
        for item in range(3):
            nursery.start_soon(batcher.infer, item)
            await host.sleep(0.01)
    assert model.runs[0].start == pytest.approx(start + 0.02)


async def test_waiting_behind_a_batch_counts_towards_max_delay(virtual_time):
    """Whoever has waited longer than `max_delay` for the device does not wait again."""
    model = TimedModel(fixed=1.0, per_item=0.0)
    async with (
        open_batcher(model, max_batch_size=2, max_delay=0.1) as batcher,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(batcher.infer, 0)
        await host.sleep(0.5)  # running since 0.1
        nursery.start_soon(batcher.infer, 1)
    assert [run.start for run in model.runs] == pytest.approx(
        [model.runs[0].start, model.runs[0].start + 1.0]
    )


async def test_a_wait_for_companions_does_not_cost_a_deadline(virtual_time):
    """With the model's speed known, the batch starts in time for the most urgent in it."""
    model = TimedModel(fixed=0.1, per_item=0.0)
    async with (
        open_batcher(model, max_batch_size=4, max_delay=10.0, warmup=[0]) as batcher,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(batcher.infer, 1)
        await host.sleep(0.01)
        with host.fail_after(0.5):
            assert await batcher.infer(2) == 4
    assert model.batches[-1] == [2, 1]


async def idle_steps(clock) -> int:
    """Steps that trio takes over ten hours in which only this task's own timer goes off."""

    class Counter(trio.abc.Instrument):
        steps = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.steps += 1

        def before_io_wait(self, timeout: float) -> None:
            self.steps += 1

    counter = Counter()
    await trio.testing.wait_all_threads_completed()
    await wait_all_tasks_blocked()
    trio.lowlevel.add_instrument(counter)
    clock.jump(36_000)
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(counter)
    return counter.steps


async def idle_passes(_) -> int:
    """Passes of asyncio's event loop over ten hours, likewise."""
    loop = asyncio.get_running_loop()
    await wait_all_tasks_blocked()
    before = loop.passes
    await asyncio.sleep(36_000)
    return loop.passes - before


@pytest.mark.only_on("trio", "asyncio")
async def test_an_idle_batcher_does_nothing_at_all(on_host, still_clock):
    """No task step and no wake-up over ten virtual hours, before, between and after requests."""

    async def asynchronous(items: list[int]) -> list[int]:
        return items

    idle = idle_steps if on_host == "trio" else idle_passes
    bare = await idle(still_clock)
    for model in (asynchronous, lambda items: items):
        for max_delay in (0.0, 0.001):
            async with open_batcher(model, max_delay=max_delay, max_batch_size=1) as batcher:
                assert await idle(still_clock) == bare
                await batcher.infer(1)
                assert await idle(still_clock) == bare
    assert await idle(still_clock) == bare


async def test_an_empty_batch_is_never_run(virtual_time):
    """Nothing waits, or all who waited have gone: the model is left alone."""
    model = TimedModel()
    async with open_batcher(model, max_delay=0.05, max_batch_size=4) as batcher:
        for _ in range(3):
            async with host.open_nursery() as nursery:
                nursery.start_soon(batcher.infer, 1)
                await host.sleep(0.01)
                nursery.cancel_scope.cancel()
            await host.sleep(1)
        assert await batcher.infer_many([]) == []
    assert model.runs == []


async def test_a_full_queue_is_told_at_once_with_an_estimate(virtual_time):
    """`Overloaded`, and room after `retry_after` seconds, as the running batch ends."""
    model = TimedModel(fixed=1.0, per_item=0.0)
    async with (
        open_batcher(model, max_batch_size=2, max_queue_size=2, warmup=[0]) as batcher,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        nursery.start_soon(batcher.infer, 1)
        nursery.start_soon(batcher.infer, 2)
        await host.sleep(0.25)
        start = host.current_time()
        with pytest.raises(Overloaded) as caught:
            await batcher.infer(3)
        assert host.current_time() == start
        assert caught.value.retry_after == pytest.approx(0.75)
        await host.sleep(caught.value.retry_after + 1e-6)
        assert await batcher.infer(4) == 8
        assert batcher.statistics().rejected["overloaded"] == 1
        assert batcher.statistics().peak_waiting == 2


async def test_retry_after_is_an_estimate_even_when_nothing_was_measured(virtual_time):
    """Unknown speed: as long again as the batch has been running."""
    model = TimedModel(fixed=10.0)
    async with (
        open_batcher(model, max_batch_size=1, max_queue_size=1) as batcher,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        nursery.start_soon(batcher.infer, 1)
        await host.sleep(2.0)
        with pytest.raises(Overloaded) as caught:
            await batcher.infer(2)
        assert caught.value.retry_after == pytest.approx(2.0)


async def test_infer_many_is_queued_whole_or_not_at_all(virtual_time):
    """No room for all of it: none of it is queued. More than ever fits: a `ValueError`."""
    model = TimedModel(fixed=1.0)
    async with (
        open_batcher(model, max_batch_size=1, max_queue_size=3) as batcher,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(batcher.infer, 0)
        await wait_all_tasks_blocked()
        nursery.start_soon(batcher.infer, 1)
        await wait_all_tasks_blocked()
        with pytest.raises(Overloaded):
            await batcher.infer_many([2, 3, 4])
        assert batcher.statistics().waiting == 1
        with pytest.raises(ValueError, match="4 items, more than max_queue_size"):
            await batcher.infer_many([2, 3, 4, 5])
        assert await batcher.infer_many(iter([2, 3])) == [4, 6]


async def test_infer_many_gives_results_in_its_own_order(virtual_time):
    """Whatever batches its items ran in."""
    async with open_batcher(TimedModel(), max_batch_size=3) as batcher:
        assert await batcher.infer_many(range(10)) == [item * 2 for item in range(10)]
        assert batcher.statistics().batch_sizes == {1: 1, 3: 3}


async def test_replicas_each_take_their_own_batch(virtual_time):
    """Two devices run at the same time, and a lone request starts only one of them."""
    models = [TimedModel(fixed=1.0, per_item=0.0) for _ in range(2)]
    async with open_batcher(models, max_batch_size=2) as batcher:
        await batcher.infer(0)
        assert sorted(len(model.runs) for model in models) == [0, 1]
        start = host.current_time()
        await batcher.infer_many(range(8))
        assert host.current_time() == pytest.approx(start + 2.0)
        assert sorted(len(model.runs) for model in models) == [2, 3]
        assert len(batcher.statistics().busy) == 2
        assert sum(batcher.statistics().busy) == pytest.approx(5.0)


async def test_replicas_in_threads_run_at_the_same_time():
    """Each is in a thread of its own; both have started before either is let go."""
    models = [GatedModel(), GatedModel()]
    async with open_batcher(models, max_batch_size=1) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 1)
        nursery.start_soon(batcher.infer, 2)
        for model in models:
            await model.started()
        for model in models:
            model.open()
    assert sorted(model.batches for model in models) == [[[1]], [[2]]]


async def test_a_slow_replica_does_not_hold_up_a_fast_one(virtual_time):
    """Whoever is free takes the next batch, so the fast one takes more."""
    fast, slow = TimedModel(fixed=0.1, per_item=0.0), TimedModel(fixed=1.0, per_item=0.0)
    async with open_batcher([fast, slow], max_batch_size=1) as batcher:
        start = host.current_time()
        await batcher.infer_many(range(22))
        assert host.current_time() - start == pytest.approx(2.0)
    assert (len(fast.runs), len(slow.runs)) == (20, 2)


async def test_two_batchers_with_one_limiter_take_turns():
    """A burst gives its token up between two batches when somebody else waits for it."""
    limiter = host.CapacityLimiter(1)
    model = GatedModel()
    async with (
        open_batcher(model, max_batch_size=1, limiter=limiter) as a,
        open_batcher(model, max_batch_size=1, limiter=limiter) as b,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(a.infer_many, ["a"] * 10)
        nursery.start_soon(b.infer_many, ["b"] * 10)
        for _ in range(20):
            await model.started()
            # One batch is at its gate; the other batcher is waiting for the token.
            await wait_all_tasks_blocked()
            model.open()
    assert model.executed in (["a", "b"] * 10, ["b", "a"] * 10)


async def test_an_async_model_runs_under_the_limiter_too(virtual_time):
    """With one token for two replicas, only one of them runs at a time."""
    models = [TimedModel(fixed=1.0, per_item=0.0) for _ in range(2)]
    async with open_batcher(models, max_batch_size=1, limiter=host.CapacityLimiter(1)) as batcher:
        start = host.current_time()
        await batcher.infer_many(range(4))
        assert host.current_time() == pytest.approx(start + 4.0)
    assert all(model.runs for model in models)


async def test_warmup_runs_growing_batches_before_the_block(virtual_time):
    """Sizes 1, 2, 3, 5, … and the maximum, each twice, with inputs repeated; not counted."""
    model = TimedModel()
    async with open_batcher(model, max_batch_size=6, warmup=[1, 2, 3]) as batcher:
        assert model.batches == [
            batch
            for batch in ([1], [1, 2], [1, 2, 3], [1, 2, 3, 1, 2], [1, 2, 3, 1, 2, 3])
            for _ in range(2)
        ]
        statistics = batcher.statistics()
        assert (statistics.batches, statistics.busy) == (0, (0.0,))
        assert statistics.latency[0] is not None
        assert statistics.latency[0].fixed == pytest.approx(0.010)
        assert statistics.latency[0].per_item == pytest.approx(0.001)


async def test_a_failing_warmup_fails_the_opening():
    """Better now than in front of the first caller; the note says at which size."""

    def model(items: list[int]) -> list[int]:
        raise LookupError("no weights")

    with pytest.raises(ModelError, match="no weights") as caught:
        async with open_batcher(model, warmup=[1]):
            raise AssertionError
    assert isinstance(caught.value.__cause__, LookupError)
    assert caught.value.__notes__ == ["while warming up with a batch of 1"]


async def test_warmup_mixes_no_keys(virtual_time):
    """Items of each key have batches of their own, that grow; a failing one is named."""
    runs = []

    async def model(items: list[int]) -> list[int]:
        assert len({item % 2 for item in items}) == 1
        runs.append(items)
        await host.sleep(0.01)
        return items

    async with open_batcher(
        model, key=lambda item: item % 2, max_batch_size=3, warmup=[0, 1, 2]
    ) as batcher:
        assert runs[::2] == runs[1::2] == [[0], [0, 2], [0, 2, 0], [1], [1, 1], [1, 1, 1]]
        assert await batcher.infer(1) == 1
        assert batcher.statistics().reruns == 0

    with pytest.raises(ItemError, match="more than 0") as caught:
        async with open_batcher(model, cost=abs, max_batch_cost=9, warmup=[1, 0]):
            raise AssertionError
    assert caught.value.__notes__ == ["for warmup[1]"]


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_warmup_runs_under_the_limiter(replicas, virtual_time):
    """While somebody else has the only token nothing is run; between runs others have turns."""
    limiter = host.CapacityLimiter(1)
    runs = []

    async def model(items: list[int]) -> list[int]:
        assert limiter.borrowed_tokens == 1
        runs.append(host.current_time())
        await host.sleep(1)
        return items

    def opening():
        return open_batcher([model] * replicas, limiter=limiter, warmup=[1], max_batch_size=2)

    async def another() -> None:
        me = object()
        await limiter.acquire_on_behalf_of(me)
        turns.append(host.current_time())
        await host.sleep(0.5)
        limiter.release_on_behalf_of(me)

    turns: list[float] = []
    await limiter.acquire_on_behalf_of("somebody else")
    with host.move_on_after(1) as scope:
        async with opening():
            raise AssertionError
    assert scope.cancelled_caught
    assert not runs
    limiter.release_on_behalf_of("somebody else")

    start = host.current_time()
    async with host.open_nursery() as nursery:
        nursery.start_soon(another)
        nursery.start_soon(another)
        async with opening():
            assert len(runs) == 4 * replicas
            assert host.current_time() - start == pytest.approx(4 * replicas + 2 * 0.5)
    assert turns[1] - start < 3
    assert limiter.borrowed_tokens == 0


@pytest.mark.parametrize(
    ("options", "unit"),
    [
        ({}, "item"),
        ({"key": str}, "item"),
        ({"cost": lambda _: 2, "max_batch_cost": 8}, "1/64 of max_batch_cost"),
    ],
)
async def test_the_log_has_what_a_warmup_has_shown(options, unit, virtual_time, caplog):
    """For each model the sizes with their times, and the line through them."""
    caplog.set_level("INFO", "trio_batcher")
    models = [TimedModel(fixed=0.25, per_item=0.0), TimedModel(fixed=0.5, per_item=0.0)]
    async with open_batcher(models, max_batch_size=4, warmup=[1], **options):
        told = sorted(record.getMessage() for record in caplog.records)
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("trio_batcher", "INFO")
    ] * 2
    for number, seconds in enumerate(["0.25 s", "0.5 s"]):
        assert told[number].startswith(f"model {number} is warm: a batch takes about {seconds}, ")
        assert f" s for each {unit}; " in told[number]
        assert f"measured: 1 in {seconds}, 2 in {seconds}, 3 in {seconds}, 4" in told[number]
    caplog.clear()
    async with open_batcher(models, **options):
        assert not caplog.records


async def test_statistics_add_up(virtual_time):
    """Each figure is what was seen from outside, and a snapshot does not change."""
    model = TimedModel()
    async with open_batcher(model, max_batch_size=4, max_queue_size=6) as batcher:
        empty = batcher.statistics()
        async with host.open_nursery() as nursery:

            async def caller(item: int, seconds: float) -> None:
                with host.move_on_after(seconds):
                    try:
                        await batcher.infer(item)
                    except Overloaded:
                        return

            nursery.start_soon(caller, 0, math.inf)
            await wait_all_tasks_blocked()
            for item in range(8):
                nursery.start_soon(caller, item, 0.012 if item == 0 else math.inf)
            await wait_all_tasks_blocked()
            now = batcher.statistics()
            assert (now.waiting, now.running, now.submitted) == (6, 1, 9)
        seen = batcher.statistics()
    assert empty.submitted == 0
    assert seen.rejected == {"overloaded": 2, "deadline": 0, "closed": 0, "crashed": 0}
    assert (seen.completed + seen.cancelled, seen.failed) == (7, 0)
    assert seen.batches == len(model.runs)
    assert seen.items == len(model.executed)
    assert seen.busy[0] == pytest.approx(sum(0.010 + 0.001 * len(b) for b in model.batches))
    with pytest.raises(AttributeError):
        seen.completed = 0  # type: ignore[misc]


async def test_every_kind_of_model_serves():
    """A function, an async function, an object with either `__call__`, an instance, a class."""

    class Model(InferenceModel[int, int]):
        def __init__(self, factor: int = 2) -> None:
            self.factor = factor

        def infer(self, inputs: list[int]) -> list[int]:
            return [item * self.factor for item in inputs]

    class Callable:
        def __call__(self, items: list[int]) -> list[int]:
            return [item * 2 for item in items]

    def blocking(items: list[int]) -> list[int]:
        return [item * 2 for item in items]

    async def asynchronous(items: list[int]) -> list[int]:
        return [item * 2 for item in items]

    class AsyncCallable:
        async def __call__(self, items: list[int]) -> tuple[int, ...]:
            return tuple(item * 2 for item in items)

    models = [blocking, asynchronous, Callable(), AsyncCallable(), Model(), Model]
    models += [functools.partial(Model, factor=2), functools.partial(asynchronous)]
    for model in [*models, models]:
        async with open_batcher(model, max_batch_size=2) as batcher:
            assert await batcher.infer(1) == 2
            assert await batcher.infer_many(range(30)) == [item * 2 for item in range(30)]
