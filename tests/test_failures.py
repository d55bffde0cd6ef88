"""Failures stay with whoever caused them."""

from __future__ import annotations

import math
import sys
import traceback

import pytest

from trio_batcher import BatcherClosed, BatcherCrashed, ModelError, ResultCountError, open_batcher

from .hosts import host
from .models import GatedModel, TimedModel

pytestmark = pytest.mark.usefixtures("on_host")


class Picky:
    """A blocking model that counts its runs and raises if a batch has a poison input."""

    def __init__(self, poison, error=lambda: ValueError("poison")):
        self.poison = set(poison)
        self.error = error
        self.runs = 0

    def __call__(self, items):
        self.runs += 1
        if self.poison.intersection(items):
            raise self.error()
        return [item * 2 for item in items]


async def outcomes_of(batcher, items):
    """Ask for all items at a time, each in a task of its own."""
    outcomes = {}

    async def ask(item):
        try:
            outcomes[item] = await batcher.infer(item)
        except Exception as exc:
            outcomes[item] = exc

    async with host.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(ask, item)
    return outcomes


@pytest.mark.parametrize("poison", [0, 13, 31])
async def test_a_poison_input_fails_alone(poison):
    """Its 31 companions get their results, for at most 2·log2(32) extra runs."""
    model = Picky([poison])
    async with open_batcher(model, max_batch_size=32, max_delay=30) as batcher:
        outcomes = await outcomes_of(batcher, range(32))
        statistics = batcher.statistics()
    error = outcomes.pop(poison)
    assert isinstance(error, ModelError)
    assert isinstance(error.__cause__, ValueError)
    assert error.batch_size == 1
    assert outcomes == {item: item * 2 for item in range(32) if item != poison}
    assert model.runs <= 1 + 2 * math.log2(32)
    assert (statistics.batches, statistics.reruns) == (1, model.runs - 1)
    assert (statistics.completed, statistics.failed) == (31, 1)


async def test_several_poison_inputs_fail_and_nobody_else():
    """Also when each half of the batch has some."""
    poison = {3, 4, 17, 30}
    async with open_batcher(Picky(poison), max_batch_size=32, max_delay=30) as batcher:
        outcomes = await outcomes_of(batcher, range(32))
    assert {i for i, outcome in outcomes.items() if isinstance(outcome, ModelError)} == poison
    assert all(outcomes[i] == i * 2 for i in set(range(32)) - poison)


async def test_a_model_that_fails_on_everything_is_recognised_after_a_few_runs():
    """No more runs than for one poison input, and each caller gets an error of its own."""
    model = Picky(range(32))
    async with open_batcher(model, max_batch_size=32, max_delay=30) as batcher:
        outcomes = await outcomes_of(batcher, range(32))
    assert model.runs <= 1 + 2 * math.log2(32)
    assert all(isinstance(outcome, ModelError) for outcome in outcomes.values())
    assert len({id(outcome) for outcome in outcomes.values()}) == 32


async def test_the_batcher_serves_on_after_a_failure():
    """A model's failure is its callers' business, not the batcher's."""
    async with open_batcher(Picky([1])) as batcher:
        with pytest.raises(ModelError):
            await batcher.infer(1)
        assert await batcher.infer(2) == 4
        assert not batcher.failed.is_set()


async def test_a_model_that_exits_fails_like_any_other():
    """`sys.exit()` on one input neither stops the program nor the companions' answers."""
    for error in (SystemExit, KeyboardInterrupt):
        async with open_batcher(Picky([5], error), max_batch_size=8, max_delay=30) as batcher:
            outcomes = await outcomes_of(batcher, range(8))
        assert isinstance(outcomes.pop(5).__cause__, error)
        assert outcomes == {item: item * 2 for item in range(8) if item != 5}


