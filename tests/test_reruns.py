"""What is run again of a failed batch is work like any other: it delays nobody more urgent."""

from __future__ import annotations

import math
import threading

import pytest

from trio_batcher import BatcherClosed, DeviceLost, ModelError, open_batcher
from trio_batcher._latency import LatencyModel
from trio_batcher._shapes import _PARTS

from .hosts import host, wait_all_tasks_blocked
from .models import PATIENCE, GatedModel, TimedModel

pytestmark = pytest.mark.usefixtures("on_host")


class Picky(TimedModel):
    """Takes a second for each run, and raises if a batch has a poison input, which is odd."""

    def __init__(self, fixed=1.0):
        super().__init__(fixed, 0.0)

    async def __call__(self, items):
        results = await super().__call__(items)
        if any(item % 2 for item in items):
            raise ValueError(items)
        return results


class GatedPicky(GatedModel):
    """The same in a thread, when it is let go."""

    def __call__(self, items):
        results = super().__call__(items)
        if any(item % 2 for item in items):
            raise ValueError(items)
        return results


class Asking:
    """Callers, and when each had what."""

    def __init__(self, batcher, nursery):
        self.batcher, self.nursery = batcher, nursery
        self.outcomes, self.after = {}, {}

    def ask(self, *items, seconds=math.inf):
        for item in items:
            self.nursery.start_soon(self._ask, item, seconds)

    async def _ask(self, item, seconds):
        start = host.current_time()
        with host.move_on_after(seconds):
            try:
                self.outcomes[item] = await self.batcher.infer(item)
            except Exception as exc:
                self.outcomes[item] = type(exc)
            self.after[item] = host.current_time() - start


# In a batch of 32, the poison has the others run in halves, quarters and so on.
NEIGHBOURS = {place: [2 * i + (i == place) for i in range(32)] for place in (0, 13, 31)}


@pytest.mark.parametrize("place", NEIGHBOURS)
async def test_each_neighbour_is_answered_when_the_run_that_answers_it_ends(virtual_time, place):
    """Half of them after three runs at most, whatever else is still to be found out."""
    items = NEIGHBOURS[place]
    async with (
        open_batcher(Picky(), max_batch_size=32) as batcher,
        host.open_nursery() as nursery,
    ):
        asking = Asking(batcher, nursery)
        asking.ask(*items)
    poison = items[place]
    assert asking.outcomes.pop(poison) is ModelError
    assert asking.outcomes == {item: 2 * item for item in items if item != poison}
    healthy = sorted(asking.after[item] for item in asking.outcomes)
    assert healthy[15] <= 3.0
    assert healthy[23] <= 5.0
    assert asking.after[poison] <= 11.0


@pytest.mark.parametrize("comes", [1.5, 2.5, 4.5])
async def test_who_is_more_urgent_goes_before_what_is_run_again(virtual_time, comes):
    """It waits for the run that is under way, and then for its own."""
    async with (
        open_batcher(Picky(), max_batch_size=32) as batcher,
        host.open_nursery() as nursery,
    ):
        asking = Asking(batcher, nursery)
        asking.ask(*NEIGHBOURS[0])
        await host.sleep(comes)
        asking.ask(100, seconds=2.5)
    assert asking.outcomes[100] == 200
    assert asking.after[100] == pytest.approx(1.5)


async def test_what_is_run_again_goes_before_those_who_came_later(virtual_time):
    """Without deadlines, and with such as are a long way off: first come, first served."""
    model = Picky()
    async with open_batcher(model, max_batch_size=4) as batcher, host.open_nursery() as nursery:
        asking = Asking(batcher, nursery)
        asking.ask(0, 1, 2, 4)
        await host.sleep(0.5)
        asking.ask(8, 10)
        asking.ask(12, seconds=60.0)
    assert sorted(model.batches[-1]) == [8, 10, 12]
    assert sorted(item for batch in model.batches[:-1] for item in batch if item > 4) == []


