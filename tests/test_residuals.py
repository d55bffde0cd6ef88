"""How far it can be foreseen what a batch takes, from what the last ones took."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, strategies as st

from trio_batcher._residuals import Residuals

NOISE = 0.001


def seen(*ratios: float, now: float = 0.0, into: Residuals | None = None) -> Residuals:
    """Batches of one size that took so many times what was expected."""
    residuals = into or Residuals()
    for ratio in ratios:
        residuals.observe(4, 0.5 * ratio, 0.5, now, NOISE)
    return residuals


def wild(count: int) -> list[float]:
    rng = Random(count)
    return [rng.choice((0.3, 0.6, 1.0, 1.5, 2.4)) for _ in range(count)]


def test_before_any_batch_nothing_is_ruled_out():
    """Nor is anything taken for chance."""
    residuals = Residuals()
    assert (residuals.steady, residuals.chances, residuals.least) == (False, (), 0.0)
    residuals.change(2.0, NOISE)
    assert (residuals.steady, residuals.chances, residuals.least) == (False, (), 0.0)


def test_three_batches_alike_are_steady():
    """Two may be so by chance."""
    assert not seen(1.0, 1.0).steady
    assert seen(1.0, 1.01, 0.99).steady
    assert not seen(1.0, 1.3, 1.0).steady


def test_a_pause_in_ten_batches_leaves_it_steady():
    """Four fifths count; two pauses in ten are a tenth on that side too many."""
    assert seen(*[1.0] * 9, 5.0).steady
    assert not seen(*[1.0] * 8, 5.0, 5.0).steady


def test_one_batch_far_quicker_than_expected_is_not_steady():
    """What has happened may happen again: nothing is out of reach that this would reach."""
    residuals = seen(*[1.0] * 30, 0.7)
    assert not residuals.steady
    assert residuals.least <= 0.7


def test_none_is_likely_to_take_less_than_the_least():
    """Of steady batches that is nearly what is expected, of noisy ones less than any took."""
    assert 0.98 < seen(*[1.0] * 20).least <= 1.0
    rng = Random(1)
    noisy = [rng.gauss(1.0, 0.1) for _ in range(40)]
    residuals = seen(*noisy)
    assert not residuals.steady
    assert 0.5 < residuals.least <= min(noisy)
    assert residuals.chances == ()


def test_noise_that_is_known_already_counts():
    """A few batches that happen to be alike do not hide it."""
    residuals = Residuals()
    for _ in range(20):
        residuals.observe(4, 0.5, 0.5, 0.0, 0.1)
    assert residuals.least < 0.8


def test_of_wild_batches_what_they_take_is_chance():
    """Six multiples in order, as often as they were seen."""
    residuals = seen(*[0.3, 1.0, 2.0] * 10)
    assert residuals.chances == [0.3, 0.3, 1.0, 1.0, 2.0, 2.0]
    assert not residuals.steady


def test_a_few_wild_batches_are_no_distribution():
    """Eight are needed, and a wide range."""
    assert seen(*[0.3, 1.7] * 3, 0.3).chances == ()
    assert seen(*[0.3, 1.7] * 4).chances
    assert seen(*[0.8, 1.2] * 20).chances == ()


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=150))
def test_whatever_batches_took_it_makes_sense(ratios):
    """Chances are in order and have all occurred; the least is no more than any; not both
    steady and chance."""
    residuals = seen(*ratios)
    last = ratios[-64:]
    occurred = {0.5 * ratio / 0.5 for ratio in last}
    assert list(residuals.chances) == sorted(residuals.chances)
    assert {*residuals.chances} <= occurred
    assert len(residuals.chances) in (0, 6)
    assert 0.0 <= residuals.least <= min(occurred)
    assert not (residuals.steady and residuals.chances)


# A change


def test_a_device_that_became_slower_may_be_quick_again_for_64_batches():
    """However steady it is meanwhile, what it took before is not ruled out."""
    residuals = seen(*[1.0] * 20)
    residuals.change(4.0, NOISE)
    assert not residuals.steady
    assert residuals.least == 0.25
    for _ in range(63):
        seen(1.0, into=residuals)
        assert not residuals.steady
        assert residuals.least == 0.25
    seen(1.0, into=residuals)
    assert residuals.steady
    assert residuals.least > 0.98


def test_a_device_that_became_quicker_may_not_be_so_slow_again():
    """Being too hopeful loses less than being too timid."""
    residuals = seen(*[1.0] * 20)
    residuals.change(0.25, NOISE)
    assert residuals.steady
    assert residuals.least > 0.98


def test_only_the_last_change_counts():
    """It may become slower more than once; each begins 64 batches anew."""
    residuals = seen(*[1.0] * 20)
    residuals.change(4.0, NOISE)
    seen(*[1.0] * 40, into=residuals)
    residuals.change(2.0, NOISE)
    seen(*[1.0] * 63, into=residuals)
    assert residuals.least == 0.5
    assert seen(1.0, into=residuals).steady


# What is forgotten


def test_sixteen_batches_are_remembered_however_long_ago():
    """Then a device that has become steady is known to be so."""
    residuals = seen(*[2.4, 0.3] * 20)
    assert residuals.chances
    for _ in range(15):
        seen(1.0, now=10.0, into=residuals)
        assert residuals.least <= 0.3
    seen(1.0, now=10.0, into=residuals)
    assert residuals.steady
    assert residuals.chances == ()


def test_within_a_second_sixty_four_batches_are_remembered():
    """The more there are, the more is known; those before them are forgotten."""
    residuals = seen(0.3, *[1.0] * 63, now=0.0)
    assert residuals.least <= 0.3
    assert not residuals.steady
    assert seen(1.0, now=0.9, into=residuals).steady
    residuals = seen(0.3, *[1.0] * 20, now=0.0)
    assert not seen(1.0, now=1.0, into=residuals).steady
    assert seen(1.0, now=1.1, into=residuals).steady


def test_what_is_forgotten_leaves_no_trace():
    """It is as if only the last batches had ever been."""
    old = seen(*wild(500), *[1.0, 1.5, 0.4, 0.9] * 16)
    new = seen(*[1.0, 1.5, 0.4, 0.9] * 16)
    assert (old.steady, old.chances, old.least) == (new.steady, new.chances, new.least)
    assert old.line() == new.line()
    assert old.quantile(0.99) == new.quantile(0.99)


# The line and its quantiles


def line_of(*batches: tuple[int, float]) -> tuple[float, float]:
    residuals = Residuals()
    for size, seconds in batches:
        residuals.observe(size, seconds, 1.0, 0.0, NOISE)
    return residuals.line()


def test_the_line_is_that_of_least_squares():
    """Exactly so if all batches lie on one, and in the middle if they do not."""
    assert line_of(*[(n, 0.1 + 0.05 * n) for n in (1, 2, 4, 8)]) == pytest.approx((0.1, 0.05))
    both = [(n, 0.1 + 0.05 * n + d) for n in (1, 2, 4, 8) for d in (-0.02, 0.02)]
    assert line_of(*both) == pytest.approx((0.1, 0.05))


def test_nothing_in_the_line_is_negative():
    """Neither may a larger batch take less, nor a batch of nothing less than no time."""
    assert line_of((1, 3.0), (3, 1.0)) == (2.0, 0.0)
    assert line_of((2, 1.0), (4, 5.0)) == pytest.approx((0.0, 1.0))
    assert line_of((4, 1.0), (4, 3.0)) == (2.0, 0.0)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 1e3)), min_size=1, max_size=30))
def test_the_line_goes_through_the_middle(batches):
    """At the mean size it has the mean duration, whatever was cut off."""
    fixed, per_item = line_of(*batches)
    count = len(batches)
    size, seconds = sum(n for n, _ in batches) / count, sum(s for _, s in batches) / count
    assert fixed >= 0.0
    assert per_item >= 0.0
    assert fixed + per_item * size == pytest.approx(seconds, rel=1e-6)


def test_quantiles_that_few_batches_cannot_show_lie_beyond_all_of_them():
    """Others are the last that stands for the distribution."""
    residuals = seen(*[0.3, 1.0, 2.0] * 10, 3.0)
    assert residuals.quantile(0.9) == 2.0
    assert residuals.quantile(0.99) == pytest.approx(3.3)
