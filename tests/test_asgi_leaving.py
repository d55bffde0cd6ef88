"""Clients that leave, servers that say so too early, and cancellations from elsewhere."""

from __future__ import annotations

import asyncio
import logging

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.exchanges import Exchange, body, hello, start, text_of
from trio_batcher.asgi import BatcherMiddleware

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class Crash(BaseException):
    """Like `KeyboardInterrupt`, which cannot be raised in a test."""


@pytest.mark.parametrize("pieces", [[b""], [b"all of it"], [b"more is to come", b"more"]])
async def test_a_client_that_leaves_cancels_the_handler(pieces, caplog):
    """Also one that waits for something else; middlewares outside see 499, one line is logged."""
    cancelled = False

    async def app(scope, receive, send):
        nonlocal cancelled
        if len(pieces) > 1:
            await text_of(receive)
        exchange.leaves.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled = True
            raise

    exchange = Exchange(*pieces)
    with caplog.at_level(logging.INFO, "trio_batcher.asgi"):
        await exchange(BatcherMiddleware(app))
    assert cancelled
    assert (exchange.status, exchange.body, exchange.complete) == (499, b"", True)
    assert [record.getMessage() for record in caplog.records] == ["GET '/': the client left"]


async def test_a_client_that_leaves_in_the_middle_of_a_stream_cancels_the_handler():
    """Whatever was sent; nothing is sent in the handler's place."""

    async def app(scope, receive, send):
        await start(send)
        await body(send, b"half", more=True)
        exchange.leaves.set()
        await anyio.sleep_forever()

    exchange = Exchange()
    await exchange(BatcherMiddleware(app))
    assert exchange.body == b"half"
    assert not exchange.complete


async def test_a_client_that_left_is_not_told_of_errors():
    """Servers may raise if one sends then, and the errors of its handler are nobody's fault."""

    async def send(message):
        exchange.sent.append(message)
        raise BrokenPipeError

    async def app(scope, receive, send):
        exchange.leaves.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise TimeoutError

    exchange = Exchange()
    await BatcherMiddleware(app)(exchange.scope, exchange.receive, send)
    assert [message["status"] for message in exchange.sent] == [499]


async def test_an_error_is_not_lost_as_the_client_left():
    """A handler that fails while it is cancelled fails as it would by itself."""
    failure = ValueError("in the cleanup")

    async def app(scope, receive, send):
        exchange.leaves.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise failure

    exchange = Exchange()
    with pytest.raises(ValueError, match="in the cleanup") as caught:
        await exchange(BatcherMiddleware(app))
    assert caught.value is failure


@pytest.mark.parametrize(
    "last",
    [
        [{"type": "http.response.body", "body": b"end"}],
        [{"type": "http.response.pathsend", "path": "/file"}],
        [{"type": "http.response.zerocopysend", "file": 0, "more_body": False}],
        [
            {"type": "http.response.body", "body": b"end"},
            {"type": "http.response.trailers", "headers": [], "more_trailers": True},
            {"type": "http.response.trailers", "headers": []},
        ],
        [
            {"type": "http.response.pathsend", "path": "/file"},
            {"type": "http.response.trailers", "headers": []},
        ],
    ],
)
@pytest.mark.parametrize("announces", ["while sending", "afterwards"])
async def test_what_runs_after_the_answer_is_not_cancelled(last, announces):
    """Servers announce the end of a request as its client's leaving, some while they send it."""
    after = False
    trailers = last[-1]["type"] == "http.response.trailers"

    async def send(message):
        await checkpoint()
        exchange.sent.append(message)
        if message is last[-1] and announces == "while sending":
            exchange.leaves.set()
            await anyio.wait_all_tasks_blocked()

    async def app(scope, receive, send):
        nonlocal after
        await send({"type": "http.response.early_hint", "links": []})
        await send({"type": "http.response.start", "status": 200, "trailers": trailers})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        for message in last:
            await send(message)
        exchange.leaves.set()
        await anyio.wait_all_tasks_blocked()
        after = True

    exchange = Exchange()
    await BatcherMiddleware(app)(exchange.scope, exchange.receive, send)
    assert after
    assert exchange.sent[-1] is last[-1]


