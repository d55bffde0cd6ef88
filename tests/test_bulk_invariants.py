"""Whatever happens to a job, in whatever order: a randomised test of `Batcher.map`.

Hypothesis draws the items, what the model does with each, how the input and the loop over the
results go on and end, and who else asks; all of it runs on virtual time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import event, example, given, settings, strategies as st

from trio_batcher import (
    BatcherClosed,
    DeadlineUnreachable,
    ItemError,
    ModelError,
    Overloaded,
    ResultCountError,
    open_batcher,
)

from . import hosts
from .hosts import host

# Virtual seconds after which somebody is hanging.
FOR_EVER = 1e6

GOOD, RAISES, RETURNS_ERROR, MISCOUNTS, TOO_DEAR = (
    "good",
    "raises",
    "returns an error",
    "miscounts",
    "costs too much",
)
OTHERS = -1


class PoisonError(Exception):
    """What the model raises or returns."""


class InputError(Exception):
    """What the input raises."""


class BodyError(Exception):
    """What the body of the block raises."""


class AbortError(Exception):
    """What leaves the batcher's block."""


@dataclass
class Record:
    """What has happened."""

    kinds: list[str]
    taken: int = 0
    given: list[tuple[int, object]] = field(default_factory=list)
    # In the first runs, not in those that look for a poison input.
    run: list[int] = field(default_factory=list)
    most_under_way: int = 0
    left: bool = False
    # An assertion inside the model or the input would be their failure, and vanish.
    violations: list[str] = field(default_factory=list)
    end: object = None

    def note_taken(self):
        self.taken += 1
        self.most_under_way = max(self.most_under_way, self.taken - len(self.given))
        if self.left:
            self.violations.append("an item was taken after the block")


def model_for(record, fixed):
    async def model(items):
        mine = [item for item in items if item != OTHERS]
        new = [item for item in mine if item not in record.run]
        if new and record.left:
            record.violations.append("an item was run after the block")
        record.run += new
        await host.sleep(fixed)
        kinds = [GOOD if item == OTHERS else record.kinds[item] for item in items]
        if RAISES in kinds:
            raise PoisonError("raised")
        results = [
            PoisonError(item) if kind == RETURNS_ERROR else ("result", item)
            for item, kind in zip(items, kinds, strict=True)
        ]
        return results[1:] if MISCOUNTS in kinds else results

    return model


def source_for(record, scenario):
    def sync():
        for item in range(len(record.kinds)):
            if item == scenario["input_fails_at"]:
                raise InputError
            record.note_taken()
            yield item

    async def asynchronous():
        for item in sync():
            yield item
            await host.sleep(scenario["between_items"])

    return sync() if scenario["between_items"] is None else asynchronous()


async def work(record, scenario, batcher, scope):
    try:
        with scope:
            async with batcher.map(
                source_for(record, scenario),
                order=scenario["order"],
                errors=scenario["errors"],
                max_in_flight=scenario["max_in_flight"],
            ) as results:
                async for result in results:
                    in_order = scenario["order"] == "input"
                    record.given.append((len(record.given), result) if in_order else result)
                    if len(record.given) == scenario["leaves_after"]:
                        if scenario["leaving"] == "exception":
                            raise BodyError
                        if scenario["leaving"] == "cancels itself":
                            scope.cancel()
                        else:
                            record.end = "left"
                            break
                    if scenario["between_results"] is not None:
                        await host.sleep(scenario["between_results"])
                else:
                    record.end = "exhausted"
    except Exception as exc:
        record.end = exc
    if scope.cancelled_caught:
        record.end = "cancelled"
    record.left = True


async def ask(batcher, pause):
    while True:
        try:
            await batcher.infer(OTHERS)
        except (Overloaded, ModelError, ResultCountError):
            await host.sleep(0.001)
        except BatcherClosed:
            return
        await host.sleep(pause)


async def run(scenario):
    record = Record(scenario["kinds"])
    model = model_for(record, scenario["fixed"])
    dear = {item for item, kind in enumerate(record.kinds) if kind == TOO_DEAR}
    by_cost = {"cost": lambda item: 1 + 99 * (item in dear), "max_batch_cost": 50}
    tasks = host.tasks_living()
    with host.move_on_after(FOR_EVER) as patience:
        async with host.open_nursery() as nursery:
            scope = host.CancelScope(deadline=host.current_time() + scenario["cancelled_after"])
            try:
                async with open_batcher(
                    [model] * scenario["replicas"],
                    max_batch_size=scenario["max_batch_size"],
                    max_delay=scenario["max_delay"],
                    max_queue_size=scenario["max_queue_size"],
                    **(by_cost if dear else {}),
                ) as batcher:
                    for pause in scenario["others"]:
                        nursery.start_soon(ask, batcher, pause)
                    if scenario["closes_at"] == math.inf:
                        await work(record, scenario, batcher, scope)
                    else:
                        nursery.start_soon(work, record, scenario, batcher, scope)
                        await host.sleep(scenario["closes_at"])
                        if scenario["closing"] == "abort":
                            raise AbortError
            except AbortError:
                assert scenario["closing"] == "abort"
    assert not patience.cancelled_caught, "somebody hangs"
    assert host.tasks_living() == tasks
    assert not record.violations
    check(record, scenario, batcher.statistics())


