"""Items of different keys and costs: who shares a batch, and how long that takes."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
import trio
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.hosts import host
from trio_batcher import BatcherError, DeadlineUnreachable, ItemError, ModelError, open_batcher

pytestmark = pytest.mark.usefixtures("on_host")


class Texts:
    """A model that pads: a batch takes 10 ms, and 50 µs for each of its words, padding too."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def __call__(self, lengths: list[int]) -> list[int]:
        self.batches.append(lengths)
        await host.sleep(0.010 + 50e-6 * self.padded(lengths))
        return [2 * length for length in lengths]

    @staticmethod
    def padded(lengths: list[int]) -> int:
        return len(lengths) * max(lengths)

    @property
    def padding(self) -> float:
        words = sum(sum(batch) for batch in self.batches)
        return 1.0 - words / sum(self.padded(batch) for batch in self.batches)


def lengths(count: int, seed: int = 1) -> list[int]:
    """Of texts: from 5 to 250 words, most of them short."""
    drawn = random.Random(seed)
    return [max(5, min(250, round(drawn.lognormvariate(3.7, 0.8)))) for _ in range(count)]


async def throughput(model: Texts, texts: list[int], callers: int, **options) -> float:
    """Texts a second, asked for by so many callers, each of whom goes on when it has an answer."""
    async with open_batcher(model, **options) as batcher:
        left, began = iter(texts), host.current_time()

        async def caller() -> None:
            for length in left:
                assert await batcher.infer(length) == 2 * length

        async with host.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(caller)
        return len(texts) / (host.current_time() - began)


async def test_texts_do_not_pay_for_each_others_padding(virtual_time):
    """More than twice as many in the same time, and 64 callers have 15% padding, not 73%."""
    first_come, by_cost, crowd = Texts(), Texts(), Texts()
    texts = lengths(2000)
    plainly = await throughput(first_come, texts, 64)
    costs = {"cost": float, "max_batch_cost": 8192}
    assert await throughput(by_cost, texts, 64, **costs) > 2.0 * plainly
    assert first_come.padding > 0.6
    assert by_cost.padding < 0.2
    assert await throughput(crowd, texts, 200, **costs) > 2.5 * plainly
    assert crowd.padding < 0.15


@pytest.mark.parametrize("rate", [150, 250, 350])
async def test_more_are_in_time_by_cost(rate, virtual_time):
    """Under load, of texts with half a second each: nobody is late, and few are turned away."""
    fates = {}
    for name, costs in (("plain", {}), ("by cost", {"cost": float, "max_batch_cost": 8192})):
        drawn, fate = random.Random(7), {"in time": 0, "refused": 0, "late": 0}

        async def ask(batcher, length, fate=fate):
            try:
                with host.fail_after(0.5):
                    await batcher.infer(length)
                fate["in time"] += 1
            except DeadlineUnreachable:
                fate["refused"] += 1
            except host.TooSlowError:
                fate["late"] += 1

        async with open_batcher(Texts(), **costs) as batcher, host.open_nursery() as nursery:
            for length in lengths(1000):
                await host.sleep(drawn.expovariate(rate))
                nursery.start_soon(ask, batcher, length)
        fates[name] = fate
    assert fates["by cost"]["late"] <= 2  # of the very first ones: it knows nothing then
    assert fates["by cost"]["in time"] > 1.15 * fates["plain"]["in time"]


@pytest.mark.parametrize("rare", [5, 250])
async def test_nobody_starves(rare, virtual_time):
    """The only long text in a flood of short ones, or the other way round, has its turn.

    At 64 callers that is due after 10 + 2 * 64 / 32 full batches, and one that runs.
    """
    common = 255 - rare
    async with open_batcher(Texts(), cost=float, max_batch_cost=8192) as batcher:
        async with host.open_nursery() as nursery:

            async def flood() -> None:
                while True:
                    await batcher.infer(common)

            for _ in range(64):
                nursery.start_soon(flood)
            await host.sleep(10)
            full = 0.010 + 50e-6 * 256 * 32  # costs are rounded up
            for _ in range(20):
                began = host.current_time()
                await batcher.infer(rare)
                assert host.current_time() - began <= 16 * full
            nursery.cancel_scope.cancel()


