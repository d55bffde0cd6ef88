"""The middleware in Quart-Trio, in process: what its handlers may rely on."""

from __future__ import annotations

import math

import pytest
import trio

pytest.importorskip("quart_trio", reason="these are Quart-Trio's handlers")

from quart import Response, request, websocket
from quart_trio import QuartTrio

from tests.exchanges import Exchange
from trio_batcher import BatcherError, Overloaded
from trio_batcher._timings import current_timings
from trio_batcher.asgi import BatcherMiddleware, problem_response

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "trio"


@pytest.fixture
def app():
    app = QuartTrio(__name__)
    app.asgi_app = BatcherMiddleware(app.asgi_app, default_timeout=50.0, max_timeout=100.0)
    return app


async def test_a_deadline_is_answered_by_504(app):
    """Quart lets a cancellation through."""

    @app.get("/")
    async def handler():
        await trio.sleep_forever()

    exchange = await Exchange(headers={"X-Request-Timeout": "0.01"})(app)
    assert exchange.problem == (504, "deadline")


async def test_a_handler_has_its_deadline(app):
    """The handler's scope is inside the middleware's."""

    @app.get("/")
    async def handler():
        return str(trio.current_effective_deadline() - trio.current_time())

    exchange = await Exchange(headers={"grpc-timeout": "1H"})(app)
    assert 50 < float(exchange.body) <= 100


async def test_errors_need_one_handler(app):
    """Quart answers 500 by itself unless it is told: by `problem_response`."""

    @app.get("/")
    async def handler():
        raise Overloaded("full", retry_after=2)

    assert (await Exchange()(app)).status == 500

    @app.errorhandler(BatcherError)
    async def answer(error):
        problem = problem_response(error)
        return Response(problem.body, problem.status, problem.headers)

    exchange = await Exchange()(app)
    assert exchange.problem == (503, "overloaded")
    assert exchange.headers["retry-after"] == "2"


async def test_errors_that_quart_propagates_are_answered(app):
    """It does so in a group, of its nursery."""
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.get("/")
    async def handler():
        raise Overloaded("full", retry_after=2)

    exchange = await Exchange()(app)
    assert exchange.problem == (503, "overloaded")


async def test_a_client_that_leaves_cancels_the_handler(app):
    """Once, and quietly, although Quart listens, too."""
    cancelled = []

    @app.get("/")
    async def handler():
        exchange.leaves.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(True)

    exchange = Exchange()
    await exchange(app)
    assert cancelled == [True]
    assert not exchange.sent or exchange.status == 499


@pytest.mark.parametrize("announces_end", [False, True])
async def test_an_answer_is_sent_to_its_end(app, announces_end):
    """Quart would cancel the task that sends when it hears of the end that is being sent."""

    @app.get("/")
    async def handler():
        return "answer"

    @app.get("/stream")
    async def stream():
        async def pieces():
            for i in range(3):
                assert trio.current_effective_deadline() == math.inf
                yield f"{i} "

        return pieces(), 200

    app.config["RESPONSE_TIMEOUT"] = None  # a deadline of Quart's own, for streams
    for path, body in (("/", b"answer"), ("/stream", b"0 1 2 ")):
        exchange = await Exchange(path=path, announces_end=announces_end)(app)
        assert (exchange.status, exchange.body, exchange.complete) == (200, body, True)


async def test_a_body_is_streamed_into_the_handler(app):
    """All of it, in order."""

    @app.post("/")
    async def handler():
        current_timings.get().add(0.001, 0.002)
        return b"".join([piece async for piece in request.body])

    exchange = await Exchange(*[b"%d" % i for i in range(10)], method="POST")(app)
    assert exchange.body == b"0123456789"
    assert exchange.headers["server-timing"] == "queue;dur=1.0, model;dur=2.0"


async def test_websockets_and_the_lifespan_pass_through(app):
    """Through Quart's own clients."""

    @app.websocket("/")
    async def handler():
        await websocket.send(f"{await websocket.receive()} back")

    async with app.test_app() as running:
        headers = {"X-Request-Timeout": "bad"}
        async with running.test_client().websocket("/", headers=headers) as connection:
            await connection.send("there and")
            assert await connection.receive() == "there and back"