async def test_an_async_model_that_raises_is_bisected_too(virtual_time):
    """A poison input fails alone, whatever kind of model it meets."""

    async def model(items):
        await host.sleep(0.01)
        if 5 in items:
            sys.exit("five")
        return items

    async with open_batcher(model, max_batch_size=8, max_delay=1) as batcher:
        outcomes = await outcomes_of(batcher, range(8))
    assert isinstance(outcomes.pop(5), ModelError)
    assert outcomes == {item: item for item in range(8) if item != 5}


async def test_an_exception_in_a_results_place_is_raised_in_that_caller_alone(virtual_time):
    """It is that very exception, and its batch-mates get their results."""
    refusal = LookupError("not in the dictionary")

    async def model(items):
        return [refusal if item == 2 else item for item in items]

    async with open_batcher(model, max_batch_size=4, max_delay=1) as batcher:
        outcomes = await outcomes_of(batcher, range(4))
    assert outcomes == {0: 0, 1: 1, 2: refusal, 3: 3}


async def test_no_exception_instance_is_raised_in_two_tasks(virtual_time):
    """Tracebacks stay as long as they are, even if a model has one exception for everything."""
    refusal = LookupError("everything")

    async def model(items):
        return [refusal] * len(items)

    lengths = []
    seen = []
    async with open_batcher(model, max_batch_size=4) as batcher:
        for _ in range(5):
            outcomes = await outcomes_of(batcher, range(4))
            seen += outcomes.values()
            lengths += [len(traceback.extract_tb(e.__traceback__)) for e in outcomes.values()]
    assert len({id(error) for error in seen}) == len(seen) == 20
    assert all(type(error) is LookupError and error.args == ("everything",) for error in seen)
    assert len(set(lengths)) == 1


async def test_wrong_number_of_results_tells_every_caller_of_that_batch(virtual_time):
    """Each gets a `ResultCountError` of its own, with both numbers; the next batch is served."""

    async def model(items):
        return items[1:] if len(items) > 1 else items

    async with open_batcher(model, max_batch_size=4, max_delay=1) as batcher:
        outcomes = await outcomes_of(batcher, range(4))
        assert all(isinstance(error, ResultCountError) for error in outcomes.values())
        assert {(error.expected, error.got) for error in outcomes.values()} == {(4, 3)}
        assert len({id(error) for error in outcomes.values()}) == 4
        assert await batcher.infer(7) == 7


async def test_a_plain_function_that_returns_a_coroutine_is_told_what_to_do():
    """The story says to pass the async function itself."""

    async def real(items):
        return items

    def plain(items):
        return real(items)

    async with open_batcher(plain) as batcher:
        with pytest.raises(ModelError, match="give open_batcher the async function itself"):
            await batcher.infer(1)


async def test_infer_many_raises_its_first_failure_and_gives_the_rest_up(virtual_time):
    """Waiting companions of the failed item leave the queue."""

    class Model(TimedModel):
        async def __call__(self, items):
            await super().__call__(items)
            return [ValueError(item) if item == 2 else item for item in items]

    model = Model()
    async with open_batcher(model, max_batch_size=2) as batcher:
        with pytest.raises(ValueError, match="2"):
            await batcher.infer_many([1, 2, 3, 4, 5])
        statistics = batcher.statistics()
        assert (statistics.waiting, statistics.running) == (0, 0)
        assert (statistics.completed, statistics.failed, statistics.cancelled) == (1, 1, 3)
    assert model.batches == [[1, 2]]


async def test_a_fault_of_the_batcher_itself_reaches_everybody_and_nobody_hangs(monkeypatch):
    """Waiting and later requests raise `BatcherCrashed`, `failed` is set, the exit raises."""
    fault = RuntimeError("a defect in the policy")

    def broken(*_, **__):
        raise fault

    with pytest.raises(BatcherCrashed) as caught:
        async with open_batcher(lambda items: items) as batcher:
            assert await batcher.infer(1) == 1
            monkeypatch.setattr("trio_batcher._scheduler.decide", broken)
            outcomes = await outcomes_of(batcher, range(3))
            assert all(isinstance(error, BatcherCrashed) for error in outcomes.values())
            assert all(error.__cause__ is fault for error in outcomes.values())
            await batcher.failed.wait()
            # The block itself runs on: nothing of the host's was cancelled.
            await host.checkpoint()
            with pytest.raises(BatcherCrashed):
                await batcher.infer(4)
            assert batcher.statistics().rejected["crashed"] == 4
    assert caught.value.__cause__ is fault