async def test_urgent_requests_without_end_do_not_starve_what_is_run_again(virtual_time):
    """Who has waited for many full batches is due, whatever others want."""
    async with (
        open_batcher(Picky(), max_batch_size=8, warmup=[0]) as batcher,
        host.open_nursery() as nursery,
    ):
        asking = Asking(batcher, nursery)
        asking.ask(1, 2, 4, 6)
        for number in range(60):
            await host.sleep(1.0)
            asking.ask(100 + 2 * number, seconds=2.75)
    assert asking.after[6] <= 30.0
    assert asking.outcomes[1] is ModelError


async def test_an_item_whose_caller_has_gone_is_not_run_again(virtual_time):
    """The others of its batch are."""
    model = Picky()
    async with open_batcher(model, max_batch_size=6) as batcher, host.open_nursery() as nursery:
        asking = Asking(batcher, nursery)
        asking.ask(2, 4, 6, 8, seconds=0.5)
        asking.ask(1, 10)
    assert sorted(model.batches[0]) == [1, 2, 4, 6, 8, 10]
    assert {item for batch in model.batches[1:] for item in batch} == {1, 10}


async def test_nothing_is_run_again_for_nobody(virtual_time):
    """All have left: the device is free at once."""
    model = Picky()
    async with open_batcher(model, max_batch_size=8) as batcher, host.open_nursery() as nursery:
        asking = Asking(batcher, nursery)
        asking.ask(*range(1, 9), seconds=0.5)
        await host.sleep(0.75)
        asking.ask(20)
    assert len(model.batches) == 2
    assert asking.after[20] == pytest.approx(1.25)


async def test_another_batcher_on_the_device_waits_for_one_run_only():
    """The token is given up between the runs of a failing batch, and nothing is lost by that."""
    model, log = GatedPicky(), []

    def other(items):
        log.append(len(model.batches))
        return items

    gpu = host.CapacityLimiter(1)
    async with (
        open_batcher(model, max_batch_size=8, max_delay=30, limiter=gpu) as failing,
        open_batcher(other, limiter=gpu) as good,
        host.open_nursery() as nursery,
    ):
        asking = Asking(failing, nursery)
        asking.ask(1, *range(2, 16, 2))
        await model.started()
        nursery.start_soon(good.infer, 1)
        await wait_all_tasks_blocked()
        model.open()
        await model.started()
        assert log == [1]
        model.open(50)
    assert asking.outcomes.pop(1) is ModelError
    assert asking.outcomes == {item: 2 * item for item in range(2, 16, 2)}


@pytest.mark.parametrize("how", ["raised", "cancelled"])
async def test_leaving_the_block_by_an_exception_ends_a_bisection(how):
    """The run that is under way is waited for, and no other one is made."""
    model = GatedPicky()
    async with host.open_nursery() as nursery:
        with host.CancelScope() as scope:
            try:
                async with open_batcher(model, max_batch_size=8) as batcher:
                    asking = Asking(batcher, nursery)
                    asking.ask(*range(1, 9))
                    await model.started()
                    model.open()
                    await model.started()
                    nursery.start_soon(host.in_thread, model.open)
                    if how == "raised":
                        raise KeyError(how)
                    scope.cancel()
                    await host.checkpoint()
            except KeyError:
                pass
    assert len(model.batches) <= 3
    settled = [each for each in asking.outcomes.values() if each is not BatcherClosed]
    assert len(asking.outcomes) == 8
    assert len(settled) <= 4


async def test_leaving_the_block_normally_waits_until_all_are_answered(virtual_time):
    """Also if what is left of a batch waits for its turn, and nothing runs."""
    async with host.open_nursery() as nursery:
        async with open_batcher(Picky(), max_batch_size=32) as batcher:
            asking = Asking(batcher, nursery)
            asking.ask(*NEIGHBOURS[13])
            await host.sleep(0.5)
    assert len(asking.outcomes) == 32
    assert list(asking.outcomes.values()).count(ModelError) == 1


