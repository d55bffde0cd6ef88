"""One input in a thousand hangs under load: every other one is answered or refused in time."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from itertools import count

import pytest

from trio_batcher import BatcherCrashed, BatcherError, ModelError, open_batcher

from .hosts import host
from .models import PATIENCE

pytestmark = pytest.mark.usefixtures("on_host")

CALLERS, EVERY = 50, 1000


def hangs(item):
    return item % EVERY == EVERY // 2


class Load:
    """Callers in a closed loop, until so many hanging inputs have had their outcome."""

    def __init__(self, batcher, hangs_wanted, seconds):
        self.batcher, self.seconds = batcher, seconds
        self.left = hangs_wanted
        self.items = count()
        self.outcomes = Counter()

    async def run(self):
        async with host.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(self.call)
        assert self.outcomes["too late"] == self.outcomes["wrong"] == 0

    async def call(self):
        while self.left > 0:
            item = next(self.items)
            with host.move_on_after(self.seconds) as scope:
                try:
                    answer = await self.batcher.infer(item)
                except BatcherError as exc:
                    name = "hung" if hangs(item) and is_timeout(exc) else type(exc).__name__
                    self.outcomes[name] += 1
                    self.left -= isinstance(exc, BatcherCrashed)
                else:
                    self.outcomes["answered" if answer == 2 * item else "wrong"] += 1
            self.outcomes["too late"] += scope.cancelled_caught
            self.left -= hangs(item)


def is_timeout(error):
    return type(error) is ModelError and type(error.__cause__) is TimeoutError


async def test_an_async_model(virtual_time):
    """Only what hangs fails, and others wait for a few timeouts at most."""

    async def model(items):
        await host.sleep(0.005)
        if any(map(hangs, items)):
            await host.sleep_forever()
        return [2 * item for item in items]

    async with open_batcher(model, batch_timeout=1) as batcher:
        load = Load(batcher, 5, seconds=10)
        await load.run()
    assert load.outcomes.keys() <= {"answered", "hung", "too late", "wrong"}
    assert load.outcomes["hung"] == 5
    assert load.outcomes["answered"] > 4000


async def test_two_replicas_in_threads():
    """Each is lost with what it hung on; when both are, all the rest is refused at once."""
    gate = threading.Event()

    def model(items):
        if any(map(hangs, items)):
            assert gate.wait(PATIENCE)
        return [2 * item for item in items]

    try:
        with pytest.raises(BatcherCrashed):
            async with open_batcher([model, model], batch_timeout=0.25) as batcher:
                load = Load(batcher, 2, seconds=PATIENCE)
                await load.run()
                assert batcher.failed.is_set()
                with pytest.raises(BatcherCrashed):
                    await batcher.infer(0)
    finally:
        gate.set()
    assert load.outcomes["hung"] == 2
    assert load.outcomes["answered"] > 900
    # Those that were in a batch with what hung.
    assert load.outcomes["ModelError"] <= 2 * 31


class Model:
    """Hangs in its process."""

    def infer(self, items):
        if any(map(hangs, items)):
            threading.Event().wait()
        return [2 * item for item in items]


@pytest.mark.only_on("trio", "asyncio")
@pytest.mark.skipif(sys.platform == "win32", reason="signals and descriptors are POSIX's")
async def test_a_model_in_a_process():
    """It is replaced as often as it hangs, until it is known on what."""
    async with open_batcher(
        Model, run_in="process", max_batch_size=4, batch_timeout=0.25
    ) as batcher:
        load = Load(batcher, 1, seconds=PATIENCE)
        await load.run()
        restarts = batcher.statistics().restarts
    assert load.outcomes.keys() <= {"answered", "hung", "too late", "wrong"}
    assert load.outcomes["hung"] == 1
    assert load.outcomes["answered"] >= 500
    assert 1 <= restarts <= 5
