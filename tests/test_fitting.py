"""What is read off a few sizes: a line, a padding, or one that does not belong."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, strategies as st

from trio_batcher._fitting import odd_one, padded_to, pooled, straight_line, student

MOST = 40
PADDINGS = {
    "powers of two": lambda size: 1 << (size - 1).bit_length(),
    **{f"multiples of {step}": lambda size, step=step: -(-size // step) * step for step in (4, 8)},
}


def taking(sizes: list[int], seconds, noise: float = 0.0) -> list[float]:
    rng = Random(1)
    return [seconds(size) * (1.0 + noise * rng.uniform(-1.0, 1.0)) for size in sizes]


def found(sizes: list[int], seconds, noise: float = 0.0) -> list[int] | None:
    pad = padded_to(sizes, taking(sizes, seconds, noise), [1.0] * len(sizes), MOST)
    return pad and [pad(size) for size in range(MOST + 1)]


@pytest.mark.parametrize("name", PADDINGS)
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_what_is_padded_is_found(name, noise):
    """From a handful of sizes, none of which has to be at a step; no size beyond the maximum."""
    pad = PADDINGS[name]
    sizes = [1, 3, 5, 9, 12, 17, 21, 30]
    padded = found(sizes, lambda size: 0.01 + 0.001 * pad(size), noise)
    assert padded == [0, *(min(MOST, pad(size)) for size in range(1, MOST + 1))]


@given(
    st.lists(st.integers(1, MOST), min_size=1, unique=True).map(sorted),
    st.floats(0.0, 1.0),
    st.floats(0.001, 0.1),
    st.sampled_from([0.0, 0.01]),
)
def test_a_line_is_not_taken_for_padded(sizes, fixed, per_item, noise):
    """Whichever sizes were seen; one per cent of noise makes no steps."""
    assert found(sizes, lambda size: fixed + per_item * size, noise) is None


def test_a_curve_is_not_taken_for_padded():
    """A line fits badly, and no padding fits much better."""
    assert found([1, 2, 4, 9, 16, 25, 36], lambda size: 0.01 * size**0.5) is None


def test_little_is_read_into_few_sizes():
    """Any three sizes lie on somebody's steps."""
    assert found([1, 3, 9], PADDINGS["powers of two"]) is None


def test_a_line_has_no_negative_parts():
    """A fall is no slope; what rises more than in proportion starts at zero."""
    assert straight_line([1, 2, 3], [3.0, 2.0, 1.0], [1.0] * 3)[1] == 0.0
    assert straight_line([1, 2, 3], [1.0, 4.0, 9.0], [1.0] * 3)[0] == 0.0


def test_one_size_gives_a_line_through_zero():
    """Several batches of it likewise."""
    assert straight_line([4], [2.0], [1.0]) == (0.0, 0.5)
    assert straight_line([4, 4], [2.0, 2.0], [1.0, 1.0]) == (0.0, 0.5)


def test_what_is_padded_to_the_same_size_is_taken_together():
    """Counts add up, and means are weighted by them; sizes stay in order."""
    sizes, counts, means = pooled([4, 4, 8], [1, 3, 2], [1.0, 2.0, 5.0])
    assert (sizes, counts) == ([4, 8], [4, 2])
    assert means == pytest.approx([1.75, 5.0])


def found_odd(seconds: dict[int, float], once: set[int]) -> int | None:
    counts = [1 if size in once else 4 for size in seconds]
    odd = odd_one([*seconds], counts, [*seconds.values()], [1.0] * len(seconds))
    return None if odd is None else [*seconds][odd]


@given(st.sampled_from([2, 4, 8]), st.floats(3.0, 50.0))
def test_a_single_batch_far_above_what_the_others_make_of_it_is_odd(size, times):
    """A pause, most likely; a size that was seen more often is as it is."""
    seconds = {each: 0.010 + 0.001 * each for each in (1, 2, 4, 8)}
    seconds[size] *= times
    assert found_odd(seconds, once={size}) == size
    assert found_odd(seconds, once=set()) is None


@pytest.mark.parametrize("times", [0.2, 1.0, 1.2])
def test_what_is_quick_or_a_little_slow_is_not_odd(times):
    """Nothing but a pause takes so much longer than it should."""
    seconds = {each: 0.010 + 0.001 * each for each in (1, 2, 4, 8)}
    seconds[4] *= times
    assert found_odd(seconds, once={4}) is None


def test_two_others_make_the_line_that_one_is_odd_on():
    """With fewer sizes nobody can tell."""
    assert found_odd({1: 0.011, 8: 0.500}, once={1, 8}) is None
    assert found_odd({1: 0.011, 4: 0.014, 8: 0.500}, once={1, 4, 8}) == 8


def test_a_single_smaller_size_will_do_if_it_has_to():
    """No item costs more than the first; but the first may cost more than its share."""
    counts, weights = [4, 1], [1.0, 1.0]
    assert odd_one([2, 8], counts, [0.012, 0.500], weights, 2) == 1
    assert odd_one([2, 8], counts, [0.012, 0.048], weights, 2) is None
    assert odd_one([2, 8], [1, 4], [0.012, 0.018], weights, 2) is None
    assert odd_one([8], [1], [0.5], [1.0], 1) is None


def test_few_degrees_of_freedom_make_a_quantile_wider():
    """Of very many it is the normal distribution's; tables have 4.03 for 5 and 99.5%."""
    assert student(2.576, 10**9) == pytest.approx(2.576, rel=1e-6)
    assert student(2.576, 5) == pytest.approx(4.03, rel=0.05)
    assert student(2.576, 0) == student(2.576, 1)
