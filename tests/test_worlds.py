"""To show a deadline is not worse than to hide it, whatever the durations do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.simulation.worlds import Beside, Contents, Spell

# Points of requests in time, of a few hundred.
COST = 1.0

CONTENTS = [
    Contents("uniform", "longest", 1.2, 0.35, count=400),
    Contents("exponential", "sum", 2.0, 0.35, count=400),
    Contents("lognormal", "longest", 1.2, 0.1, count=400),
    Contents("exponential", "sum", 1.2, 0.6, count=400),
    Contents("bimodal", "sum", 1.2, 0.6, count=400),
    Contents("constant", "sum", 1.0, 0.6, noise=0.06, count=400),
    Contents("constant", "sum", 1.2, 0.35, noise=0.2, count=400),
]
SPELLS = [
    Spell(0.040, 0.002, 32, 0.150, 0.05, spell=2.0, factor=3.0, noise=0.2),
    Spell(0.020, 0.002, 32, 0.500, 0.05, spell=0.5, factor=5.0),
    Spell(0.035, 0.003, 16, 0.140, 0.3, spell=4.0, factor=8.0, lasts=12.0),
]
BULK = [
    Beside(allowance, bulk=100, kind=kind, devices=devices)
    for allowance in (0.35, 4.0)
    for kind, devices in (("plain", 1), ("cost", 1), ("key", 1), ("plain", 3))
]


def named(cells):
    return pytest.mark.parametrize("cell", cells, ids=lambda cell: cell.name)


def nothing_lost(run):
    """Each was answered, was turned away, or left when its time was over."""
    answered = sum(time < math.inf for time in run.answered)
    assert answered + run.rejected + run.left == len(run.came)


@named(CONTENTS)
def test_durations_that_cannot_be_foreseen(cell):
    """As many answers are in time as if nobody had said when they are due."""
    hidden, longest = cell.play(0, hide=True, allowance=math.inf)
    assert all(hidden.in_time)
    allowance = cell.allowance * longest
    hidden, _ = cell.play(0, hide=True, allowance=allowance)
    shown, _ = cell.play(0, hide=False, allowance=allowance)
    assert shown.share >= hidden.share - COST
    nothing_lost(shown)


@named(SPELLS)
def test_a_device_that_becomes_slower_for_a_while(cell):
    """The slow spell costs no more answers than if nobody had said when they are due."""
    hidden, shown = (cell.play(0, hide=hide) for hide in (True, False))
    assert all(time < math.inf for time in hidden.answered)
    assert shown.share >= hidden.share - COST
    nothing_lost(shown)


@named(BULK)
def test_beside_bulk_callers(cell):
    """Those with a deadline are served in time, and bulk goes on."""
    cell = replace(cell, lasts=10.0)
    hidden, shown = (cell.play(0, hide=hide) for hide in (True, False))
    assert shown.share >= max(99.0, hidden.share - COST)
    assert shown.bulk >= 0.9 * hidden.bulk
    nothing_lost(shown)
