"""A batcher in FastAPI: its lifespan and its dependency, in process."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from contextlib import asynccontextmanager
from typing import Annotated

import pytest

pytest.importorskip("fastapi", reason="these are FastAPI's lifespans and dependencies")
pytest.importorskip("httpx", reason="FastAPI's test client needs it")

from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from trio_batcher import Batcher, BatcherClosed, InferenceModel, open_batcher
from trio_batcher.asgi import BatcherMiddleware
from trio_batcher.fastapi import (
    BatcherDependency,
    batcher_lifespan,
    clean_exit_status,
    get_batcher,
)


def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def shouts(texts: list[str]) -> list[str]:
    return [text.upper() for text in texts]


Length = Annotated[Batcher[str, int], Depends(get_batcher)]
Shout = Annotated[Batcher[str, str], Depends(BatcherDependency("shouter"))]


@pytest.fixture(params=["asyncio", "trio"])
def client_of(request):
    """Run an application's lifespan in a `with` statement, and ask it in there."""
    return lambda app: TestClient(app, backend=request.param)


def test_a_handler_gets_the_batcher(client_of):
    """The one that the lifespan keeps open, in HTTP and in WebSocket handlers."""
    app = FastAPI(lifespan=batcher_lifespan(lengths, max_batch_size=4))

    @app.get("/")
    async def handler(text: str, batcher: Length) -> int:
        return await batcher.infer(text)

    @app.websocket("/")
    async def talk(websocket: WebSocket, batcher: Length) -> None:
        await websocket.accept()
        await websocket.send_json(await batcher.infer(await websocket.receive_text()))
        await websocket.close()

    with client_of(app) as client:
        assert client.get("/?text=hello").json() == 5
        with client.websocket_connect("/") as connection:
            connection.send_text("hello")
            assert connection.receive_json() == 5


def test_an_application_has_several_batchers_beside_its_own_state(client_of):
    """Each by its name; the other lifespan is entered first and left last."""
    events = []

    class Shouter(InferenceModel[str, str]):
        def __init__(self):
            events.append("model loaded")

        def infer(self, inputs):
            return shouts(inputs)

        def close(self):
            events.append("model closed")

    @asynccontextmanager
    async def own(app):
        events.append(f"own opened by {app.title}")
        yield {"greeting": "hello"}
        events.append("own closed")

    counted = batcher_lifespan(lengths, lifespan=own)
    app = FastAPI(title="it", lifespan=batcher_lifespan(Shouter, name="shouter", lifespan=counted))

    @app.get("/")
    async def handler(request: Request, batcher: Length, shouter: Shout) -> str:
        greeting = request.state.greeting
        return f"{await shouter.infer(greeting)} {await batcher.infer(greeting)}"

    with client_of(app) as client:
        assert client.get("/").json() == "HELLO 5"
    assert events == ["own opened by it", "model loaded", "model closed", "own closed"]


def test_a_lifespan_that_uses_the_batcher_opens_it_itself(client_of):
    """The dependency only needs it in the state, under its name."""

    @asynccontextmanager
    async def lifespan(app):
        async with open_batcher(lengths) as batcher:
            app.state.index = await batcher.infer_many(["a", "bc"])
            yield {"batcher": batcher}

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def handler(text: str, batcher: Length) -> list[int]:
        return [*app.state.index, await batcher.infer(text)]

    with client_of(app) as client:
        assert client.get("/?text=def").json() == [1, 2, 3]


def test_an_application_can_be_started_again(client_of):
    """Each time with a batcher of its own, warmed up again."""
    warmed = []

    def model(texts):
        warmed.extend(texts)
        return lengths(texts)

    app = FastAPI(lifespan=batcher_lifespan(model, warmup=["warm"], max_batch_size=1))
    batchers = []

    @app.get("/")
    async def handler(batcher: Length) -> None:
        batchers.append(batcher)

    for _ in range(2):
        with client_of(app) as client:
            client.get("/")
    assert len(set(map(id, batchers))) == 2
    assert warmed == ["warm"] * 4


def test_errors_are_the_middlewares(client_of):
    """What a batcher raises goes through FastAPI to it, as a problem document."""

    def model(texts):
        raise ValueError(texts)

    app = FastAPI(lifespan=batcher_lifespan(model))
    app.add_middleware(BatcherMiddleware)

    @app.get("/")
    async def handler(batcher: Length) -> int:
        return await batcher.infer("text")

    with client_of(app) as client:
        response = client.get("/")
    assert (response.status_code, response.json()["reason"]) == (500, "model")


def test_starlette_has_it_in_the_requests_state(client_of):
    """There is nothing of FastAPI's in the lifespan."""

    async def handler(request):
        return PlainTextResponse(str(await request.state.batcher.infer("four")))

    app = Starlette(routes=[Route("/", handler)], lifespan=batcher_lifespan(lengths))
    with client_of(app) as client:
        assert client.get("/").text == "4"


