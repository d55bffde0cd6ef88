"""When the next batch of a device that runs is planned, and how often."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from trio_batcher._planning import left_at_next_plan, spacing

DECIDING, RUNNING = st.floats(1e-6, 1e-2), st.floats(1e-4, 10.0)


def plans(deciding: float, running: float) -> list[float]:
    """How long before the end plans are made, if somebody comes whenever one can be."""
    left, part = spacing(deciding, running)
    moments = [left]
    while left := left_at_next_plan(left, part, deciding):
        moments.append(left)
    return moments


@given(DECIDING, RUNNING)
def test_planning_takes_a_small_part_of_a_batch(deciding, running):
    """However often somebody comes: 4.5%, or a single plan, and none in the first half."""
    moments = plans(deciding, running)
    assert 0.0 < moments[0] <= running / 2
    assert len(moments) == 1 or len(moments) * deciding <= 0.045 * running * (1 + 1e-9)


@given(DECIDING, RUNNING)
def test_plans_follow_each_other_ever_more_closely(deciding, running):
    """The last ones are the freshest; but each is over when the next begins, and at the end."""
    moments = plans(deciding, running)
    steps = [before - after for before, after in pairwise(moments)]
    assert all(step >= deciding * (1 - 1e-9) for step in steps)
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(steps))
    assert len(moments) == 1 or moments[-1] >= deciding


def test_a_long_batch_is_planned_anew_to_the_end():
    """What the last plan misses is who comes while a plan or two are made."""
    moments = plans(0.0003, 0.1)
    assert moments[0] == pytest.approx(12 * 0.0003)
    assert len(moments) > 5
    assert moments[-1] < 2 * 0.0003


def test_nothing_is_planned_for_a_batch_of_which_nothing_is_known():
    """When the device will be free, nobody can tell."""
    assert plans(0.0003, 0.0) == [0.0]