async def test_keys_are_kept_apart(virtual_time):
    """And each key's own are together."""
    batches = []

    async def model(words: list[str]) -> list[str]:
        batches.append(words)
        await host.sleep(0.01)
        return [word.upper() for word in words]

    words = ["a", "bb", "c", "dd", "ee", "f", "g", "hhh"]
    async with open_batcher(model, key=len) as batcher:
        assert await batcher.infer_many(words) == [word.upper() for word in words]
    assert sorted(map(sorted, batches)) == [["a", "c", "f", "g"], ["bb", "dd", "ee"], ["hhh"]]


@pytest.mark.only_on("trio")
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 60),
            st.integers(0, 2),
            st.sampled_from([0.0, 0.001, 0.02, 0.2]),
            st.sampled_from([0.01, 0.05, 0.3, 3.0]),
            st.booleans(),
        ),
        max_size=60,
    ),
    st.integers(1, 8),
    st.integers(1, 2),
    st.sampled_from([0.0, 0.02]),
)
def test_whatever_comes_no_batch_is_what_it_must_not_be(requests, seats, devices, delay):
    """One key, no dearer and no larger than allowed; everybody has one answer, its own."""
    seen = []

    async def model(items):
        assert len({key for _, key, _ in items}) == 1
        assert len(items) <= seats
        assert len(items) * max(cost for cost, _, _ in items) <= 120
        seen.extend(items)
        await trio.sleep(0.01 + 1e-4 * len(items) * max(cost for cost, _, _ in items))
        if any(poison for _, _, poison in items):
            raise ValueError(items)
        return [(cost, key) for cost, key, _ in items]

    async def ask(batcher, cost, key, seconds, poison):
        with trio.move_on_after(seconds):
            try:
                answer = await batcher.infer((cost, key, poison))
            except ModelError:
                assert poison
            except BatcherError:
                assert seconds < 3.0
            else:
                assert answer == (cost, key)
                assert not poison

    async def main():
        async with (
            open_batcher(
                [model] * devices,
                key=lambda item: item[1],
                cost=lambda item: item[0],
                max_batch_cost=120,
                max_batch_size=seats,
                max_delay=delay,
            ) as batcher,
            trio.open_nursery() as nursery,
        ):
            for number, (cost, key, pause, seconds, poison) in enumerate(requests):
                await trio.sleep(pause)
                nursery.start_soon(ask, batcher, cost, key, seconds, poison and not number % 7)
        assert batcher.statistics().waiting == batcher.statistics().running == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_an_item_without_a_cost_is_refused_alone():
    """Its caller hears what is wrong with it, before it is queued."""
    async with open_batcher(sorted, cost=len, max_batch_cost=5) as batcher:
        with pytest.raises(ItemError, match=r"the item's cost: expected no more than .* 5, got 6"):
            await batcher.infer("longer")
        with pytest.raises(
            ValueError, match=r"items\[1\]: the item's cost: expected more than 0, got 0"
        ):
            await batcher.infer_many(["short", ""])
        with pytest.raises(TypeError, match="len"):
            await batcher.infer(3)
        assert await batcher.infer("short") == "short"
        assert batcher.statistics().submitted == 1


async def test_warming_up_teaches_what_costs_are():
    """Batches grow as far as the dearest item lets them, and the model knows the time by load."""
    sizes = []

    def model(items: list[str]) -> list[str]:
        sizes.append(len(items))
        return items

    async with open_batcher(
        model, cost=len, max_batch_cost=40, warmup=["12345678", "1"]
    ) as batcher:
        assert sizes == [1, 1, 2, 2, 3, 3, 5, 5]
        assert batcher.statistics().latency[0] is not None


async def test_the_parts_of_a_batch_that_failed_are_measured_by_their_own_cost(virtual_time):
    """Not by the whole one's: what is known stays true."""

    async def model(items):
        await host.sleep(0.001 * len(items) * max(items))
        if 13 in items and len(items) > 1:
            raise ValueError(13)
        return items

    async with open_batcher(model, cost=float, max_batch_cost=64) as batcher:
        for _ in range(3):
            await batcher.infer(16)
        assert sorted(await batcher.infer_many([13, 13])) == [13, 13]
        assert batcher.statistics().reruns == 2
        (fit,) = batcher.statistics().latency
        assert (fit.fixed, fit.per_item) == pytest.approx((0.0, 0.001), abs=1e-9)


async def test_costs_of_all_sizes_have_a_mean_batch(virtual_time):
    """Batches under load are as many as are worth while: neither one by one nor all there are."""
    model = Texts()
    await throughput(model, lengths(1000), 64, cost=float, max_batch_cost=8192)
    assert 8 <= fmean(map(len, model.batches)) <= 24
