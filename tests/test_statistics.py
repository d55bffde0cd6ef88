"""The snapshot that `Batcher.statistics` gives."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
import re
from contextlib import suppress
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


FULL = snapshot(
    rejected={"overloaded": 3, "deadline": 2, "closed": 1, "crashed": 0}, batch_sizes={1: 4, 8: 2}
)


@pytest.mark.parametrize(
    "again",
    [
        *(lambda s, p=p: pickle.loads(pickle.dumps(s, p)) for p in range(2, 6)),
        copy.copy,
        copy.deepcopy,
        lambda s: BatcherStatistics(**{name: getattr(s, name) for name in FIELDS}),
        dataclasses.replace,
    ],
)
def test_a_snapshot_can_leave_its_process(again):
    """Pickled or copied it is equal, has the same hash, and is as frozen."""
    twin = again(FULL)
    assert twin == FULL
    assert hash(twin) == hash(FULL)
    with pytest.raises(TypeError):
        twin.rejected["closed"] = 7


def test_a_snapshot_is_a_dict_that_json_can_write():
    """With every number in it, those of the latency's line too."""
    plain = json.loads(json.dumps(dataclasses.asdict(FULL)))
    assert list(plain) == FIELDS
    assert plain["rejected"] == FULL.rejected
    assert plain["batch_sizes"] == {"1": 4, "8": 2}
    assert plain["latency"] == [{"fixed": 0.1, "per_item": 0.01, "deviation": 0.0}]


@pytest.mark.parametrize("name", ["rejected", "batch_sizes"])
def test_what_is_counted_in_a_snapshot_stays_as_it_was(name):
    """Nothing that changes a dict does anything; what it was made of may change."""
    counts = getattr(FULL, name)
    before = dict(counts)
    for change in (
        lambda: counts.__setitem__(1, 2),
        lambda: counts.__delitem__(next(iter(counts))),
        lambda: counts.pop(next(iter(counts))),
        lambda: counts.setdefault("new", 1),
        lambda: counts.update({1: 2}),
        lambda: counts.__ior__({1: 2}),
        counts.popitem,
        counts.clear,
    ):
        with pytest.raises(TypeError, match="a snapshot cannot be changed"):
            change()
    assert counts == before
    with suppress(AttributeError):
        counts.extra = 1
    assert not hasattr(counts, "extra")
    source = dict(before)
    mine = snapshot(**{name: source})
    source.clear()
    assert getattr(mine, name) == before
    assert {**counts, "new": 1} == {**before, "new": 1}
    assert type(counts | {}) is dict
