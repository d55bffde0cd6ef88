"""Of a batch that is over nothing is kept: neither items, nor results, nor what was raised."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress

import pytest

from trio_batcher import BatchTooLarge, InferenceModel, ModelError, open_batcher

from .hosts import host, wait_all_tasks_blocked
from .models import PATIENCE, GatedModel

pytestmark = pytest.mark.usefixtures("on_host")


class Item:
    """What a reference can be watched of."""

    def __init__(self, kind="good"):
        self.kind = kind


class PoisonError(Exception):
    """So can this."""


class ExitError(SystemExit):
    """And this, as `SystemExit` itself cannot."""


def answered(items):
    """Raise or answer, as the items want it; keep locals that only a cycle would keep alive."""
    results = [Item() for _ in items]
    for item in items:
        if item.kind == "poison":
            raise PoisonError(len(items))
        if item.kind == "exit":
            raise ExitError
        if item.kind == "large" or (item.kind == "bulky" and len(items) > 1):
            raise BatchTooLarge
        if item.kind == "odd":
            return results[1:]
        if item.kind == "refused":
            return [PoisonError() for _ in items]
    return results


async def awaited(items):
    await host.checkpoint()
    return answered(items)


class Launched(InferenceModel):
    """Fails when it is collected."""

    def infer(self, inputs):
        raise AssertionError

    def launch(self, inputs):
        return lambda: answered(inputs)


class LaunchedBadly(Launched):
    """Fails when it is launched."""

    def launch(self, inputs):
        results = answered(inputs)
        return lambda: results


MODELS = [answered, awaited, Launched, LaunchedBadly]
FATES = {
    "answered": ["good"] * 4,
    "one poison": ["good", "good", "poison", "good"],
    "all poison": ["poison"] * 16,
    "exits": ["good", "exit"],
    "too large": ["bulky"] * 4,
    "one too large": ["good", "large", "good"],
    "a result too few": ["odd", "good"],
    "exceptions for results": ["refused", "good"],
}


@pytest.fixture
def collector_off():
    """Only what nobody refers to is gone: no cycle is ever found."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
async def test_nothing_is_kept_of_a_batch_whatever_became_of_it(model, fate):
    """Without any help of the garbage collector, while the batcher idles."""
    kept = []

    async def ask(kind):
        item = Item(kind)
        kept.append(weakref.ref(item))
        try:
            kept.append(weakref.ref(await batcher.infer(item)))
        except Exception as exc:
            kept.append(weakref.ref(exc))
            if exc.__cause__ is not None:
                kept.append(weakref.ref(exc.__cause__))
            del exc

    async with open_batcher(model, max_batch_size=16) as batcher:
        for _ in range(3):
            async with host.open_nursery() as nursery:
                for kind in FATES[fate]:
                    nursery.start_soon(ask, kind)
        # The thread may be on its way out yet.
        with host.fail_after(PATIENCE):
            while any(ref() is not None for ref in kept):
                await host.checkpoint()
    assert len(kept) >= 6 * len(FATES[fate])


@pytest.mark.usefixtures("collector_off")
async def test_nothing_is_kept_while_the_next_batch_runs():
    """A worker thread that goes on has forgotten the batch before."""

    class Model(GatedModel):
        def __call__(self, items):
            super().__call__([None for _ in items])
            return answered(items)

    model, kept = Model(), []

    async def ask(kind):
        item = Item(kind)
        kept.append(weakref.ref(item))
        with suppress(ModelError):
            await batcher.infer(item)

    async with open_batcher(model, max_batch_size=1) as batcher:
        async with host.open_nursery() as nursery:
            nursery.start_soon(ask, "poison")
            await model.started()
            for _ in range(3):
                nursery.start_soon(ask, "poison")
            await wait_all_tasks_blocked()
            model.open()
            await model.started()
            with host.fail_after(PATIENCE):
                while kept[0]() is not None:
                    await host.checkpoint()
            model.open(3)


@pytest.mark.usefixtures("collector_off")
async def test_a_great_many_failures_take_no_more_memory_than_a_few():
    """Each of them with a megabyte: what is alive stays a handful."""
    alive = weakref.WeakSet()

    class Large(Item):
        def __init__(self):
            super().__init__("poison")
            self.data = bytes(1_000_000)
            alive.add(self)

    for model in (answered, awaited):
        most = 0
        async with open_batcher(model) as batcher:
            for _ in range(200):
                with pytest.raises(ModelError):
                    await batcher.infer(Large())
                most = max(most, len(alive))
        # One that was told just now is on its way out of the thread that ran it.
        assert most <= 3
