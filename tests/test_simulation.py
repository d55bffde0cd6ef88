"""The yardstick for policies measures what it says: arrivals, classic policies, the playing."""

from __future__ import annotations

import json
import math
import statistics
from itertools import pairwise

import pytest

from tests.simulation import optima
from tests.simulation.arrivals import KINDS, Arrival, RequestClass, Service, times, trace
from tests.simulation.classics import (
    CLASSICS,
    drop_expired,
    fixed_window,
    greedy,
    head_sized,
    max_window,
    planned_size,
    sliding_window,
)
from tests.simulation.play import Choice, Fate, play, serve
from tests.simulation.workloads import CELLS, EQUAL, MIXED, NOISY, PADDED, REAL, SEEDS

# Whole numbers: n take 10 + n.
DEVICE = Service(fixed=10.0, per_item=1.0, most=4)


def requests(*several: tuple[float, float]) -> list[Arrival]:
    """Arrivals of (time, deadline)."""
    return [Arrival(time, deadline - time, 1) for time, deadline in several]


def batches(played):
    return [(batch.began, batch.requests) for batch in played.batches]


# Arrivals


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_come_as_claimed(kind):
    found = [times(kind, 1000.0, 40_000, seed) for seed in range(8)]
    assert sum(map(len, found)) / sum(each[-1] for each in found) == pytest.approx(1000.0, rel=0.1)
    assert all(each == sorted(each) for each in found)


@pytest.mark.parametrize(("kind", "claimed"), [("poisson", 1.0), ("gamma", 4.0)])
def test_gaps_vary_as_claimed(kind, claimed):
    gaps = [later - sooner for sooner, later in pairwise(times(kind, 1000.0, 100_000, 1))]
    squared = statistics.variance(gaps) / statistics.fmean(gaps) ** 2
    assert squared == pytest.approx(claimed, rel=0.1)


def test_bursts_and_square_change_their_rate():
    square = times("square", 1000.0, 100_000, 1)
    busy = sum(each % 0.4 < 0.2 for each in square) / len(square)
    assert busy == pytest.approx(0.8, abs=0.01)  # 1.6 : 0.4
    # In 10 ms come 30 or 3, almost never 10.
    bursts = times("bursts", 1000.0, 100_000, 1)
    counts = [0] * (int(bursts[-1] * 100) + 1)
    for each in bursts:
        counts[int(each * 100)] += 1
    high = [count for count in counts if count > 15]
    assert len(high) / len(counts) == pytest.approx(0.25, abs=0.05)
    assert statistics.fmean(high) == pytest.approx(30, rel=0.1)


def test_a_trace_is_drawn_from_its_seed_and_classes():
    classes = (RequestClass(0.04, 4, 0.25), RequestClass(0.12, 1, 0.75))
    drawn = trace("poisson", 100.0, 4000, 1, classes)
    assert drawn == trace("poisson", 100.0, 4000, 1, classes)
    assert drawn != trace("poisson", 100.0, 4000, 2, classes)
    assert [each.time for each in drawn] == times("poisson", 100.0, 4000, 1)
    heavy = [each for each in drawn if each.weight == 4]
    assert len(heavy) / len(drawn) == pytest.approx(0.25, abs=0.03)
    assert {each.allowance for each in heavy} == {0.04}
    assert heavy[0].deadline == heavy[0].time + 0.04


def test_a_service_is_a_line_or_a_staircase():
    assert DEVICE.table == [0.0, 11.0, 12.0, 13.0, 14.0]
    assert Service(10.0, 1.0, 6, padded=True).table == [0, 11, 12, 14, 14, 16, 16]
    assert Service().capacity == pytest.approx(32 / 0.042)


# Playing, and the classics


def test_greedy_runs_whoever_waits():
    played = play(
        requests((0, 11), (1, 99), (1, 20), (2, 99), (3, 99), (4, 99)), DEVICE, greedy(DEVICE)
    )
    assert batches(played) == [(0, [0]), (11, [1, 2, 3, 4]), (25, [5])]
    fates = [Fate.ON_TIME, Fate.ON_TIME, Fate.LATE, *[Fate.ON_TIME] * 3]
    assert played.fates == fates
    assert played.answered == [11, 25, 25, 25, 25, 36]
    assert played.latencies() == [11, 22, 23, 24, 32]
    assert played.waits() == {0: 0, 1: 10, 2: 10, 3: 9, 4: 8, 5: 21}
    assert (played.earned, played.mean_batch) == (5, 2)
    assert [played.count(fate) for fate in Fate] == [5, 1, 0, 0]
    assert played.count(*Fate) == 6


