"""The snapshot that `Batcher.statistics` gives."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import get_args

import pytest

from trio_batcher import BatcherStatistics, LatencyFit
from trio_batcher._statistics import RejectionReason

FIELDS = [field.name for field in dataclasses.fields(BatcherStatistics)]


def snapshot(**others) -> BatcherStatistics:
    values = dict.fromkeys(FIELDS, 0) | {
        "rejected": dict.fromkeys(get_args(RejectionReason), 0),
        "batch_sizes": {},
        "busy": (0.0,),
        "latency": (LatencyFit(0.1, 0.01, 0.0),),
    }
    return BatcherStatistics(**values | others)


@pytest.mark.parametrize("name", FIELDS)
def test_a_snapshot_stays_as_it_was_taken(name):
    """No field can be set, and none added."""
    statistics = snapshot()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(statistics, name, 1)
    assert not hasattr(statistics, "__dict__")


def test_snapshots_are_compared_by_what_they_say():
    """Nothing has happened between two that are equal."""
    assert snapshot() == snapshot() != snapshot(waiting=1)


def test_every_number_is_explained():
    """The docstring says of each field what it counts, in their order."""
    attributes = inspect.getdoc(BatcherStatistics).partition("Attributes:")[2]
    assert re.findall(r"^ {4}(\w+):", attributes, re.MULTILINE) == FIELDS


def test_every_reason_for_a_rejection_is_explained():
    """The docstring names each key of `rejected`."""
    for reason in get_args(RejectionReason):
        assert f'``"{reason}"``' in BatcherStatistics.__doc__
