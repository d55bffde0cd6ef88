"""The middleware around bare ASGI applications: deadlines and problems, on each host."""

from __future__ import annotations

import logging
import math

import anyio
import pytest
import trio
from trio.testing import MockClock

from tests.exchanges import Exchange, body, hello, start
from trio_batcher import (
    BatcherClosed,
    BatcherCrashed,
    DeadlineUnreachable,
    ItemError,
    ModelError,
    Overloaded,
    ResultCountError,
    open_batcher,
)
from trio_batcher._timings import current_timings
from trio_batcher.asgi import BatcherMiddleware

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio", "virtual"])
def anyio_backend(request):
    if request.param == "virtual":
        return "trio", {"clock": MockClock(autojump_threshold=0)}
    return request.param


def seconds_left():
    return anyio.current_effective_deadline() - anyio.current_time()


async def seen(headers=None, **timeouts):
    """The seconds that a handler finds it has left, `None` if it was not called."""
    found = None

    async def app(scope, receive, send):
        nonlocal found
        found = seconds_left()
        await hello(scope, receive, send)

    exchange = await Exchange(headers=headers)(BatcherMiddleware(app, **timeouts))
    return found, exchange


def nearly(seconds):
    """The clock of a real loop goes on; none of these tests takes ten seconds."""
    return pytest.approx(seconds - 5, abs=5)


async def test_the_deadline_is_the_handlers_effective_deadline():
    """So `infer` sees it without being told."""
    assert (await seen({"X-Request-Timeout": "1000"}))[0] == nearly(1000)
    assert (await seen({"grpc-timeout": "50M"}))[0] == nearly(3000)
    assert (await seen({"x-envoy-expected-rq-timeout-ms": "500000"}))[0] == nearly(500)


async def test_without_a_header_the_default_applies():
    """Which is no deadline, unless it is given; a header may be longer or shorter."""
    assert (await seen())[0] == math.inf
    assert (await seen(default_timeout=100))[0] == nearly(100)
    assert (await seen({"X-Request-Timeout": "50"}, default_timeout=100))[0] == nearly(50)
    assert (await seen({"X-Request-Timeout": "500"}, default_timeout=100))[0] == nearly(500)


async def test_no_request_has_more_than_the_maximum():
    """What is asked for is cut to it, and it is the default, if there is no other."""
    assert (await seen(max_timeout=100))[0] == nearly(100)
    assert (await seen({"X-Request-Timeout": "9" * 20}, max_timeout=100))[0] == nearly(100)
    assert (await seen({"X-Request-Timeout": "50"}, max_timeout=100))[0] == nearly(50)
    assert (await seen(default_timeout=30, max_timeout=100))[0] == nearly(30)


async def test_the_nearest_of_several_deadlines_counts():
    """All who set one have given up by then or later."""
    found, _ = await seen({"X-Request-Timeout": "1000", "grpc-timeout": "500S"})
    assert found == nearly(500)


async def test_a_value_that_is_none_is_answered_by_400():
    """The handler does not run, and the answer names the header."""
    found, exchange = await seen({"X-Request-Timeout": "soon"}, default_timeout=100)
    assert found is None
    assert exchange.problem == (400, "request")
    assert b"X-Request-Timeout must be" in exchange.body


async def test_no_time_at_all_is_answered_by_504():
    """Zero is a deadline that has passed: the handler does not run."""
    found, exchange = await seen({"grpc-timeout": "0S"})
    assert found is None
    assert exchange.problem == (504, "deadline")


async def test_a_deadline_that_passes_is_answered_by_504():
    """The handler is cancelled, its cleanup runs, and the client has its problem."""
    cleaned_up = False

    async def app(scope, receive, send):
        nonlocal cleaned_up
        try:
            await anyio.sleep_forever()
        finally:
            cleaned_up = True

    exchange = await Exchange(headers={"X-Request-Timeout": "0.01"})(BatcherMiddleware(app))
    assert cleaned_up
    assert exchange.problem == (504, "deadline")


async def test_a_response_that_has_started_has_no_deadline_any_more():
    """A stream may go on for as long as it likes, and nothing cuts it."""

    async def app(scope, receive, send):
        await start(send)
        assert anyio.current_effective_deadline() == math.inf
        await body(send, b"at ", more=True)
        await body(send, b"length")

    exchange = await Exchange()(BatcherMiddleware(app, default_timeout=100))
    assert exchange.body == b"at length"


async def test_a_response_does_not_start_after_the_deadline():
    """A handler that could not be cancelled in time is late: its client gets the 504."""

    async def app(scope, receive, send):
        with anyio.CancelScope(shield=True):
            await until_late()
        await start(send)

    exchange = await Exchange()(BatcherMiddleware(app, default_timeout=0.01))
    assert exchange.problem == (504, "deadline")


async def test_a_late_response_that_starts_all_the_same_does_not_look_whole():
    """Started under a shield and cancelled thereafter, it ends by an exception for the server."""
    exchange = Exchange()

    async def app(scope, receive, send):
        with anyio.CancelScope(shield=True):
            await until_late()
            await start(send)
        await body(send, b"never sent")

    with pytest.raises(TimeoutError, match="deadline passed"):
        await exchange(BatcherMiddleware(app, default_timeout=0.01))
    assert not exchange.complete


async def test_a_late_response_that_is_whole_all_the_same_is_let_be():
    """There is nothing to be told to anybody."""

    async def app(scope, receive, send):
        with anyio.CancelScope(shield=True):
            await until_late()
            await hello(scope, receive, send)
        await anyio.lowlevel.checkpoint()

    exchange = await Exchange()(BatcherMiddleware(app, default_timeout=0.01))
    assert (exchange.status, exchange.body) == (200, b"hello")


