"""A batch is prepared while another one runs: on made-up time, and in threads with gates."""

from __future__ import annotations

import math
import threading
from functools import partial
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from trio_batcher import BatcherClosed, BatcherCrashed, InferenceModel, ModelError, open_batcher
from trio_batcher._bisection import Failure
from trio_batcher._latency import LatencyModel

from .hosts import host, wait_all_tasks_blocked
from .launched import Stage
from .models import PATIENCE

HOST, DEVICE = 0.003, 0.005


def items_of(log, what):
    return [items for kind, items in log if kind == what]


def test_the_next_batch_is_launched_before_the_one_that_runs_is_collected():
    """So its preparation takes the device no time."""
    stage = Stage(most=1)
    start = stage.learn()
    for item in "abcd":
        stage.come(item)
    stage.burst()
    assert stage.model.log == [
        ("launch", ["a"]),
        ("launch", ["b"]),
        ("collect", ["a"]),
        ("launch", ["c"]),
        ("collect", ["b"]),
        ("launch", ["d"]),
        ("collect", ["c"]),
        ("collect", ["d"]),
    ]
    assert stage.answers == [(item, ("answer", item)) for item in "abcd"]
    assert stage.clock.time - start == pytest.approx(HOST + 4 * DEVICE)


def test_who_comes_while_a_batch_runs_rides_in_the_next_one():
    """It is composed as late as its preparation lets it."""
    stage = Stage()
    start = stage.learn()
    stage.come("a")
    launched = start + HOST
    stage.coming(launched + 0.0002, "b")
    stage.coming(launched + 0.0008, "c")
    stage.burst()
    assert stage.delivered == [["a"], ["b", "c"]]
    # Before the first of them had ended, and not much before.
    (_, _), (second, _) = stage.model.launches
    assert launched + DEVICE * 3 / 4 <= second <= launched + DEVICE
    assert stage.clock.time == pytest.approx(launched + 2 * DEVICE)


def test_who_leaves_before_that_moment_never_reaches_the_model():
    """A place in the batch behind is not given away early."""
    stage = Stage()
    start = stage.learn()
    stage.come("a")
    leaving = stage.come("b")
    stage.scheduler.queue.discard(leaving)
    left = []
    stage.coming(start + HOST + 0.0001, "c")

    def leave():
        left.extend(stage.scheduler.queue.first(8, ()))
        stage.scheduler.queue.remove_all(left)

    stage.clock.at(start + HOST + 0.0009, leave)
    stage.burst()
    assert [request.item for request in left] == ["c"]
    assert stage.model.log == [("launch", ["a"]), ("collect", ["a"])]


def test_if_nobody_waits_at_that_moment_the_batch_is_collected_and_all_goes_on():
    """Whoever comes later is the next batch, without overlap."""
    stage = Stage()
    start = stage.learn()
    stage.come("a")
    stage.coming(start + HOST + DEVICE - 0.0001, "b")
    stage.burst()
    assert items_of(stage.model.log, "launch") == [["a"], ["b"]]
    assert [kind for kind, _ in stage.model.log] == ["launch", "collect", "launch", "collect"]


def test_what_is_learned_is_the_time_that_a_batch_had_the_device():
    """Neither its preparation nor what the batch before took."""
    stage = Stage(most=8, per_item=0.0005)
    stage.learn()
    for item in range(200):
        stage.come(item)
    stage.burst()
    latency = stage.device.latency
    latency.refresh()
    assert latency.expected[8] == pytest.approx(DEVICE + 0.004, rel=0.02)
    assert stage.device.lead.seconds == pytest.approx(HOST, rel=0.02)
    assert stage.device.busy == pytest.approx(stage.clock.time, rel=0.01)


@pytest.mark.parametrize("times", [1.3, 2.0, 5.0])
def test_a_device_that_becomes_quicker_is_found_out(times):
    """Within a few batches, although nobody looks whether it is ready before it should be."""
    stage = Stage(most=1, device=DEVICE * times)
    stage.learn(40)
    stage.model.device = DEVICE
    for item in range(20):
        stage.come(item)
    stage.burst()
    start = stage.clock.time
    for item in range(20):
        stage.come(item)
    stage.burst()
    assert stage.clock.time - start == pytest.approx(HOST + 20 * DEVICE, rel=0.02)


def test_where_launching_takes_longer_than_running_nothing_waits():
    """Then the host is what is busy all the time."""
    stage = Stage(most=1, host=0.005, device=0.002)
    start = stage.learn()
    for item in range(20):
        stage.come(item)
    stage.burst()
    assert stage.clock.time - start == pytest.approx(20 * 0.005 + 0.002)