def test_what_is_earned_is_weight():
    arrivals = [Arrival(0.0, 20.0, 3), Arrival(0.0, 12.0, 5), Arrival(0.0, 11.0, 7)]
    assert play(arrivals, DEVICE, greedy(DEVICE)).earned == 3


def test_a_window_waits_for_companions():
    policy = fixed_window(DEVICE, 5.0)
    played = play(requests((0, 99), (3, 99), (6, 99)), DEVICE, policy)
    assert batches(played) == [(5, [0, 1]), (17, [2])]
    played = play(requests((0, 99), (1, 99), (2, 99), (3, 99), (3.5, 99)), DEVICE, policy)
    assert batches(played) == [(3, [0, 1, 2, 3]), (17, [4])]


def test_the_expired_can_be_dropped():
    played = play(requests((0, 99), (1, 10), (1, 12)), DEVICE, drop_expired(DEVICE))
    assert batches(played) == [(0, [0]), (11, [2])]
    assert played.fates == [Fate.ON_TIME, Fate.LOST, Fate.LATE]


def test_a_batch_is_sized_to_the_oldest():
    played = play(
        requests((0, 99), (1, 20), (1, 23.5), (1, 99), (1, 99), (1, 99)),
        DEVICE,
        head_sized(DEVICE),
    )
    # The one due at 20 has no chance at 11; the next leaves 12.5, and two take 12.
    assert batches(played) == [(0, [0]), (11, [2, 3]), (23, [4, 5])]
    assert played.fates[1] is Fate.REJECTED
    assert played.answered[1] == 11


def test_a_window_slides_until_its_oldest_is_in_time():
    waiting = [(1, 23.5), (1, 24.5), (1, 25), (1, 26), (1, 27), (1, 28)]
    played = play(requests((0, 99), *waiting), DEVICE, sliding_window(DEVICE, 4))
    # Four at 11 take until 25: the third of those waiting is the first that allows it.
    assert batches(played) == [(0, [0]), (11, [3, 4, 5, 6])]
    assert played.fates[1:3] == [Fate.REJECTED] * 2
    played = play(requests((0, 99), *waiting), DEVICE, sliding_window(DEVICE, 2))
    assert batches(played) == [(0, [0]), (11, [1, 2])]


def test_the_largest_window_passes_over_the_fewest():
    waiting = [(1, 26), (1, 23.5), (1, 27), (1, 28), (1, 60)]
    played = play(requests((0, 99), *waiting), DEVICE, max_window(DEVICE))
    # By deadline 23.5 allows two, 26 four. Nobody tells the one passed over.
    assert batches(played) == [(0, [0]), (11, [1, 3, 4, 5])]
    assert played.fates[2] is Fate.LOST
    # Who cannot be in time is dropped; who is passed over has its chance if there is one.
    played = play(requests((0, 99), (1, 21), (1, 22)), DEVICE, max_window(DEVICE))
    assert batches(played) == [(0, [0]), (11, [2])]
    assert played.fates[1] is Fate.REJECTED
    steep = Service(fixed=1.0, per_item=1.0, most=2)
    waiting = [(0, 2.5), (0, 9), (0, 9)]
    assert batches(play(requests(*waiting), steep, max_window(steep))) == [(0, [1, 2])]
    waiting = [(0, 5.5), (0, 3), (0, 3), (0, 3)]
    played = play(requests(*waiting), steep, max_window(steep))
    assert batches(played) == [(0, [1, 2]), (3, [0])]


def test_a_size_is_planned_for_the_strictest():
    service = Service()
    assert planned_size(service, [RequestClass(0.060)]) == 20
    assert planned_size(service, [RequestClass(0.100)]) == 32
    assert planned_size(service, [RequestClass(0.040), RequestClass(0.120)]) == 10
    assert planned_size(service, [RequestClass(0.001)]) == 1