async def until_late():
    """Until the scope outside the shield that this is called in has been cancelled."""
    await anyio.sleep(0.02)


ERRORS = [
    (lambda: Overloaded("full", retry_after=2.5), 503, "overloaded", "3"),
    (lambda: BatcherClosed("closed"), 503, "unavailable", "1"),
    (lambda: BatcherCrashed("crashed"), 503, "unavailable", "1"),
    (lambda: DeadlineUnreachable(0.1), 504, "deadline", None),
    (TimeoutError, 504, "deadline", None),
    (trio.TooSlowError, 504, "deadline", None),
    (lambda: ModelError("failed", batch_size=1), 500, "model", None),
    (lambda: ItemError("item", "a text", "nothing"), 422, "item", None),
    (lambda: ResultCountError(1, 2), 500, "model", None),
]


@pytest.mark.parametrize(("error", "status", "reason", "retry_after"), ERRORS)
async def test_errors_that_escape_are_answered(error, status, reason, retry_after):
    """By their status, and when to come back; alone or in a handler's group."""
    for wrapped in (False, True):

        async def app(scope, receive, send, wrapped=wrapped):
            raise ExceptionGroup("several calls", [error()]) if wrapped else error()

        exchange = await Exchange()(BatcherMiddleware(app))
        assert exchange.problem == (status, reason)
        assert exchange.headers.get("retry-after") == retry_after


async def test_faults_are_logged_with_their_cause_and_load_is_not(caplog):
    """The client is told nothing of the inside, so the log has to; with it goes the request."""
    for error, *_ in ERRORS:
        failure = error()

        async def app(scope, receive, send, failure=failure):
            raise failure

        caplog.clear()
        with caplog.at_level(logging.DEBUG, "trio_batcher.asgi"):
            await Exchange(path="/here\n")(BatcherMiddleware(app))
        if isinstance(failure, (BatcherCrashed, ModelError, ResultCountError)):
            (record,) = caplog.records
            assert record.exc_info[1] is failure
            assert record.getMessage() == "GET '/here\\n' failed"
        else:
            assert not caplog.records


async def test_other_errors_go_on_as_they_are():
    """The very object that the application raised, for frameworks and servers to see."""
    group = ExceptionGroup("the application's own", [ValueError(), Overloaded("", retry_after=1)])
    for failure in (ValueError("wrong"), OSError(110, "timed out"), group):

        async def app(scope, receive, send, failure=failure):
            raise failure

        exchange = Exchange()
        with pytest.raises(type(failure)) as caught:
            await exchange(BatcherMiddleware(app))
        assert caught.value is failure
        assert not exchange.sent


async def test_an_error_after_the_start_goes_on_as_it_is():
    """It is too late for a status; by the exception the server knows not to end the body."""
    failure = Overloaded("full", retry_after=1)

    async def app(scope, receive, send):
        await start(send)
        await body(send, b"half", more=True)
        raise failure

    exchange = Exchange()
    with pytest.raises(Overloaded) as caught:
        await exchange(BatcherMiddleware(app))
    assert caught.value is failure
    assert exchange.status == 200
    assert not exchange.complete


@pytest.mark.parametrize("scope_type", ["websocket", "lifespan"])
async def test_what_is_not_http_passes_through_untouched(scope_type):
    """The application has the server's own scope, receive and send, and keeps its errors."""
    scope = {"type": scope_type, "headers": [(b"x-request-timeout", b"bad")]}
    failure = Overloaded("full", retry_after=1)
    calls = 0

    async def app(*given):
        nonlocal calls
        calls += 1
        assert all(a is b for a, b in zip(given, (scope, receive, send), strict=True))
        assert anyio.current_effective_deadline() == math.inf
        assert current_timings.get() is None

    async def fails(*given):
        raise failure

    async def receive():
        raise AssertionError

    send = receive
    await BatcherMiddleware(app, default_timeout=1)(scope, receive, send)
    assert calls == 1
    with pytest.raises(Overloaded) as caught:
        await BatcherMiddleware(fails)(scope, receive, send)
    assert caught.value is failure


async def test_arguments_are_checked_when_the_middleware_is_made():
    """Not at the first request."""
    with pytest.raises(ValueError, match=r"^max_timeout must be > 0 seconds, not 0"):
        BatcherMiddleware(hello, max_timeout=0)


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_a_batcher_behind_the_middleware():
    """A full queue, a deadline out of reach and one that passes are what they say they are."""

    async def model(items):
        await trio.sleep(1)
        return items

    async with open_batcher(model, max_batch_size=1, max_queue_size=1) as batcher:

        async def app(scope, receive, send):
            await start(send, 200 + await batcher.infer(0))
            await body(send)

        served = BatcherMiddleware(app, default_timeout=100)
        late = Exchange(headers={"X-Request-Timeout": "0.5"})
        running, waiting, refused = Exchange(), Exchange(), Exchange()
        await late(served)
        assert late.problem == (504, "deadline")
        await trio.sleep(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(running, served)
            await trio.testing.wait_all_tasks_blocked()
            tasks.start_soon(waiting, served)
            await trio.testing.wait_all_tasks_blocked()
            await refused(served)
            assert refused.problem == (503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
        assert running.status == waiting.status == 200
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Exchange(), served)
            await trio.testing.wait_all_tasks_blocked()
            unreachable = await Exchange(headers={"grpc-timeout": "10m"})(served)
        assert unreachable.problem == (504, "deadline")
        assert batcher.statistics().rejected["deadline"] == 1
