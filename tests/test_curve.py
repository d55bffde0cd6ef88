"""A function of the size: what is asked for is computed, once, however large sizes can be."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from trio_batcher._curve import Curve, between, listed, widened

HUGE = 10**12


@st.composite
def lines(draw):
    """Some sizes, the largest possible one, and seconds that rise with them."""
    sizes = sorted(draw(st.sets(st.integers(1, 60), min_size=1, max_size=8)))
    most = draw(st.integers(sizes[-1], 64))
    steps = draw(st.lists(st.floats(0.0, 1.0), min_size=len(sizes) + 2, max_size=len(sizes) + 2))
    values = [sum(steps[: n + 1], 1e-3) for n in range(len(steps))]
    return sizes, most, between([0, *sizes, most], values), values


def test_a_curve_is_as_long_as_there_are_sizes():
    """From none to the largest, which is also the last; there are no others."""
    curve = Curve(8, lambda size: 10 * size)
    assert [*curve] == [10 * size for size in range(9)]
    assert len(curve) == 9
    assert curve[-1] == 80
    for outside in (9, -10):
        with pytest.raises(IndexError):
            curve[outside]


def test_only_what_is_asked_for_is_computed_and_once():
    """So the largest size may be any."""
    asked = []
    curve = Curve(HUGE, lambda size: asked.append(size) or size)
    assert [curve[7], curve[HUGE], curve[7]] == [7, HUGE, 7]
    assert asked == [7, HUGE]


def test_a_curve_does_not_grow_with_what_is_asked():
    """What is forgotten is computed again."""
    curve = Curve(HUGE, lambda size: [size])
    first = curve[0]
    assert curve[0] is first
    assert [curve[size][0] for size in range(5000)] == [*range(5000)]
    assert curve[0] is not first


@given(lines())
def test_between_knots_a_line_is_straight(case):
    """It goes through them and never falls; a largest size that was seen is seen as it is."""
    sizes, most, line, values = case
    assert line(0) == values[0]
    assert [line(size) for size in sizes] == pytest.approx(values[1:-1])
    if most > sizes[-1]:
        assert line(most) == pytest.approx(values[-1])
    assert all(one <= more for one, more in pairwise([line(n) for n in range(most + 1)]))


def test_half_way_is_half_way():
    """Also where the sizes are far apart."""
    line = between([0, 10, HUGE], [1.0, 2.0, 4.0])
    assert [line(5), line(10), line(10 + (HUGE - 10) // 2)] == [1.5, 2.0, 3.0]


@given(lines(), st.data())
def test_what_is_widened_is_above_and_does_not_fall(case, data):
    """At sizes with bounds of their own by no more than those say; at all others, if nothing
    larger says less, by as much as is usual; in proportion to the largest of them at most."""
    sizes, most, line, _ = case
    factors = data.draw(st.lists(st.floats(1.0, 2.0), min_size=len(sizes), max_size=len(sizes)))
    usual, stray = data.draw(st.floats(1.0, 2.0)), data.draw(st.floats(0.0, 1.0))
    own = [line(size) * factor for size, factor in zip(sizes, factors, strict=True)]
    bound = widened(line, sizes, own, most=most, usual=usual, stray=stray, spread=2.0)
    bounds = [bound(size) for size in range(1, most + 1)]
    assert all(one <= more for one, more in pairwise(bounds))
    assert all(line(size) <= bounds[size - 1] for size in range(1, most + 1))
    for size, its in zip(sizes, own, strict=True):
        assert all(bounds[smaller - 1] <= its for smaller in range(1, size + 1))
    for size in range(1, most + 1):
        if size > sizes[-1]:
            item = own[-1] / sizes[-1]
            assert bounds[size - 1] <= max(line(size), item * size) * (1.0 + 1e-9)
        else:
            least = min(its for seen, its in zip(sizes, own, strict=True) if seen >= size)
            assert bounds[size - 1] >= min(least, usual * line(size)) or size in sizes


def test_a_short_curve_is_listed_and_a_long_one_is_not():
    """What may be as long as the largest size is never computed whole."""
    assert listed(Curve(3, lambda size: 2.0 * size)) == [0.0, 2.0, 4.0, 6.0]
    assert isinstance(listed(Curve(HUGE, float)), Curve)
