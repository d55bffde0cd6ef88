"""A batcher in Quart-Trio: the extension, in process."""

from __future__ import annotations

import pytest
import trio

pytest.importorskip("quart_trio", reason="it is an extension of Quart-Trio's applications")

from quart_trio import QuartTrio

from trio_batcher import InferenceModel, ModelError, Overloaded
from trio_batcher.quart import QuartBatcher

pytestmark = pytest.mark.trio


async def lengths(texts: list[str]) -> list[int]:
    await trio.lowlevel.checkpoint()
    return [len(text) for text in texts]


async def shouts(texts: list[str]) -> list[str]:
    await trio.lowlevel.checkpoint()
    return [text.upper() for text in texts]


@pytest.fixture
def app():
    return QuartTrio(__name__)


class LifespanFailed(Exception):
    """The application has told its server that it could not start, or not end well."""


async def play_lifespan(app, meanwhile=None):
    """Start and end the application as hypercorn does, which raises what it is told."""
    sent = []

    async def receive():
        await trio.lowlevel.checkpoint()
        if sent and meanwhile is not None:
            await meanwhile()
        return {"type": "lifespan.shutdown" if sent else "lifespan.startup"}

    async def send(message):
        await trio.lowlevel.checkpoint()
        sent.append(message["type"])
        if message["type"].endswith("failed"):
            raise LifespanFailed(message["message"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return sent


async def problem_of(response):
    """The status and the reason of a problem document."""
    assert response.content_type == "application/problem+json"
    return response.status_code, (await response.get_json())["reason"]


async def test_a_handler_asks_the_extension(app):
    """While the application is served the batcher is open."""
    counter = QuartBatcher(lengths, max_batch_size=4)
    counter.init_app(app)

    @app.get("/")
    async def handler():
        many = await counter.batcher.infer_many(["a", "b"])
        return {"one": await counter.infer("abc"), "many": many}

    async with app.test_app() as running:
        response = await running.test_client().get("/")
        assert await response.get_json() == {"one": 3, "many": [1, 1]}
        assert counter.batcher.statistics().completed == 3


async def test_an_extension_serves_one_application_after_another():
    """As factories make them; before the first there is no batcher."""
    counter = QuartBatcher(lengths)
    with pytest.raises(RuntimeError, match="not open"):
        await counter.infer("abc")
    for _ in range(2):
        app = QuartTrio(__name__)
        counter.init_app(app)
        async with app.test_app():
            assert await counter.infer("abc") == 3


async def test_an_application_has_several_batchers(app):
    """Each an extension; a generator of the application's own finds them open."""
    counter, shouter = QuartBatcher(lengths), QuartBatcher(shouts)
    counter.init_app(app, default_timeout=2.0)
    shouter.init_app(app)
    found = []

    @app.while_serving
    async def index():
        async with trio.open_nursery():
            found.append((await counter.infer("abc"), await shouter.infer("abc")))
            yield  # noqa: ASYNC101, ASYNC119  Quart-Trio ends its generators itself

    async with app.test_app():
        assert found == [(3, "ABC")]
    with pytest.raises(ValueError, match="first batcher"):
        QuartBatcher(lengths).init_app(app, max_timeout=2.0)


async def test_requests_have_deadlines(app):
    """From their headers, else the default: 504."""
    woken = trio.Event()

    async def sleeping(texts):
        await woken.wait()
        return texts

    asleep = QuartBatcher(sleeping)
    asleep.init_app(app, default_timeout=0.01)

    @app.get("/")
    async def handler():
        return await asleep.infer("abc")

    async with app.test_app() as running:
        assert await problem_of(await running.test_client().get("/")) == (504, "deadline")
        headers = {"X-Request-Timeout": "soon"}
        response = await running.test_client().get("/", headers=headers)
        assert await problem_of(response) == (400, "request")
        woken.set()


async def test_errors_are_problems_and_faults_are_logged(app, caplog):
    """By the middleware's logger; nothing of a cause is in the answer."""

    async def model(texts):
        raise ValueError("the secret of the house")

    broken = QuartBatcher(model)
    broken.init_app(app)

    @app.get("/")
    async def handler():
        return await broken.infer("abc")

    @app.get("/full")
    async def full():
        raise Overloaded("full", retry_after=2)

    @app.get("/slow")
    async def slow():
        with trio.fail_after(0):
            await trio.sleep_forever()

    @app.get("/refused")
    async def refused():
        raise TimeoutError(110, "Connection timed out")

    async with app.test_app() as running:
        client = running.test_client()
        response = await client.get("/")
        assert "secret" not in await response.get_data(as_text=True)
        assert await problem_of(response) == (500, "model")
        assert [(each.name, each.levelname) for each in caplog.records] == [
            ("trio_batcher.asgi", "ERROR")
        ]
        assert "the secret of the house" in caplog.text
        response = await client.get("/full")
        assert await problem_of(response) == (503, "overloaded")
        assert response.headers["Retry-After"] == "2"
        assert await problem_of(await client.get("/slow")) == (504, "deadline")
        # The operating system's is no deadline, but an error of the application.
        response = await client.get("/refused")
        assert (response.status_code, response.mimetype) == (500, "text/html")


async def test_the_applications_own_handlers_come_first(app):
    """Those registered before `init_app` as well as those for a class of their own."""

    @app.errorhandler(TimeoutError)
    async def late(error):
        return "late", 408

    broken = QuartBatcher(lengths)
    broken.init_app(app)

    @app.errorhandler(ModelError)
    async def unprocessable(error):
        return "no such word", 422

    @app.get("/")
    async def handler():
        raise ModelError("no such word", batch_size=1)

    @app.get("/slow")
    async def slow():
        raise TimeoutError

    async with app.test_app() as running:
        assert (await running.test_client().get("/")).status_code == 422
        assert (await running.test_client().get("/slow")).status_code == 408


async def test_a_model_that_cannot_be_loaded_is_a_failed_start(app):
    """The server is told so, with the model's own message."""

    class Missing(InferenceModel[str, int]):
        def __init__(self):
            raise FileNotFoundError("weights.bin")

        def infer(self, inputs):
            raise AssertionError("nobody asks it")

    QuartBatcher(Missing).init_app(app)
    with pytest.RaisesGroup(pytest.RaisesExc(LifespanFailed, match=r"weights\.bin")):
        await play_lifespan(app)


async def test_a_later_generator_that_fails_to_start_closes_the_batcher(app):
    """In order, and the failure is reported as it is."""
    closed = []

    class Model(InferenceModel[str, int]):
        def infer(self, inputs):
            raise AssertionError("nobody asks it")

        def close(self):
            closed.append(True)

    QuartBatcher(Model).init_app(app)

    @app.while_serving
    async def failing():
        raise ValueError("no database")
        yield

    with pytest.RaisesGroup(pytest.RaisesExc(LifespanFailed, match="no database")):
        await play_lifespan(app)
    assert closed == [True]


async def test_a_crashed_batcher_answers_503_and_is_reported_at_the_end(app, monkeypatch):
    """The application goes on; its shutdown says what happened."""
    counter = QuartBatcher(lengths)
    counter.init_app(app)

    @app.get("/")
    async def handler():
        return str(await counter.infer("abc"))

    def broken(*_, **__):
        raise ZeroDivisionError

    async def meanwhile():
        response = await app.test_client().get("/")
        assert await problem_of(response) == (503, "unavailable")
        assert counter.batcher.failed.is_set()

    monkeypatch.setattr("trio_batcher._scheduler.decide", broken)
    with pytest.RaisesGroup(pytest.RaisesExc(LifespanFailed, match="batcher itself failed")):
        await play_lifespan(app, meanwhile)


async def test_wrong_arguments_are_refused_at_once(app):
    """Not when the server starts."""
    with pytest.raises(ValueError, match="max_delay"):
        QuartBatcher(lengths, max_delay=-1)
    with pytest.raises(ValueError, match="default_timeout"):
        QuartBatcher(lengths).init_app(app, default_timeout=0)
