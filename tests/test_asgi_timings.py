"""`Server-Timing`: what the middleware tells of where a request's time went."""

from __future__ import annotations

import anyio
import pytest

from tests.exchanges import Exchange, body, hello
from trio_batcher._timings import current_timings
from trio_batcher.asgi import BatcherMiddleware

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


async def test_timings_are_sent_if_a_batcher_answered():
    """In milliseconds, beside what the application says itself; its own message stays as it is."""
    headers = [(b"server-timing", b"db;dur=1")]

    async def app(scope, receive, send):
        async with anyio.create_task_group() as tasks:  # they inherit the request
            tasks.start_soon(call, 0.001, 0.0203)
            tasks.start_soon(call, 0.0005, 0.01)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await body(send)

    async def call(queue, model):
        current_timings.get().add(queue, model)

    exchange = await Exchange()(BatcherMiddleware(app))
    assert exchange.sent[0]["headers"] == [
        (b"server-timing", b"db;dur=1"),
        (b"server-timing", b"queue;dur=1.5, model;dur=30.3"),
    ]
    assert headers == [(b"server-timing", b"db;dur=1")]


async def test_timings_are_sent_without_the_applications_headers():
    """Which a response's start need not have, in ASGI."""

    async def app(scope, receive, send):
        current_timings.get().add(0.001, 0.002)
        await send({"type": "http.response.start", "status": 204})
        await body(send)

    exchange = await Exchange()(BatcherMiddleware(app))
    assert exchange.headers == {"server-timing": "queue;dur=1.0, model;dur=2.0"}


async def test_a_problem_has_timings_too():
    """A request that was answered once and then ran out of time."""

    async def app(scope, receive, send):
        current_timings.get().add(0.001, 0.002)
        raise TimeoutError

    exchange = await Exchange()(BatcherMiddleware(app))
    assert exchange.problem == (504, "deadline")
    assert exchange.headers["server-timing"] == "queue;dur=1.0, model;dur=2.0"


async def test_timings_are_not_sent_if_no_batcher_was_asked():
    """Zeros would be a claim."""
    exchange = await Exchange()(BatcherMiddleware(hello))
    assert "server-timing" not in exchange.headers


async def test_each_request_has_timings_of_its_own():
    """Those of a request inside another are not the other's, and none are left behind."""

    async def inner(scope, receive, send):
        current_timings.get().add(1, 1)
        await hello(scope, receive, send)

    async def outer(scope, receive, send):
        mine = current_timings.get()
        await Exchange()(BatcherMiddleware(inner))
        assert current_timings.get() is mine
        await hello(scope, receive, send)

    exchange = await Exchange()(BatcherMiddleware(outer))
    assert "server-timing" not in exchange.headers
    assert current_timings.get() is None
