"""The demo: what batching is worth, in process and over HTTP; then the search page.

    python -m examples.semantic_search.demo [--exit]

from the repository's root. It measures one-at-a-time (`max_batch_size=1`) against batched, both
under the same concurrent callers with the same texts, and prints all figures side by side.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import trio
from rich.console import Console

from examples.load import Plan, Report, drive, summary
from trio_batcher import open_batcher

from .encoder import MODEL_NAME, Encoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
QUERIES = Path(__file__).with_name("queries.txt")
BATCHED = 32
BINDING = 0.95
"""A share of the in-process throughput; below it something else than the model holds HTTP back."""
STOP_LIMIT = 15.0
"""Seconds a server has to stop before it is killed; it needs fewer than 10."""


class ServerFailed(Exception):
    """The server ended before it was ready, or with an exit code other than 0."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it answers, and its process."""

    address: str
    process: trio.Process


@asynccontextmanager
async def start_server(*arguments: str) -> AsyncIterator[Server]:
    """Run the server in a process of its own; stop it with SIGTERM at the end.

    Raises:
        ServerFailed: it did not start, or did not stop in good order.
    """
    command = [sys.executable, "-m", "examples.semantic_search", *arguments]
    process = await trio.lowlevel.open_process(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the demo, which stops its servers itself
    )
    try:
        yield Server(await _address(process), process)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_LIMIT):
            process.terminate()
            await process.wait()
        if process.returncode is None:
            process.kill()
    if process.returncode != 0:
        raise ServerFailed(f"the server stopped with exit code {process.returncode}")


async def _address(process: trio.Process) -> str:
    """Wait for the line that tells where the server answers."""
    output = b""
    async for data in cast("trio.abc.ReceiveStream", process.stdout):
        output += data
        if b"\n" in output:
            return output.partition(b"\n")[0].decode().removeprefix("Serving on ")
    raise ServerFailed(f"the server did not start: {output.decode()}")


async def in_process(plan: Plan, max_batch_size: int, report: Report) -> None:
    """Call the batcher directly, from as many tasks as the plan has callers."""
    texts = itertools.cycle(plan.texts)
    async with open_batcher(Encoder, max_batch_size=max_batch_size) as batcher:
        await batcher.infer_many(list(itertools.islice(texts, plan.concurrency)))  # warm up
        started = trio.current_time()

        async def call() -> None:
            while (sent := trio.current_time()) < started + plan.duration:
                embedding = await batcher.infer(next(texts))
                report.count((200, embedding.run.size), trio.current_time() - sent)
            report.elapsed = trio.current_time() - started

        async with trio.open_nursery() as nursery:
            for _ in range(plan.concurrency):
                nursery.start_soon(call)


async def over_http(plan: Plan, address: str, report: Report, console: Console, title: str) -> None:
    """Search over HTTP, after a second of warming up."""
    plan = replace(plan, url=f"{address}/search?q={{text}}")
    await drive(replace(plan, duration=1.0), Report(), Console(quiet=True), title)
    await drive(plan, report, console, title)


async def measure(options: argparse.Namespace, console: Console) -> None:
    """Measure, print the table, and serve unless told not to."""
    plan = Plan(
        url="",
        texts=tuple(QUERIES.read_text(encoding="utf-8").splitlines()),
        headers=(("X-Request-Timeout", "30"),),  # every caller waits: the figures have no gaps
        concurrency=options.concurrency,
        duration=options.duration,
    )
    given = [("--cache", options.cache), ("--entries", options.entries)]
    common = [text for name, value in given if value for text in (name, value)]
    one, batched, http_one, http_batched, web = (Report() for _ in range(5))
    async with AsyncExitStack() as stack:
        console.print("Starting the server …")
        server = await stack.enter_async_context(
            start_server(*common, "--port", str(options.port), "--max-batch-size", str(BATCHED))
        )
        await over_http(plan, server.address, http_batched, console, "HTTP, batched")
        web_plan = replace(plan, url=f"{server.address}/stats", duration=min(3, plan.duration))
        await drive(web_plan, web, console, "HTTP, no model")
        async with start_server(*common, "--port", "0", "--max-batch-size", "1") as single:
            await over_http(plan, single.address, http_one, console, "HTTP, one at a time")
        console.print(f"In process, one at a time: {plan.duration:g} s …")
        await in_process(plan, 1, one)
        console.print(f"In process, batched: {plan.duration:g} s …")
        await in_process(plan, BATCHED, batched)

        columns = {
            "in process,\none at a time": one,
            "in process,\nbatched": batched,
            "HTTP,\none at a time": http_one,
            "HTTP,\nbatched": http_batched,
        }
        table = summary(columns)
        table.title = f"{plan.concurrency} callers, {MODEL_NAME}, {os.cpu_count()} cores"
        gains = [b.throughput / a.throughput for a, b in ((one, batched), (http_one, http_batched))]
        table.add_section()
        table.add_row("speed-up", "", f"{gains[0]:.1f}x", "", f"{gains[1]:.1f}x")
        console.print(table)
        console.print(_bound(batched, http_batched, web), highlight=False)
        failures = sum(r.outcomes.total() - r.outcomes["200"] for r in columns.values())
        if failures:
            sys.exit(f"{failures} requests were not answered with 200.")
        if not options.exit:
            console.print(f"\nSearching at {server.address} (Ctrl-C stops)")
            await server.process.wait()


def _bound(in_process: Report, http: Report, web: Report) -> str:
    """What holds HTTP back."""
    share = http.throughput / in_process.throughput
    text = f"Without a model, the web layer answers {web.throughput:.0f} requests/s here."
    if share < BINDING:
        text += (
            f" HTTP reaches {share:.0%} of in-process: parsing requests, the model and the load"
            " generator share this machine's cores. Through trio, HTTP tops out near 650"
            " requests/s on two cores, whatever the model."
        )
    return text


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure what batching is worth; then serve.")
    parser.add_argument("--exit", action="store_true", help="end after the table")
    parser.add_argument("--port", type=int, default=8000, help="of the page; 0 takes a free one")
    parser.add_argument("--duration", type=float, default=8.0, help="seconds of each measurement")
    parser.add_argument("--concurrency", type=int, default=64, help="callers")
    parser.add_argument("--entries", help="search only so many, for a quick start")
    parser.add_argument("--cache", help="directory of the index's cache file")
    return parser.parse_args(arguments)


async def main(options: argparse.Namespace) -> None:
    """Run the demo; Ctrl-C or SIGTERM ends it, and the servers it started."""
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                await anext(signals)
                nursery.cancel_scope.cancel()

        nursery.start_soon(stop)
        await measure(options, Console())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, parse_arguments(sys.argv[1:]))
