"""Clients that take no more of their answer: what is sent to them does not wait for ever."""

from __future__ import annotations

import logging

import anyio
import pytest

from tests.exchanges import Exchange, body, start, text_of
from trio_batcher._gate import Gate
from trio_batcher._outbox import Outbox
from trio_batcher.asgi import BatcherMiddleware

pytestmark = pytest.mark.usefixtures("virtual_time")


class Stuck(Exchange):
    """A server whose ``send`` waits for ever at one message, as over HTTP/2 hypercorn's does.

    It is stuck from the message of that index on; at that one the client leaves, if it does.
    """

    def __init__(self, *pieces, at=0, leaves_there=True, **options):
        super().__init__(*pieces, **options)
        self.at = at
        self.leaves_there = leaves_there
        self.given_up = 0

    async def send(self, message):
        if len(self.sent) < self.at:
            await super().send(message)
            return
        if self.leaves_there:
            self.leaves.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.given_up += 1


async def streaming(scope, receive, send):
    await start(send)
    await body(send, b"half", more=True)
    await body(send, b"and half")


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_what_is_sent_to_a_client_that_left_is_given_up(at):
    """Whichever message it is; the request is over within a second."""
    exchange = Stuck(at=at)
    with anyio.fail_after(1):
        await exchange(BatcherMiddleware(streaming))
    assert len(exchange.sent) == at
    assert exchange.given_up


@pytest.mark.parametrize(
    ("headers", "options"),
    [({"X-Request-Timeout": "soon"}, {}), ({"X-Request-Timeout": "0"}, {}), ({}, {"at": 1})],
)
async def test_so_are_answers_in_the_applications_place(headers, options):
    """To a wrong header, to no time at all, to an error: with the start or with the body."""

    async def app(scope, receive, send):
        raise TimeoutError

    exchange = Stuck(headers=headers, **options)
    with anyio.fail_after(1):
        await exchange(BatcherMiddleware(app))
    assert exchange.given_up


async def test_so_is_the_farewell_of_a_cancelled_handler():
    """The 499 for middlewares outside, and what a handler sends in its cleanup."""
    cleaned = False

    async def app(scope, receive, send):
        nonlocal cleaned
        exchange.leaves.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await streaming(scope, receive, send)
            cleaned = True

    exchange = Stuck()
    with anyio.fail_after(1):
        await exchange(BatcherMiddleware(app))
    assert cleaned

    async def waiting(scope, receive, send):
        exchange.leaves.set()
        await anyio.sleep_forever()

    exchange = Stuck()
    with anyio.fail_after(1):
        await exchange(BatcherMiddleware(waiting))
    assert exchange.given_up


async def test_what_can_be_sent_is_sent_though_the_client_left():
    """Not everything that takes a while is stuck: a server that announces the end tidies up."""
    tidied = False

    async def send(message):
        nonlocal tidied
        if message["type"] == "http.response.body":
            exchange.leaves.set()
            await anyio.sleep(0.4)
            tidied = True

    async def app(scope, receive, send):
        await start(send)
        await body(send, b"all")

    exchange = Exchange()
    await BatcherMiddleware(app)(exchange.scope, exchange.receive, send)
    assert tidied


async def test_what_runs_after_an_answer_that_was_given_up_is_not_cancelled():
    """As after one that was taken."""
    after = False

    async def app(scope, receive, send):
        nonlocal after
        await start(send)
        await body(send, b"all")
        await anyio.sleep(5)
        after = True

    await Stuck(at=1)(BatcherMiddleware(app))
    assert after


async def test_a_client_that_does_not_take_its_answer_cancels_the_handler(caplog):
    """After the time that the middleware is given; one line is logged."""
    exchange = Stuck(at=1, leaves_there=False)

    async def app(scope, receive, send):
        await start(send)
        while True:
            await body(send, b"piece", more=True)

    begun = anyio.current_time()
    with caplog.at_level(logging.INFO, "trio_batcher.asgi"):
        await exchange(BatcherMiddleware(app, send_timeout=7.0))
    assert anyio.current_time() - begun == pytest.approx(7.0)
    assert caplog.messages == ["GET '/': the client did not take its answer"]


