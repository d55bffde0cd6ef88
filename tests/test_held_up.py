"""The event loop is held up until after deadlines: nobody is told late, or waits for ever."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest
import sniffio
import trio

from trio_batcher import DeadlineUnreachable, open_batcher

from .hosts import host
from .models import TimedModel

pytestmark = pytest.mark.usefixtures("on_host")


class Holding(TimedModel):
    """An async model that does not wait: the event loop stands still while it runs."""

    def __init__(self, *seconds):
        super().__init__()
        self.seconds = list(seconds)

    async def __call__(self, items):
        pass_time(self.seconds.pop() if len(self.seconds) == 1 else self.seconds.pop(0))
        return items


def pass_time(seconds):
    """Let virtual time pass without letting anybody run."""
    if sniffio.current_async_library() == "trio":
        trio.lowlevel.current_clock().jump(seconds)
    else:
        asyncio.get_running_loop().virtual_now += seconds


WARM = [0.01] * 2


@pytest.mark.parametrize("many", [False, True])
async def test_nobody_is_told_after_its_deadline_that_it_cannot_be_met(virtual_time, many):
    """If the event loop was held up until then, its own scope cancels it, as it would anyway."""
    outcomes = Counter()
    model = Holding(*WARM, 0.01, 0.01, 0.03)
    async with open_batcher(model, warmup=[0], max_batch_size=1) as batcher:
        async with host.open_nursery() as nursery:

            async def ask(number):
                with host.move_on_after(0.045) as scope:
                    try:
                        await (batcher.infer_many([number]) if many else batcher.infer(number))
                        outcomes["answered"] += 1
                    except DeadlineUnreachable as exc:
                        outcomes["told" if exc.seconds_left > 0.0 else "told late"] += 1
                outcomes["cancelled"] += scope.cancelled_caught

            for number in range(10):
                nursery.start_soon(ask, number)
        statistics = batcher.statistics()
    assert outcomes["told late"] == 0
    assert outcomes["cancelled"] >= 5
    assert outcomes.total() == 10
    assert statistics.cancelled == outcomes["cancelled"]
    assert statistics.rejected["deadline"] == outcomes["told"]


@pytest.mark.parametrize("closing", [False, True])
async def test_whom_no_scope_cancels_is_told_even_then(virtual_time, closing):
    """A scope whose deadline was put off meanwhile leaves nobody waiting for ever."""
    outcomes = Counter()
    model = Holding(*WARM, 0.01, 0.01, 0.03)
    with host.fail_after(60):
        async with host.open_nursery() as nursery:
            async with open_batcher(model, warmup=[0], max_batch_size=1) as batcher:

                async def ask(number):
                    with host.fail_after(0.045) as scope:
                        scopes.append(scope)
                        try:
                            await batcher.infer(number)
                            outcomes["answered"] += 1
                        except DeadlineUnreachable:
                            outcomes["told"] += 1

                scopes = []
                for number in range(10):
                    nursery.start_soon(ask, number)
                while len(scopes) < 10:
                    await host.checkpoint()
                for scope in scopes:
                    scope.deadline = math.inf
                if not closing:
                    await host.sleep(1)
    assert outcomes.total() == 10
    assert outcomes["told"] >= 5
    assert batcher.statistics().running == 0
