"""Whatever happens, in whatever order: a randomised test of the whole batcher.

Hypothesis draws arrivals, deadlines, cancellations, model faults and a way of closing; all
of it runs on virtual time, in order of events, with an async model. The model keeps a
record of what it was given and when, and every caller of what it got.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import event, given, settings, strategies as st

from trio_batcher import (
    BatcherClosed,
    BatchTooLarge,
    DeadlineUnreachable,
    ModelError,
    Overloaded,
    ResultCountError,
    open_batcher,
)

from . import hosts
from .hosts import host

# Virtual seconds after which somebody is hanging.
FOR_EVER = 1e6

# What came of a caller that was cancelled.
CANCELLED = "cancelled"

GOOD, RAISES, RETURNS_ERROR, MISCOUNTS = "good", "raises", "returns an error", "miscounts"
HANGS, EXITS, LAZY = "hangs", "exits", "exits when its result is looked at"
PANICS, GROUPED = "raises a BaseException of its own", "raises a group with an exit"
SHAPELESS, STUBBORN = "has a text for all results", "answers though it is cancelled"
TOO_LARGE = "raises BatchTooLarge unless it is alone"
# Longer than any run that does not hang.
BATCH_TIMEOUT = 0.25


@dataclass(frozen=True)
class Item:
    """An input that says what the model does with it."""

    number: int
    kind: str


class Lazy(list):
    """Results that cannot be looked at."""

    def __iter__(self):
        raise SystemExit


class PoisonError(Exception):
    """What the model raises or returns."""


class Panic(BaseException):
    """What a Rust extension raises, say."""


FAULTS = PoisonError, Panic, SystemExit, TimeoutError, TypeError, BaseExceptionGroup
CULPRITS = {RAISES, HANGS, EXITS, LAZY, PANICS, GROUPED, SHAPELESS, STUBBORN}


@dataclass
class Caller:
    """What one caller does, and what came of it."""

    items: list[Item]
    many: bool
    arrives: float
    deadline: float
    leaves: float
    weight: float
    outcome: object = None
    at: float = math.inf


@dataclass
class Record:
    """What the model saw."""

    first_runs: list[tuple[float, list[Item]]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    # An assertion inside the model would be a model's failure to the batcher, and vanish.
    violations: list[str] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0


def model_for(record: Record, callers: dict[int, Caller], fixed: float, per_item: float):
    async def model(items: list[Item]) -> list[object]:
        now = host.current_time()
        new = [item for item in items if item.number not in record.seen]
        if new:
            if new != items:
                record.violations.append("a rerun was mixed with new requests")
            record.first_runs.append((now, list(items)))
            record.seen.update(item.number for item in items)
            record.violations += [
                f"{item} was run after its caller had gone"
                for item in items
                if callers[item.number].outcome is not None
            ]
        record.at_once += 1
        record.most_at_once = max(record.most_at_once, record.at_once)
        try:
            await host.sleep(fixed + per_item * len(items))
            kinds = {item.kind for item in items}
            if HANGS in kinds:
                await host.sleep_forever()
            if STUBBORN in kinds:
                with suppress(host.Cancelled):
                    await host.sleep(2 * BATCH_TIMEOUT)
        finally:
            record.at_once -= 1
        if RAISES in kinds:
            raise PoisonError("raised")
        if EXITS in kinds:
            raise SystemExit
        if PANICS in kinds:
            raise Panic
        if GROUPED in kinds:
            raise BaseExceptionGroup("of a nursery", [SystemExit(), PoisonError("raised")])
        if TOO_LARGE in kinds and len(items) > 1:
            raise BatchTooLarge("not so many")
        if SHAPELESS in kinds:
            return "x" * len(items)
        results: list[object] = [
            PoisonError(item.number) if item.kind == RETURNS_ERROR else ("result", item.number)
            for item in items
        ]
        if LAZY in kinds:
            return Lazy(results)
        return results[1:] if MISCOUNTS in kinds else results

    return model


async def call(caller: Caller, batcher) -> None:
    await host.sleep(caller.arrives)
    start = host.current_time()
    leaving = host.CancelScope()

    # Unannounced, unlike the deadline: the policy cannot see it come.
    async def leave() -> None:
        await host.sleep(caller.leaves)
        leaving.cancel()

    async with host.open_nursery() as nursery:
        nursery.start_soon(leave)
        with leaving, host.CancelScope(deadline=start + caller.deadline) as due:
            try:
                if caller.many:
                    outcome = await batcher.infer_many(caller.items, weight=caller.weight)
                else:
                    outcome = await batcher.infer(caller.items[0], weight=caller.weight)
            except Exception as exc:
                outcome = exc
            assert caller.outcome is None, "two outcomes"
            caller.outcome, caller.at = outcome, host.current_time()
        if leaving.cancelled_caught or due.cancelled_caught:
            assert caller.outcome is None, "two outcomes"
            caller.outcome, caller.at = CANCELLED, host.current_time()
            left = start + min(caller.leaves, caller.deadline)
            assert caller.at == pytest.approx(left, abs=1e-9), "cancelled late"
        nursery.cancel_scope.cancel()


class LeaveError(Exception):
    """How the body is left by an exception."""


async def run(scenario: dict) -> None:
    callers: list[Caller] = scenario["callers"]
    by_item = {item.number: caller for caller in callers for item in caller.items}
    record = Record()
    model = model_for(record, by_item, scenario["fixed"], scenario["per_item"])
    replicas = scenario["replicas"]
    tasks_before = host.tasks_living()

    with host.move_on_after(FOR_EVER) as patience:
        async with host.open_nursery() as nursery:
            with host.CancelScope() as scope:
                try:
                    async with open_batcher(
                        [model] * replicas,
                        max_batch_size=scenario["max_batch_size"],
                        max_delay=scenario["max_delay"],
                        max_queue_size=scenario["max_queue_size"],
                        batch_timeout=BATCH_TIMEOUT,
                    ) as batcher:
                        for caller in callers:
                            nursery.start_soon(call, caller, batcher)  # noqa: ASYNC111
                        await host.sleep(scenario["closes_at"])
                        if scenario["closing"] == "exception":
                            raise LeaveError
                        if scenario["closing"] == "cancel":
                            scope.cancel()
                        if scenario["closing"] == "cancel the drain":
                            scope.deadline = host.current_time() + 0.01
                except LeaveError:
                    assert scenario["closing"] == "exception"
            # The nursery has the callers and nothing of the batcher's.
            assert host.tasks_living() <= tasks_before + 2 * len(callers)
            assert record.at_once == 0, "the model outlived the block"
            runs = len(record.first_runs)
    assert not patience.cancelled_caught, "somebody hangs"
    assert len(record.first_runs) == runs, "a batch was run after the block"
    assert host.tasks_living() == tasks_before

    assert not record.violations
    check_outcomes(scenario, record)
    check_batches(scenario, record)
    check_statistics(callers, record, batcher.statistics())


def check_outcomes(scenario: dict, record: Record) -> None:
    callers = scenario["callers"]
    alone = scenario["fixed"] + scenario["per_item"]
    longest = scenario["fixed"] + scenario["per_item"] * scenario["max_batch_size"]
    batch_of = {item.number: items for _, items in record.first_runs for item in items}
    errors = [caller.outcome for caller in callers if isinstance(caller.outcome, Exception)]
    assert len({id(error) for error in errors}) == len(errors), "an exception was shared"
    for caller in callers:
        outcome = caller.outcome
        event(f"outcome: {outcome if outcome == CANCELLED else type(outcome).__name__}")
        kinds = {item.kind for item in caller.items}
        mates = {mate.kind for item in caller.items for mate in batch_of.get(item.number, [])}
        match outcome:
            case None:
                raise AssertionError(f"{caller} got no outcome")
            case list():
                assert outcome == [("result", item.number) for item in caller.items]
                assert not kinds - {GOOD, MISCOUNTS, STUBBORN, TOO_LARGE}
            case tuple():
                assert outcome == ("result", caller.items[0].number)
            case PoisonError():
                assert outcome.args[0] in {
                    item.number for item in caller.items if item.kind == RETURNS_ERROR
                }
            case ModelError():
                assert isinstance(outcome.__cause__, FAULTS)
                # Its own fault; or everything the model was tried on failed alike.
                assert kinds & CULPRITS or outcome.batch_size > 1
            case ResultCountError():
                assert MISCOUNTS in mates
            case DeadlineUnreachable():
                deadline = caller.arrives + caller.deadline
                assert caller.at < deadline, "told too late"
                # Behind a batch that has just begun it could be no sooner than this, and the
                # promise is for 99 of 100 batches: after two of them an eighth is kept for noise.
                assert deadline < caller.at + longest + 1.125 * alone, "not hopeless at all"
            case Overloaded():
                assert 0 <= outcome.retry_after < math.inf
            case BatcherClosed():
                # Leaving normally, whoever was accepted is answered.
                assert scenario["closing"] != "normal" or caller.arrives >= scenario["closes_at"]
            case _:
                assert outcome == CANCELLED, f"unexpected: {outcome!r}"


def check_batches(scenario: dict, record: Record) -> None:
    assert all(1 <= len(items) <= scenario["max_batch_size"] for _, items in record.first_runs)
    assert record.most_at_once <= scenario["replicas"], "a device ran two batches at once"
    run = [item.number for _, items in record.first_runs for item in items]
    assert len(run) == len(set(run)), "an item was in two batches"


def check_statistics(callers: list[Caller], record: Record, seen) -> None:
    assert seen.waiting == seen.running == 0
    settled = seen.completed + seen.failed + seen.cancelled + sum(seen.rejected.values())
    assert seen.submitted == settled
    sizes = Counter(len(items) for _, items in record.first_runs)
    assert seen.batch_sizes == sizes
    assert (seen.batches, seen.items) == (sizes.total(), len(record.seen))
    if not any(caller.many for caller in callers):
        outcomes = Counter(
            CANCELLED if caller.outcome == CANCELLED else type(caller.outcome) for caller in callers
        )
        assert seen.completed == outcomes[tuple]
        failures = outcomes[ModelError] + outcomes[ResultCountError] + outcomes[PoisonError]
        assert seen.failed == failures
        assert seen.rejected == {
            "overloaded": outcomes[Overloaded],
            "deadline": outcomes[DeadlineUnreachable],
            "closed": outcomes[BatcherClosed],
            "crashed": 0,
        }
        # A caller that was cancelled before it asked has submitted nothing.
        assert seen.cancelled <= outcomes[CANCELLED]


# Times on a grid, so that things often happen at the same instant.
times = st.integers(0, 40).map(lambda n: n / 200)
patience = st.one_of(st.just(math.inf), st.integers(0, 40).map(lambda n: n / 250))
weights = st.sampled_from([1.0, 1.0, 4.0, 0.3])
kinds = st.sampled_from(
    [GOOD] * 14
    + [RAISES, RAISES, RETURNS_ERROR, MISCOUNTS, HANGS, EXITS, LAZY]
    + [PANICS, GROUPED, SHAPELESS, STUBBORN, TOO_LARGE]
)


@st.composite
def scenarios(draw) -> dict:
    max_queue_size = draw(st.sampled_from([1, 3, 10, math.inf]))
    sizes = draw(
        st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, 5]), min_size=1, max_size=16)
    )  # 0: a single `infer`
    callers, number = [], 0
    for size in sizes:
        count = int(min(max(size, 1), max_queue_size))
        items = [Item(number + i, draw(kinds)) for i in range(count)]
        number += count
        callers.append(
            Caller(
                items,
                size > 0,
                draw(times),
                deadline=draw(patience),
                leaves=draw(patience),
                weight=draw(weights),
            )
        )
    return {
        "callers": callers,
        "max_queue_size": max_queue_size,
        "max_batch_size": draw(st.integers(1, 9)),
        "max_delay": draw(st.sampled_from([0.0, 0.005, 0.1])),
        "replicas": draw(st.sampled_from([1, 1, 2, 3])),
        "fixed": draw(st.sampled_from([0.0, 0.005, 0.03, 0.06])),
        "per_item": draw(st.sampled_from([0.0, 0.005])),
        "closes_at": 4 * draw(times),
        "closing": draw(
            st.sampled_from(["normal", "normal", "exception", "cancel", "cancel the drain"])
        ),
    }


@pytest.mark.parametrize("name", hosts.VIRTUAL)
@settings(max_examples=2_500)
@given(scenario=scenarios())
def test_each_caller_gets_exactly_one_outcome_and_everything_adds_up(name, scenario) -> None:
    """Its own outcome; nothing cancelled is run; no batch too large; nothing outlives the block."""
    hosts.run(name, run, scenario, virtual=True)
