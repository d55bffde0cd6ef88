"""`trio_batcher.serving.serve`: what stops it, and what it leaves."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading

import anyio
import anyio.to_thread
import pytest

hypercorn = pytest.importorskip("hypercorn", reason="it serves on hypercorn")

from hypercorn.config import Config  # noqa: E402

from tests.exchanges import body, hello, start  # noqa: E402
from trio_batcher.serving import serve  # noqa: E402

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def address():
    """An address to listen on, which is taken before the server takes it over."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def config_for(listener):
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "ERROR"
    return config


async def test_an_event_stops_it(address, caplog):
    """Any one of them; idle connections are closed at once, and do not hold it up."""
    caplog.set_level("INFO", logger="trio_batcher.serving")
    where = address.getsockname()
    config = config_for(address)
    config.graceful_timeout = config.keep_alive_timeout = 3600
    event = anyio.Event()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:

            async def run():
                await serve(hello, config, until=[anyio.Event(), event], signals=())

            tasks.start_soon(run)
            async with await anyio.connect_tcp(*where) as stream:
                await stream.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                answer = b""
                while not answer.endswith(b"0\r\n\r\n"):
                    answer += await stream.receive()
                event.set()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
        with pytest.raises(OSError, match="connect"):
            await anyio.connect_tcp(*where)
    assert [record.getMessage() for record in caplog.records] == [
        "Stopping: 0 requests in flight",
        "Stopped: 0 accepted requests were cut off",
    ]


def hanging(begun, cancelled):
    """An application without a lifespan that answers nobody, and notes who is cancelled."""

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(scope["path"])

    return app


async def test_requests_that_outlast_the_grace_are_answered_by_503(address, caplog):
    """And counted."""
    caplog.set_level("INFO", logger="trio_batcher.serving")
    where = address.getsockname()
    config = config_for(address)
    stopping = anyio.Event()
    cancelled = []
    app = hanging(stopping, cancelled)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:

            async def run():
                await serve(app, config, until=[stopping], grace=0.01, signals=())

            tasks.start_soon(run)
            async with await anyio.connect_tcp(*where) as stream:
                await stream.send(b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n")
                answer = b""
                with pytest.raises(anyio.EndOfStream):
                    while True:
                        answer += await stream.receive()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"\r\nconnection: close\r\n" in answer
    assert cancelled == ["/here"]
    assert caplog.messages[-1] == "Stopped: 1 accepted requests were cut off"


async def test_clients_that_do_not_take_their_answers_do_not_keep_it(address):
    """It hangs up on them when the grace is over; hypercorn on trio cannot be cancelled there."""
    where = address.getsockname()
    config = config_for(address)
    config.graceful_timeout = config.shutdown_timeout = 0.01
    stopping = anyio.Event()

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await start(send)
        stopping.set()
        await body(send, bytes(50_000_000))

    with anyio.fail_after(30), contextlib.ExitStack() as sockets:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                client = sockets.enter_context(socket.create_connection(where))
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

            async def run():
                await serve(app, config, until=[stopping], grace=0.01, signals=())

            tasks.start_soon(run)


async def test_what_hypercorn_raises_leaves_it_as_it_is(anyio_backend, monkeypatch):
    """Not in a group of the library's own."""
    failure = OSError("address already in use")

    async def broken(app, config, *, shutdown_trigger):
        raise failure

    monkeypatch.setattr(f"hypercorn.{anyio_backend}.serve", broken)
    with pytest.raises(OSError, match="in use") as caught:
        await serve(hello, Config())
    assert caught.value is failure


async def signalled(scope, receive, send):
    """An application that is told to stop by a signal when it has started."""
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.complete"})
    signal.raise_signal(signal.SIGTERM)
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def handlers():
    return [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]


async def serve_briefly(app, *events):
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.loglevel = "ERROR"
    with anyio.fail_after(30):
        await serve(app, config, until=events)
    return handlers()


def test_handlers_of_signals_are_put_back_when_the_program_is_over(anyio_backend):
    """Until then, what else it has to end is ended at once by a second signal."""
    before = handlers()
    after = anyio.run(serve_briefly, signalled, backend=anyio_backend)
    assert after == [signal.SIG_DFL, signal.SIG_DFL]
    assert handlers() == before


async def test_handlers_of_signals_are_put_back_at_once_where_an_event_stopped_it():
    """As the program may go on."""
    before = handlers()
    stop = anyio.Event()
    stop.set()
    assert await serve_briefly(hello, stop) == before


async def test_a_cancellation_goes_through(address):
    """To the handlers, and on: what was around the server is left by it."""
    where = address.getsockname()
    config = config_for(address)
    started = anyio.Event()
    cancelled = []
    app = hanging(started, cancelled)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:

            async def run():
                await serve(app, config, signals=())

            tasks.start_soon(run)
            async with await anyio.connect_tcp(*where) as stream:
                await stream.send(b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n")
                await started.wait()
                tasks.cancel_scope.cancel()
    assert cancelled == ["/here"]


async def test_signals_need_the_main_thread():
    """It is said before anything is served."""
    failures = []

    def elsewhere():
        try:
            anyio.run(serve, hello, Config())
        except RuntimeError as error:
            failures.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    assert "main thread" in failures[0]


@pytest.mark.parametrize(
    ("grace", "error"), [(-1, ValueError), (float("inf"), ValueError), ("7", TypeError)]
)
async def test_the_grace_is_a_finite_number_of_seconds(grace, error):
    """A server that never ends would be killed in the end, with everybody's answers."""
    with pytest.raises(error, match="grace must be"):
        await serve(hello, Config(), grace=grace)