def test_without_the_lifespan_the_dependency_says_what_is_missing(client_of):
    """Also where a test client was not entered."""
    app = FastAPI(lifespan=batcher_lifespan(lengths))

    @app.get("/")
    async def handler(shouter: Shout) -> None: ...

    with client_of(app) as client, pytest.raises(RuntimeError, match="no batcher 'shouter'"):
        client.get("/")
    with pytest.raises(RuntimeError, match="TestClient in a with statement"):
        client_of(app).get("/")


def test_two_of_one_name_are_refused(client_of):
    """When the application starts: the first one's state is another's to say."""
    app = FastAPI(lifespan=batcher_lifespan(lengths, lifespan=batcher_lifespan(shouts)))
    with pytest.raises(ValueError, match="another name"), client_of(app):
        pass


def test_wrong_arguments_are_refused_at_once():
    """Not when the server starts."""
    with pytest.raises(ValueError, match="max_batch_size"):
        batcher_lifespan(lengths, max_batch_size=0)
    with pytest.raises(TypeError, match="model must be"):
        batcher_lifespan(3)


def test_the_batcher_is_closed_when_the_application_ends(client_of):
    """Whoever kept it is told so; in another event loop, if not that, that it is the wrong one."""
    kept = []

    @asynccontextmanager
    async def lifespan(app):
        async with batcher_lifespan(lengths)(app) as state:
            yield state
        with pytest.raises(BatcherClosed):
            await kept[0].infer("text")
        kept.append("told")

    app, other = FastAPI(lifespan=lifespan), FastAPI()

    @app.get("/")
    async def handler(batcher: Length) -> None:
        kept.append(batcher)

    @other.get("/later")
    async def later() -> None:
        # A thread may have the number of one that has ended, with its event loop and batcher.
        with pytest.raises((RuntimeError, BatcherClosed), match=r"from outside of it|is closed"):
            await kept[0].infer("text")

    with client_of(app) as client:
        client.get("/")
    assert kept[1:] == ["told"]
    with client_of(other) as client:
        assert client.get("/later").status_code == 200


@pytest.fixture
def handled():
    """Signals that this process handles as a server does; they are noted."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    noted = []

    def handler(number, _frame):
        noted.append(number)

    handler.__module__ = "uvicorn.server"
    for each in before:
        signal.signal(each, handler)
    yield noted, handler
    for each, theirs in before.items():
        signal.signal(each, theirs)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)


def blocked():
    return signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be blocked there")
def test_an_exit_status_is_made_clean_for_uvicorn_alone(handled):
    """Whoever else handles the signal goes on hearing it; and so does uvicorn after an error."""
    _, handler = handled
    for somebody_else in (signal.SIG_DFL, signal.SIG_IGN, lambda *_: None):
        signal.signal(signal.SIGTERM, somebody_else)
        with clean_exit_status():
            pass
        assert not blocked()
        assert signal.getsignal(signal.SIGTERM) is somebody_else
    signal.signal(signal.SIGTERM, handler)
    with pytest.raises(ZeroDivisionError), clean_exit_status():
        raise ZeroDivisionError
    assert not blocked()
    with clean_exit_status():
        pass
    assert blocked()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_has_its_default_effect_until_the_lifespan_is_over(handled, first):
    """The server hears the first one; afterwards the handlers are its own again."""
    noted, handler = handled
    with clean_exit_status():
        signal.raise_signal(first)
        assert noted == [first]
        for each in (signal.SIGINT, signal.SIGTERM):
            assert signal.getsignal(each) is signal.SIG_DFL
    for each in (signal.SIGINT, signal.SIGTERM):
        assert signal.getsignal(each) is handler


def test_a_signal_that_interrupts_and_one_that_is_repeated_stay_as_they_are(handled, monkeypatch):
    """Ctrl-C in a notebook may come again; supervisors may repeat what ends a worker."""
    _, handler = handled
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with clean_exit_status():
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is not handler
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gunicorn", signal)
        with clean_exit_status():
            assert signal.getsignal(signal.SIGTERM) is handler
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "a supervisor")
    with clean_exit_status():
        assert signal.getsignal(signal.SIGTERM) is handler


def test_handlers_that_somebody_installs_meanwhile_stay(handled):
    """They are not the lifespan's to put back."""

    def theirs(_number, _frame):
        """Somebody's."""

    with clean_exit_status():
        signal.signal(signal.SIGTERM, theirs)
    assert signal.getsignal(signal.SIGTERM) is theirs


def test_a_thread_that_is_not_the_main_one_handles_no_signals(handled):
    """As in a test client's."""
    _, handler = handled
    seen = []

    def elsewhere():
        with clean_exit_status():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [handler]


def test_a_dependency_that_was_not_made_says_how_it_is():
    """FastAPI makes one of the class, which the handler takes for the batcher."""
    with pytest.raises(AttributeError, match=r"has no 'infer'; .* write Depends\(Batcher"):
        BatcherDependency().infer("text")  # as from Depends(BatcherDependency)
