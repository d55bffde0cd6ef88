"""Models that call batchers: what would wait for ever is an error, all else works."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
import sniffio
import trio

from trio_batcher import InferenceModel, ModelError, open_batcher

from .hosts import host, wait_all_tasks_blocked
from .models import PATIENCE

pytestmark = pytest.mark.usefixtures("on_host")

NEVER = "would never answer"


def call_from_thread():
    """Return a function that has this event loop call an async one, for any of its threads."""
    if sniffio.current_async_library() == "trio":
        token = trio.lowlevel.current_trio_token()
        return lambda function, *args: trio.from_thread.run(function, *args, trio_token=token)
    loop = asyncio.get_running_loop()
    return lambda function, *args: asyncio.run_coroutine_threadsafe(function(*args), loop).result(
        PATIENCE
    )


async def gathered(function, items):
    """Call it for all items at a time, each in a task of its own."""
    results = {}

    async def call(item):
        results[item] = await function(item)

    async with host.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(call, item)
    return [results[item] for item in items]


class Countdown:
    """A model that has its batchers answer for all but zero: ``n`` is 1 more than ``n - 1``.

    Args:
        how: in which way it calls.
    """

    def __init__(self, how):
        self.how = how
        self.batcher = None
        self.errors = []

    def model(self):
        """Return it as a function of the kind that calls so."""
        if self.how != "thread":
            return self.infer
        call = call_from_thread()
        return lambda items: [self.one_more(item, call) for item in items]

    def one_more(self, item, call):
        if not item:
            return 0
        with self.noted():
            return call(self.batcher.infer, item - 1) + 1

    async def infer(self, items):
        left = [item - 1 for item in items if item]
        with self.noted():
            if self.how == "infer":
                below = [await self.batcher.infer(item) for item in left]
            elif self.how == "infer_many":
                below = await self.batcher.infer_many(left)
            elif self.how == "map":
                below = []
                if left:
                    async with self.batcher.map(left) as results:
                        below = [result async for result in results]
            else:
                below = await gathered(self.batcher.infer, left)
        answers = iter(below)
        return [next(answers) + 1 if item else 0 for item in items]

    def noted(self):
        return _Noted(self.errors)


class _Noted:
    def __init__(self, errors):
        self.errors = errors

    def __enter__(self):
        pass

    def __exit__(self, kind, error, traceback):
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is not None:
            self.errors.append(error)


WAYS = ["infer", "infer_many", "map", "tasks", "thread"]
ways = pytest.mark.parametrize("how", WAYS)


@ways
async def test_a_model_that_calls_its_own_batcher_gets_an_error(how):
    """In whichever way it calls; the batcher goes on as if it were any other error."""
    model = Countdown(how)
    async with open_batcher(model.model()) as model.batcher:
        with pytest.raises(ModelError):
            await model.batcher.infer(1)
        assert await model.batcher.infer(0) == 0
    (error,) = model.errors
    assert type(error) is RuntimeError
    assert "called by its own model" in str(error)
    assert NEVER in str(error)


@ways
async def test_it_may_call_itself_as_deep_as_there_are_replicas(how):
    """Each level holds a device; there must be one for the next."""
    model = Countdown(how)
    async with open_batcher([model.model()] * 3, max_batch_size=1) as model.batcher:
        assert await model.batcher.infer(2) == 2
        assert model.errors == []
        with pytest.raises(ModelError):
            await model.batcher.infer(3)
        assert NEVER in str(model.errors[0])
        assert await model.batcher.infer(2) == 2


async def test_replicas_that_all_wait_for_each_other_are_told():
    """The last one to call is, and the others are answered then."""
    barrier, outcomes = [], []

    async def model(items):
        (item,) = items
        if item == "below":
            return items
        barrier.append(item)
        while len(barrier) < 2:
            await host.sleep(0.001)
        try:
            return [await batcher.infer("below")]
        except RuntimeError as exc:
            assert NEVER in str(exc)  # noqa: PT017  it is one of the two that gets it
            return ["told"]

    async with open_batcher([model, model], max_batch_size=1) as batcher:

        async def ask(item):
            outcomes.append(await batcher.infer(item))

        async with host.open_nursery() as nursery:
            nursery.start_soon(ask, "a")
            nursery.start_soon(ask, "b")
    assert sorted(outcomes) == ["below", "told"]


@ways
async def test_a_model_may_call_another_batcher(how):
    """With a limiter of its own, or none: it waits, and gets its answer."""
    upper = Countdown(how)
    async with (
        open_batcher(lambda items: [10 * item for item in items]) as upper.batcher,
        open_batcher(upper.model(), limiter=host.CapacityLimiter(1)) as batcher,
    ):
        assert await batcher.infer_many(range(1, 9)) == [10 * (n - 1) + 1 for n in range(1, 9)]


@ways
@pytest.mark.parametrize("levels", [2, 3])
async def test_batchers_that_call_each_other_and_share_a_limiter_need_a_token_each(how, levels):
    """With one too few the last one to call gets an error; with as many it works."""

    async def through(models, below):
        """Open a batcher for each model, which calls the one before it, and ask the last."""
        if not models:
            return await below.infer(levels - 1)
        model, *others = models
        model.batcher = below
        async with open_batcher(model.model(), limiter=limiter) as batcher:
            return await through(others, batcher)

    for limiter in (host.CapacityLimiter(levels), host.CapacityLimiter(levels - 1)):
        models = [Countdown(how) for _ in range(levels - 1)]
        async with open_batcher(lambda items: items, limiter=limiter) as lowest:
            if limiter.total_tokens == levels:
                assert await through(models, lowest) == levels - 1
            else:
                with pytest.raises(ModelError):
                    await through(models, lowest)
                assert NEVER in str(models[0].errors[0])
        assert limiter.borrowed_tokens == 0


@ways
async def test_a_circle_of_batchers_is_an_error_of_the_one_that_closes_it(how):
    """Each with a limiter of its own, or none: nobody can ever answer."""
    models = [Countdown(how) for _ in range(3)]
    a, b, c = models
    async with (
        open_batcher(a.model()) as c.batcher,
        open_batcher(b.model()) as a.batcher,
        open_batcher(c.model(), limiter=host.CapacityLimiter(5)) as b.batcher,
    ):
        assert await c.batcher.infer(2) == 2
        with pytest.raises(ModelError):
            await c.batcher.infer(3)
        (error,) = c.errors
        assert "called by a model" in str(error)
        assert NEVER in str(error)
        assert await c.batcher.infer(2) == 2


async def test_a_warm_up_and_a_constructor_hold_a_token_too():
    """What they call under the same limiter would never answer either."""
    limiter, call = host.CapacityLimiter(1), call_from_thread()

    class Early(InferenceModel[int, int]):
        def __init__(self):
            call(inner.infer, 1)

        def infer(self, inputs):
            return inputs

    def late(inputs):
        return [call(inner.infer, item) for item in inputs]

    async with open_batcher(lambda items: items, limiter=limiter) as inner:
        with pytest.raises(RuntimeError, match=NEVER):
            async with open_batcher(Early, limiter=limiter):
                raise AssertionError
        with pytest.raises(ModelError, match=NEVER):
            async with open_batcher(late, limiter=limiter, warmup=[1]):
                raise AssertionError
        assert await inner.infer(3) == 3
    assert limiter.borrowed_tokens == 0


async def test_a_launch_that_calls_its_own_batcher_gets_an_error_too():
    """And so does whatever waits for the batch that it has launched."""
    call = call_from_thread()

    class Model(InferenceModel[str, str]):
        def infer(self, inputs):
            return self.launch(inputs)()

        def launch(self, inputs):
            if "launch" in inputs:
                call(batcher.infer, "below")
            return lambda: self.collect(inputs)

        def collect(self, inputs):
            if "collect" in inputs:
                call(batcher.infer, "below")
            return inputs

    async with open_batcher(Model()) as batcher:
        for item in ("launch", "collect"):
            with pytest.raises(ModelError, match="called by its own model"):
                await batcher.infer(item)
        assert await batcher.infer("fine") == "fine"


async def test_a_task_that_outlives_the_batch_it_was_started_in_may_call():
    """It is no longer the model, and nobody waits for it."""
    answers = []

    async def later(gate):
        await gate.wait()
        answers.append(await batcher.infer(0))

    async def model(items):
        if items != [0]:
            nursery.start_soon(later, gate)
            await host.checkpoint()
        return items

    async with open_batcher(model) as batcher, host.open_nursery() as nursery:
        gate = host.Event()
        assert await batcher.infer(1) == 1
        gate.set()
    assert answers == [0]


async def test_what_the_model_does_not_wait_for_may_call_in_a_context_of_its_own():
    """While the batch runs; it is answered after that."""
    answers, call = [], call_from_thread()

    def ask():
        answers.append(call(batcher.infer, 0))

    def model(items):
        if items != [0]:
            threads.append(
                threading.Thread(target=contextvars.Context().run, args=(ask,), name="asking")
            )
            threads[0].start()
        return items

    threads = []
    async with open_batcher(model) as batcher:
        assert await batcher.infer(1) == 1
        await host.in_thread(threads[0].join, PATIENCE)
    assert answers == [0]


@pytest.mark.only_on("asyncio", "uvloop")  # on trio, who has opened it has to close it
async def test_a_batcher_that_a_model_has_opened_may_call_the_models_own_later():
    """What was so while it was opened is not so any more."""
    opened = []

    async def inner_model(items):
        return [await outer.infer(item) for item in items]

    async def outer_model(items):
        if items == ["open"]:
            opened.append(open_batcher(inner_model))
            opened.append(await opened[0].__aenter__())
        return items

    async with open_batcher(outer_model) as outer:
        await outer.infer("open")
        assert await opened[1].infer("later") == "later"
        await opened[0].__aexit__(None, None, None)
    await wait_all_tasks_blocked()


async def test_a_model_that_was_left_behind_holds_nothing():
    """Whom it has called may call its batcher, whose other replica answers."""
    call, go_on, answers = call_from_thread(), host.Event(), []
    gone = threading.Event()

    def caller(items):
        if items == ["hang"]:
            try:
                call(callee.infer, "hung")
            finally:
                gone.set()
        return items

    async def called(items):
        await go_on.wait()
        answers.append(await batcher.infer("plain"))
        return items

    async with (
        open_batcher([caller, caller], max_batch_size=1, batch_timeout=0.05) as batcher,
        open_batcher(called) as callee,
    ):
        with pytest.raises(ModelError, match="batch_timeout"):
            await batcher.infer("hang")
        go_on.set()
        assert await host.in_thread(gone.wait, PATIENCE)
    assert answers == ["plain"]
