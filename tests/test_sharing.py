"""Batchers that share a device by one limiter: they take turns, batch by batch."""

from __future__ import annotations

import math
import threading
from contextlib import AsyncExitStack, suppress
from itertools import pairwise

import pytest

from trio_batcher import DeadlineUnreachable, open_batcher

from .hosts import host, wait_all_tasks_blocked
from .models import PATIENCE, GatedModel, TimedModel

pytestmark = pytest.mark.usefixtures("on_host")


async def opened(stack: AsyncExitStack, models, limiter, **kwargs):
    return [
        await stack.enter_async_context(
            open_batcher(model, max_batch_size=1, limiter=limiter, **kwargs)
        )
        for model in models
    ]


async def test_three_batchers_take_turns():
    """None has a second batch before each of the others has had one."""
    model = GatedModel()
    async with AsyncExitStack() as stack:
        batchers = await opened(stack, [model] * 3, host.CapacityLimiter(1))
        async with host.open_nursery() as nursery:
            for name, batcher in zip("abc", batchers, strict=True):
                nursery.start_soon(batcher.infer_many, [name] * 5)
            for _ in range(15):
                await model.started()
                # One batch is at its gate; both other batchers are waiting for the token.
                await wait_all_tasks_blocked()
                model.open()
    assert sorted(model.executed[:3]) == ["a", "b", "c"]
    assert model.executed == model.executed[:3] * 5


async def test_async_models_take_turns_however_long_their_batches(virtual_time):
    """One whose batches take a hundred times as long gets no more of them, and no fewer."""
    ran = []

    def model(name, seconds):
        async def infer(items):
            ran.append(name)
            await host.sleep(seconds)
            return items

        return infer

    async with AsyncExitStack() as stack:
        models = [model("short", 0.01), model("long", 1.0), model("middle", 0.1)]
        batchers = await opened(stack, models, host.CapacityLimiter(1))
        async with host.open_nursery() as nursery:
            for batcher in batchers:
                nursery.start_soon(batcher.infer_many, range(5))
    assert len({*ran[:3]}) == 3
    assert ran == ran[:3] * 5


async def test_each_replica_has_a_turn_of_its_own(virtual_time):
    """Two replicas and a batcher beside them, one token: each of the three runs every third."""
    ran = []

    def model(name):
        async def infer(items):
            ran.append(name)
            await host.sleep(0.1)
            return items

        return infer

    limiter = host.CapacityLimiter(1)
    async with (
        open_batcher([model("a1"), model("a2")], max_batch_size=1, limiter=limiter) as a,
        open_batcher(model("b"), max_batch_size=1, limiter=limiter) as b,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(a.infer_many, range(10))
        nursery.start_soon(b.infer_many, range(5))
    assert all(len({*ran[i : i + 3]}) == 3 for i in range(0, 12, 3))
    assert limiter.borrowed_tokens == 0


async def test_one_with_urgent_requests_waits_for_one_batch_of_the_other_at_most(virtual_time):
    """Whatever the load of the other, and of whatever urgency that is."""
    urgent, other = TimedModel(0.010, 0.0), TimedModel(0.050, 0.0)
    async with AsyncExitStack() as stack:
        first, second = await opened(stack, [urgent, other], host.CapacityLimiter(1))
        async with host.open_nursery() as nursery:
            nursery.start_soon(second.infer_many, range(60))
            for item in range(20):
                await host.sleep(0.013)
                start = host.current_time()
                with host.fail_after(0.061):
                    assert await first.infer(item) == 2 * item
                assert host.current_time() - start <= 0.060 + 1e-6
    assert len(urgent.runs) == 20


async def test_one_that_the_others_leave_alone_keeps_the_token():
    """Idle batchers with the same limiter cost nothing: one burst, in one thread, runs it all."""

    class Counting:
        def __init__(self, limiter):
            self.limiter, self.acquired = limiter, 0

        def __getattr__(self, name):
            return getattr(self.limiter, name)

        async def acquire_on_behalf_of(self, borrower):
            self.acquired += 1
            await self.limiter.acquire_on_behalf_of(borrower)

    model, limiter = GatedModel(), Counting(host.CapacityLimiter(1))
    async with AsyncExitStack() as stack:
        first, *_ = await opened(stack, [model] * 3, limiter)
        async with host.open_nursery() as nursery:
            nursery.start_soon(first.infer_many, range(5))
            model.open(5)
    assert model.executed == [*range(5)]
    assert limiter.acquired == 1


async def test_the_token_goes_on_before_the_answers_do():
    """The next one's model can run while the event loop is kept from anything else."""
    began = threading.Event()
    gate = GatedModel()

    def second(items):
        began.set()
        return items

    async with AsyncExitStack() as stack:
        a, b = await opened(stack, [gate, second], host.CapacityLimiter(1))
        async with host.open_nursery() as nursery:

            async def call():
                await a.infer(1)
                # The thread of the other one, which the event loop has nothing more to do for.
                assert began.wait(PATIENCE)

            nursery.start_soon(call)
            await gate.started()
            nursery.start_soon(b.infer, 1)
            await wait_all_tasks_blocked()
            gate.open()


@pytest.mark.parametrize("before", [[], [2.0], [math.inf], [0.5, math.inf]])
async def test_who_waits_for_the_token_in_vain_hears_of_it_in_time(virtual_time, before):
    """While another batcher's long batch runs, whoever else waits with it."""
    limiter = host.CapacityLimiter(1)
    async with (
        open_batcher(TimedModel(1.0, 0.0), limiter=limiter) as long,
        open_batcher(TimedModel(0.010, 0.0), limiter=limiter, warmup=[0]) as short,
        host.open_nursery() as nursery,
    ):
        nursery.start_soon(long.infer, 0)
        await wait_all_tasks_blocked()

        async def patient(seconds):
            with host.move_on_after(seconds), suppress(DeadlineUnreachable):
                await short.infer(0)

        for seconds in before:
            nursery.start_soon(patient, seconds)
            await wait_all_tasks_blocked()
        start = host.current_time()
        with host.fail_after(0.1), pytest.raises(DeadlineUnreachable):
            await short.infer(1)
        assert host.current_time() - start == pytest.approx(0.090, abs=1e-3)
        assert short.statistics().rejected["deadline"] == 1
    assert limiter.borrowed_tokens == 0


async def test_who_gives_the_token_up_delivers_its_answers_at_once(virtual_time):
    """Not when it has its next turn."""
    limiter = host.CapacityLimiter(1)
    models = [TimedModel(0.010, 0.0), TimedModel(0.010, 0.0)]
    async with AsyncExitStack() as stack:
        batchers = await opened(stack, models, limiter)
        async with host.open_nursery() as nursery:
            answered = []

            async def call(batcher, item):
                answered.append((await batcher.infer(item), host.current_time()))

            start = host.current_time()
            for item in range(4):
                for batcher in batchers:
                    nursery.start_soon(call, batcher, item)
    assert sorted(result for result, _ in answered) == sorted([0, 2, 4, 6] * 2)
    times = [time - start for _, time in answered]
    assert all(b - a == pytest.approx(0.010) for a, b in pairwise(times))
