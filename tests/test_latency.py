"""The latency model: a line through batches, and bounds that never turn anybody down wrongly."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import assume, example, given, strategies as st

from trio_batcher._latency import LatencyFit, LatencyModel

NOW = 100.0

seconds = st.floats(1e-6, 10.0)
seconds_or_none = st.just(0.0) | seconds
sizes = st.integers(1, 256)


def line(fixed: float, per_item: float):
    return lambda size: fixed + per_item * size


def taught(truth, observed, now: float = NOW) -> LatencyModel:
    """A model that has seen a batch of each of these sizes."""
    model = LatencyModel()
    for size in observed:
        model.observe(size, truth(size), now)
    return model


def test_nothing_is_known_at_first():
    """No fit, no estimate, and nobody is called late."""
    model = LatencyModel()
    assert model.fit is None
    assert model.alone == model.estimate(1) == model.estimate(32) == 0.0
    assert model.at_least(1, NOW) == model.at_least(32, NOW) == 0.0
    assert model.at_most(1) == model.at_most(32) == 0.0


@given(seconds_or_none, seconds_or_none, st.lists(sizes, min_size=2, max_size=60), sizes)
def test_noise_free_batches_give_their_line_back(fixed, per_item, observed, size):
    """Two sizes are enough: every other size is estimated exactly."""
    assume(len(set(observed)) > 1)
    truth = line(fixed, per_item)
    model = taught(truth, observed)
    assert model.fit.fixed == pytest.approx(fixed, rel=1e-3, abs=1e-6 + 1e-3 * truth(1))
    assert model.fit.per_item == pytest.approx(per_item, rel=1e-3, abs=1e-6 + 1e-3 * truth(1))
    assert model.estimate(size) == pytest.approx(truth(size), rel=1e-3, abs=1e-9)


@given(seconds_or_none, seconds_or_none, st.lists(sizes, min_size=1, max_size=60), sizes)
@example(0.005, 0.0, [1, 1], 32)
@example(0.005, 0.001, [32, 32], 1)
@example(0.005, 0.001, [1, 32, *[32] * 800], 1)
@example(0.005, 0.001, [32, 1, *[1] * 800], 32)
@example(0.005, 0.001, [1, *[4, 5] * 400], 256)
def test_at_least_is_never_more_than_the_truth(fixed, per_item, observed, size):
    """Whatever was seen of a line, a batch of any size does take that long."""
    truth = line(fixed, per_item)
    model = LatencyModel()
    for seen in observed:
        model.observe(seen, truth(seen), NOW)
        assert 0.0 <= model.at_least(size, NOW) <= truth(size)
        assert 0.0 <= model.alone <= truth(1)


@given(seconds_or_none, seconds_or_none, st.lists(sizes, min_size=1, max_size=60), sizes)
@example(0.005, 0.001, [32, 32], 1)
@example(0.005, 0.0, [8], 1)
@example(0.005, 0.001, [1, 32, *[32] * 800], 1)
def test_at_most_is_never_less_than_the_truth(fixed, per_item, observed, size):
    """Whatever was seen of a line, a batch of any size takes no longer than that."""
    truth = line(fixed, per_item)
    model = LatencyModel()
    for seen in observed:
        model.observe(seen, truth(seen), NOW)
        assert model.at_most(size) >= truth(size)


@given(st.lists(st.tuples(sizes, seconds), min_size=1, max_size=40), sizes)
def test_the_line_never_has_negative_parts(batches, size):
    """Larger batches take longer, and none takes less than no time, whatever was seen."""
    model = LatencyModel()
    for seen, duration in batches:
        model.observe(seen, duration, NOW)
    fit = model.fit
    assert fit.fixed >= 0.0
    assert fit.per_item >= 0.0
    assert fit.deviation >= 0.0
    assert model.estimate(size) == fit.fixed + fit.per_item * size
    assert model.at_least(size, NOW) >= 0.0
    assert model.at_least(size, NOW) <= model.at_most(size)
    assert model.alone == model.at_least(1, NOW)


@given(st.lists(st.tuples(sizes, seconds), min_size=1, max_size=40), sizes)
def test_at_least_is_never_more_than_a_recent_batch_took(batches, size):
    """A batch as large that was quicker proves that a smaller one can be."""
    model = LatencyModel()
    for seen, duration in batches:
        model.observe(seen, duration, NOW)
    for seen, duration in batches[-8:]:
        if seen >= size:
            assert model.at_least(size, NOW) <= duration


def test_one_size_seen_is_taken_for_proportional():
    """With no other size to compare, half a batch is estimated to take half as long."""
    model = taught(lambda _: 0.8, [8, 8, 8])
    assert model.fit == LatencyFit(0.0, pytest.approx(0.1), pytest.approx(0.0))
    assert model.estimate(4) == pytest.approx(0.4)
    assert model.estimate(16) == pytest.approx(1.6)


def test_one_size_seen_promises_nothing_of_larger_ones():
    """After lone requests only, a full batch may take as long as one: nobody is late for sure."""
    model = taught(lambda _: 0.1, [1, 1, 1])
    assert model.at_least(1, NOW) == pytest.approx(0.099)
    assert model.at_least(32, NOW) == pytest.approx(0.099)
    assert model.at_most(32) == pytest.approx(3.2 / 0.99)


def test_one_size_seen_promises_little_of_smaller_ones():
    """After full batches only, a lone request may take its share, or as long as a full batch."""
    model = taught(lambda _: 0.32, [32, 32, 32])
    assert model.at_least(1, NOW) == pytest.approx(0.0099)
    assert model.at_most(1) == pytest.approx(0.32 / 0.99)


def test_a_single_batch_proves_nothing():
    """The first batch of many models compiles: only with the second is anybody called late."""
    model = LatencyModel()
    model.observe(4, 10.0, NOW)
    assert model.at_least(1, NOW) == model.at_least(4, NOW) == model.alone == 0.0
    assert model.estimate(4) == pytest.approx(10.0)
    model.observe(4, 10.0, NOW)
    assert model.at_least(4, NOW) == pytest.approx(9.9)


@given(sizes, sizes, sizes)
@example(32, 1, 32)
@example(1, 32, 1)
@example(8, 8, 64)
def test_a_slow_first_batch_locks_nobody_out(first, second, size):
    """The first batch 100 times slower: from the second one on what that took is enough."""
    truth = line(0.005, 0.001)
    model = LatencyModel()
    model.observe(first, 100.0 * truth(first), NOW)
    assert model.at_least(size, NOW) == 0.0
    model.observe(second, truth(second), NOW)
    assert model.at_least(size, NOW) <= truth(second)


def test_a_slow_first_batch_is_forgotten():
    """After a hundred ordinary batches the estimate is the ordinary one again."""
    truth = line(0.005, 0.001)
    model = LatencyModel()
    model.observe(1, 100.0 * truth(1), NOW)
    for i in range(100):
        size = 1 + i % 32
        model.observe(size, truth(size), NOW)
    for size in (1, 16, 32):
        assert model.estimate(size) == pytest.approx(truth(size), rel=0.15)


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_the_line_follows_a_device_that_changes(factor):
    """A device that becomes slower or faster is known for that after some dozens of batches."""
    before, after = line(0.010, 0.002), line(0.010 * factor, 0.002 * factor)
    model = taught(before, [1 + i % 16 for i in range(200)])
    for i in range(150):
        size = 1 + i % 16
        model.observe(size, after(size), NOW)
    for size in (1, 8, 16, 64):
        assert model.estimate(size) == pytest.approx(after(size), rel=0.01)
        assert 0.5 * after(min(size, 15)) <= model.at_least(size, NOW) <= after(size)
        assert after(size) <= model.at_most(size) <= 1.5 * after(size)


def test_deviation_is_that_of_the_batches_around_the_line():
    """With noise of a known size, its size is what is found, and the line is found within it."""
    truth, noise = line(0.020, 0.001), random.Random(1)
    model = taught(
        lambda size: truth(size) + noise.gauss(0.0, 0.002), [1 + i % 32 for i in range(500)]
    )
    assert model.fit.deviation == pytest.approx(0.002, rel=0.5)
    assert model.estimate(16) == pytest.approx(truth(16), abs=0.002)
    assert model.at_least(16, NOW) < model.estimate(16) - model.fit.deviation
    assert model.at_most(16) > model.estimate(16) + model.fit.deviation


def test_old_evidence_is_not_used_against_anybody():
    """A second after the last batch nobody is called late, or a slow device were never tried."""
    model = taught(lambda _: 5.0, [1, 1], now=NOW)
    assert model.at_least(1, NOW) == model.at_least(1, NOW + 1.0) == pytest.approx(4.95)
    assert model.at_least(1, NOW + 1.001) == model.at_least(7, NOW + 1.001) == 0.0
    assert model.alone == pytest.approx(4.95)
    model.observe(1, 5.0, NOW + 10.0)
    assert model.at_least(1, NOW + 10.5) == pytest.approx(4.95)


@given(st.lists(st.tuples(sizes, seconds), min_size=2, max_size=40), sizes, st.floats(0.0, 1.0))
def test_alone_is_the_most_that_at_least_says_of_a_lone_request(batches, size, later):
    """`alone` may be looked at without the time: it is on the safe side."""
    model = LatencyModel()
    for seen, duration in batches:
        model.observe(seen, duration, NOW)
    assert model.at_least(1, NOW + later) <= model.alone
    assert model.at_least(1, NOW + 2.0) <= model.alone


def test_batches_that_take_no_time_are_possible():
    """A clock that did not move between start and end breaks nothing."""
    model = taught(lambda _: 0.0, [1, 2, 3, 3])
    assert model.fit == LatencyFit(0.0, 0.0, 0.0)
    assert model.at_least(2, NOW) == model.at_most(2) == 0.0


def test_smaller_batches_that_took_longer_have_no_negative_slope():
    """Nonsense in, and still: no batch is estimated to take less for being larger."""
    model = LatencyModel()
    model.observe(1, 1.0, NOW)
    model.observe(10, 0.1, NOW)
    assert model.fit.per_item == 0.0
    assert model.estimate(10) == model.estimate(1) == model.fit.fixed


def test_a_line_that_would_start_below_zero_starts_at_zero():
    """Costs that grow faster than the batch are taken for proportional."""
    model = taught(lambda size: 0.001 * size * size, [1, 2, 4, 8, 16] * 4)
    assert model.fit.fixed == 0.0
    assert model.fit.per_item > 0.0
    assert math.isfinite(model.fit.per_item)


def test_a_fit_is_a_value():
    """Equal when its parts are equal, and nobody can change it."""
    fit = LatencyFit(0.1, 0.2, 0.3)
    assert fit == LatencyFit(0.1, 0.2, 0.3)
    with pytest.raises(AttributeError):
        fit.fixed = 1.0
