"""The gate of a server that stops, in process: who is let in, turned away, cut off."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from tests.exchanges import Exchange
from trio_batcher._gate import Gate

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class App:
    """An application whose handlers wait until they may answer, and then say so in two pieces."""

    def __init__(self):
        self.may_start = anyio.Event()
        self.may_end = anyio.Event()

    async def __call__(self, scope, receive, send):
        await self.may_start.wait()
        headers = [(b"connection", b"keep-alive"), (b"x-mine", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await self.may_end.wait()
        await send({"type": "http.response.body", "body": b" and half"})


@pytest.fixture
def app():
    return App()


@pytest.fixture
def gate(app):
    return Gate(app)


async def test_a_closed_gate_lets_those_inside_finish_and_turns_others_away(app, gate):
    """With 503 and a time to come back; it is drained when the last one has its answer."""
    inside, late = Exchange(), Exchange()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(inside, gate)
        await anyio.wait_all_tasks_blocked()
        assert (gate.accepted, gate.in_flight, gate.closed) == (1, 1, False)
        gate.close(grace=60)
        await late(gate)
        assert late.problem == (503, "unavailable")
        assert late.headers["retry-after"] == "1"
        assert (gate.accepted, gate.in_flight, gate.closed) == (1, 1, True)
        app.may_start.set()
        app.may_end.set()
        await gate.wait_drained()
        assert inside.body == b"half and half"
    assert gate.cut_off == 0


@pytest.mark.parametrize(("version", "told"), [("1.1", "close"), ("1.0", "close"), ("2", None)])
async def test_a_closed_gate_ends_connections(app, gate, version, told):
    """Those that can be told: HTTP/2 has no such header."""
    inside, late = Exchange(), Exchange()
    inside.scope["http_version"] = late.scope["http_version"] = version
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(inside, gate)
        await anyio.wait_all_tasks_blocked()
        gate.close(grace=60)
        app.may_start.set()
        app.may_end.set()
    await late(gate)
    assert inside.headers["x-mine"] == "1"
    assert inside.headers["connection"] == (told or "keep-alive")
    assert late.headers.get("connection") == told


async def test_who_outlasts_the_grace_is_answered_by_503(app, gate):
    """Also if there is no grace at all."""
    for grace in (0.01, 0):
        exchange, gate = Exchange(), Gate(app)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange, gate)
            await anyio.wait_all_tasks_blocked()
            gate.close(grace)
            await gate.wait_drained()
            assert exchange.problem == (503, "unavailable")
        assert gate.cut_off == 1


async def test_a_response_that_has_started_is_broken_off(app, gate):
    """It is not ended as if it were whole."""
    exchange = Exchange()
    app.may_start.set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange, gate)
        await anyio.wait_all_tasks_blocked()
        gate.close(grace=0)
        await gate.wait_drained()
    assert exchange.body == b"half"
    assert not exchange.complete
    assert gate.cut_off == 1


async def test_an_error_goes_through_and_counts_as_answered(gate):
    """The server answers it, as ever."""

    async def broken(scope, receive, send):
        raise ValueError("broken")

    gate = Gate(broken)
    with pytest.raises(ValueError, match="broken"):
        await Exchange()(gate)
    assert gate.in_flight == 0
    gate.close(grace=60)
    await gate.wait_drained()


async def test_what_is_no_request_passes_through_uncounted():
    """WebSockets and the lifespan, before and after closing."""
    passed = []

    async def app(scope, receive, send):
        passed.append(scope["type"])

    gate = Gate(app)
    await gate({"type": "lifespan"}, None, None)
    gate.close(grace=0)
    await gate({"type": "websocket"}, None, None)
    assert passed == ["lifespan", "websocket"]
    assert gate.accepted == 0


async def test_the_last_call_ends_when_nobody_comes(gate):
    """It waits for as long as there is always one more, and no longer."""
    await gate.let_in()
    came = []

    async def come():
        for i in range(5):
            for _ in range(30):
                await anyio.lowlevel.checkpoint()
            gate.accepted += 1
            came.append(i)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(come)
        await gate.let_in()
        assert came == [0, 1, 2, 3, 4]
