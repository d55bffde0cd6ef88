"""The middleware in FastAPI, in process: what its handlers and middlewares may rely on."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import anyio.from_thread
import pytest

pytest.importorskip("fastapi", reason="these are FastAPI's handlers")

from fastapi import BackgroundTasks, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware

from tests.exchanges import Exchange
from trio_batcher import ModelError, Overloaded
from trio_batcher._timings import current_timings
from trio_batcher.asgi import BatcherMiddleware

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


async def pass_on(request, call_next):
    return await call_next(request)


@pytest.fixture(params=["alone", "outside another", "inside another"])
def app(request):
    """An application with the middleware, and with a `BaseHTTPMiddleware` on either side."""
    app = FastAPI()
    if request.param == "outside another":
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    app.add_middleware(BatcherMiddleware, default_timeout=50.0, max_timeout=100.0)
    if request.param == "inside another":
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    return app


@pytest.fixture
def events():
    return []


async def test_a_deadline_is_answered_by_504(app):
    """Before FastAPI makes a 500 of anything."""

    @app.get("/")
    async def handler():
        await anyio.sleep_forever()

    exchange = await Exchange(headers={"X-Request-Timeout": "0.01"})(app)
    assert exchange.problem == (504, "deadline")


async def test_a_handler_has_its_deadline(app):
    """Under any middleware that runs it in a task of its own."""

    @app.get("/")
    async def handler():
        return anyio.current_effective_deadline() - anyio.current_time()

    exchange = await Exchange(headers={"grpc-timeout": "1H"})(app)
    assert 50 < float(exchange.body) <= 100


async def test_errors_are_answered_without_a_handler_for_them(app):
    """They reach the middleware as the application raised them."""

    @app.get("/")
    async def handler():
        raise Overloaded("full", retry_after=2)

    exchange = await Exchange()(app)
    assert exchange.problem == (503, "overloaded")
    assert exchange.headers["retry-after"] == "2"


async def test_errors_that_the_application_handles_are_its_own(app):
    """An exception handler comes first: what is an item's fault is for the application to say."""

    @app.get("/")
    async def handler():
        raise ModelError("no such word", batch_size=1)

    @app.exception_handler(ModelError)
    async def unprocessable(request, error):
        return JSONResponse({"detail": "no such word"}, 422)

    exchange = await Exchange()(app)
    assert exchange.status == 422


async def test_other_errors_are_the_frameworks(app):
    """It answers its 500 and raises the error again, the very same."""
    failure = ValueError("wrong")

    @app.get("/")
    async def handler():
        raise failure

    exchange = Exchange()
    with pytest.raises(ValueError, match="wrong") as caught:
        await exchange(app)
    assert caught.value is failure
    assert (exchange.status, exchange.body) == (500, b"Internal Server Error")


async def test_a_client_that_leaves_cancels_the_handler(app, events):
    """Plain handlers, which FastAPI itself lets run on."""

    @app.get("/")
    async def handler():
        exchange.leaves.set()
        try:
            await anyio.sleep_forever()
        finally:
            events.append("cancelled")

    exchange = Exchange()
    await exchange(app)
    assert events == ["cancelled"]
    assert exchange.status == 499


@pytest.mark.parametrize("announces_end", [False, True])
async def test_background_tasks_run_after_the_answer(app, events, announces_end):
    """Without a deadline, whether the client stays, leaves, or is said to have left."""

    @app.get("/")
    async def handler(background: BackgroundTasks):
        background.add_task(in_background)
        return "answer"

    async def in_background():
        assert exchange.complete
        exchange.leaves.set()
        await anyio.wait_all_tasks_blocked()
        events.append(anyio.current_effective_deadline())

    exchange = Exchange(announces_end=announces_end)
    await exchange(app)
    assert exchange.body == b'"answer"'
    assert events == [float("inf")]


@pytest.mark.parametrize("announces_end", [False, True])
async def test_a_stream_goes_on_for_as_long_as_it_likes(app, announces_end):
    """The deadline ends where the response starts."""

    async def pieces():
        yield "0 "  # on the way to the middleware: that may be in another task
        await anyio.wait_all_tasks_blocked()
        for i in range(1, 3):
            assert anyio.current_effective_deadline() == float("inf")
            yield f"{i} "

    @app.get("/")
    async def handler():
        return StreamingResponse(pieces())

    exchange = await Exchange(announces_end=announces_end)(app)
    assert exchange.body == b"0 1 2 "
    assert exchange.complete


async def test_a_client_that_leaves_ends_a_stream(app, events):
    """Its generator is closed, and what it started is cancelled."""

    async def pieces():
        try:
            yield "half"
            exchange.leaves.set()
            await anyio.sleep_forever()
        finally:
            events.append("closed")

    @app.get("/")
    async def handler():
        return StreamingResponse(pieces())

    exchange = Exchange()
    await exchange(app)
    assert exchange.body == b"half"
    assert events == ["closed"]


async def test_a_body_is_streamed_into_the_handler(app):
    """All of it, in order, also after the handler has done something else."""

    @app.post("/")
    async def handler(request: Request):
        await anyio.wait_all_tasks_blocked()
        assert not await request.is_disconnected()
        return [piece.decode() async for piece in request.stream() if piece]

    pieces = [b"%d" % i for i in range(10)]
    exchange = await Exchange(*pieces, method="POST")(app)
    assert exchange.body == b'["0","1","2","3","4","5","6","7","8","9"]'


async def test_a_json_body_is_read(app):
    """As FastAPI reads it for a handler's parameters."""

    @app.post("/")
    async def handler(item: dict):
        return item["text"]

    pieces = [b'{"text": ', b'"long"}']
    headers = {"Content-Type": "application/json"}
    exchange = await Exchange(*pieces, method="POST", headers=headers)(app)
    assert exchange.body == b'"long"'


async def test_a_handler_in_a_thread_adds_to_its_requests_timings(app):
    """A thread has its handler's context, and what it calls in the event loop has it again."""

    async def answered():
        current_timings.get().add(0.001, 0.002)

    @app.get("/")
    def handler():
        anyio.from_thread.run(answered)
        return "answer"

    exchange = await Exchange()(app)
    assert exchange.headers["server-timing"] == "queue;dur=1.0, model;dur=2.0"


async def test_websockets_pass_through(app):
    """They have no deadline and no status, and their disconnecting is their own."""

    @app.websocket("/")
    async def handler(websocket: WebSocket):
        await websocket.accept()
        await websocket.send_text(f"{await websocket.receive_text()} back")
        await websocket.close()

    scope = {**Exchange(headers={"X-Request-Timeout": "bad"}).scope, "type": "websocket"}
    del scope["method"]
    inbound = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "there and"}]
    sent = []

    async def receive():
        return inbound.pop(0)

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    assert [message["type"] for message in sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert sent[1]["text"] == "there and back"


async def test_the_lifespan_passes_through(events):
    """What is opened there is there for requests."""

    async def lifespan(app):
        events.append("open")
        yield {"batcher": "a batcher"}
        events.append("closed")

    app = FastAPI(lifespan=asynccontextmanager(lifespan))
    app.add_middleware(BatcherMiddleware)
    inbound = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = []

    async def receive():
        return inbound.pop(0)

    async def send(message):
        sent.append(message["type"])

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    await app(scope, receive, send)
    assert events == ["open", "closed"]
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert scope["state"] == {"batcher": "a batcher"}