async def test_one_that_takes_it_slowly_has_all_of_it():
    """The time is for a piece, and a long body is sent in several."""
    whole = bytes(range(256)) * 4096 * 3

    async def slow_send(message):
        await anyio.sleep(5)
        exchange.sent.append(message)

    async def app(scope, receive, send):
        await start(send)
        await body(send, memoryview(whole))
        await body(send)  # after the end: the server's to complain of

    exchange = Exchange()
    await BatcherMiddleware(app, send_timeout=6.0)(exchange.scope, exchange.receive, slow_send)
    assert exchange.body == whole
    assert [bool(message.get("more_body")) for message in exchange.sent[1:]] == [True] * 11 + [
        False,
        False,
    ]


async def test_a_file_is_sent_at_its_own_pace():
    """There are no pieces of it to be seen."""

    async def slow_send(message):
        await anyio.sleep(500)
        exchange.sent.append(message)

    async def app(scope, receive, send):
        await start(send)
        await send({"type": "http.response.pathsend", "path": "/file"})

    exchange = Exchange()
    await BatcherMiddleware(app, send_timeout=600.0)(exchange.scope, exchange.receive, slow_send)
    assert len(exchange.sent) == 2
    outbox = Outbox(slow_send, 1.0)
    await outbox.send({"type": "http.response.pathsend", "path": "/file"})
    assert len(exchange.sent) == 3
    assert not outbox.abandoned


async def test_a_body_that_nobody_reads_does_not_keep_an_answer():
    """Hypercorn has to get rid of what it has received before it can end the request."""

    async def send(message):
        if message["type"] == "http.response.body":
            await all_received.wait()
        exchange.sent.append(message)

    async def receive():
        message = await exchange.receive()
        if not exchange.pieces:
            all_received.set()
        return message

    async def app(scope, receive, send):
        await start(send)
        await body(send, b"no, thanks")

    all_received = anyio.Event()
    exchange = Exchange(*[b"piece"] * 30, method="POST")
    with anyio.fail_after(60):
        await BatcherMiddleware(app)(exchange.scope, receive, send)
    assert exchange.complete


async def test_a_body_is_there_to_be_read_after_an_answer_that_could_leave():
    """For what an application does in the background."""

    async def app(scope, receive, send):
        nonlocal text
        await start(send)
        await anyio.sleep(1)
        await body(send, b"later")
        await anyio.sleep(5)
        text = await text_of(receive)

    text = b""
    exchange = Exchange(b"one", b"two", method="POST")
    await exchange(BatcherMiddleware(app))
    assert text == b"onetwo"


async def test_a_client_that_leaves_is_noticed_once_an_answer_has_started():
    """Also one that waited to be asked for its body, which nobody did."""

    async def app(scope, receive, send):
        await start(send)
        exchange.leaves.set()
        await anyio.sleep_forever()

    exchange = Exchange(headers={"Expect": "100-continue"})
    with anyio.fail_after(1):
        await exchange(BatcherMiddleware(app))


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_gate_gives_up_what_is_sent_over_http2(at):
    """To a client that left, whatever the application does; it is not cancelled."""
    after = False

    async def app(scope, receive, send):
        nonlocal after
        assert await text_of(receive) == b"text"
        await streaming(scope, receive, send)
        after = True

    exchange = Stuck(b"text", at=at)
    exchange.scope["http_version"] = "2"
    gate = Gate(app)
    with anyio.fail_after(1):
        await exchange(gate)
    assert after
    assert gate.in_flight == 0


@pytest.mark.parametrize("value", [0, -1, True, "1", float("nan")])
async def test_the_time_is_a_number_of_seconds(value):
    """Checked when the middleware is made."""
    with pytest.raises((TypeError, ValueError), match="send_timeout must be"):
        BatcherMiddleware(streaming, send_timeout=value)
