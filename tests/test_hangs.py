"""A model that does not come back: `batch_timeout`, for async models and for those in threads."""

from __future__ import annotations

import logging
import math
import threading
from functools import wraps

import pytest

from trio_batcher import (
    BatcherCrashed,
    DeviceLost,
    InferenceModel,
    ModelError,
    open_batcher,
)

from .hosts import host, wait_all_tasks_blocked
from .models import PATIENCE, TimedModel

pytestmark = pytest.mark.usefixtures("on_host")

# On the real clock: long enough for any run that does not hang.
TIMEOUT = 0.25


async def outcomes_of(batcher, items):
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


def is_timeout(error, seconds, size=1):
    """It says so in so many words."""
    assert type(error) is ModelError
    assert type(error.__cause__) is TimeoutError
    assert str(error.__cause__) == f"no result within batch_timeout={seconds!r} s"
    assert error.batch_size == size
    return True


# Async models


class Hanging(TimedModel):
    """Hangs if its batch has a negative item."""

    async def __call__(self, items):
        results = await super().__call__(items)
        if min(items) < 0:
            await host.sleep_forever()
        return results


@pytest.mark.parametrize("size", [1, 2, 7, 32])
async def test_an_input_that_hangs_fails_alone(virtual_time, size):
    """The run is cancelled, and its batch taken apart as if it had raised."""
    model = Hanging(0.1, 0.0)
    async with open_batcher(model, max_batch_size=size, batch_timeout=1) as batcher:
        outcomes = await outcomes_of(batcher, range(-1, size - 1))
        assert is_timeout(outcomes.pop(-1), 1)
        assert outcomes == {item: item * 2 for item in range(size - 1)}
        # And goes on as if nothing had been.
        assert await batcher.infer(5) == 10
        assert not batcher.failed.is_set()


async def test_a_model_that_always_hangs_is_given_up_after_a_few_runs(virtual_time):
    """Each caller has an error of its own, with that for a reason."""

    async def model(items):
        await host.sleep_forever()

    async with open_batcher(model, max_batch_size=32, batch_timeout=0.5) as batcher:
        start = host.current_time()
        outcomes = await outcomes_of(batcher, range(32))
        assert host.current_time() - start <= 0.5 * (1 + 2 * 5) + 1e-6
    assert {type(error.__cause__) for error in outcomes.values()} == {TimeoutError}


async def test_a_batch_that_takes_less_is_left_alone(virtual_time):
    """However long those that wait for a device have waited."""
    async with open_batcher(TimedModel(0.9, 0.0), max_batch_size=1, batch_timeout=1) as batcher:
        assert await outcomes_of(batcher, range(10)) == {item: item * 2 for item in range(10)}


async def test_a_model_that_answers_when_it_is_cancelled_has_answered(virtual_time):
    """What it makes of the cancellation is its own business."""

    async def model(items):
        with host.CancelScope(shield=True):
            await host.sleep(3)
        return items

    async with open_batcher(model, batch_timeout=1) as batcher:
        assert await batcher.infer(1) == 1


async def test_an_async_model_that_hangs_on_the_warm_up_fails_it(virtual_time):
    """Opening raises, with the size of the batch."""
    with pytest.raises(
        ModelError, match="TimeoutError: no result within batch_timeout=1 s"
    ) as caught:
        async with open_batcher(Hanging(), warmup=[-1], batch_timeout=1):
            pass
    assert caught.value.__notes__ == ["while warming up with a batch of 1"]


@pytest.mark.parametrize("wait", [False, True])
async def test_leaving_the_block_waits_for_no_answer_that_nobody_waits_for(virtual_time, wait):
    """An async model's run is cancelled then, also if the last caller leaves meanwhile."""
    model = Hanging(0.1, 0.0)

    async def ask():
        with host.move_on_after(1):
            await batcher.infer(-1)

    async with host.open_nursery() as nursery:
        async with open_batcher(model) as batcher:
            nursery.start_soon(ask)
            await host.sleep(2 if wait else 0.5)
        assert host.current_time() < 3
    assert batcher.statistics().cancelled == 1


async def test_statistics_tell_for_how_long_a_device_has_been_at_it(virtual_time):
    """A hang can be seen; a device that is free shows nothing."""
    models = [TimedModel(5.0, 0.0), TimedModel(5.0, 0.0)]
    async with open_batcher(models) as batcher, host.open_nursery() as nursery:
        assert batcher.statistics().running_for == (0.0, 0.0)
        nursery.start_soon(batcher.infer, 1)
        await host.sleep(3)
        assert sorted(batcher.statistics().running_for) == [0.0, pytest.approx(3)]
        await host.sleep(3)
        assert batcher.statistics().running_for == (0.0, 0.0)


# Threads


class Stuck:
    """A blocking model; negative items have it wait until they are all let go."""

    def __init__(self):
        self.gate = threading.Event()
        self.batches, self.threads, self.ended = [], [], []

    def __call__(self, items):
        self.batches.append(list(items))
        if min(items) < 0:
            self.threads.append(threading.current_thread())
            assert self.gate.wait(PATIENCE)
            self.ended.append(items)
        return [item * 2 for item in items]

    def let_go(self):
        """Let the threads that were left behind end."""
        self.gate.set()