@pytest.mark.parametrize("where", ["launch", "collect"])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_a_failing_batch_is_taken_apart(where, batch):
    """The batch behind it is not touched; only the poison fails."""
    stage = Stage(most=4)
    stage.learn()
    items = [*range(12)]
    items[4 * batch + 1] = where
    for item in items:
        stage.come(item)
    stage.burst()
    assert [item for item, _ in stage.answers].count(where) == 1
    for item, outcome in stage.answers:
        if item == where:
            assert isinstance(outcome, Failure)
            assert isinstance(outcome.error, ModelError)
            assert str(outcome.error.__cause__) == where
        else:
            assert outcome == ("answer", item)
    assert sorted(map(str, (item for item, _ in stage.answers))) == sorted(map(str, items))


def test_the_batch_behind_a_failing_one_does_not_wait_for_its_bisection():
    """It is launched already; what is run again comes next, and is launched ahead as well."""
    stage = Stage(most=2)
    stage.learn()
    for item in ["collect", 1, 2, 3, 4, 5]:
        stage.come(item)
    stage.burst()
    assert [batch for batch in stage.delivered if batch] == [[2, 3], ["collect"], [1], [4, 5]]
    assert stage.model.log == [
        ("launch", ["collect", 1]),
        ("launch", [2, 3]),
        ("collect", ["collect", 1]),
        ("launch", ["collect"]),
        ("collect", [2, 3]),
        ("launch", [1]),
        ("collect", ["collect"]),
        ("launch", [4, 5]),
        ("collect", [1]),
        ("collect", [4, 5]),
    ]


@pytest.mark.parametrize("where", [("launch", "collect"), ("collect", "launch"), ("collect",) * 2])
def test_two_batches_that_fail_one_behind_the_other_are_both_taken_apart(where):
    """Each loses its poison only."""
    stage = Stage(most=4)
    stage.learn()
    for item in [0, where[0], 1, 2, 3, 4, where[1], 5, 6]:
        stage.come(item)
    stage.burst()
    good = [(item, outcome) for item, outcome in stage.answers if item not in where]
    assert sorted(good) == [(item, ("answer", item)) for item in range(7)]
    bad = [outcome for item, outcome in stage.answers if item in where]
    assert len(bad) == 2
    assert all(isinstance(outcome, Failure) for outcome in bad)


def test_nothing_is_launched_ahead_while_somebody_else_wants_the_device():
    """So the token can be given up as soon as the running batch has ended."""
    stage = Stage(most=1)
    start = stage.learn()
    for item in "abcd":
        stage.come(item)
    stage.clock.at(start + HOST + DEVICE + 0.001, lambda: setattr(stage, "wanted", True))
    stage.burst()
    assert [item for item, _ in stage.answers] == ["a", "b", "c"][: len(stage.answers)]
    assert stage.model.log[-1] == ("collect", [stage.answers[-1][0]])
    assert 2 <= len(stage.answers) <= 3
    assert stage.scheduler.queue.size == 4 - len(stage.answers)


def test_promises_count_what_is_launched_already():
    """A request that comes then is told at once if it would have to wait too long."""
    stage = Stage(most=1)
    start = stage.learn()
    for item in "ab":
        stage.come(item)
    seen = []

    def look():
        now = stage.clock.time
        seen.append(stage.scheduler.fleet.earliest_end(now) - now)

    stage.clock.at(start + HOST + DEVICE - 0.0002, look)  # b is launched, a runs
    stage.burst()
    assert seen == [pytest.approx(0.0002 + 2 * DEVICE, rel=0.05)]


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 1.0, 2.0]), st.sampled_from([0.0, 0.05]))
def test_whatever_comes_each_request_has_one_fate(seed, load, poison):
    """Nobody is lost, run after leaving, or answered twice; who is answered is in time."""
    rng, stage = Random(seed), Stage(most=4)
    at, fates, left = stage.learn(), {}, set()
    items = []
    for number in range(150):
        at += rng.expovariate(load * 4 / DEVICE)
        item = rng.choice(["launch", "collect"]) if rng.random() < poison else number
        allowed = rng.choice([math.inf, 0.03, 0.015])

        leaves = rng.random() < 0.1

        def arrive(item=item, allowed=allowed, leaves=leaves):
            request = stage.come(item, allowed)
            items.append(request)
            if leaves:

                def leave():
                    if stage.scheduler.queue.discard(request):
                        left.add(request)

                stage.clock.at(stage.clock.time + rng.expovariate(300), leave)

        stage.clock.at(at, arrive)
    deliver, heed = stage.deliver, stage.heed
    poisons = {}

    def noted(taken):
        count = sum(isinstance(request.item, str) for request in taken.batch)
        for request in taken.batch:
            poisons.setdefault(request, count)  # not what is run again
        return heed(taken)

    def checked(done):
        for request, outcome in zip(done[1], done[2], strict=True):
            assert request not in fates
            fates[request] = outcome
            # Of two in one batch of four it may look as if everything failed.
            if poisons[request] < 2:
                assert isinstance(outcome, Failure) == isinstance(request.item, str)
        deliver(done)

    stage.deliver, stage.heed = checked, noted
    while len(items) < 150 or stage.scheduler.queue.size:
        stage.burst()
        if not stage.scheduler.queue.size and len(items) < 150:
            stage.clock.run_until(stage.clock._coming[0][0])
    refused = {*stage.refused}
    assert len(refused) == len(stage.refused)
    assert not refused & fates.keys()
    assert not left & (fates.keys() | refused)
    assert len(fates) + len(refused) + len(left) == 150
    assert not stage.device.batch
    assert not stage.device.staged


