"""Who asks learns where an answer's time went: in the queue, and in the model."""

from __future__ import annotations

import pytest

from trio_batcher import ModelError, open_batcher
from trio_batcher._timings import Timings, current_timings
from trio_batcher.asgi import BatcherMiddleware

from .exchanges import Exchange, body
from .hosts import host
from .models import TimedModel

pytestmark = pytest.mark.usefixtures("on_host", "virtual_time")


async def timed(function, *args) -> Timings:
    """Call it as the handler of an HTTP request that is timed."""
    timings = Timings()
    token = current_timings.set(timings)
    try:
        await function(*args)
    finally:
        current_timings.reset(token)
    return timings


async def test_a_request_is_told_how_long_it_waited_and_how_long_its_batch_ran():
    """Seconds until its batch started, and from there to its result; others' are not counted."""
    async with open_batcher(TimedModel(0.010, 0.001)) as batcher, host.open_nursery() as nursery:
        nursery.start_soon(batcher.infer, 1)
        await host.wait_all_tasks_blocked()
        await host.sleep(0.005)
        timings = await timed(batcher.infer, 2)
    assert timings.calls == 1
    assert timings.queue == pytest.approx(0.006)
    assert timings.model == pytest.approx(0.011)


async def test_of_several_items_the_one_that_was_answered_last_counts():
    """Two batches of two: the second one waited for the first."""
    async with open_batcher(TimedModel(0.010, 0.001), max_batch_size=2) as batcher:
        timings = await timed(batcher.infer_many, [1, 2, 3, 4])
    assert timings.calls == 1
    assert timings.queue == pytest.approx(0.012)
    assert timings.model == pytest.approx(0.012)


async def test_calls_of_one_http_request_add_up():
    """One after the other, or at the same time."""
    async with open_batcher(TimedModel(0.010, 0.001)) as batcher:

        async def handler() -> None:
            await batcher.infer(1)
            await batcher.infer_many([2, 3])

        timings = await timed(handler)
    assert (timings.calls, timings.queue) == (2, pytest.approx(0.0))
    assert timings.model == pytest.approx(0.011 + 0.012)


async def test_a_call_that_raises_adds_nothing():
    """There is no answer whose time it could be."""

    async def model(items):
        raise ValueError

    async def handler() -> None:
        with pytest.raises(ModelError):
            await batcher.infer(1)

    async with open_batcher(model) as batcher:
        timings = await timed(handler)
    assert timings.calls == 0


async def test_the_header_tells_of_the_batcher_itself():
    """A handler that asks a batcher has nothing to pass on to the middleware around it."""
    async with open_batcher(TimedModel(0.010, 0.001)) as batcher:

        async def app(scope, receive, send):
            await batcher.infer(1)
            await send({"type": "http.response.start", "status": 200})
            await body(send)

        exchange = await Exchange()(BatcherMiddleware(app))
    assert exchange.headers == {"server-timing": "queue;dur=0.0, model;dur=11.0"}
