"""Bodies, and news of the client's leaving: what the middleware receives and hands on."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.exchanges import Exchange, body, hello, start, text_of
from trio_batcher.asgi import BatcherMiddleware

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


async def test_the_handler_sees_the_client_leave():
    """Where it receives, and as often as it asks, in its cleanup too."""
    seen = []

    async def app(scope, receive, send):
        seen.append(await receive())
        exchange.leaves.set()
        seen.append(await receive())
        with anyio.CancelScope(shield=True):
            seen.append(await receive())
        await anyio.sleep_forever()

    exchange = Exchange(b"text")
    await exchange(BatcherMiddleware(app))
    assert seen[0] == {"type": "http.request", "body": b"text", "more_body": False}
    assert seen[1:] == [{"type": "http.disconnect"}] * 2


async def test_a_cancelled_handler_can_ask_whether_the_client_left():
    """As Starlette's `is_disconnected` does, in a cancelled scope; it costs no body either."""
    answers = []

    async def ask(receive):
        with anyio.CancelScope() as scope:
            scope.cancel()
            return (await receive())["type"]

    async def app(scope, receive, send):
        await anyio.wait_all_tasks_blocked()
        answers.append(await ask(receive))
        answers.append(await text_of(receive))
        answers.append(await ask(receive))
        with anyio.CancelScope(shield=True):
            exchange.leaves.set()
            await anyio.wait_all_tasks_blocked()
            answers.append(await ask(receive))
        await checkpoint()

    exchange = Exchange(b"text")
    await exchange(BatcherMiddleware(app))
    assert answers == [None, b"text", None, "http.disconnect"]


async def test_the_whole_body_is_read_in_order():
    """However many pieces, at once or after a while, in the handler or in its tasks."""
    pieces = [b"%d " % i for i in range(20)]

    async def app(scope, receive, send):
        await anyio.wait_all_tasks_blocked()
        first = (await receive())["body"]
        await anyio.wait_all_tasks_blocked()
        await start(send)
        await body(send, first + await text_of(receive))

    exchange = Exchange(*pieces)
    await exchange(BatcherMiddleware(app))
    assert exchange.body == b"".join(pieces)


async def test_several_tasks_may_receive():
    """Each message goes to one of them."""
    found = []

    async def app(scope, receive, send):
        async def take():
            found.append((await receive())["body"])

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(take)
        await hello(scope, receive, send)

    await Exchange(b"a", b"b", b"c")(BatcherMiddleware(app))
    assert sorted(found) == [b"a", b"b", b"c"]


async def test_a_body_is_received_one_piece_ahead_at_most():
    """The server's backpressure reaches the client: what nobody reads is not received."""

    async def app(scope, receive, send):
        for asked in range(5):
            await anyio.wait_all_tasks_blocked()
            assert exchange.received == asked + 1
            await receive()
        await hello(scope, receive, send)

    exchange = Exchange(*[b"x"] * 100)
    await exchange(BatcherMiddleware(app))
    assert exchange.received <= 6


async def test_a_body_that_nobody_reads_does_not_hide_that_its_client_left():
    """As long as it is of one piece, after which there can only be the end."""
    left = False

    async def app(scope, receive, send):
        nonlocal left
        exchange.leaves.set()
        try:
            await anyio.sleep_forever()
        finally:
            left = True
            with anyio.CancelScope(shield=True):
                assert (await receive())["body"] == b"unread"
                assert (await receive())["type"] == "http.disconnect"

    exchange = Exchange(b"unread")
    await exchange(BatcherMiddleware(app))
    assert left


async def test_pieces_of_nothing_are_passed_over():
    """They hide neither the end of a body nor its client's leaving."""

    async def app(scope, receive, send):
        await anyio.wait_all_tasks_blocked()
        assert exchange.received == 4
        exchange.leaves.set()
        await anyio.sleep_forever()

    exchange = Exchange(b"", b"", b"", b"")
    await exchange(BatcherMiddleware(app))
    assert exchange.status == 499

    async def reads(scope, receive, send):
        assert await receive() == {"type": "http.request", "body": b"text", "more_body": True}
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}

    await Exchange(b"", b"text", b"", b"")(BatcherMiddleware(reads))


async def test_a_client_that_asks_first_is_told_to_go_on_by_the_application():
    """With "Expect: 100-continue" nothing is received before the application asks."""

    async def app(scope, receive, send):
        await anyio.wait_all_tasks_blocked()
        assert exchange.received == 0
        await receive()
        exchange.leaves.set()
        await anyio.sleep_forever()

    exchange = Exchange(b"long", headers={"Expect": "100-continue"})
    await exchange(BatcherMiddleware(app))
    assert exchange.status == 499
    silent = Exchange(b"long", headers={"Expect": "100-continue"})
    await silent(BatcherMiddleware(hello))
    assert silent.received == 0
    assert silent.complete


async def test_what_follows_the_last_piece_is_handed_on():
    """Even if a server goes on where there is nothing more to come: no piece is overwritten."""
    messages = [{"type": "http.request", "body": b"%d" % i} for i in range(3)]
    found = []

    async def receive():
        await checkpoint()
        if messages:
            return messages.pop(0)
        return await anyio.sleep_forever()

    async def app(scope, receive, send):
        for _ in range(3):
            await anyio.wait_all_tasks_blocked()
            found.append((await receive())["body"])

    await BatcherMiddleware(app)(Exchange().scope, receive, None)
    assert found == [b"0", b"1", b"2"]


async def test_what_receiving_raises_is_raised_where_the_handler_receives():
    """As often as it asks, and only if it does: a limit on bodies may be a raising `receive`."""
    failure = ValueError("too long")

    async def receive():
        await checkpoint()
        raise failure

    async def reads(scope, receive, send):
        with pytest.raises(ValueError, match="too long"):
            await receive()
        await receive()

    exchange = Exchange()
    with pytest.raises(ValueError, match="too long") as caught:
        await BatcherMiddleware(reads)(exchange.scope, receive, exchange.send)
    assert caught.value is failure

    async def does_not(scope, receive, send):
        await anyio.wait_all_tasks_blocked()
        await hello(scope, receive, send)

    await BatcherMiddleware(does_not)(exchange.scope, receive, exchange.send)
    assert exchange.complete
