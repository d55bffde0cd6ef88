"""The load generator: `examples/load.py`."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

h11 = pytest.importorskip("h11", reason="the load generator speaks HTTP with h11")
pytest.importorskip("rich", reason="the load generator draws its table with rich")

from examples.load import (  # noqa: E402
    Connection,
    ConnectionLost,
    Plan,
    Report,
    generate,
    parse_arguments,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SCRIPT = Path(__file__).parents[2] / "examples" / "load.py"


class Server:
    """A small HTTP server whose answers the test decides."""

    def __init__(self, answer: Callable[[str, bytes], Awaitable[tuple[int, str]]]) -> None:
        self.answer = answer
        self.connections = 0
        self.requests: list[tuple[str, bytes]] = []

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer the requests of one connection; `answer` returns a status and a Server-Timing."""
        self.connections += 1
        http = h11.Connection(h11.SERVER)
        target, body = "", b""
        async with stream:
            while True:
                match http.next_event():
                    case h11.NEED_DATA:
                        http.receive_data(await stream.receive_some())
                    case h11.Request() as request:
                        target, body = request.target.decode(), b""
                    case h11.Data() as data:
                        body += data.data
                    case h11.EndOfMessage():
                        self.requests.append((target, body))
                        status, timing = await self.answer(target, body)
                        headers = [("Content-Length", "2"), ("Server-Timing", timing)]
                        head = http.send(h11.Response(status_code=status, headers=headers))
                        await stream.send_all(head + http.send(h11.Data(b"ok")))
                        http.send(h11.EndOfMessage())
                        http.start_next_cycle()
                    case h11.ConnectionClosed():
                        return


@pytest.fixture
async def in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Callable[[Callable[[trio.abc.Stream], Awaitable[None]]], None]]:
    """Connect every new connection to a handler, without sockets: virtual time works."""
    async with trio.open_nursery() as nursery:

        def install(handler: Callable[[trio.abc.Stream], Awaitable[None]]) -> None:
            async def connect(host: str, port: int) -> trio.abc.Stream:
                await trio.lowlevel.checkpoint()
                ours, theirs = trio.testing.memory_stream_pair()
                nursery.start_soon(handler, theirs)
                return ours

            monkeypatch.setattr(trio, "open_tcp_stream", connect)

        yield install
        nursery.cancel_scope.cancel()


async def always_ok(_target: str, _body: bytes) -> tuple[int, str]:
    """Answer at once."""
    return 200, "total;dur=0.0"


@pytest.mark.trio
async def test_closed_loop_counts_what_was_answered(in_memory, autojump_clock) -> None:
    """Each caller sends its next request when it has its answer, over one connection."""

    async def answer(_target: str, _body: bytes) -> tuple[int, str]:
        await trio.sleep(0.1)
        return 200, 'queue;dur=1, model;dur=2;desc="batch of 4"'

    server = Server(answer)
    in_memory(server.serve)
    report = Report()
    await generate(Plan(url="http://test/", concurrency=8, duration=0.95), report)
    assert server.connections == 8
    assert dict(report.outcomes) == {"200": 80}
    assert report.elapsed == pytest.approx(1.0)
    assert report.throughput == pytest.approx(80.0)
    assert report.milliseconds(0.5) == pytest.approx(100.0)
    assert report.mean_batch_size == pytest.approx(4.0)


@pytest.mark.trio
async def test_mean_batch_size_is_over_batches_not_over_answers(in_memory, autojump_clock) -> None:
    """One batch of 1 and one of 3 make a mean of 2, although three answers of four say 3."""
    sizes = iter([1, 3, 3, 3])

    async def answer(_target: str, _body: bytes) -> tuple[int, str]:
        await trio.sleep(1)
        return 200, f'model;dur=1;desc="batch of {next(sizes)}"'

    in_memory(Server(answer).serve)
    report = Report()
    await generate(Plan(url="http://test/", concurrency=4, duration=0.5), report)
    assert report.mean_batch_size == pytest.approx(2.0)


@pytest.mark.trio
async def test_texts_replace_the_placeholder_in_url_and_body(in_memory, autojump_clock) -> None:
    """Texts are quoted for where they go, and headers are sent."""

    async def answer(_target: str, _body: bytes) -> tuple[int, str]:
        await trio.sleep(1)
        return 200, ""

    server = Server(answer)
    in_memory(server.serve)
    plan = Plan(
        url="http://test/s?q={text}",
        body='{"text": "{text}"}',
        texts=("a b&c", 'quote " it'),
        headers=(("X-Request-Timeout", "5"),),
        concurrency=1,
        duration=1.5,
    )
    await generate(plan, Report())
    assert server.requests == [
        ("/s?q=a%20b%26c", b'{"text": "a b&c"}'),
        ("/s?q=quote%20%22%20it", b'{"text": "quote \\" it"}'),
    ]


