"""A load generator: how many answers a URL gives, and how fast.

    python examples/load.py http://127.0.0.1:8000/stats
    python examples/load.py 'http://127.0.0.1:8000/search?q={text}' --texts queries.txt -c 64 -d 10
    python examples/load.py 'http://127.0.0.1:8000/search?q={text}' --texts queries.txt --rate 100

Closed loop (the default): each of ``--concurrency`` callers sends its next request when it has its
answer. Open loop (``--rate``): requests are due at random (Poisson) times, whether or not the
server keeps up, and latencies count from those times: a server that stalls cannot hide it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import re
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, urlsplit

import h11
import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Reply: TypeAlias = tuple[int, int | None]
"""An answer's status, and the size of its batch where `Server-Timing` tells it."""
Headers: TypeAlias = tuple[tuple[str, str], ...]
OVERTIME = 10.0
"""Seconds after the end of an open loop in which requests that are overdue are still sent."""
IDLE_LIMIT = 2.0
"""Seconds of idleness after which a connection is not used again: its server may be closing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send, and how.

    Attributes:
        url: ``http`` or ``https``; ``{text}`` in it is replaced by the texts in turn.
        body: JSON to POST, or None to GET; ``{text}`` in it is replaced likewise.
        texts: what to replace it by.
        headers: sent with every request.
        concurrency: callers, each with a connection of its own.
        duration: seconds in which requests are sent.
        rate: requests a second for an open loop; None is a closed one.
        timeout: seconds after which a caller gives up on an answer.
    """

    url: str
    body: str | None = None
    texts: tuple[str, ...] = ("",)
    headers: Headers = ()
    concurrency: int = 64
    duration: float = 10.0
    rate: float | None = None
    timeout: float = 30.0


@dataclass(slots=True)
class Report:
    """What happened.

    Attributes:
        elapsed: seconds from the first request to the last answer.
        latencies: seconds each successful (2xx) answer took.
        outcomes: answers by status code, and failures by name.
        batches: how many batches the answers came from, where they tell their batch's size.
        batched: answers that told their batch's size.
        unsent: requests of an open loop that were due and never sent.
    """

    elapsed: float = 0.0
    latencies: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    batches: float = 0.0
    batched: int = 0
    unsent: int = 0

    @property
    def throughput(self) -> float:
        """Successful answers a second."""
        return len(self.latencies) / self.elapsed if self.elapsed else 0.0

    @property
    def mean_batch_size(self) -> float | None:
        """Answers per batch, or None where they do not tell."""
        return self.batched / self.batches if self.batches else None

    def milliseconds(self, share: float) -> float | None:
        """The latency that this share of the 2xx answers did not exceed; None if there are none."""
        latencies = sorted(self.latencies)
        return 1e3 * latencies[math.ceil(share * len(latencies)) - 1] if latencies else None

    def count(self, reply: Reply, latency: float) -> None:
        """Add an answer."""
        status, batch_size = str(reply[0]), reply[1]
        self.outcomes[status] += 1
        if status.startswith("2"):
            self.latencies.append(latency)
        if batch_size:
            # A batch of n gives n answers, so a share of 1/n each makes one batch.
            self.batched += 1
            self.batches += 1 / batch_size


class ConnectionLost(Exception):
    """The server closed the connection instead of answering."""


