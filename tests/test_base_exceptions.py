"""Whatever a model raises, it is a failure of those concerned, and never of the batcher."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from trio_batcher import BatcherError, ModelError, open_batcher

from .hosts import host

pytestmark = pytest.mark.usefixtures("on_host")


class PanicError(BaseException):
    """As extensions in other languages have it."""


class Speechless(BaseException):
    """Cannot even be looked at."""

    def __str__(self):
        raise PanicError

    __repr__ = __str__


class Lazy(Sequence):
    """Results that are computed when they are looked at."""

    def __init__(self, items, error):
        self.items, self.error = items, error

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if self.items[index] == "bad":
            raise self.error
        return self.items[index]


ERRORS = [SystemExit, PanicError, GeneratorExit, Speechless]


def in_a_thread(error):
    def model(items):
        if "bad" in items:
            raise error
        return items

    return model


def in_the_loop(error):
    async def model(items):
        await host.checkpoint()
        if "bad" in items:
            raise error
        return items

    return model


def in_the_loop_without_waiting(error):
    async def model(items):
        if "bad" in items:
            raise error
        return items

    return model


def in_a_group(error):
    async def model(items):
        await host.checkpoint()
        if "bad" in items:
            raise BaseExceptionGroup("several", [ValueError(), error])
        return items

    return model


def lazily(error):
    return lambda items: Lazy(list(items), error)


def lazily_in_the_loop(error):
    async def model(items):
        await host.checkpoint()
        return Lazy(list(items), error)

    return model


MODELS = [
    in_a_thread,
    in_the_loop,
    in_the_loop_without_waiting,
    in_a_group,
    lazily,
    lazily_in_the_loop,
]


async def outcomes_of(batcher, *items):
    outcomes = []

    async def ask(item):
        try:
            outcomes.append((item, await batcher.infer(item)))
        except BatcherError as exc:
            outcomes.append((item, exc))

    async with host.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(ask, item)
    return outcomes


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("make", MODELS)
async def test_it_is_the_items_failure_and_the_batcher_goes_on(make, error):
    """A `ModelError` with that as the cause; later requests are answered."""
    async with open_batcher(make(error())) as batcher:
        for _ in range(2):
            ((_, failure),) = await outcomes_of(batcher, "bad")
            assert type(failure) is ModelError
            assert failure.__cause__ is not None
            assert await outcomes_of(batcher, "good") == [("good", "good")]
        assert not batcher.failed.is_set()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("make", MODELS[:4])
async def test_its_neighbours_are_answered(make, error):
    """Those that share its batch."""
    async with open_batcher(make(error()), max_batch_size=4, max_delay=30) as batcher:
        outcomes = dict(await outcomes_of(batcher, "a", "b", "bad", "c"))
    assert type(outcomes.pop("bad")) is ModelError
    assert outcomes == {"a": "a", "b": "b", "c": "c"}


async def test_a_nursery_of_the_models_may_be_left_by_anything():
    """The group is the cause."""

    async def model(items):
        async def part(item):
            await host.checkpoint()
            if item == "bad":
                raise PanicError

        async with host.open_nursery() as nursery:
            for item in items:
                nursery.start_soon(part, item)
        return items

    async with open_batcher(model) as batcher:
        ((_, failure),) = await outcomes_of(batcher, "bad")
        assert isinstance(failure.__cause__, BaseExceptionGroup)
        assert await outcomes_of(batcher, "good") == [("good", "good")]


@pytest.mark.parametrize("how", ["swallowed", "replaced", "grouped"])
async def test_a_model_that_makes_something_else_of_its_cancellation_ends_all_the_same(
    virtual_time, how
):
    """Leaving the block by an exception cancels it, and that is the end of it."""

    async def model(items):
        try:
            await host.sleep_forever()
        except BaseException as exc:  # noqa: ASYNC103
            if how == "swallowed":
                return items  # noqa: ASYNC104
            if how == "replaced":
                raise ValueError from exc  # noqa: ASYNC104
            raise BaseExceptionGroup("several", [ValueError(), exc]) from None  # noqa: ASYNC104

    outcomes = []

    async def ask():
        outcomes.extend(await outcomes_of(batcher, 1))

    async with host.open_nursery() as nursery:
        with pytest.raises(KeyError):
            async with open_batcher(model) as batcher:
                nursery.start_soon(ask)
                await host.sleep(1)
                raise KeyError
    assert len(outcomes) == 1


@pytest.mark.only_on("trio")
async def test_a_model_that_interrupts_itself_fails_on_trio():
    """No Ctrl-C of the user's is raised in there."""
    async with open_batcher(in_the_loop(KeyboardInterrupt())) as batcher:
        ((_, failure),) = await outcomes_of(batcher, "bad")
        assert type(failure.__cause__) is KeyboardInterrupt


async def test_a_model_that_interrupts_itself_in_a_thread_fails_alike():
    """Signals come to the main thread."""
    async with open_batcher(in_a_thread(KeyboardInterrupt())) as batcher:
        ((_, failure),) = await outcomes_of(batcher, "bad")
        assert type(failure.__cause__) is KeyboardInterrupt


@pytest.mark.only_on("asyncio", "uvloop")
@pytest.mark.parametrize("same_run", [False, True])
async def test_what_a_task_group_leaves_behind_is_no_cancellation(same_run):
    """A later await of something that was cancelled fails its batch, and nothing else."""

    async def fail():
        raise ValueError

    async def grouped():
        async with asyncio.TaskGroup() as group:  # noqa: ASYNC112
            group.create_task(fail())

    async def cancelled():
        task = asyncio.ensure_future(asyncio.sleep(9))
        await asyncio.sleep(0)
        task.cancel()
        await task

    async def model(items):
        if "group" in items:
            try:
                await grouped()
            except* ValueError:
                if not same_run:
                    raise
        if "cancelled" in items or ("group" in items and same_run):
            await cancelled()
        return items

    async with open_batcher(model) as batcher:
        for item in ("cancelled", "good", "group", "good", "cancelled", "group", "good"):
            ((_, outcome),) = await outcomes_of(batcher, item)
            assert outcome == item if item == "good" else type(outcome) is ModelError
        assert not batcher.failed.is_set()


@pytest.mark.only_on("asyncio")
async def test_a_cancellation_that_comes_after_a_task_group_is_one(virtual_time):
    """A real one is told from what only looks like one."""

    async def fail():
        raise ValueError

    async def model(items):
        try:
            async with asyncio.TaskGroup() as group:  # noqa: ASYNC112
                group.create_task(fail())
        except* ValueError:
            pass
        await asyncio.sleep(1000)

    async with open_batcher(model, batch_timeout=1) as batcher:
        ((_, failure),) = await outcomes_of(batcher, 1)
        assert type(failure.__cause__) is TimeoutError


async def test_other_tasks_run_while_a_model_never_waits():
    """Once a batch at least, however much there is to do."""
    batches = most = seen = 0

    async def model(items):
        nonlocal batches, most
        batches += 1
        most = max(most, batches - seen)
        return items

    async def tick():
        nonlocal seen
        while batches < 200:
            seen = batches
            await host.checkpoint()

    async with open_batcher(model, max_batch_size=1) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(tick)
        for item in range(200):
            nursery.start_soon(batcher.infer, item)
    assert most <= 4