@pytest.mark.trio
async def test_open_loop_counts_from_when_a_request_was_due(in_memory, autojump_clock) -> None:
    """One stall of ten seconds shows in every request that was due during it."""
    stalled = False

    async def answer(_target: str, _body: bytes) -> tuple[int, str]:
        nonlocal stalled
        if not stalled:
            stalled = True
            await trio.sleep(10)
        return 200, ""

    in_memory(Server(answer).serve)
    report = Report()
    await generate(Plan(url="http://test/", concurrency=1, duration=10, rate=20), report)
    assert report.outcomes["200"] == pytest.approx(200, abs=50)
    median = report.milliseconds(0.5)
    assert median is not None
    assert median == pytest.approx(5_000, rel=0.3)


@pytest.mark.trio
async def test_open_loop_reports_what_it_never_sent(in_memory, autojump_clock) -> None:
    """A server that is far too slow does not make the run endless."""

    async def answer(_target: str, _body: bytes) -> tuple[int, str]:
        await trio.sleep(1)
        return 200, ""

    in_memory(Server(answer).serve)
    report = Report()
    await generate(Plan(url="http://test/", concurrency=1, duration=10, rate=20), report)
    assert report.outcomes["200"] == pytest.approx(20, abs=2)
    assert report.unsent == pytest.approx(180, abs=50)


@pytest.mark.trio
async def test_failures_are_counted_by_kind_and_not_as_latencies(in_memory, autojump_clock) -> None:
    """A 503, a hung server and a lost connection are told apart; none is a success."""

    async def answer(target: str, _body: bytes) -> tuple[int, str]:
        if target == "/slow":
            await trio.sleep_forever()
        return 503, ""

    async def hang_up(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.aclose()

    report = Report()
    in_memory(Server(answer).serve)
    await generate(Plan(url="http://test/slow", concurrency=1, duration=1, timeout=2), report)
    assert dict(report.outcomes) == {"timed out": 1}
    in_memory(hang_up)
    connection = Connection("http://test/")
    with pytest.raises(ConnectionLost):
        await connection.request("/")
    in_memory(Server(answer).serve)
    assert await connection.request("/") == (503, None)
    await connection.aclose()
    assert report.latencies == []
    assert report.milliseconds(0.5) is None


@pytest.mark.trio
async def test_a_connection_that_idled_is_not_used_again(in_memory, autojump_clock) -> None:
    """A server may be closing it: a request must not get lost in that race."""
    server = Server(always_ok)
    in_memory(server.serve)
    connection = Connection("http://test/")
    await connection.request("/")
    await connection.request("/")
    assert server.connections == 1
    await trio.sleep(3)
    await connection.request("/")
    assert server.connections == 2
    await connection.aclose()


@pytest.mark.trio
async def test_the_script_prints_a_table_and_nothing_noisy() -> None:
    """In a log there is one line at the start and the table at the end."""
    server = Server(always_ok)
    async with trio.open_nursery() as nursery:
        listen = partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(listen)
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/{{text}}"
        command = [sys.executable, str(SCRIPT), url, "-c", "4", "-d", "0.2"]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
        nursery.cancel_scope.cancel()
    output = done.stdout.decode()
    assert done.stderr == b""
    assert len(output.splitlines()) < 15
    for expected in ("throughput", "p50", "p95", "p99", "mean batch size", "n/a", "200: "):
        assert expected in output


def test_the_script_fails_where_nothing_answers() -> None:
    """The exit code tells a script that there was no server."""
    command = [sys.executable, str(SCRIPT), "http://127.0.0.1:1/", "-c", "1", "-d", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no connection" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["localhost:8000"],
        ["http://localhost/", "-c", "0"],
        ["http://localhost/", "-d", "nan"],
        ["http://localhost/", "--rate", "-1"],
        ["http://localhost/", "--texts", "no such file"],
    ],
)
def test_impossible_arguments_are_refused(arguments, capsys) -> None:
    """The command line says what is wrong and exits with 2."""
    with pytest.raises(SystemExit) as exit_info:
        parse_arguments(arguments)
    assert exit_info.value.code == 2
    assert "error" in capsys.readouterr().err
