"""The delivery model: how long results are on their way, seldom longer."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, strategies as st

from trio_batcher._delivery import DeliveryModel


def gaussian(relative: float):
    return lambda rng: max(0.1, rng.gauss(1.0, relative))


def lognormal(sigma: float):
    return lambda rng: math.exp(rng.gauss(0.0, sigma))


def delivered(*observed: float) -> DeliveryModel:
    model = DeliveryModel()
    for each in observed:
        model.observe(each)
    return model


def test_no_delivery_is_expected_to_take_time_before_one_has():
    """Nothing is kept free for what was never seen."""
    assert DeliveryModel().seconds == 0.0


def test_deliveries_that_take_the_same_are_soon_known():
    """From the first one on, without a margin."""
    assert delivered(0.02).seconds == pytest.approx(0.02)
    assert delivered(*[0.02] * 20).seconds == pytest.approx(0.02)


def test_the_first_deliveries_are_soon_forgotten():
    """They are of cold code: two of them, and a pause, change nothing four deliveries later."""
    slow = [0.009, 0.004]
    assert delivered(*slow, *[0.002] * 4, 0.5, 0.002).seconds == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("noise", "most"),
    [
        (gaussian(0.1), 0.1),
        (gaussian(0.3), 0.1),
        (lognormal(0.2), 0.11),
        (lambda rng: rng.expovariate(1.0), 0.2),
    ],
    ids=["normal", "much", "skewed", "exponential"],
)
def test_a_delivery_seldom_takes_longer(noise, most):
    """Nine in ten are quicker if they scatter evenly, and four in five if they do not."""
    model, rng = DeliveryModel(), random.Random(1)
    broken, kept = 0, []
    for _ in range(3000):
        seconds = 0.002 * noise(rng)
        broken += seconds > model.seconds
        kept.append(model.seconds)
        model.observe(seconds)
    assert broken / 3000 <= most
    assert sum(kept) / 3000 <= 2.2 * 0.002


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_deliveries_that_change_are_followed(factor):
    """An event loop that becomes busy, or is no more."""
    model = delivered(*[0.002] * 50, *[0.002 * factor] * 40)
    assert 0.999 <= model.seconds / (0.002 * factor) <= 1.5


@given(st.lists(st.floats(-1e-3, 1e3), min_size=1, max_size=40))
def test_what_is_kept_free_is_never_negative_and_never_much_more_than_ever_seen(observed):
    """Even if a clock seems to have gone backwards."""
    model = delivered(*observed)
    assert 0.0 <= model.seconds <= 5.0 * max(map(abs, observed)) + 1e-9