@pytest.mark.parametrize("name", CLASSICS)
@pytest.mark.parametrize("load", [0.5, 2.0])
def test_every_classic_settles_everybody(name, load):
    service, classes = Service(), (RequestClass(0.040, share=0.5), RequestClass(0.120, share=0.5))
    drawn = trace("bursts", load * service.capacity, 600, 3, classes)
    played = play(drawn, service, CLASSICS[name](service, classes))
    run = [each for batch in played.batches for each in batch.requests]
    assert len(run) == len(set(run)) == played.count(Fate.ON_TIME, Fate.LATE)
    assert math.inf not in played.answered
    assert all(later.began >= sooner.ended for sooner, later in pairwise(played.batches))
    assert all(0 < len(batch.requests) <= service.most for batch in played.batches)
    assert all(
        batch.began >= drawn[each].time for batch in played.batches for each in batch.requests
    )
    assert played.earned == played.count(Fate.ON_TIME)


def test_a_policy_that_does_nothing_is_told():
    with pytest.raises(ValueError, match="neither runs"):
        play(requests((0, 99)), DEVICE, lambda waiting, now: Choice())
    with pytest.raises(ValueError, match="neither runs"):
        play(requests((0, 99)), DEVICE, lambda waiting, now: Choice(until=now))


# The library


def through_the_library(arrivals, **keywords):
    return serve(arrivals, lambda size, _: DEVICE.seconds(size), DEVICE.most, **keywords)


def test_the_library_is_greedy_when_there_is_time():
    arrivals = requests((0, 500), (1, 501), (2, 502), (20, 520), (100, 600), (150, 650))
    ours = through_the_library(arrivals)
    theirs = play(arrivals, DEVICE, greedy(DEVICE))
    alone = [(100, [4]), (150, [5])]
    assert batches(ours) == batches(theirs) == [(0, [0]), (11, [1, 2]), (23, [3]), *alone]
    assert ours.fates == theirs.fates == [Fate.ON_TIME] * 6
    assert ours.answered == theirs.answered
    assert ours.earned == 6


def test_the_library_gives_every_fate():
    known = [(time, time + 50) for time in range(0, 300, 30)]
    arrivals = requests(
        (0, 5),  # it cannot know yet
        (1, 6),  # nor here
        *((time + 100, deadline + 100) for time, deadline in known),
        (371, 376),  # behind a batch that runs
    )
    played = through_the_library(arrivals)
    assert played.fates == [Fate.LATE, Fate.LOST, *[Fate.ON_TIME] * 10, Fate.REJECTED]
    assert played.answered[-1] == 371
    assert played.answered[1] == math.inf  # nobody told it


def test_a_warmed_up_library_knows_at_once():
    played = through_the_library(requests((0, 50), (1, 6)), warmup=True)
    assert played.fates == [Fate.ON_TIME, Fate.REJECTED]
    assert batches(played) == [(0, [0])]


def test_the_library_has_the_time_of_the_trace():
    seen = []

    def seconds(size, now):
        seen.append((size, now))
        return 10.0

    serve(requests((3, 500), (5, 500), (6, 500)), seconds, 4)
    assert seen == [(1, 3.0), (2, 13.0)]


# The optima


def test_cells_are_told_apart():
    for cells in (EQUAL + MIXED, REAL, PADDED, NOISY):
        assert len({cell.name for cell in cells}) == len(cells)
    assert (len(EQUAL), len(MIXED)) == (64, 40)


@pytest.mark.parametrize("at", range(0, len(CELLS), 17))
def test_the_file_has_every_optimum(at):
    filed = json.loads(optima.FILE.read_text(encoding="ascii"))
    cell, seeds = CELLS[at]
    assert all(0 < filed[optima.key(cell, seed)] <= 4 * cell.count for seed in seeds)
    if cell.heaviest:
        alone = [filed[optima.key(cell, seed, "heavy alone")] for seed in seeds]
        assert all(0 < each <= cell.count for each in alone)


def test_the_file_is_right():
    pytest.importorskip("numpy", reason="the optimum is worked out in numpy arrays")
    cell = EQUAL[3]
    assert optima.computed(cell, SEEDS[0]) == optima.optimum(cell, SEEDS[0])
    mixed = MIXED[16]
    alone = optima.computed(mixed, SEEDS[0], "heavy alone")
    assert alone == optima.heavy_alone(mixed, SEEDS[0])


def test_nobody_beats_the_optimum():
    for cell in (EQUAL[2], MIXED[3], PADDED[2]):
        for make in CLASSICS.values():
            played = play(cell.trace(100), cell.service, make(cell.service, cell.classes))
            assert played.earned <= optima.optimum(cell, 100)
        played = serve(cell.trace(100), lambda size, _: cell.service.seconds(size), 32)  # noqa: B023
        assert 0 < played.earned <= optima.optimum(cell, 100)