# In threads


class Gated(InferenceModel):
    """Launched at once; each batch is collected when its gate is opened, or all are open."""

    def __init__(self):
        self.log = []
        self.gate = threading.Semaphore(0)
        self.open = True  # for the warm-up
        self.collecting = threading.Semaphore(0)
        self.closed = False

    def infer(self, inputs):
        return self.launch(inputs)()

    def launch(self, inputs):
        inputs = list(inputs)
        self.log.append(("launch", inputs))
        if "launch" in inputs:
            raise ValueError("launch")

        def collect():
            if not self.open:
                self.collecting.release()
                assert self.gate.acquire(timeout=PATIENCE)
            self.log.append(("collect", inputs))
            if "collect" in inputs:
                raise ValueError("collect")
            return [("answer", item) for item in inputs]

        return collect

    def close(self):
        self.closed = True

    async def collected(self):
        """Wait until one more batch is being waited for."""
        assert await host.in_thread(lambda: self.collecting.acquire(timeout=PATIENCE))


on_host = pytest.mark.usefixtures("on_host")


async def shut(model):
    model.log.clear()
    model.open = False


@pytest.fixture
def known(monkeypatch):
    """Have enough be known of a device to compose a batch ahead.

    The warm-up of a model that takes no time is a matter of microseconds on the real clock, and
    a first run that took four of the next one's is rightly taken for a compilation, and forgotten.
    """
    monkeypatch.setattr(LatencyModel, "trusted", lambda *_: True)


@on_host
async def test_results_reach_their_callers():
    """Whatever was launched when."""
    model = Gated()
    async with open_batcher(model, max_batch_size=3, warmup=[0]) as batcher:
        assert await batcher.infer_many(range(50)) == [("answer", item) for item in range(50)]
        statistics = batcher.statistics()
    assert statistics.items == statistics.completed == 50
    assert model.closed


@on_host
@pytest.mark.usefixtures("known")
async def test_two_batches_are_launched_and_both_counted_as_running():
    """In a thread as well; nothing is launched beyond."""
    model = Gated()
    async with open_batcher(model, max_batch_size=2, warmup=[0]) as batcher:
        await shut(model)
        async with host.open_nursery() as nursery:
            nursery.start_soon(batcher.infer_many, [*"abcde"])
            await model.collected()
            assert model.log == [("launch", ["a", "b"]), ("launch", ["c", "d"])]
            statistics = batcher.statistics()
            assert (statistics.running, statistics.waiting) == (4, 1)
            model.gate.release(3)
        statistics = batcher.statistics()
        assert (statistics.completed, statistics.running) == (5, 0)
        assert [kind for kind, _ in model.log].count("collect") == 3


@on_host
@pytest.mark.parametrize("how", ["left", "raised"])
async def test_leaving_waits_for_what_is_launched(how):
    """Left normally all is answered; left by an exception, what was launched is."""
    model, outcomes = Gated(), []

    async def call(item):
        try:
            outcomes.append(await batcher.infer(item))
        except BatcherClosed:
            outcomes.append("closed")

    async with host.open_nursery() as nursery:
        try:
            async with open_batcher(model, max_batch_size=2, warmup=[0]) as batcher:
                await shut(model)
                nursery.start_soon(call, "first")
                await model.collected()
                for item in range(5):
                    nursery.start_soon(call, item)
                await wait_all_tasks_blocked()
                model.gate.release(1)
                await model.collected()
                model.gate.release(5)
                if how == "raised":
                    raise KeyError(how)
        except KeyError:
            pass
        assert model.closed
    answered = [outcome for outcome in outcomes if outcome != "closed"]
    assert len(outcomes) == 6
    assert len(answered) == sum(map(len, items_of(model.log, "collect")))
    assert items_of(model.log, "launch") == items_of(model.log, "collect")
    if how == "left":
        assert len(answered) == 6


