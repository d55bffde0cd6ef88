"""What a refusal leaves behind: nothing, without the garbage collector's help."""

from __future__ import annotations

import gc
import logging
import weakref
from contextlib import suppress

import pytest

from trio_batcher import (
    BatcherClosed,
    DeadlineUnreachable,
    ItemError,
    ModelError,
    Overloaded,
    ResultCountError,
    open_batcher,
)

from .hosts import host, wait_all_tasks_blocked

pytestmark = pytest.mark.usefixtures("on_host")

CALLS = {
    "infer": lambda batcher, item: batcher.infer(item),
    "infer_many": lambda batcher, item: batcher.infer_many([item]),
}


class Item:
    """Something that can be seen to have gone."""


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def refused(batcher, call, error, *, more=0):
    """Have items refused, and return what is left of them and of the errors; not of ``more``."""
    left = []
    for number in range(3 + more):
        item = Item()
        if number == 3:
            looked_at, left = left, []
        left.append(weakref.ref(item))
        try:
            await CALLS[call](batcher, item)
        except error as caught:
            with suppress(TypeError):  # Python's own cannot be seen to have gone
                left.append(weakref.ref(caught))
        else:
            raise AssertionError("it was not refused")
        del item
        await host.checkpoint()  # a task holds what it was last woken with until then
    return [ref() for ref in (looked_at if more else left) if ref() is not None]


def unchanged(items):
    return items


@pytest.mark.parametrize("call", CALLS)
async def test_an_overload_keeps_nothing(call, no_collector, virtual_time):
    """The item dies with the error that its caller handles, and that when it is handled."""

    async def model(items):
        await host.sleep(1)
        return items

    async with (
        open_batcher(model, max_queue_size=1, max_batch_size=1) as batcher,
        host.open_nursery() as nursery,
    ):
        for _ in range(2):
            nursery.start_soon(batcher.infer, 1)
            await wait_all_tasks_blocked()
        assert not await refused(batcher, call, Overloaded)


@pytest.mark.parametrize("call", CALLS)
async def test_an_unreachable_deadline_keeps_nothing(call, no_collector, virtual_time):
    """Likewise."""

    async def model(items):
        await host.sleep(1)
        return items

    async with open_batcher(model, max_batch_size=1) as batcher, host.open_nursery() as nursery:
        for _ in range(3):
            await batcher.infer(0)
        nursery.start_soon(batcher.infer, 1)
        await wait_all_tasks_blocked()
        with host.move_on_after(0.5) as scope:
            assert not await refused(batcher, call, DeadlineUnreachable)
        assert not scope.cancelled_caught


@pytest.mark.parametrize("call", CALLS)
async def test_a_closed_batcher_keeps_nothing(call, no_collector):
    """Likewise."""
    async with open_batcher(unchanged) as batcher:
        pass
    assert not await refused(batcher, call, BatcherClosed)


@pytest.mark.parametrize("call", CALLS)
async def test_a_refused_item_is_not_kept(call, no_collector):
    """Whatever is wrong with it."""
    async with open_batcher(unchanged, cost=lambda _: 9, max_batch_cost=8) as batcher:
        assert not await refused(batcher, call, ItemError)
    async with open_batcher(unchanged, cost=lambda _: "9", max_batch_cost=8) as batcher:
        assert not await refused(batcher, call, TypeError)
    async with open_batcher(unchanged, key=lambda item: item.key) as batcher:
        assert not await refused(batcher, call, AttributeError)


class WordError(Exception):
    """Of a model's own."""


def raised_and_returned(items):
    """Return errors whose tracebacks have this frame, which has them and the items."""
    results = []
    for item in items:
        try:
            raise WordError(type(item))
        except WordError as exc:
            results.append(exc)
    return results


SINGLETON = WordError("too long")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (raised_and_returned, WordError),
        (lambda items: [SINGLETON] * len(items), WordError),
        (lambda items: [KeyboardInterrupt()] * len(items), ModelError),
        (lambda items: [ValueError] * len(items), ModelError),
        (lambda items: {*items}, ModelError),
        (lambda items: [*items, 1], ResultCountError),
        (lambda items: "x" * len(items), ModelError),
    ],
)
async def test_what_a_model_answers_keeps_nothing(answer, error, is_async, call, no_collector):
    """Errors in results' places, one for all as well, and results that are none."""

    async def model(items):
        return answer(items)

    async with open_batcher(model if is_async else answer) as batcher:
        # The device holds its last batch.
        left = await refused(batcher, call, error, more=1)
        assert not [each for each in left if each is not SINGLETON]


async def test_one_error_for_everything_keeps_nobody(no_collector):
    """Its first caller has that very instance; when it is returned again, nothing of that is kept.

    Its traceback does not grow.
    """
    singleton = WordError("too long")
    async with open_batcher(lambda items: [singleton] * len(items)) as batcher:
        left = await refused(batcher, "infer", WordError, more=1)
        assert set(left) == {singleton}
        assert singleton.__traceback__ is None


async def test_the_log_has_rejections_once_a_second(virtual_time, caplog):
    """The first one at once, then how many there were of each kind; the rest when it closes."""

    async def model(items):
        await host.sleep(10)
        return items

    async def ask():
        with pytest.raises(Overloaded):
            await batcher.infer(1)

    async with (
        open_batcher(model, max_queue_size=1, max_batch_size=1) as batcher,
        host.open_nursery() as nursery,
    ):
        for _ in range(2):
            nursery.start_soon(batcher.infer, 1)
            await wait_all_tasks_blocked()
        for _ in range(3):
            await ask()
        await host.sleep(0.5)
        await ask()
        assert told(caplog) == ["requests turned away: 1 (overloaded)"]
        await host.sleep(0.5)
        await ask()
        await ask()
    await host.sleep(1)
    with pytest.raises(BatcherClosed):
        await batcher.infer(1)
    assert told(caplog) == [
        "requests turned away: 1 (overloaded)",
        "requests turned away in the last 1 s: 4 (overloaded)",
        "requests turned away in the last 19 s: 1 (overloaded)",
        "requests turned away in the last 1 s: 1 (closed)",
    ]
    assert batcher.statistics().rejected == {
        "overloaded": 6,
        "deadline": 0,
        "closed": 1,
        "crashed": 0,
    }


async def test_the_log_has_what_is_turned_away_later(virtual_time, caplog):
    """Those that waited as well, by the kind of their errors."""

    async def model(items):
        await host.sleep(1)
        return items

    async def ask(error):
        with pytest.raises(error), host.move_on_after(10):
            await batcher.infer(1)

    async with host.open_nursery() as callers:
        with host.CancelScope() as scope:
            async with open_batcher(model, max_batch_size=1) as batcher:
                for _ in range(3):
                    callers.start_soon(ask, BatcherClosed)
                await wait_all_tasks_blocked()
                scope.cancel()
    assert told(caplog)[0].startswith("requests turned away: ")
    assert sum(batcher.statistics().rejected.values()) == 3


async def test_nothing_turned_away_is_nothing_in_the_log(virtual_time, caplog):
    """Whoever is served, fails or leaves is no rejection."""
    async with open_batcher(lambda items: [1 / item for item in items]) as batcher:
        assert await batcher.infer(1) == 1
        with pytest.raises(ModelError):
            await batcher.infer(0)
    assert not told(caplog)


def told(caplog) -> list[str]:
    """What the log was told of rejections."""
    records = [r for r in caplog.records if r.name == "trio_batcher" and "turned away" in r.msg]
    assert all(record.levelno == logging.WARNING for record in records)
    return [record.getMessage() for record in records]
