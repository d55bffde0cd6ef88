"""The scheduler: what is planned while a device runs, and what becomes of it. On made-up time."""

from __future__ import annotations

import math
from itertools import count, pairwise
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings, strategies as st

from trio_batcher._device import Device
from trio_batcher._latency import LatencyModel
from trio_batcher._model import as_sources
from trio_batcher._policy import Limits
from trio_batcher._queue import Request
from trio_batcher._scheduler import Scheduler
from trio_batcher._selection import PATIENCE

FIXED, PER_ITEM, LARGEST = 0.010, 0.001, 8
FULL = FIXED + PER_ITEM * LARGEST
# What deciding takes.
TICK = 0.0003


def seconds(size: int) -> float:
    return FIXED + PER_ITEM * size


class Clock:
    """A clock that every look at moves on: between two of them something was decided."""

    def __init__(self, tick: float) -> None:
        self.time, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.time += self.tick
        return self.time


class Stage:
    """One device, known and warm, and its scheduler."""

    def __init__(self, tick: float = TICK, model=lambda items: items) -> None:
        self.clock, self._numbers = Clock(tick), count()
        (source,) = as_sources(model)
        self.device = Device(
            source, LARGEST, SimpleNamespace(now=self.clock, call=None, doorbell=object)
        )
        for size in (1, 2, 3, 5, LARGEST) * 4:
            self.device.latency.observe(size, seconds(size), 0.0)
        self.device.latency.refresh()
        self.scheduler = Scheduler([self.device], Limits(LARGEST, 0.0), self.clock)

    def come(self, *allowances: float, weight: float = 1.0) -> list[Request]:
        """Let requests come now, as the engine does it."""
        now, come = self.clock.time, []
        for allowance in allowances:
            request = Request(next(self._numbers), now + allowance, now, weight)
            come.append(request)
            with self.scheduler.lock:
                self.scheduler.queue.add(request)
                if due := now >= self.scheduler.plan_from:
                    self.scheduler.call_for_plan()
            if due:
                self.scheduler.plan_ahead()
                self.clock.time = now
        return come

    def take(self) -> list[Request]:
        return self.scheduler.take(self.device).batch

    def run_until(self, left: float) -> None:
        """Let the time pass until so much is left of the running batch."""
        self.clock.time = self.device.free_at() - left

    def pressed(self) -> list[Request]:
        """More wait than a batch can hold; the device runs, and knows what deciding takes.

        Those who are left would all be on time in a batch of their own.
        """
        self.come(math.inf, *[4 * FULL] * (3 * LARGEST))  # of two kinds: there is a choice
        ran = self.take()
        assert len(ran) == LARGEST
        assert self.device.deciding == pytest.approx(TICK)
        return ran


def decisions(stage: Stage, monkeypatch) -> list[float]:
    """Count what is decided while the device waits."""
    decided = []
    decide = stage.scheduler._decide

    def counted(device, now):
        decided.append(now)
        return decide(device, now)

    monkeypatch.setattr(stage.scheduler, "_decide", counted)
    return decided


def test_what_was_planned_is_run_without_another_decision(monkeypatch):
    """A device that is free when it should be waits for nothing."""
    stage = Stage()
    stage.pressed()
    decided = decisions(stage, monkeypatch)
    stage.run_until(2 * TICK)
    (newcomer,) = stage.come(4 * FULL)
    plan = stage.device.plan
    assert plan is not None
    stage.run_until(0.0)
    assert stage.take() == plan.batch
    assert newcomer not in plan.batch
    assert decided == []


def test_a_plan_is_made_in_the_last_moments_and_renewed_as_others_come():
    """Too early it would leave out too many; who comes later may still be in it."""
    stage = Stage()
    stage.pressed()
    stage.run_until(20 * TICK)
    stage.come(4 * FULL)
    assert stage.device.plan is None
    stage.run_until(11.5 * TICK)
    stage.come(4 * FULL)
    first = stage.device.plan
    assert first is not None
    stage.run_until(8 * TICK)
    stage.come(4 * FULL)
    assert stage.device.plan is first
    stage.run_until(2 * TICK)
    # It cannot wait for the batch after the next one, unlike all others.
    (urgent,) = stage.come(FULL + 8 * TICK)
    assert urgent in stage.device.plan.batch
    stage.run_until(0.0)
    assert urgent in stage.take()


def test_without_a_choice_nothing_is_planned():
    """If all fit into the next batch, whoever comes in the last moment does so too."""
    stage = Stage()
    stage.pressed()
    while stage.scheduler.queue.size:
        stage.run_until(0.0)
        stage.take()
    stage.run_until(5 * TICK)
    waiting = stage.come(4 * FULL, 4 * FULL)
    assert stage.device.plan is None
    stage.run_until(0.0)
    assert stage.take() == waiting


def test_first_come_first_served_is_not_planned_however_many_wait():
    """Those who are alike are no choice: nothing is gained by looking at them twice."""
    stage = Stage()
    stage.come(*[math.inf] * (9 * LARGEST))
    stage.take()
    assert stage.device.deciding == 0.0
    assert stage.scheduler.plan_from == math.inf