async def test_other_replicas_take_their_share_of_what_is_run_again():
    """Both halves of a batch run at the same time, if two devices are free."""
    both = threading.Barrier(2)

    def model(items):
        if len(items) == 4:
            raise ValueError(items)
        if len(items) == 2:
            both.wait(PATIENCE)
        return items

    async with open_batcher([model, model], max_batch_size=4, max_delay=30) as batcher:
        assert await batcher.infer_many([2, 4, 6, 8]) == [2, 4, 6, 8]
        assert batcher.statistics().reruns == 2


async def test_a_device_that_is_lost_with_a_part_leaves_it_to_the_others():
    """It is run again as that part, and finds the poison input all the same."""
    runs, lost = [], []

    def model(items):
        runs.append(items)
        if len(runs) == 2:
            lost.append(items)
            raise DeviceLost("fell off the bus")
        if 1 in items:
            raise ValueError(items)
        return [2 * item for item in items]

    async with open_batcher([model, model], max_batch_size=8, max_delay=30) as batcher:
        async with host.open_nursery() as nursery:
            asking = Asking(batcher, nursery)
            asking.ask(1, 2, 4, 6, 8, 10, 12, 14)
        statistics = batcher.statistics()
    assert asking.outcomes.pop(1) is ModelError
    assert asking.outcomes == {item: 2 * item for item in range(2, 15, 2)}
    assert lost[0] in runs[2:]
    assert (statistics.completed, statistics.failed) == (7, 1)
    assert statistics.waiting == statistics.running == 0


async def test_what_runs_again_teaches_what_it_really_was(virtual_time, monkeypatch):
    """A part counts by what it costs itself, so that later estimates are right."""
    taught, observe = [], LatencyModel.observe

    def noted(self, load, seconds, ended):
        taught.append((load, seconds))
        observe(self, load, seconds, ended)

    async def model(items):
        await host.sleep(0.001 * len(items) * max(items))
        if 107 in items:
            raise ValueError(items)
        return items

    monkeypatch.setattr(LatencyModel, "observe", noted)
    async with (
        open_batcher(
            model, max_batch_size=8, max_delay=30, cost=float, max_batch_cost=1024.0
        ) as batcher,
        host.open_nursery() as nursery,
    ):
        Asking(batcher, nursery).ask(*range(100, 108))
    assert len(taught) >= 2
    for load, seconds in taught:
        assert load / _PARTS * 1.024 == pytest.approx(seconds, rel=0.1)


@pytest.mark.parametrize("place", [0, 13, 31])
async def test_others_wait_for_one_run_that_hangs_and_not_for_several(virtual_time, place):
    """Whoever has no deadline, or one a long way off: their batch goes before the next rerun."""

    async def model(items):
        await host.sleep(0.01)
        if any(item % 2 for item in items):
            await host.sleep_forever()
        return [2 * item for item in items]

    async with (
        open_batcher(model, max_batch_size=32, batch_timeout=1) as batcher,
        host.open_nursery() as nursery,
    ):
        asking = Asking(batcher, nursery)
        asking.ask(*NEIGHBOURS[place])
        for number in range(12):
            await host.sleep(0.25)
            asking.ask(1000 + 2 * number, seconds=60.0)
    poison = NEIGHBOURS[place][place]
    assert asking.outcomes.pop(poison) is ModelError
    assert all(outcome == 2 * item for item, outcome in asking.outcomes.items())
    assert max(waited for item, waited in asking.after.items() if item >= 1000) < 1.3
    # Nor are the neighbours starved.
    assert max(waited for item, waited in asking.after.items() if item < 1000) < 3.5


async def test_those_who_come_without_end_do_not_starve_what_hung(virtual_time):
    """One batch of theirs goes before each further rerun, no more."""

    async def model(items):
        await host.sleep(0.1)
        if -1 in items:
            await host.sleep_forever()
        return items

    async with (
        open_batcher(model, max_batch_size=8, batch_timeout=1) as batcher,
        host.open_nursery() as nursery,
    ):
        asking = Asking(batcher, nursery)
        asking.ask(-1, *range(7))
        for number in range(80):
            await host.sleep(0.1)
            asking.ask(*range(100 + 10 * number, 108 + 10 * number))
    assert asking.outcomes[-1] is ModelError
    assert max(asking.after[item] for item in range(-1, 7)) < 4.0