@on_host
@pytest.mark.usefixtures("known")
async def test_if_the_batcher_fails_those_in_either_batch_hear_of_it(monkeypatch):
    """And those who still wait; nobody hangs."""
    model, outcomes = Gated(), []

    async def call(batcher, item):
        try:
            outcomes.append(await batcher.infer(item))
        except BatcherCrashed:
            outcomes.append("crashed")

    with pytest.raises(BatcherCrashed):
        async with open_batcher(model, max_batch_size=2, warmup=[0]) as batcher:
            await shut(model)
            async with host.open_nursery() as nursery:
                nursery.start_soon(call, batcher, "first")
                await model.collected()
                for item in range(5):
                    nursery.start_soon(call, batcher, item)
                await wait_all_tasks_blocked()
                model.gate.release()
                await model.collected()
                # Two of them run, two are launched, one waits.
                assert len(items_of(model.log, "launch")) == 3
                monkeypatch.setattr("trio_batcher._bursts.Raised", "no class")
                model.gate.release(5)
    assert outcomes == [("answer", "first"), *["crashed"] * 5]
    assert model.closed


@on_host
async def test_one_that_overlaps_shares_a_device_as_others_do():
    """Nothing of it is on the device when the token goes on."""
    log, limiter = [], host.CapacityLimiter(1)
    models = [Gated(), Gated()]
    async with (
        open_batcher(models[0], max_batch_size=2, warmup=[0], limiter=limiter) as a,
        open_batcher(models[1], max_batch_size=2, warmup=[0], limiter=limiter) as b,
    ):
        for model in models:
            model.log = log
        log.clear()
        async with host.open_nursery() as nursery:
            nursery.start_soon(a.infer_many, ["a"] * 40)
            nursery.start_soon(b.infer_many, ["b"] * 40)
    launched = []
    for kind, items in log:
        if kind == "launch":
            launched += items
            assert len({*launched}) == 1
        else:
            del launched[: len(items)]
    assert launched == []
    assert limiter.borrowed_tokens == 0


@on_host
@pytest.mark.usefixtures("known")
async def test_a_caller_that_leaves_leaves_the_batches_to_the_others():
    """Its item was launched already: it goes at once, and nothing is run again."""
    model, answers = Gated(), []
    async with open_batcher(model, max_batch_size=2, warmup=[0]) as batcher:
        await shut(model)

        async def call(items):
            answers.extend(await batcher.infer_many(list(items)))

        scope = host.CancelScope()

        async def leave():
            with scope:
                await call("xy")

        async with host.open_nursery() as nursery:
            nursery.start_soon(call, "ab")
            await model.collected()
            for start in [leave, partial(call, "cd")]:
                nursery.start_soon(start)
                await wait_all_tasks_blocked()
            model.gate.release()
            await model.collected()
            assert items_of(model.log, "launch") == [["a", "b"], ["x", "y"], ["c", "d"]]
            scope.cancel()
            await wait_all_tasks_blocked()
            assert batcher.statistics().cancelled == 2
            model.gate.release(2)
        assert answers == [("answer", item) for item in "abcd"]
        assert len(items_of(model.log, "launch")) == 3


@on_host
@pytest.mark.parametrize("where", ["launch", "collect"])
async def test_a_poison_input_fails_alone(where):
    """Among 31 good ones, in whatever batch it comes."""
    model = Gated()
    async with open_batcher(model, max_batch_size=8, warmup=[0]) as batcher:
        outcomes = []

        async def call(item):
            try:
                outcomes.append(await batcher.infer(item))
            except ModelError as exc:
                outcomes.append(str(exc.__cause__))

        async with host.open_nursery() as nursery:
            for item in range(31):
                nursery.start_soon(call, item)
            nursery.start_soon(call, where)
        assert outcomes.count(where) == 1
        assert sorted(o for o in outcomes if o != where) == [("answer", i) for i in range(31)]


@on_host
@pytest.mark.parametrize("overlaps", [False, True])
async def test_a_model_says_whether_launching_is_worth_while(overlaps):
    """If not, it is a model like any other."""

    class Model(InferenceModel):
        def __init__(self):
            self.overlaps = overlaps

        def infer(self, inputs):
            return ["inferred"] * len(inputs)

        def launch(self, inputs):
            return lambda: ["launched"] * len(inputs)

    async with open_batcher(Model) as batcher:
        assert await batcher.infer(1) == ("launched" if overlaps else "inferred")


def test_an_async_launch_is_refused():
    """As an async `infer` is."""

    class Model(Gated):
        async def launch(self, inputs):
            raise AssertionError

    with pytest.raises(TypeError, match=r"Model\.launch must not be async"):
        open_batcher(Model)


@on_host
async def test_a_launch_that_returns_no_function_fails_its_callers():
    """With an error that names what it was."""

    class Model(Gated):
        def launch(self, inputs):
            return None

    async with open_batcher(Model()) as batcher:
        with pytest.raises(ModelError, match="NoneType"):
            await batcher.infer(1)
