"""The latency model: what a batch takes, and a bound on that which holds as often as it says."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import assume, example, given, strategies as st

from trio_batcher._latency import LatencyFit, LatencyModel

LARGEST = 32
NOW = 100.0

seconds = st.floats(1e-6, 10.0)
sizes = st.integers(1, LARGEST)
batches = st.lists(st.tuples(sizes, st.just(0.0) | st.floats(1e-9, 1e3)), min_size=1, max_size=60)


def line(size: int) -> float:
    return 0.010 + 0.001 * size


def stairs(size: int) -> float:
    """Padded to the next power of two."""
    return 0.010 + 0.001 * (1 << (size - 1).bit_length())


def concave(size: int) -> float:
    return 0.010 + 0.0012 * size**0.9


def convex(size: int) -> float:
    return 0.010 + 0.0006 * size**1.2


def gaussian(relative: float):
    return lambda rng: max(0.1, rng.gauss(1.0, relative))


def lognormal(sigma: float):
    return lambda rng: math.exp(rng.gauss(0.0, sigma))


class Known(LatencyModel):
    """What its owner makes of it: brought up to date after each batch."""

    def observe(self, size: int, duration: float, now: float) -> None:
        super().observe(size, duration, now)
        self.refresh()


def taught(truth, observed, largest: int = LARGEST) -> Known:
    """A model that has seen a batch of each of these sizes."""
    model = Known(largest)
    for size in observed:
        model.observe(size, truth(size), NOW)
    return model


def watched(model, truth, count, rng, noise=lambda _: 1.0):
    """Run batches of random sizes; the parts of broken bounds and of margin over the truth."""
    broken = 0
    margin = 0.0
    for _ in range(count):
        size = rng.randint(1, LARGEST)
        duration = truth(size) * noise(rng)
        bound = model.bounds[size]
        broken += duration > bound
        margin += bound / truth(size) - 1.0
        model.observe(size, duration, NOW)
    return broken / count, margin / count


def error(model, truth, of=range(1, LARGEST + 1)) -> float:
    """The largest of all sizes', once all that was observed has been considered."""
    assert model.fit
    return max(abs(model.expected[size] / truth(size) - 1.0) for size in of)


# Cold start


def test_nothing_is_known_at_first():
    """No fit, nothing expected, no bound, and no trust."""
    model = Known(4)
    assert model.fit is None
    assert list(model.expected) == list(model.bounds) == [0.0] * 5
    assert not model.trusted(NOW)


@given(sizes, seconds)
def test_of_a_single_batch_the_best_is_hoped_for(seen, taken):
    """Smaller ones take their share, larger ones the cube root of it; nobody is left out by a
    margin that nothing was seen of: who is tried teaches, who is turned away does not."""
    model = taught(lambda _: taken, [seen])
    for size in range(1, LARGEST + 1):
        share = size / seen
        guess = taken * (share if share < 1.0 else share ** (1 / 3))
        assert model.expected[size] == model.bounds[size] == pytest.approx(guess)


@given(sizes, seconds)
def test_a_single_size_gives_a_line_through_zero(seen, taken):
    """There is no telling what is fixed."""
    fit = taught(lambda _: taken, [seen]).fit
    assert fit == LatencyFit(0.0, pytest.approx(taken / seen), pytest.approx(taken * 0.05))


@pytest.mark.parametrize("seen", [1, 8, 32])
@pytest.mark.parametrize("relative", [0.0, 0.05])
def test_of_one_size_the_margin_is_that_of_all(seen, relative):
    """What is expected of the others is still hoped for; the noise that was seen is theirs too."""
    model, rng = Known(LARGEST), random.Random(1)
    for _ in range(30):
        model.observe(seen, 0.8 * rng.gauss(1.0, relative), NOW)
    assert model.expected[seen] == pytest.approx(0.8, rel=0.04)
    assert model.expected[seen] <= model.bounds[seen] <= 0.8 * (1.01 + 4.0 * relative)
    margin = model.bounds[seen] / model.expected[seen]
    assert margin >= 1.0 + 2.0 * relative
    for size in range(1, LARGEST + 1):
        share = size / seen
        guess = model.expected[seen] * (share if share < 1.0 else share ** (1 / 3))
        assert model.expected[size] == pytest.approx(guess)
        assert model.bounds[size] == pytest.approx(guess * margin)