@pytest.fixture
def stuck():
    return Stuck()


def letting_go(test):
    """Have the threads that a test leaves behind end with it."""

    @wraps(test)
    async def wrapper(stuck, **kwargs):
        try:
            await test(stuck=stuck, **kwargs)
        finally:
            stuck.let_go()

    return wrapper


@letting_go
async def test_a_thread_that_hangs_is_left_behind_and_other_replicas_go_on(stuck, caplog):
    """Its callers are told at once; those who wait are served; the log has it."""
    with caplog.at_level(logging.WARNING, "trio_batcher"):
        async with open_batcher([stuck] * 2, batch_timeout=TIMEOUT) as batcher:
            assert is_timeout((await outcomes_of(batcher, [-1]))[-1], TIMEOUT)
            assert await outcomes_of(batcher, range(20)) == {item: item * 2 for item in range(20)}
            assert not batcher.failed.is_set()
            statistics = batcher.statistics()
        assert not stuck.gate.is_set()
    assert (statistics.failed, statistics.running, statistics.waiting) == (1, 0, 0)
    hang, loss = [record.getMessage() for record in caplog.records]
    assert hang.startswith("device ")
    assert "hangs with a batch of 1" in hang
    assert "is lost, the others go on" in loss


@letting_go
async def test_the_last_thread_that_hangs_crashes_the_batcher(stuck):
    """Those whom it held hear of the hang, all others of the crash; nobody waits for the thread."""
    outcomes = {}

    async def ask(item):
        try:
            outcomes[item] = await batcher.infer(item)
        except Exception as exc:
            outcomes[item] = exc

    with pytest.raises(BatcherCrashed) as caught:
        async with open_batcher(stuck, max_batch_size=1, batch_timeout=TIMEOUT) as batcher:
            async with host.open_nursery() as nursery:
                nursery.start_soon(ask, -1)
                await wait_all_tasks_blocked()
                nursery.start_soon(ask, 1)
            await batcher.failed.wait()
            await ask(2)
    assert not stuck.gate.is_set()
    assert is_timeout(outcomes[-1], TIMEOUT)
    for error in (outcomes[1], outcomes[2], caught.value):
        assert type(error) is BatcherCrashed
        assert type(error.__cause__) is DeviceLost
        assert type(error.__cause__.__cause__) is TimeoutError


@letting_go
async def test_what_a_thread_returns_that_was_left_behind_is_nobodys(stuck):
    """It is dropped, the thread ends, and takes no further batch."""
    async with open_batcher([stuck] * 2, max_batch_size=1, batch_timeout=TIMEOUT) as batcher:
        await outcomes_of(batcher, [-1])
        stuck.let_go()
        with host.fail_after(PATIENCE):
            while not stuck.ended:
                await host.checkpoint()
        assert await outcomes_of(batcher, range(10)) == {item: item * 2 for item in range(10)}
        statistics = batcher.statistics()
    assert (statistics.completed, statistics.failed) == (10, 1)
    assert statistics.batches == len(stuck.batches) == 11


@letting_go
async def test_all_of_a_hanging_threads_batch_are_told(stuck):
    """Nobody knows which of them it is, and the thread cannot be asked."""
    async with open_batcher(
        [stuck] * 2, max_batch_size=3, max_delay=30, batch_timeout=TIMEOUT
    ) as batcher:
        outcomes = await outcomes_of(batcher, [-1, 1, 2])
        assert all(is_timeout(error, TIMEOUT, size=3) for error in outcomes.values())
        assert len({id(error) for error in outcomes.values()}) == 3


async def test_a_part_of_a_failed_batch_that_hangs_leaves_the_rest_to_the_others():
    """What is run again is timed like any run."""
    gate = threading.Event()

    def model(items):
        if len(items) == 4:
            raise ValueError(items)
        if -1 in items:
            assert gate.wait(PATIENCE)
        return items

    async with open_batcher(
        [model] * 3, max_batch_size=4, max_delay=30, batch_timeout=TIMEOUT
    ) as batcher:
        outcomes = await outcomes_of(batcher, [-1, 1, 2, 3])
    gate.set()
    assert is_timeout(outcomes[-1], TIMEOUT, size=2)
    assert sum(type(outcome) is ModelError for outcome in outcomes.values()) == 2


@letting_go
async def test_the_token_of_a_thread_that_was_left_behind_is_given_back(stuck):
    """Another batcher on the device goes on."""
    gpu = host.CapacityLimiter(1)
    async with open_batcher(lambda items: items, limiter=gpu) as other:
        with pytest.raises(BatcherCrashed):
            async with open_batcher(stuck, limiter=gpu, batch_timeout=TIMEOUT) as batcher:
                await outcomes_of(batcher, [-1])
                assert await other.infer(1) == 1
    assert gpu.borrowed_tokens == 0