def test_an_idle_device_has_no_plan():
    """It would keep requests alive that have long been answered, and be looked at for nothing."""
    stage = Stage()
    stage.pressed()
    stage.run_until(5 * TICK)
    stage.come(4 * FULL)
    assert stage.device.plan is not None
    stage.scheduler.queue.clear()
    stage.run_until(0.0)
    assert stage.take() == []
    assert stage.device.plan is None
    assert stage.device.plan_from == math.inf


def test_who_left_is_not_run_whatever_was_planned():
    """A cancelled member of a plan is gone; the others run without it."""
    stage = Stage()
    stage.pressed()
    stage.run_until(5 * TICK)
    stage.come(4 * FULL)
    planned = stage.device.plan.batch
    stage.scheduler.queue.discard(planned[3])
    stage.run_until(0.0)
    assert stage.take() == [*planned[:3], *planned[4:]]


@pytest.mark.parametrize("gone", [2, LARGEST])
def test_if_too_many_left_the_batch_is_decided_anew(gone):
    """Their seats go to others."""
    stage = Stage()
    stage.pressed()
    stage.run_until(5 * TICK)
    stage.come(4 * FULL)
    planned = stage.device.plan.batch
    for request in planned[:gone]:
        stage.scheduler.queue.discard(request)
    stage.run_until(0.0)
    batch = stage.take()
    assert len(batch) == LARGEST
    assert not {*planned[:gone]} & {*batch}


@pytest.mark.parametrize("late", [-FULL / 8, FULL / 8, 3 * FULL])
def test_a_device_that_is_free_at_another_time_decides_anew(monkeypatch, late):
    """A plan is for an instant: earlier more could be on time, later fewer are."""
    stage = Stage()
    stage.pressed()
    stage.run_until(5 * TICK)
    stage.come(4 * FULL)
    decided = decisions(stage, monkeypatch)
    stage.run_until(-late)
    batch = stage.take()
    assert len(decided) == 1
    assert all(request.deadline >= stage.clock.time + seconds(len(batch)) for request in batch)


def test_who_would_be_late_by_now_is_left_out_of_a_planned_batch():
    """A promise to be on time is checked at the last instant."""
    stage = Stage()
    stage.pressed()
    at = stage.device.free_at()
    stage.run_until(5 * TICK)
    (tight,) = stage.come(at - stage.clock.time + FULL + TICK / 2)
    stage.run_until(3 * TICK)
    stage.come(4 * FULL)
    assert tight in stage.device.plan.batch
    planned = stage.device.plan.batch
    stage.run_until(-TICK / 2)
    assert stage.take() == [request for request in planned if request is not tight]


def test_those_whom_a_planned_batch_makes_hopeless_are_found_when_its_forerunner_is_delivered():
    """They hear of it before their deadlines, although nobody looked when it was taken."""
    stage = Stage()
    stage.pressed()
    stage.run_until(5 * TICK)
    # Many of the same urgency: not all of them can be in the next batch, nor in the one after it.
    urgent = stage.come(*[FULL + 8 * TICK] * (2 * LARGEST))
    stage.run_until(0.0)
    batch = stage.take()
    hopeless = stage.scheduler.note_delivery(stage.device, stage.clock.time, TICK)
    assert {*hopeless} == {*urgent} - {*batch}
    assert hopeless
    assert all(request.deadline > stage.clock.time for request in hopeless)


async def _model(items):
    return items


@pytest.mark.parametrize("stage", [Stage(tick=0.0), Stage(model=_model)], ids=["no time", "async"])
def test_where_it_gains_nothing_nothing_is_planned(stage):
    """If deciding takes no time, or the model runs where decisions are made."""
    stage.come(math.inf, *[4 * FULL] * (3 * LARGEST))
    stage.take()
    assert stage.scheduler.plan_from == math.inf
    stage.run_until(0.0)
    stage.come(4 * FULL)
    assert stage.device.plan is None


def test_a_decision_that_was_held_up_makes_no_plan_in_the_first_half_of_a_batch():
    """A pause in a decision is no reason to decide a whole batch ahead."""
    stage = Stage(tick=FULL)
    stage.come(math.inf, *[40 * FULL] * (3 * LARGEST))
    stage.take()
    begun = stage.device.free_at() - FULL
    assert stage.scheduler.plan_from == pytest.approx(begun + FULL / 2)


def test_plans_are_made_ever_more_often_until_the_device_is_free():
    """So that the last one is fresh: those who come while it is made are all that it misses."""
    stage = Stage(tick=TICK / 100)
    stage.come(math.inf, *[4 * FULL] * (3 * LARGEST))
    stage.take()
    end, planned = stage.device.free_at(), []
    while (now := stage.scheduler.plan_from) < end:
        stage.clock.time = now
        stage.come(4 * FULL)
        planned.append(end - now)
    assert len(planned) > 3
    steps = [before - after for before, after in pairwise(planned)]
    assert steps == sorted(steps, reverse=True)
    assert planned[-1] <= 2 * stage.device.deciding


