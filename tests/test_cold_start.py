"""The first batches fill up, with keys and costs too; and no limit costs anybody anything."""

from __future__ import annotations

import pytest

from trio_batcher import open_batcher
from trio_batcher._curve import Curve

from .hosts import host
from .models import TimedModel

pytestmark = pytest.mark.usefixtures("on_host")

DIFFERING = {
    "keys": {"key": lambda item: item % 3},
    "costs": {"cost": lambda item: 1.0 + item % 3, "max_batch_cost": 48.0},
    "keys and costs": {
        "key": lambda item: item % 3,
        "cost": lambda item: 1.0 + item // 3 % 2,
        "max_batch_cost": 32.0,
    },
}


@pytest.mark.parametrize(("fixed", "per_item"), [(0.01, 0.001), (0.001, 0.002), (0.0002, 0.002)])
@pytest.mark.parametrize("kind", DIFFERING)
async def test_a_cold_start_fills_batches(virtual_time, kind, fixed, per_item):
    """Of 96 at once, with nothing known of the device, nearly as few are made as with all known."""
    model = TimedModel(fixed, per_item)
    async with (
        open_batcher(model, max_batch_size=16, **DIFFERING[kind]) as batcher,
        host.open_nursery() as nursery,
    ):
        for item in range(96):
            nursery.start_soon(batcher.infer, item)
    assert sorted(item for batch in model.batches for item in batch) == [*range(96)]
    assert len(model.batches) <= 12
    assert max(map(len, model.batches[:3])) == 16


async def test_callers_in_turn_fill_batches_with_keys(virtual_time):
    """Where batches save little they still run, and none waits for its key for ever."""
    model, left = TimedModel(0.0005, 0.002), iter(range(600))

    async def caller(batcher):
        for item in left:
            assert await batcher.infer(item) == 2 * item

    async with (
        open_batcher(model, max_batch_size=32, key=lambda item: item % 3) as batcher,
        host.open_nursery() as nursery,
    ):
        for _ in range(96):
            nursery.start_soon(caller, batcher)
    assert len(model.batches) <= 60


async def looked_up(monkeypatch, most, **differing):
    """How many values of curves by size are computed for forty calls."""
    computed = []
    remember = Curve._remember
    with monkeypatch.context() as patch:
        patch.setattr(
            Curve, "_remember", lambda curve, size: computed.append(size) or remember(curve, size)
        )
        async with open_batcher(
            TimedModel(0.01, 0.001), max_batch_size=most, **differing
        ) as batcher:
            for call in range(40):
                await batcher.infer_many(range(1 + call * 7 % 23))
    return len(computed)


@pytest.mark.parametrize("kind", ["plain", *DIFFERING])
async def test_a_limit_that_is_none_costs_nothing(virtual_time, monkeypatch, kind):
    """Of a batch size that nobody reaches, no more sizes are looked at than of a small one."""
    differing = DIFFERING.get(kind, {})
    few = await looked_up(monkeypatch, 32, **differing)
    many = await looked_up(monkeypatch, 200_000, **differing)
    assert many <= 2 * few + 100