def test_with_a_second_batch_there_is_a_margin():
    """Nothing is known of noise yet: it is taken for five per cent."""
    model = taught(line, [8])
    assert model.bounds[8] == line(8)
    model.observe(8, line(8), NOW)
    assert model.bounds[8] > line(8)
    model = taught(line, [4, 16])
    assert error(model, line) <= 1e-9
    for size in range(1, LARGEST + 1):
        assert 1.05 <= model.bounds[size] / line(size) <= 1.2
    for size in (1, 2, 3, 5, 8, 15):
        assert model.bounds[size] / line(size) == pytest.approx(1.0 + 0.05 * 2.6, rel=0.01)


def check_line(fixed, per_item, observed):
    assume(fixed + per_item > 0.0)
    model = taught(lambda size: fixed + per_item * size, observed)
    for size in range(1, LARGEST + 1):
        assert model.expected[size] == pytest.approx(fixed + per_item * size, rel=1e-6)
    assert model.fit.fixed == pytest.approx(fixed, rel=1e-6, abs=1e-6 * (fixed + per_item))
    assert model.fit.per_item == pytest.approx(per_item, rel=1e-6, abs=1e-6 * (fixed + per_item))


@given(
    st.just(0.0) | seconds,
    st.just(0.0) | seconds,
    st.lists(sizes, min_size=2, max_size=60, unique=True),
)
def test_noise_free_batches_give_their_line_back(fixed, per_item, observed):
    """Two sizes are enough for all others, whatever an item costs."""
    check_line(fixed, per_item, observed)


@given(
    st.just(0.0) | seconds,
    st.just(0.0) | seconds,
    st.lists(sizes, min_size=2, max_size=60, unique=True),
)
def test_noise_free_batches_give_their_line_back_if_the_largest_is_the_first(
    fixed, per_item, observed
):
    """Two sizes are enough for all others, as two batches that differ less than a warm-up."""
    check_line(fixed, per_item, [max(observed), *(n for n in observed if n < max(observed))])


@given(st.lists(sizes, min_size=5, max_size=9, unique=True), st.lists(sizes, max_size=3))
def test_without_noise_a_handful_of_batches_leaves_no_margin(observed, again):
    """Each per cent given away is a per cent of goodput."""
    model = taught(line, [*observed, *again])
    for size in range(1, max(observed) + 1):
        assert line(size) <= model.bounds[size] <= 1.01 * line(size)


@pytest.mark.parametrize("first", [1, 2, 8, 16, 32])
@pytest.mark.parametrize("second", [1, 4, 32])
@pytest.mark.parametrize("third", [1, 8, 32])
def test_a_first_batch_that_compiles_is_forgotten(first, second, third):
    """A hundred times slower, and without a trace after two ordinary ones."""
    model = Known(LARGEST)
    model.observe(first, 100.0 * line(first), NOW)
    model.observe(second, line(second), NOW)
    model.observe(third, line(third), NOW)
    assert model.expected[second] == pytest.approx(line(second))
    assert model.expected[third] == pytest.approx(line(third))
    assert model.bounds[min(second, third)] <= 2.0 * line(max(second, third))


def test_the_first_batch_of_a_size_may_compile_too():
    """The second one of that size takes it back."""
    model = Known(LARGEST)
    model.observe(1, line(1), NOW)
    model.observe(32, 100.0 * line(32), NOW)
    model.observe(32, line(32), NOW)
    assert model.expected[32] == pytest.approx(line(32))


# Noise


@pytest.mark.parametrize(
    ("truth", "noise"),
    [
        (line, gaussian(0.02)),
        (line, gaussian(0.1)),
        (line, lognormal(0.3)),
        (stairs, gaussian(0.02)),
        (stairs, lognormal(0.1)),
        (concave, gaussian(0.02)),
    ],
)
@pytest.mark.parametrize("quantile", [0.9, 0.99])
def test_bounds_hold_as_often_as_they_say(truth, noise, quantile):
    """In the long run, whatever the noise and the curve."""
    model = Known(LARGEST, quantile)
    rng = random.Random(7)
    watched(model, truth, 200, rng, noise)
    broken, _ = watched(model, truth, 2500, rng, noise)
    assert 0.5 * (1.0 - quantile) <= broken <= 1.3 * (1.0 - quantile)