async def test_a_client_that_leaves_before_the_last_piece_is_noticed_in_time():
    """Trailers that are still to come keep the answer open."""
    after = False

    async def app(scope, receive, send):
        nonlocal after
        await send({"type": "http.response.start", "status": 200, "trailers": True})
        await body(send, b"all of the body")
        exchange.leaves.set()
        await anyio.wait_all_tasks_blocked()
        after = True

    exchange = Exchange()
    await exchange(BatcherMiddleware(app))
    assert not after


async def test_nobody_hears_of_the_end_while_the_last_piece_is_being_sent():
    """An application that listens beside it would cancel the sending; it hears thereafter."""
    heard = []

    async def app(scope, receive, send):
        async def listen():
            while (await receive())["type"] != "http.disconnect":
                pass
            heard.append(len(exchange.sent))
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            await hello(scope, receive, send)
            await anyio.sleep_forever()

    exchange = Exchange(announces_end=True)
    await exchange(BatcherMiddleware(app))
    assert exchange.complete
    assert heard == [2]


async def test_a_cancellation_from_outside_goes_through():
    """To the application, whose errors meanwhile go on, and on to whoever cancelled."""
    reached = False

    async def app(scope, receive, send):
        nonlocal reached
        outside.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            reached = True

    exchange = Exchange()
    with anyio.CancelScope() as outside:
        await exchange(BatcherMiddleware(app, default_timeout=100))
        pytest.fail("the cancellation was swallowed")
    assert outside.cancelled_caught
    assert reached
    assert not exchange.sent

    failure = ValueError("in the cleanup")

    async def fails(scope, receive, send):
        outside.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            raise failure

    with pytest.raises(ValueError, match="in the cleanup") as caught:
        with anyio.CancelScope() as outside:
            await exchange(BatcherMiddleware(fails))
    assert caught.value is failure


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_asyncios_own_cancellation_goes_through():
    """It is asked for once only; `asyncio.timeout` outside stays what decides."""
    reached = False

    async def app(scope, receive, send):
        nonlocal reached
        try:
            await anyio.sleep_forever()
        finally:
            reached = True

    exchange = Exchange()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await exchange(BatcherMiddleware(app, default_timeout=100))
    assert reached
    assert not exchange.sent
    assert asyncio.current_task().cancelling() == 0


async def test_a_deadline_outside_is_not_the_middlewares():
    """It is no 504: whoever set it knows what to do."""

    async def app(scope, receive, send):
        await anyio.sleep_forever()

    exchange = Exchange()
    with anyio.move_on_after(0.01) as outside:
        await exchange(BatcherMiddleware(app, default_timeout=100))
    assert outside.cancelled_caught
    assert not exchange.sent


async def test_a_crash_beside_the_handler_leaves_as_it_is():
    """What is no error but an end, as of the whole program, is not wrapped; two are a group."""
    crash, failure = Crash(), ValueError()

    async def receive():
        await checkpoint()
        raise crash

    async def app(scope, receive, send):
        await anyio.sleep_forever()

    async def fails(scope, receive, send):
        try:
            await anyio.sleep_forever()
        finally:
            raise failure

    with pytest.raises(Crash) as caught:
        await BatcherMiddleware(app)(Exchange().scope, receive, None)
    assert caught.value is crash
    with pytest.raises(BaseExceptionGroup) as group:
        await BatcherMiddleware(fails)(Exchange().scope, receive, None)
    assert set(group.value.exceptions) == {crash, failure}


async def test_a_crash_of_the_handler_leaves_as_it_is():
    """It is not turned into an answer."""
    crash = Crash()

    async def app(scope, receive, send):
        raise crash

    exchange = Exchange()
    with pytest.raises(Crash) as caught:
        await exchange(BatcherMiddleware(app))
    assert caught.value is crash
    assert not exchange.sent