def test_nothing_is_planned_for_a_device_that_is_not_known():
    """When it will be free, nobody can tell."""
    stage = Stage()
    stage.device.latency = LatencyModel(LARGEST)
    stage.come(math.inf, *[4 * FULL] * (3 * LARGEST))
    assert stage.take()
    assert stage.device.deciding > 0.0
    assert stage.scheduler.plan_from == math.inf
    stage.come(4 * FULL)
    assert stage.device.plan is None


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.6, 1.0, 2.0]), st.sampled_from([0.0, 0.01, 0.1]))
def test_whatever_is_planned_each_request_has_one_fate_and_hears_of_it_in_time(seed, load, noise):
    """Nobody is run twice, nor after leaving, nor on a promise that cannot be kept."""
    rng, stage = Random(seed), Stage()
    device, scheduler, clock = stage.device, stage.scheduler, stage.clock
    fates: dict[Request, str] = {}
    arrives, ends, coming = 0.0, 0.0, 300
    steady, before = True, 0.0
    while coming or device.batch:
        if coming and (device.batch is None or arrives <= ends):
            clock.time = max(clock.time, arrives)
            arrives += rng.expovariate(load * LARGEST / FULL)
            coming -= 1
            stage.come(rng.choice((1.5, 3.0)) * FULL, weight=rng.choice((1.0, 1.0, 4.0)))
            if rng.random() < 0.05:
                leaving = rng.choice([*scheduler.queue])
                scheduler.queue.discard(leaving)
                fates[leaving] = "left"
            if device.batch:
                continue
        clock.time = max(clock.time, ends)
        steady = steady and device.latency.residuals.steady
        taken = scheduler.take(device)
        if taken.batch:
            # What cannot be in time is run only if nothing that waits can. Of an erratic device
            # it is not known who can.
            waiting = [*taken.batch, *taken.hopeless, *scheduler.queue]
            alone = device.latency.floors[1]
            bound = (
                device.latency.bounds[len(taken.batch)]
                if device.latency.residuals.steady
                else alone
            )
            assert all(
                request.deadline >= taken.now + bound - 1e-6 for request in taken.batch
            ) or all(request.deadline < taken.now + alone + 1e-6 for request in waiting)
        for request in [*taken.hopeless, *scheduler.note_delivery(device, clock.time, 0.0)]:
            assert request not in fates
            assert request.lane is None
            fates[request] = "turned away"
            # Nobody has been told later than the forerunner of a batch was delivered; nor, if
            # that might have been quicker than it was, has anybody who was late when it began.
            assert request.deadline > (taken.now if steady else before) - TICK
        for request in taken.batch:
            assert request not in fates
            fates[request] = "ran"
        steady, before = device.latency.residuals.steady, taken.now
        if taken.batch:
            ends = taken.now + seconds(len(taken.batch)) * rng.gauss(1.0, noise)
            device._measured.append((len(taken.batch), ends - taken.now, ends))
    assert len(fates) == 300
    assert scheduler.queue.size == 0


def test_those_behind_a_batch_that_nobody_can_serve_are_told_while_it_runs():
    """Even if that is all who wait: the device is busy until it is too late."""
    stage = Stage()
    (first,) = stage.come(math.inf)
    assert stage.take() == [first]
    stage.run_until(left=0.001)
    stage.clock.time -= 0.005
    late = stage.come(0.008, 0.009)
    assert stage.scheduler.note_delivery(stage.device, stage.clock.time, 0.0) == late
    assert stage.scheduler.queue.size == 0


def test_what_would_be_late_is_left_to_a_device_that_is_free():
    """It runs that if it is all there is; if other requests wait, they have its time."""
    stage = Stage()
    late = stage.come(0.005)
    assert stage.scheduler.note_delivery(stage.device, stage.clock.time, 0.0) == []
    assert stage.scheduler.queue.size == 1
    stage.come(1.0)
    assert stage.scheduler.note_delivery(stage.device, stage.clock.time, 0.0) == late


def test_a_deadline_is_far_beyond_the_patience_that_others_need():
    """It waits in turn; as it comes near, it is chosen by that."""
    stage = Stage()
    assert stage.scheduler.note_delivery(stage.device, stage.clock.time, 0.0) == []
    horizon = stage.scheduler.queue.horizon
    assert horizon == pytest.approx(PATIENCE * FULL, rel=0.01)
    stage.come(0.9 * horizon, 1.1 * horizon)
    assert stage.scheduler.queue.undue_size == 1
    stage.clock.time += 0.2 * horizon
    assert stage.scheduler.note_delivery(stage.device, stage.clock.time, 0.0) == []
    assert stage.scheduler.queue.undue_size == 0


def test_before_a_batch_has_ended_no_deadline_is_far():
    """Nobody knows how long a turn takes."""
    stage = Stage()
    stage.device.latency = LatencyModel(LARGEST)
    assert stage.scheduler.note_delivery(stage.device, stage.clock.time, 0.0) == []
    assert stage.scheduler.queue.horizon == math.inf