class Connection:
    """An HTTP/1.1 connection that is kept alive, and opened anew after idling or a failure."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be an http:// or https:// one, not {url!r}")
        self._tls = parts.scheme == "https"
        self._address = parts.hostname, parts.port or (443 if self._tls else 80)
        self._authority = parts.netloc.rpartition("@")[2]
        self._stream: trio.abc.Stream | None = None
        self._http = h11.Connection(h11.CLIENT)
        self._last_used = 0.0

    async def request(self, target: str, body: str | None = None, headers: Headers = ()) -> Reply:
        """Send a request, a POST if it has a body, and read its answer to the end.

        Cancellation: closes the connection; the next request opens a new one.

        Raises:
            OSError: no connection.
            ConnectionLost: the connection ended before the answer did.
        """
        data = (body or "").encode()
        lines = [("Host", self._authority), *headers]
        if body is not None:
            lines += [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
        head = h11.Request(method="GET" if body is None else "POST", target=target, headers=lines)
        if trio.current_time() > self._last_used + IDLE_LIMIT:
            await self.aclose()
        try:
            reply = await self._exchange([head, h11.Data(data), h11.EndOfMessage()])
        except BaseException:
            await self.aclose()
            raise
        self._last_used = trio.current_time()
        return reply

    async def aclose(self) -> None:
        """Close the connection, without waiting for the other side."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await trio.aclose_forcefully(stream)

    async def _exchange(self, events: list[h11.Event]) -> Reply:
        if self._stream is None:
            connect = trio.open_ssl_over_tcp_stream if self._tls else trio.open_tcp_stream
            self._stream = await connect(*self._address)
            self._http = h11.Connection(h11.CLIENT)
        # A server may answer and hang up before it has read everything.
        with suppress(trio.BrokenResourceError):
            await self._stream.send_all(b"".join(self._http.send(e) or b"" for e in events))
        try:
            reply = await self._read(self._stream)
        except (trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            raise ConnectionLost from error
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            await self.aclose()
        return reply

    async def _read(self, stream: trio.abc.Stream) -> Reply:
        reply = None
        while True:
            match self._http.next_event():
                case h11.NEED_DATA:
                    self._http.receive_data(bytes(await stream.receive_some(65536)))
                case h11.Response() as response:
                    reply = response.status_code, _batch_size(response)
                case h11.EndOfMessage() if reply is not None:
                    return reply
                case h11.ConnectionClosed():
                    raise ConnectionLost


def _batch_size(response: h11.Response) -> int | None:
    found = re.search(rb"batch of (\d+)", dict(response.headers).get(b"server-timing", b""))
    return int(found[1]) if found else None


async def generate(plan: Plan, report: Report) -> None:
    """Carry the plan out; the report is up to date at every moment.

    Cancellation: ends it early; the report keeps what has happened.
    """
    started = trio.current_time()
    due = _schedule(plan, started)
    texts = itertools.cycle(plan.texts)
    parts = urlsplit(plan.url)
    path = f"{parts.path or '/'}?{parts.query}".removesuffix("?")

    async def call(connection: Connection, at: float) -> None:
        text = next(texts)
        target = path.replace("{text}", quote(text, safe=""))
        body = plan.body and plan.body.replace("{text}", json.dumps(text)[1:-1])
        try:
            with trio.fail_after(plan.timeout):
                reply = await connection.request(target, body, plan.headers)
            report.count(reply, trio.current_time() - at)
        except trio.TooSlowError:
            report.outcomes["timed out"] += 1
        except ConnectionLost:
            report.outcomes["connection lost"] += 1
        except OSError:
            report.outcomes["no connection"] += 1
            await trio.sleep(0.1)  # the next try would fail as fast, and say no more
        report.elapsed = trio.current_time() - started

    async def caller() -> None:
        connection = Connection(plan.url)
        try:
            for at in due:
                if trio.current_time() > started + plan.duration + OVERTIME:
                    report.unsent += 1
                else:
                    await trio.sleep_until(at)
                    await call(connection, at)
        finally:
            await connection.aclose()

    async with trio.open_nursery() as nursery:
        for _ in range(plan.concurrency):
            nursery.start_soon(caller)


def _schedule(plan: Plan, started: float) -> Iterator[float]:
    """The times at which requests are due, shared by all callers."""
    end = started + plan.duration
    if plan.rate is None:
        while (now := trio.current_time()) < end:
            yield now
        return
    chance = random.Random(0)  # the same times in every run, so that two runs can be compared
    at = started
    while (at := at + chance.expovariate(plan.rate)) < end:
        yield at


async def drive(plan: Plan, report: Report, console: Console, title: str) -> None:
    """Carry the plan out; show its progress where the console is a terminal."""
    console.print(f"{title}: {plan.duration:g} s …", markup=False)
    columns = BarColumn(), TextColumn("{task.description}")
    live = console.is_terminal
    with Progress(*columns, console=console, auto_refresh=False, disable=not live) as progress:
        task = progress.add_task("", total=plan.duration)

        async def show() -> None:
            for tick in itertools.count():
                now = f"{tick / 4:.0f} s, {report.throughput:.0f}/s, {dict(report.outcomes)}"
                progress.update(task, completed=tick / 4, description=now, refresh=True)
                await trio.sleep(0.25)

        async with trio.open_nursery() as nursery:
            if live:
                nursery.start_soon(show)
            await generate(plan, report)
            nursery.cancel_scope.cancel()


def summary(columns: dict[str, Report]) -> Table:
    """The closing table, a column for each report."""
    table = Table("")
    for name in columns:
        table.add_column(name, justify="right")

    def row(name: str, form: str, value: Callable[[Report], float | None]) -> None:
        values = map(value, columns.values())
        table.add_row(name, *("n/a" if v is None else form.format(v) for v in values))

    row("throughput (2xx)", "{:.1f}/s", lambda report: report.throughput)
    for n in (50, 95, 99):
        row(f"latency p{n} (2xx)", "{:.0f} ms", partial(Report.milliseconds, share=n / 100))
    row("mean batch size", "{:.1f}", lambda report: report.mean_batch_size)
    if any(report.unsent for report in columns.values()):
        row("due, never sent", "{}", lambda report: report.unsent)
    outcomes = (sorted(report.outcomes.items()) for report in columns.values())
    table.add_row("outcomes", *(", ".join(f"{k}: {n}" for k, n in pairs) for pairs in outcomes))
    return table


def parse_arguments(arguments: list[str]) -> Plan:
    """The command line."""

    # argparse names these functions in its messages: "invalid url value: 'localhost'".
    def url(text: str) -> str:
        Connection(text)
        return text

    def positive(text: str) -> float:
        if not 0 < float(text) < math.inf:
            raise ValueError
        return float(text)

    parser = argparse.ArgumentParser(description="Load a URL and report how it answered.")
    add = parser.add_argument
    add("url", type=url, help="{text} in it is replaced by the texts in turn")
    add("-c", "--concurrency", type=lambda n: int(positive(n)), default=64, help="callers (64)")
    add("-d", "--duration", type=positive, default=10.0, help="seconds (10)")
    add("--rate", type=positive, help="open loop: requests a second")
    add("--timeout", type=positive, default=30.0, help="seconds for an answer (30)")
    add("--json", dest="body", help="POST this body; {text} in it is replaced likewise")
    add("--texts", type=Path, help="a file with one text a line")
    add("-H", "--header", action="append", default=[], metavar="NAME: VALUE")
    options = vars(parser.parse_args(arguments))
    headers = (line.partition(":") for line in options.pop("header"))
    options["headers"] = tuple((name.strip(), value.strip()) for name, _, value in headers)
    try:
        texts = options["texts"].read_text(encoding="utf-8") if options["texts"] else ""
    except OSError as error:
        parser.error(str(error))
    return Plan(**{**options, "texts": tuple(filter(None, texts.split("\n"))) or ("",)})


async def main(plan: Plan) -> bool:
    """Load, print the table, and tell whether anything succeeded. Ctrl-C ends it early."""
    console = Console(markup=False, highlight=False)
    report = Report()
    try:
        await drive(plan, report, console, plan.url)
    except* KeyboardInterrupt:
        console.print("Ended early.")
    console.print(summary({"": report}))
    return bool(report.latencies)


if __name__ == "__main__":
    sys.exit(not trio.run(main, parse_arguments(sys.argv[1:])))
