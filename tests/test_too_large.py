"""A model that cannot take so many at a time says so by `BatchTooLarge`, whatever kind it is."""

from __future__ import annotations

import pytest

from trio_batcher import BatchTooLarge, InferenceModel, ItemError, open_batcher

from .hosts import host

pytestmark = pytest.mark.usefixtures("on_host")


class Small:
    """Holds up to ``most`` at a time, an item counting as much as it says."""

    def __init__(self, most):
        self.most, self.sizes = most, []

    def __call__(self, items):
        self.sizes.append(len(items))
        if sum(items) > self.most:
            raise BatchTooLarge(f"{sum(items)} are more than {self.most}")
        return [("answer", item) for item in items]


class Launched(InferenceModel):
    """The same, launched."""

    def __init__(self, small):
        self.small = small

    def infer(self, inputs):
        raise AssertionError

    def launch(self, inputs):
        return lambda: self.small(inputs)


def blocking(small):
    return small


def asynchronous(small):
    async def model(items):
        await host.checkpoint()
        return small(items)

    return model


def in_a_nursery(small):
    async def model(items):
        results = []

        async def run():
            results.extend(small(items))

        async with host.open_nursery() as nursery:
            nursery.start_soon(run)
        return results

    return model


kinds = pytest.mark.parametrize("kind", [blocking, asynchronous, in_a_nursery, Launched])


async def outcomes_of(batcher, items):
    outcomes = []

    async def ask(item):
        try:
            outcomes.append(await batcher.infer(item))
        except ItemError as exc:
            outcomes.append(exc)

    async with host.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(ask, item)
    return outcomes


@kinds
async def test_a_batch_that_is_too_large_is_nobodys_fault(kind):
    """It is run in parts, and all have their answers."""
    small = Small(4)
    async with open_batcher(kind(small), max_batch_size=32, max_delay=30) as batcher:
        assert await outcomes_of(batcher, [1] * 32) == [("answer", 1)] * 32


@kinds
async def test_what_the_model_can_take_is_learned(kind):
    """Later batches are no larger; every now and then a somewhat larger one is tried."""
    small = Small(4)
    async with open_batcher(kind(small), max_batch_size=32) as batcher:
        await batcher.infer_many([1] * 64)
        small.sizes.clear()
        await batcher.infer_many([1] * 200)
        assert max(small.sizes) <= 5
        assert small.sizes.count(4) >= 40
        assert sum(size > 4 for size in small.sizes) <= 8


@kinds
async def test_a_model_that_can_take_more_again_is_found_out(kind):
    """Memory that was short is not short for ever."""
    small = Small(4)
    async with open_batcher(kind(small), max_batch_size=32) as batcher:
        await batcher.infer_many([1] * 64)
        small.most = 100
        for _ in range(40):
            await batcher.infer_many([1] * 128)
        assert small.sizes[-3:] == [32] * 3


@kinds
async def test_an_item_that_is_too_large_by_itself_is_refused_alone(kind):
    """Its caller has an `ItemError`; the others their answers; and nothing is learned from it."""
    small = Small(50)
    async with open_batcher(kind(small), max_batch_size=8, max_delay=30) as batcher:
        outcomes = await outcomes_of(batcher, [1] * 7 + [99])
        (error,) = [outcome for outcome in outcomes if isinstance(outcome, ItemError)]
        assert "99 are more than 50" in str(error)
        assert error.__cause__ is not None
        assert outcomes.count(("answer", 1)) == 7
        small.sizes.clear()
        assert await batcher.infer_many([1] * 8) == [("answer", 1)] * 8
        assert small.sizes == [8]
        assert batcher.statistics().failed == 1


async def test_a_batch_with_costs_counts_by_what_it_costs():
    """Dear items share it with fewer others than cheap ones do."""
    small = Small(100)
    async with open_batcher(
        small, max_batch_size=32, cost=float, max_batch_cost=10_000.0
    ) as batcher:
        await batcher.infer_many([10] * 32)
        small.sizes.clear()
        await batcher.infer_many([10] * 40)
        assert max(small.sizes) <= 12
        small.sizes.clear()
        await batcher.infer_many([1] * 32)
        assert max(small.sizes) == 32


@kinds
async def test_a_warm_up_ends_where_batches_are_too_large(kind):
    """No larger ones are run, then or later."""
    small = Small(4)
    async with open_batcher(kind(small), max_batch_size=32, warmup=[1]) as batcher:
        assert small.sizes == [1, 1, 2, 2, 3, 3, 5]
        assert await batcher.infer_many([1] * 10) == [("answer", 1)] * 10
        assert max(small.sizes) <= 5


async def test_an_item_that_is_too_large_by_itself_fails_the_warm_up():
    """It is refused as any caller's would be."""
    with pytest.raises(ItemError, match="9 are more than 4"):
        async with open_batcher(Small(4), warmup=[9]):
            pass