async def test_a_fault_in_a_burst_strands_nobody(monkeypatch):
    """The callers of the batch that was in hand hear of it too."""
    fault = RuntimeError("a defect in the device")

    def broken(self, items, load):
        raise fault

    monkeypatch.setattr("trio_batcher._device.Device.run", broken)
    with pytest.raises(BatcherCrashed):
        async with open_batcher(lambda items: items, max_delay=30, max_batch_size=3) as batcher:
            outcomes = await outcomes_of(batcher, range(3))
            assert all(error.__cause__ is fault for error in outcomes.values())


async def test_a_fault_in_delivery_does_not_end_the_event_loop(monkeypatch):
    """Nor does it strand the callers whose answers were being delivered."""
    fault = RuntimeError("a defect in delivery")

    def broken(self, batch, outcomes, started):
        raise fault

    monkeypatch.setattr("trio_batcher._outcomes.Outcomes.deliver", broken)
    with pytest.raises(BatcherCrashed):
        async with open_batcher(lambda items: items) as batcher:
            outcomes = await outcomes_of(batcher, range(3))
            assert all(error.__cause__ is fault for error in outcomes.values())


async def test_a_fault_in_delivery_while_the_block_is_left_by_an_exception(monkeypatch):
    """The event loop lives on, nobody hangs, and the body's exception leaves as it is."""

    def broken(self, batch, outcomes, started):
        raise RuntimeError

    monkeypatch.setattr("trio_batcher._outcomes.Outcomes.deliver", broken)
    model = GatedModel()
    outcomes = {}
    async with host.open_nursery() as nursery:

        async def caller():
            try:
                await batcher.infer(1)
            except BatcherCrashed as error:
                outcomes[1] = error

        with pytest.raises(KeyError):
            async with open_batcher(model) as batcher:
                nursery.start_soon(caller)
                await model.started()
                model.open()
                raise KeyError
    assert isinstance(outcomes[1].__cause__, RuntimeError)


async def test_the_blocks_own_exception_wins_over_a_crash(monkeypatch):
    """Whatever has happened to the batcher, the body's exception leaves as it is."""

    def broken(*_, **__):
        raise RuntimeError

    monkeypatch.setattr("trio_batcher._scheduler.decide", broken)
    with pytest.raises(KeyError, match="mine"):
        async with open_batcher(lambda items: items) as batcher:
            with pytest.raises(BatcherCrashed):
                await batcher.infer(1)
            raise KeyError("mine")


async def test_a_broken_limiter_is_a_crash_and_not_a_hang():
    """A limiter that raises is nobody's batch: everybody is told."""

    class Broken:
        def statistics(self):
            raise OSError

        async def acquire_on_behalf_of(self, borrower):
            await host.checkpoint()
            raise OSError("no such device")

        def release_on_behalf_of(self, borrower):
            raise AssertionError

    with pytest.raises(BatcherCrashed):
        async with open_batcher(lambda items: items, limiter=Broken()) as batcher:
            with pytest.raises(BatcherCrashed) as caught:
                await batcher.infer(1)
            assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(BatcherCrashed):
        await batcher.infer(1)


async def test_a_closed_batchers_errors_are_each_callers_own():
    """The same refusal twice is two instances."""
    async with open_batcher(lambda items: items) as batcher:
        pass
    errors = []
    for _ in range(2):
        with pytest.raises(BatcherClosed) as caught:
            await batcher.infer(1)
        errors.append(caught.value)
    assert errors[0] is not errors[1]
