"""How far rows and batches are filled up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from trio_batcher._padding import Pad, Sizes

some = st.sets(st.integers(1, 100), min_size=1)


@given(st.integers(0, 100), st.integers(1, 100))
def test_lengths_are_rounded_up_to_a_multiple(length, multiple):
    """The next one, or the length itself."""
    padded = Pad(multiple_of=multiple).padded(length)
    assert padded % multiple == 0
    assert length <= padded < length + multiple


@given(some, st.data())
def test_lengths_are_rounded_up_to_one_that_is_given(lengths, data):
    """The smallest that will do, in whatever order they were given."""
    pad = Pad(lengths=list(lengths))
    length = data.draw(st.integers(0, max(lengths)))
    assert pad.longest == max(lengths)
    assert pad.padded(length) == min(size for size in lengths if size >= length)


def test_without_either_the_longest_decides():
    """Nothing is too long, and nothing is longer than it has to be."""
    assert Pad().longest == math.inf
    assert [Pad().padded(length) for length in (0, 1, 7)] == [0, 1, 7]


def test_values_and_cuts_are_one_for_all_or_by_name():
    """What a mapping does not name is padded with 0 and not cut."""
    pad = Pad(values=-1, cut=2)
    assert (pad.value_of("a"), pad.value_of(None), pad.cut_of("a"), pad.cut_of(None)) == (
        -1,
        -1,
        2,
        2,
    )
    pad = Pad(values={"a": 5, 0: 7}, cut={"a": 1})
    assert [pad.value_of(name) for name in ("a", 0, "b", None)] == [5, 7, 0, 0]
    assert [pad.cut_of(name) for name in ("a", 0, None)] == [1, None, None]


@given(some, st.data())
def test_batches_are_filled_up_to_an_allowed_size(allowed, data):
    """The smallest that will do."""
    sizes = Sizes(iter(allowed))
    rows = data.draw(st.integers(1, max(allowed)))
    assert sizes.most == max(allowed)
    assert sizes.filled(rows) == min(size for size in allowed if size >= rows)


def test_any_size_is_allowed_unless_it_is_said():
    """Nothing is filled up, nothing is too many."""
    assert Sizes().most == math.inf
    assert Sizes().filled(17) == 17


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": -1}, "dim must be >= 0"),
        ({"multiple_of": 0}, "multiple_of must be >= 1"),
        ({"multiple_of": 8, "lengths": [8]}, "not both"),
        ({"lengths": [8, 0]}, "lengths must be whole numbers >= 1, not 0"),
        ({"lengths": [8.5]}, "not 8.5"),
        ({"lengths": [True]}, "not True"),
        ({"keys": "input_ids"}, "not the string 'input_ids'"),
        ({"cut": -1}, "cut must be >= 0"),
        ({"cut": {"a": -1}}, "cut must be >= 0"),
    ],
)
def test_what_is_wrong_with_a_padding_is_said_at_once(arguments, message):
    """The error names the argument and its value."""
    with pytest.raises(ValueError, match=message):
        Pad(**arguments)


@pytest.mark.parametrize("allowed", [[], [0], [1.5], [True]])
def test_what_is_wrong_with_sizes_is_said_at_once(allowed):
    """As above."""
    with pytest.raises(ValueError, match="allowed_sizes must"):
        Sizes(allowed)