def check(record, scenario, seen):
    indices = [index for index, _ in record.given]
    assert len(indices) == len(set(indices)), "an item had two outcomes"
    if scenario["order"] == "input":
        assert indices == list(range(len(indices)))
    assert record.most_under_way <= scenario["max_in_flight"]
    for index, result in record.given:
        check_outcome(record, scenario, index, result)
    check_end(record, scenario, indices)
    assert seen.waiting == seen.running == 0
    settled = seen.completed + seen.failed + seen.cancelled + sum(seen.rejected.values())
    assert seen.submitted == settled
    if not scenario["others"]:
        assert seen.rejected["overloaded"] == 0
        assert seen.submitted <= record.taken + 1


def check_end(record, scenario, indices):
    event(f"end: {record.end if isinstance(record.end, str) else type(record.end).__name__}")
    match record.end:
        case "exhausted":
            assert sorted(indices) == list(range(len(record.kinds)))
            assert scenario["input_fails_at"] >= len(record.kinds)
        case "left" | BodyError():
            assert len(indices) == scenario["leaves_after"]
        case "cancelled":
            itself = len(indices) == scenario["leaves_after"]
            assert itself or scenario["cancelled_after"] < FOR_EVER
        case InputError():
            until = min(len(record.kinds), scenario["input_fails_at"])
            assert sorted(indices) == list(range(until)), "a result before it was lost"
        case BatcherClosed():
            assert scenario["closes_at"] < math.inf
            if scenario["closing"] == "normal" and scenario["errors"] == "return":
                assert set(record.run) <= set(indices), "what was accepted was not answered"
        case DeadlineUnreachable():
            assert scenario["cancelled_after"] < FOR_EVER
        case PoisonError() | ModelError() | ResultCountError() | ItemError():
            assert scenario["errors"] == "raise"
            if scenario["order"] == "input":
                assert f"item {len(indices)} " in record.end.__notes__[-1]
        case _:
            raise AssertionError(f"unexpected: {record.end!r}")


def check_outcome(record, scenario, index, result):
    kind = record.kinds[index]
    if not isinstance(result, Exception):
        assert result == ("result", index)
        assert kind in (GOOD, MISCOUNTS)
        return
    assert scenario["errors"] == "return"
    match result:
        case PoisonError():
            assert kind == RETURNS_ERROR
            assert result.args == (index,)
        case ItemError():
            assert kind == TOO_DEAR
        case ModelError():
            assert kind == RAISES or result.batch_size > 1
        case ResultCountError():
            assert MISCOUNTS in record.kinds
        case DeadlineUnreachable():
            assert scenario["cancelled_after"] < FOR_EVER
        case _:
            raise AssertionError(f"unexpected: {result!r}")


kinds = st.sampled_from([GOOD] * 20 + [RAISES, RETURNS_ERROR, RETURNS_ERROR, MISCOUNTS, TOO_DEAR])
pauses = st.sampled_from([0.0, 0.001, 0.01, 0.1])
never = st.just(math.inf)


@st.composite
def scenarios(draw):
    good = st.just(GOOD)
    count = draw(st.sampled_from([0, 1, 2, 5, 20, 60]))
    which = draw(st.sampled_from([good, kinds, kinds]))
    return {
        "kinds": draw(st.lists(which, min_size=count, max_size=count)),
        "order": draw(st.sampled_from(["input", "completion"])),
        "errors": draw(st.sampled_from(["raise", "return"])),
        "max_in_flight": draw(st.sampled_from([1, 2, 3, 8, 30, 100])),
        "max_batch_size": draw(st.integers(1, 9)),
        "max_queue_size": draw(st.sampled_from([1, 2, 5, 20, math.inf])),
        "max_delay": draw(st.sampled_from([0.0, 0.0, 0.02])),
        "replicas": draw(st.sampled_from([1, 1, 2, 3])),
        "fixed": draw(st.sampled_from([0.0, 0.005, 0.03])),
        "between_items": draw(st.none() | pauses),
        "between_results": draw(st.none() | pauses),
        "input_fails_at": draw(never | st.integers(0, 30)),
        "leaves_after": draw(never | st.integers(1, 30)),
        "leaving": draw(st.sampled_from(["break", "exception", "cancels itself"])),
        "cancelled_after": draw(st.sampled_from([FOR_EVER, FOR_EVER, 0.0, 0.011, 0.04, 0.1])),
        "closes_at": draw(never | st.sampled_from([0.0, 0.01, 0.05])),
        "closing": draw(st.sampled_from(["normal", "abort"])),
        "others": draw(st.sampled_from([[], [], [0.001], [0.001, 0.003, 0.01, 0.001, 0.002]])),
    }


# The batcher is aborted when a batch has been delivered and the next one is not taken yet.
ABORTED_BETWEEN_BATCHES = {
    "kinds": [GOOD] * 2,
    "order": "input",
    "errors": "raise",
    "max_in_flight": 1,
    "max_batch_size": 1,
    "max_queue_size": 1,
    "max_delay": 0.0,
    "replicas": 1,
    "fixed": 0.005,
    "between_items": None,
    "between_results": None,
    "input_fails_at": math.inf,
    "leaves_after": math.inf,
    "leaving": "break",
    "cancelled_after": FOR_EVER,
    "closes_at": 0.01,
    "closing": "abort",
    "others": [0.005] * 4,
}


@pytest.mark.parametrize("name", hosts.VIRTUAL)
@settings(max_examples=600)
@example(scenario=ABORTED_BETWEEN_BATCHES)
@example(scenario=ABORTED_BETWEEN_BATCHES | {"max_in_flight": 2, "closes_at": 0.02})
@given(scenario=scenarios())
def test_each_item_has_exactly_one_outcome_and_nothing_is_left(name, scenario):
    """In order, within the bound, however the input, the loop and the batcher end."""
    hosts.run(name, run, scenario, virtual=True)