@pytest.mark.parametrize("how", ["raised", "cancelled", "left"])
@letting_go
async def test_leaving_the_block_does_not_wait_for_a_thread_that_hangs(stuck, how):
    """No longer than `batch_timeout`, and its model is not closed."""
    closed = []

    class Model(InferenceModel):
        def infer(self, inputs):
            return stuck(inputs)

        def close(self):
            closed.append(self)

    outcomes = []

    async def ask():
        try:
            await batcher.infer(-1)
        except Exception as exc:
            outcomes.append(type(exc))

    with host.CancelScope() as scope:
        try:
            async with host.open_nursery() as nursery:
                async with open_batcher([Model, Model], batch_timeout=TIMEOUT) as batcher:
                    nursery.start_soon(ask)
                    with host.fail_after(PATIENCE):
                        while not stuck.threads:
                            await host.checkpoint()
                    if how == "raised":
                        raise KeyError(how)
                    if how == "cancelled":
                        scope.cancel()
                        await host.checkpoint()
        except* KeyError:
            assert how == "raised"
    assert not stuck.gate.is_set()
    assert len(closed) == 1
    assert outcomes == ([] if how == "cancelled" else [ModelError])


@letting_go
async def test_a_thread_that_takes_less_is_waited_for(stuck):
    """A timeout that is never reached changes nothing: leaving waits, closing closes."""
    closed = []

    class Model(InferenceModel):
        def infer(self, inputs):
            return stuck(inputs)

        def close(self):
            closed.append(self)

    async with host.open_nursery() as nursery:
        with pytest.raises(KeyError):
            async with open_batcher(Model, warmup=[0], batch_timeout=PATIENCE) as batcher:

                async def ask():
                    assert await batcher.infer(-1) == -2

                nursery.start_soon(ask)
                with host.fail_after(PATIENCE):
                    while not stuck.threads:
                        await host.checkpoint()
                nursery.start_soon(host.in_thread, stuck.let_go)
                raise KeyError
    assert len(stuck.ended) == len(closed) == 1


@letting_go
async def test_a_thread_that_hangs_on_the_warm_up_fails_it(stuck):
    """It is left behind, and opening raises."""
    with pytest.raises(ModelError, match="no result within batch_timeout"):
        async with open_batcher([stuck] * 2, warmup=[-1], batch_timeout=TIMEOUT):
            pass
    assert not stuck.gate.is_set()


@pytest.mark.parametrize("where", ["launch", "collect"])
async def test_a_launched_batch_that_hangs_is_told_of_and_no_other(where):
    """The one that is in hand beside it goes to another replica."""
    gate = threading.Event()

    class Model(InferenceModel):
        def infer(self, inputs):
            raise AssertionError

        def launch(self, inputs):
            if where == "launch" and -1 in inputs:
                assert gate.wait(PATIENCE)

            def collect():
                if where == "collect" and -1 in inputs:
                    assert gate.wait(PATIENCE)
                return [item * 2 for item in inputs]

            return collect

    async with open_batcher(
        [Model, Model], max_batch_size=1, warmup=[0], batch_timeout=TIMEOUT
    ) as batcher:
        outcomes = await outcomes_of(batcher, range(-1, 30))
    gate.set()
    assert is_timeout(outcomes.pop(-1), TIMEOUT)
    assert outcomes == {item: item * 2 for item in range(30)}


async def test_no_timeout_is_the_default(virtual_time):
    """A run may take as long as it likes."""
    async with open_batcher(TimedModel(1e6, 0.0), batch_timeout=math.inf) as batcher:
        assert await batcher.infer(1) == 2


async def test_whoever_waits_behind_a_first_batch_that_hangs_is_served(virtual_time):
    """However many they are and however they differ, before anything was ever measured."""
    outcomes = []

    async def ask(number):
        weight, seconds = 1.0 + number % 3, 5.0 + number % 7
        with host.move_on_after(seconds):
            outcomes.append(await batcher.infer(number, weight=weight))

    async with open_batcher(Hanging(0.01, 0.0), max_batch_size=4, batch_timeout=1) as batcher:
        async with host.open_nursery() as nursery:
            nursery.start_soon(outcomes_of, batcher, [-1])
            await host.sleep(0.5)
            for number in range(100):
                nursery.start_soon(ask, number)
        assert not batcher.failed.is_set()
    assert sorted(outcomes) == [2 * number for number in range(100)]


@letting_go
async def test_what_a_thread_hangs_on_is_not_given_to_another_one(stuck):
    """Also where whoever asked goes on: each of its items has one outcome, and one run."""
    async with open_batcher([stuck] * 2, max_batch_size=1, batch_timeout=TIMEOUT) as batcher:
        async with batcher.map([1, -1, 2, 3], errors="return") as results:
            first, error, *others = [result async for result in results]
        statistics = batcher.statistics()
    assert [first, *others] == [2, 4, 6]
    assert is_timeout(error, TIMEOUT)
    assert sorted(stuck.batches) == [[-1], [1], [2], [3]]
    assert (statistics.completed, statistics.failed, statistics.cancelled) == (3, 1, 0)
