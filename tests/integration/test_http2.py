"""HTTP/2 clients that leave, on hypercorn's own two loops: nothing of theirs stays in flight."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

hypercorn = pytest.importorskip("hypercorn", reason="it serves on hypercorn")
pytest.importorskip("h2", reason="the client")

from h2.config import H2Configuration  # noqa: E402
from h2.connection import H2Connection  # noqa: E402
from h2.events import DataReceived, StreamEnded  # noqa: E402
from hypercorn.config import Config  # noqa: E402

from tests.exchanges import body, start, text_of  # noqa: E402
from trio_batcher.asgi import BatcherMiddleware  # noqa: E402
from trio_batcher.serving import serve  # noqa: E402

pytestmark = pytest.mark.anyio

CONNECTIONS = 30
REQUESTS = 3
# Longer than anything here takes, so that what hangs fails.
PATIENCE = 60


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class App:
    """Counts its unfinished requests; a handler waits, unless it is told not to, and answers."""

    def __init__(self):
        self.inside = 0
        self.served = 0
        self.may_answer = anyio.Event()
        self.changed = anyio.Event()

    async def until(self, condition):
        while not condition():
            await self.changed.wait()

    def _count(self, change):
        self.inside += change
        self.served += change > 0
        self.changed.set()
        self.changed = anyio.Event()

    async def answer(self, scope, receive, send):
        assert scope["http_version"] == "2"
        if scope["method"] == "POST":
            await text_of(receive)
        if scope["path"] == "/waits":
            await self.may_answer.wait()
        await start(send)
        if scope["path"] == "/long":
            await body(send, bytes(1_000_000), more=True)
        await body(send, b"hello")

    def counted(self, app):
        async def count(scope, receive, send):
            assert scope["type"] == "http"  # it has no lifespan
            self._count(1)
            try:
                await app(scope, receive, send)
            finally:
                self._count(-1)

        return count


async def through_hypercorn(app, config, stopping, anyio_backend):
    """With the middleware, on the server alone."""
    if anyio_backend == "trio":
        from hypercorn.trio import serve as run  # noqa: PLC0415
    else:
        from hypercorn.asyncio import serve as run  # noqa: PLC0415
    guarded = app.counted(BatcherMiddleware(app.answer))
    await run(guarded, config, shutdown_trigger=stopping.wait)


async def through_serve(app, config, stopping, anyio_backend):
    """Without the middleware, behind the gate."""
    await serve(app.counted(app.answer), config, until=[stopping], signals=(), grace=PATIENCE)


@pytest.fixture(params=[through_hypercorn, through_serve])
def run_server(request):
    return request.param


@asynccontextmanager
async def served(run_server, anyio_backend):
    """Yield the application, and what connects to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "ERROR"
    app = App()
    stopping = anyio.Event()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_server, app, config, stopping, anyio_backend)
            yield app, partial(anyio.connect_tcp, *address)
            stopping.set()


class Client:
    """One connection."""

    def __init__(self, stream):
        self.stream = stream
        self.h2 = H2Connection(H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.ids = []

    def ask(self, path, method="GET"):
        stream = self.h2.get_next_available_stream_id()
        names = {":method": method, ":path": path, ":authority": "server", ":scheme": "http"}
        self.h2.send_headers(stream, list(names.items()), end_stream=method == "GET")
        self.ids.append(stream)
        return stream

    async def flush(self):
        await self.stream.send(self.h2.data_to_send())

    async def receive_until(self, kind):
        while True:
            events = self.h2.receive_data(await self.stream.receive())
            await self.flush_quietly()
            if any(isinstance(event, kind) for event in events):
                return

    async def flush_quietly(self):
        if data := self.h2.data_to_send():
            await self.stream.send(data)

    def reset(self):
        for stream in self.ids:
            self.h2.reset_stream(stream)


async def leave(connect, path, way):
    async with await connect() as stream:
        client = Client(stream)
        for _ in range(REQUESTS):
            client.ask(path, "POST" if way == "in the body" else "GET")
        if way == "in the body":
            for number in client.ids:
                client.h2.send_data(number, b"half of it")
        if way != "reset at once":
            await client.flush()
        if way.startswith("reset"):
            client.reset()
            await client.flush()
        if way == "in the answer":
            await client.receive_until(DataReceived)


@pytest.mark.parametrize(
    ("path", "way"),
    [
        ("/waits", "close"),
        ("/quick", "close"),
        ("/waits", "reset"),
        ("/quick", "reset"),
        ("/waits", "reset at once"),
        ("/quick", "in the body"),
        ("/long", "close"),
        ("/long", "in the answer"),
    ],
)
async def test_clients_that_leave_leave_nothing_behind(run_server, anyio_backend, path, way):
    """Many connections with several requests each: none stays in flight, and others are served."""
    async with served(run_server, anyio_backend) as (app, connect):
        async with anyio.create_task_group() as tasks:
            for _ in range(CONNECTIONS):
                tasks.start_soon(leave, connect, path, way)
        if way == "close" and path == "/waits":
            await app.until(lambda: app.served == CONNECTIONS * REQUESTS)
        app.may_answer.set()
        await app.until(lambda: app.inside == 0)
        async with await connect() as stream:
            client = Client(stream)
            client.ask("/quick")
            await client.flush()
            await client.receive_until(StreamEnded)
        await app.until(lambda: app.inside == 0)


async def test_a_client_that_is_slow_has_its_whole_answer(run_server, anyio_backend):
    """What waits for the client's window is not given up."""
    async with served(run_server, anyio_backend) as (app, connect):
        async with await connect() as stream:
            client = Client(stream)
            number = client.ask("/long")
            await client.flush()
            received = 0
            ended = False
            while not ended:
                for event in client.h2.receive_data(await stream.receive()):
                    if isinstance(event, DataReceived):
                        received += len(event.data)
                        client.h2.acknowledge_received_data(event.flow_controlled_length, number)
                    ended = ended or isinstance(event, StreamEnded)
                await client.flush_quietly()
        assert received == 1_000_005
        await app.until(lambda: app.inside == 0)