@pytest.mark.parametrize(("relative", "needed"), [(0.02, 0.0465), (0.1, 0.233)])
def test_margins_are_hardly_more_than_noise_needs(relative, needed):
    """2.33 standard deviations are; less than a third more is given away."""
    model, rng = Known(LARGEST), random.Random(3)
    watched(model, line, 100, rng, gaussian(relative))
    _, margin = watched(model, line, 2000, rng, gaussian(relative))
    assert 0.9 * needed <= margin <= 1.35 * needed
    assert model.fit.deviation == pytest.approx(relative * line(16), rel=0.4)
    assert model.fit.fixed == pytest.approx(0.010, rel=0.2)
    assert model.fit.per_item == pytest.approx(0.001, rel=0.2)


@pytest.mark.parametrize(("noise", "most"), [(gaussian(0.02), 0.09), (gaussian(0.1), 0.40)])
def test_margins_are_good_after_a_dozen_batches(noise, most):
    """Sizes seen once tell of noise as well, when the line explains them."""
    margins = []
    broken = []
    for seed in range(30):
        model, rng = Known(LARGEST), random.Random(seed)
        watched(model, line, 10, rng, noise)
        part, margin = watched(model, line, 20, rng, noise)
        margins.append(margin)
        broken.append(part)
    assert sum(margins) / 30 <= most
    assert sum(broken) / 30 <= 0.03


@pytest.mark.parametrize(("truth", "most"), [(line, 0.015), (stairs, 0.02), (concave, 0.015)])
def test_what_is_expected_comes_near_the_truth(truth, most):
    """With 2% of noise."""
    model, rng = Known(LARGEST), random.Random(5)
    watched(model, truth, 600, rng, gaussian(0.02))
    assert model.fit
    errors = [abs(model.expected[n] / truth(n) - 1.0) for n in range(1, LARGEST + 1)]
    assert sum(errors) / LARGEST <= most


def test_noise_that_comes_later_is_heard():
    """A model that has seen no noise at all is not deaf to it."""
    model, rng = Known(LARGEST), random.Random(9)
    watched(model, line, 200, rng)
    watched(model, line, 100, rng, gaussian(0.1))
    broken, _ = watched(model, line, 200, rng, gaussian(0.1))
    assert broken <= 0.03


# Shapes other than a line


@pytest.mark.parametrize("truth", [stairs, concave, convex])
def test_sizes_that_were_seen_are_known(truth):
    """Without noise each is what it was, line or not."""
    model = taught(truth, [*range(1, LARGEST + 1)] * 3)
    assert error(model, truth) <= 0.01
    for size in range(1, LARGEST + 1):
        assert 0.99 * truth(size) <= model.bounds[size] <= 1.02 * truth(size)


@pytest.mark.parametrize("seen", [[1, 3, 9, 17], [2, 6, 12, 20, 30], [3, 5, 7, 11, 24]])
def test_where_no_line_explains_the_sizes_a_new_one_may_take_as_long_as_the_next(seen):
    """A staircase of which some sizes were seen: the bounds hold for all below the largest."""
    model = taught(stairs, seen * 4)
    for size in range(1, seen[-1] + 1):
        assert model.bounds[size] >= stairs(size) or size > seen[-2]
        assert model.bounds[size] <= model.bounds[min(n for n in seen if n >= size)]


def test_where_a_line_explains_the_sizes_it_is_used():
    """No more is given away for sizes between and beyond those seen, with little noise."""
    model, rng = Known(LARGEST), random.Random(2)
    for _ in range(20):
        for size in (2, 5, 9, 14, 20, 24):
            model.observe(size, line(size) * rng.gauss(1.0, 0.01), NOW)
    for size in (1, 3, 12, 17, 22, 28, 32):
        assert line(size) <= model.bounds[size] <= 1.08 * line(size)


def test_beyond_the_largest_size_the_line_is_doubted():
    """The further, the more, but an item never costs more than those before it."""
    model = taught(convex, [1, 2, 4, 8, 16] * 4)
    wide = [model.bounds[size] / model.expected[size] for size in range(16, LARGEST + 1)]
    assert all(a <= b + 1e-9 for a, b in pairwise(wide))
    assert model.bounds[32] <= 2.0 * model.bounds[16] + 1e-9


def test_a_rare_size_is_not_forgotten():
    """Thousands of full batches later it is known what a lone request takes."""
    model = taught(stairs, [1, 4, 1, 4, *[32] * 3000])
    assert model.expected[1] == pytest.approx(stairs(1), rel=0.01)
    assert model.expected[4] == pytest.approx(stairs(4), rel=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_there_may_be_any_number_of_sizes(seed):
    """What is known of them is of a few, told apart by a few per cent; all others lie between."""
    most, rng = 10**9, random.Random(seed)
    model = Known(most)
    for _ in range(500):
        size = int(most ** rng.random())
        model.observe(size, 0.010 + 1e-6 * size, NOW)
    for size in (1, 10**3, 10**5, 10**7, most):
        assert model.expected[size] == pytest.approx(0.010 + 1e-6 * size, rel=0.02)
        assert model.expected[size] <= model.bounds[size] <= 1.1 * model.expected[size]
    assert model.fit.per_item == pytest.approx(1e-6, rel=0.01)


def test_of_too_many_sizes_the_one_seen_longest_ago_is_forgotten():
    """What a device did with it then does not hold for ever."""
    model = Known(10**9)
    for _ in range(3):
        model.observe(1, 5.0, NOW)
    assert model.expected[1] == pytest.approx(5.0)
    for power in range(2, 66):
        model.observe(int(1.2**power) + power, 0.010, NOW)
    assert model.expected[1] == pytest.approx(0.010, rel=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_many_sizes_are_known_as_well(seed):
    """The curve is not computed anew for each batch then, and follows all the same."""
    model, rng = Known(1024), random.Random(seed)
    seen = rng.sample(range(1, 1025), 150)
    for size in [*seen, *rng.choices(seen, k=1500)]:
        model.observe(size, line(size) * rng.gauss(1.0, 0.02), NOW)
    assert error(model, line, range(1, 1025)) <= 0.05
    for size in rng.sample(seen, 4):
        model.observe(size, 2.0 * line(size), NOW)
    assert error(model, lambda size: 2.0 * line(size), range(1, 1025)) <= 0.05


# Change


@pytest.mark.parametrize("factor", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("relative", [0.0, 0.02])
@pytest.mark.parametrize("only", [None, 32])
def test_a_device_that_changes_is_known_for_that_after_four_batches(factor, relative, only):
    """At all sizes, with bounds that hold, also if the change shows at one size only."""
    for seed in range(10):
        model, rng = Known(LARGEST), random.Random(seed)
        watched(model, line, 400, rng, gaussian(relative))  # several of each size
        for _ in range(4):
            size = only or rng.randint(1, LARGEST)
            model.observe(size, factor * line(size) * rng.gauss(1.0, relative), NOW)
        assert error(model, lambda size: factor * line(size)) <= 0.05
        assert all(model.bounds[size] >= factor * line(size) for size in range(1, LARGEST + 1))
        broken, margin = watched(
            model, lambda size: factor * line(size), 60, rng, gaussian(relative)
        )
        assert broken <= 0.1
        assert margin <= 0.15


@pytest.mark.parametrize("rate", [1.01, 1 / 1.01])
@pytest.mark.parametrize(("relative", "off"), [(0.0, 0.06), (0.02, 0.06), (0.1, 0.1)])
def test_a_slow_drift_is_followed(rate, relative, off):
    """One per cent with each batch, and the bounds hold after the surprise of the first ones."""
    errors = []
    broken = 0
    for seed in range(5):
        model, rng = Known(LARGEST), random.Random(seed)
        watched(model, line, 150, rng, gaussian(relative))
        level = 1.0
        for step in range(100):
            level *= rate
            size = rng.randint(1, LARGEST)
            duration = level * line(size) * rng.gauss(1.0, relative)
            if step >= 20:
                errors.append(abs(model.expected[size] / (level * line(size)) - 1.0))
                broken += duration > model.bounds[size]
            model.observe(size, duration, NOW)
    assert sum(errors) / len(errors) <= off
    assert broken / len(errors) <= 0.15


def test_a_size_that_changes_alone_is_learned():
    """Three times in succession at that size, with ordinary batches of others in between."""
    model = taught(line, [1, 8, 16, 32] * 10)
    for _ in range(3):
        model.observe(16, 1.4 * line(16), NOW)
        model.observe(8, line(8), NOW)
    assert model.expected[16] == pytest.approx(1.4 * line(16), rel=0.01)
    assert model.expected[8] == pytest.approx(line(8), rel=0.01)


def test_a_change_of_shape_is_learned():
    """Items become dearer, batches do not."""

    def truth(size):
        return 0.010 + 0.002 * size

    model, rng = Known(LARGEST), random.Random(8)
    watched(model, line, 200, rng, gaussian(0.02))
    watched(model, truth, 30, rng, gaussian(0.02))
    broken, _ = watched(model, truth, 200, rng, gaussian(0.02))
    assert broken <= 0.02
    watched(model, truth, 400, rng, gaussian(0.02))
    assert error(model, truth) <= 0.05


# When the curve is derived


def test_what_is_new_is_known_at_once():
    """Without a refresh: the first batches, and a device that has changed."""
    model = LatencyModel(LARGEST)
    model.observe(8, line(8), NOW)
    assert model.expected[8] == pytest.approx(line(8))
    for size in [24, 1, 16] * 20:
        model.observe(size, line(size), NOW)
    assert model.bounds[12] == pytest.approx(line(12), rel=0.05)
    for size in (16, 24, 1):
        model.observe(size, 2.0 * line(size), NOW)
    assert model.bounds[16] == pytest.approx(2.0 * line(16), rel=0.1)
    assert model.expected[16] == pytest.approx(2.0 * line(16), rel=0.01)


def test_what_is_no_news_waits_for_a_refresh():
    """Reading is for while a device waits: the curve stays the same object until a refresh."""
    model = taught(line, [1, 8, 16, 24] * 5)
    expected, bounds = model.expected, model.bounds
    LatencyModel.observe(model, 8, 1.001 * line(8), NOW)
    assert model.expected is expected
    assert model.bounds is bounds
    for _ in range(2):
        LatencyModel.observe(model, 8, 1.001 * line(8), NOW)
    model.refresh()
    assert model.expected is not expected
    assert model.bounds is not bounds


def test_a_refresh_lags_behind_by_a_few_batches_at_the_most():
    """However many were seen: then one more hardly moves the curve."""
    model = taught(line, [1, 8, 16, 24] * 250)
    kept, expected = [0], model.expected
    for _ in range(100):
        model.observe(8, 1.001 * line(8), NOW)
        kept[-1] += 1
        if model.expected is not expected:
            kept.append(0)
            expected = model.expected
    assert 2 <= max(kept) <= 8


def test_of_very_short_batches_only_some_are_looked_at():
    """Once much is known, one every few milliseconds; the first ones all are."""
    model = Known(LARGEST)
    for step in range(12):
        model.observe(1 + step, line(1 + step), NOW + step / 1000)
    assert error(model, line) <= 0.01
    for step in range(12, 4000):
        model.observe(8, line(8), NOW + step / 1000)
    before = model.expected
    now = NOW + 4.0
    for step in range(4):  # as good as never seen
        model.observe(8, 3.0 * line(8), now + step / 1000)
    assert model.expected[8] == pytest.approx(before[8], rel=0.01)
    for step in range(20):
        model.observe(8, 3.0 * line(8), now + step / 1000)
    assert model.expected[8] == pytest.approx(3.0 * line(8), rel=0.01)
    assert model.trusted(now + 0.9)


# Outliers


@pytest.mark.parametrize("relative", [0.0, 0.02, 0.1])
def test_a_pause_leaves_no_trace_in_what_is_expected(relative):
    """One batch takes ten times as long, of a size that is known; even two in succession."""
    for seed in range(20):
        model, rng = Known(LARGEST), random.Random(seed)
        watched(model, line, 300, rng, gaussian(relative))
        assert model.fit  # all of them considered
        expected, bounds = model.expected, model.bounds
        for _ in range(1 + seed % 2):
            size = rng.randint(1, LARGEST)
            model.observe(size, 10.0 * line(size), NOW)
        for size in range(1, LARGEST + 1):
            assert model.expected[size] == pytest.approx(expected[size], rel=0.02)
            assert model.bounds[size] == pytest.approx(bounds[size], rel=0.2)


def test_a_pause_at_a_new_size_is_no_more_than_a_step():
    """The first batch of a size takes ten times as long: it is taken for the next size up."""
    model, rng = Known(LARGEST), random.Random(1)
    for _ in range(100):
        size = rng.choice((1, 4, 8, 12, 20, 24, 32))
        model.observe(size, line(size) * rng.gauss(1.0, 0.02), NOW)
    expected, bounds = model.expected, model.bounds
    model.observe(16, 10.0 * line(16), NOW)
    assert model.expected[16] <= bounds[20]
    for size in (*range(1, 13), *range(20, LARGEST + 1)):
        assert model.expected[size] == pytest.approx(expected[size], rel=0.03)
        assert model.bounds[size] == pytest.approx(bounds[size], rel=0.2)


def test_outliers_on_both_sides_are_no_change():
    """Slow, quick, slow, quick: the device and that size are what they were."""
    model = taught(line, [1, 8, 16, 32] * 10)
    for factor in (3.0, 0.3, 3.0, 0.3, 3.0):
        model.observe(8, factor * line(8), NOW)
    assert error(model, line) <= 0.01


def test_an_outlier_before_any_noise_is_known_is_not_taken_for_noise():
    """The second batch ever pauses."""
    model = taught(line, [8])
    model.observe(8, 10.0 * line(8), NOW)
    assert model.expected[8] == pytest.approx(line(8))
    model.observe(8, line(8), NOW)
    assert model.bounds[8] <= 1.02 * line(8)


def test_two_pauses_in_early_batches_do_not_keep_their_sizes_from_being_tried_again():
    """They bear each other out; but all that was seen since says otherwise."""
    model = Known(LARGEST)
    for size, late in [(7, 0.014), (11, 0.002), (32, 0.012), (21, 0.023), (1, 0.010), (2, 0.0)]:
        model.observe(size, line(size) + late, NOW)
    for size in (4, 8, 8, 11, 11, 11, 11, 11):
        model.observe(size, line(size), NOW)
    for size in range(12, 22):
        assert model.expected[size] <= 1.3 * line(size)
        assert model.bounds[size] <= 1.5 * line(size)


def test_a_pause_in_the_very_first_batch_is_not_believed_for_ever():
    """With the smallest size alone after it, which is quick: larger ones are tried again."""
    model = Known(LARGEST)
    model.observe(2, 0.051, NOW)
    for _ in range(16):
        model.observe(1, line(1), NOW)
    assert model.bounds[2] <= 1.3 * line(2)
    assert model.bounds[LARGEST] <= LARGEST * line(1)
    model.observe(2, line(2), NOW)
    assert model.expected[LARGEST] == pytest.approx(line(LARGEST), rel=0.1)


def test_what_looked_like_a_pause_and_comes_again_is_believed():
    """A device may well be so: a size that is slower than all others make of it."""
    model = taught(line, [1, 2, 4, 8] * 5)
    for _ in range(2):
        model.observe(16, 0.060, NOW)
    assert model.expected[16] == pytest.approx(0.060, rel=0.1)


def test_pauses_now_and_then_cost_little_of_the_margin():
    """Half a per cent of the batches: within the quantile, so bounds need not cover them."""
    model, rng = Known(LARGEST), random.Random(6)

    def noise(rng):
        return rng.gauss(1.0, 0.02) * (10.0 if rng.random() < 0.005 else 1.0)

    watched(model, line, 200, rng, noise)
    broken, margin = watched(model, line, 2000, rng, noise)
    assert broken <= 0.013
    assert margin <= 0.08


# Whatever comes


@given(batches, st.sampled_from([0.5, 0.9, 0.99]))
@example([(1, 1e-9), (2, 1e3), (1, 1e-9), (2, 1e3), (2, 1e-9), (1, 1e3)], 0.99)
@example([(32, 0.0)] * 3 + [(1, 1e3)] * 7 + [(32, 1e-9)] * 4, 0.99)
@example([(3, 5.0), (3, 5.0), (3, 1e-9), (3, 1e-9), (3, 1e-9), (3, 1e3)], 0.9)
def test_nothing_is_negative_or_decreasing_whatever_was_seen(observed, quantile):
    """Tables of finite numbers, non-decreasing, bounds above what is expected."""
    model = Known(LARGEST, quantile)
    for now, (size, duration) in enumerate(observed):
        model.observe(size, duration, NOW - now)
        expected, bounds = model.expected, model.bounds
        assert len(expected) == len(bounds) == LARGEST + 1
        assert expected[0] == bounds[0] == 0.0
        assert all(0.0 <= a <= b < math.inf for a, b in pairwise(expected))
        assert all(0.0 <= a <= b < math.inf for a, b in pairwise(bounds))
        assert all(a <= b for a, b in zip(expected, bounds, strict=True))
        fit = model.fit
        assert all(0.0 <= x < math.inf for x in (fit.fixed, fit.per_item, fit.deviation))


def test_batches_that_take_no_time_are_possible():
    """A clock that did not move between start and end breaks nothing."""
    model = taught(lambda _: 0.0, [1, 2, 3, 3])
    assert model.expected[3] == pytest.approx(0.0, abs=1e-8)
    assert model.bounds[3] == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e3])
def test_only_ratios_matter(unit):
    """Microseconds or hours."""
    model, rng = Known(LARGEST), random.Random(1)
    broken, _ = watched(model, lambda size: unit * line(size), 1000, rng, gaussian(0.02))
    assert broken <= 0.02
    assert error(model, lambda size: unit * line(size)) <= 0.02


def test_a_single_size_is_all_there_is():
    """Without batching the largest size is 1."""
    model = taught(line, [1, 1, 1], largest=1)
    assert list(model.expected) == [0.0, pytest.approx(line(1))]
    assert line(1) <= model.bounds[1] <= 1.01 * line(1)


def test_smaller_batches_that_took_longer_have_no_negative_slope():
    """Nonsense in, and still: no batch is expected to take less for being larger."""
    model = taught(lambda size: 1.0 / size, [2, 3, 4, 3, 4])
    assert model.fit.per_item == 0.0
    assert model.expected[2] <= model.expected[4]


def test_a_line_that_would_start_below_zero_starts_at_zero():
    """Costs that grow faster than the batch are taken for proportional by the line alone."""
    model = taught(lambda size: 0.001 * size * size, [1, 2, 4, 8, 16] * 4)
    assert model.fit.fixed == 0.0
    assert model.fit.per_item > 0.0
    assert model.expected[16] == pytest.approx(0.256, rel=0.01)


# Trust


def test_a_single_batch_proves_nothing():
    """Only with the second is anybody called late."""
    model = taught(line, [4])
    assert not model.trusted(NOW)
    model.observe(4, line(4), NOW)
    assert model.trusted(NOW)


def test_old_evidence_is_not_used_against_anybody():
    """A second after the last batch nobody is called late, or a slow device were never tried."""
    model = taught(line, [1, 1])
    assert model.trusted(NOW + 0.999)
    assert not model.trusted(NOW + 1.0)
    model.observe(1, line(1), NOW + 10.0)
    assert model.trusted(NOW + 10.5)


@pytest.mark.parametrize("full", [0.01, 0.3, 0.5, 20.0])
def test_what_is_old_is_a_matter_of_full_batches_too(full):
    """A second, or three of them if that is more: a slow device has seen nothing in between."""
    model = taught(lambda size: full * size / LARGEST, [LARGEST, 16] * 3)
    until = max(1.0, 3.0 * full)
    assert model.trusted(NOW + 0.999 * until)
    assert not model.trusted(NOW + 1.001 * until)


def test_who_starts_anew_is_not_trusted():
    """What came before a warm-up was noticed proves nothing either."""
    model = taught(lambda _: 9.0, [1])
    model.observe(1, 0.01, NOW)
    assert not model.trusted(NOW)
    model.observe(1, 0.01, NOW)
    assert model.trusted(NOW)


def test_a_fit_is_a_value():
    """Equal when its parts are equal, and nobody can change it."""
    fit = LatencyFit(0.1, 0.2, 0.3)
    assert fit == LatencyFit(0.1, 0.2, 0.3)
    with pytest.raises(AttributeError):
        fit.fixed = 1.0


# How far it can be foreseen


def observed(factor, count: int = 40, seed: int = 1) -> Known:
    """What is known after so many batches that took so many times the line."""
    rng, model = random.Random(seed), Known(LARGEST)
    for number in range(count):
        size = rng.choice((1, 2, 4, 8, 16, LARGEST))
        model.observe(size, line(size) * factor(rng), NOW + number / 50)
    return model


def test_the_largest_is_that_which_was_seen():
    """None was at first."""
    model = Known(LARGEST)
    assert model.largest == 0
    for size, largest in ((4, 4), (9, 9), (2, 9)):
        model.observe(size, line(size), NOW)
        assert model.largest == largest


def test_of_a_steady_device_bounds_are_what_is_counted_on():
    """What a batch takes is known: there is neither less to fear nor more to hope for."""
    model = observed(lambda _: 1.0)
    assert model.residuals.steady
    assert [*model.floors] == [*model.hopes] == [*model.bounds]
    assert model.floor(0.5) == 0.5


def test_of_a_noisy_device_a_batch_may_be_quicker_than_it_is_expected_to_be():
    """Nobody is out of reach whom a batch as quick as one that was would reach."""
    model = observed(gaussian(0.15))
    least = model.residuals.least
    assert not model.residuals.steady
    assert 0.0 < least < 0.9
    assert [*model.floors] == pytest.approx([least * each for each in model.expected])
    assert all(model.floors[size] < model.bounds[size] for size in range(1, LARGEST + 1))
    assert model.floor(0.5) == pytest.approx(0.5 * least)
    assert [*model.hopes] == [*model.bounds]


def test_of_a_wild_device_a_line_and_its_quantiles_are_known():
    """Means by size would mislead: what a batch takes depends on what is in it."""
    model = observed(lognormal(0.8), count=64)
    residuals = model.residuals
    assert len(residuals.chances) == 6
    fixed, per_item = residuals.line()
    fit = model.fit  # it is brought up to date for that
    assert (fit.fixed, fit.per_item) == (fixed, per_item)
    assert model.expected[0] == model.bounds[0] == model.hopes[0] == 0.0
    for size in (1, 3, LARGEST):
        expected = fixed + per_item * size
        assert model.expected[size] == pytest.approx(expected)
        assert model.bounds[size] == pytest.approx(residuals.quantile(0.99) * expected)
        assert model.hopes[size] == pytest.approx(residuals.chances[1] * expected)
    assert model.hopes[4] < model.expected[4] < model.bounds[4]


def test_a_wild_device_may_be_asked_for_sizes_it_has_not_had():
    """One that comes up later is learned like the others."""
    model = observed(lognormal(0.8), count=64)
    assert model.residuals.chances
    model.observe(24, line(24), NOW + 2.0)
    assert model.largest == LARGEST
    assert model.expected[24] > 0.0


def test_a_device_that_was_quicker_may_be_so_again():
    """It has become four times as slow: what it could do before is not out of reach yet."""
    model = observed(lambda _: 1.0)
    before, rng = model.bounds[1], random.Random(3)
    for number in range(6):
        model.observe(8, 4.0 * line(8) * rng.gauss(1.0, 0.001), NOW + 1.0 + number / 50)
    assert model.expected[8] == pytest.approx(4.0 * line(8), rel=0.1)
    assert not model.residuals.steady
    assert model.floors[1] <= 1.01 * before
    for number in range(80):
        model.observe(8, 4.0 * line(8), NOW + 2.0 + number / 50)
    assert model.residuals.steady
    assert model.floors[8] > 3.5 * line(8)
