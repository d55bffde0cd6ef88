"""What failures and refusals keep in memory: nothing, also where the cyclic collector is off.

10,000 batches on each of which the model raises, and 10,000 requests that find the queue full or
cannot be in time (or are cancelled by then); each has an item of 1 MB of its own. Whatever is kept
of them shows as growth of the resident memory, from the end of a short first round to the peak,
and as items that are alive at the end. With a model in a thread, in the event loop and in a
process, and for `infer_many` too.

    python -m tests.bench.memory [--count 10000]
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from trio_batcher import Batcher, BatcherError, open_batcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MB = 2**20
GOAL = 20.0
TEMPLATE = bytes(range(256)) * (MB // 256)
CALLERS = 8


class Item(bytearray):
    """An input that can be watched; in a process, its size stands for it."""

    __slots__ = ("__weakref__",)

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (len(self),)


class Watched:
    """Makes items, and knows how many there are."""

    def __init__(self) -> None:
        self.alive = 0

    def item(self) -> Item:
        item = Item(TEMPLATE)
        self.alive += 1
        weakref.finalize(item, self._gone).atexit = False
        return item

    def _gone(self) -> None:
        self.alive -= 1


class Model:
    """Fails on everything."""

    def infer(self, items: list[Any]) -> list[Any]:
        raise KeepingError(items)


class KeepingError(Exception):
    """Has the batch that it is about."""

    def __init__(self, items: list[Any]) -> None:
        super().__init__("not these")
        self.items = items


async def model(items: list[Any]) -> list[Any]:
    raise KeepingError(items)


def resident() -> float:
    """Return the resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MB


async def failing(ask: Callable[[Item], Awaitable[object]], count: int) -> None:
    """Have that many requests fail, a few at a time."""
    watched, peak = Watched(), 0.0
    left = iter(range(count))
    base = resident()

    async def call() -> None:
        nonlocal base, peak
        for number in left:
            try:
                await ask(watched.item())
            except (BatcherError, trio.TooSlowError):
                pass
            else:
                raise AssertionError("it was answered")
            if number < count // 20:
                base = max(base, resident())
            elif not number % 50:
                peak = max(peak, resident())

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(CALLERS):
            nursery.start_soon(call)
    report(max(0.0, peak - base), watched.alive, time.perf_counter() - started)


def report(growth: float, alive: int, seconds: float) -> None:
    bad = growth >= GOAL or alive > CALLERS
    FAILED.append(bad)
    print(
        f"{growth:9.1f} MB{alive:8} alive{seconds:9.1f} s{'   MISSED' if bad else ''}", flush=True
    )


FAILED: list[bool] = []


def title(what: str) -> None:
    print(f"{what:44}", end="", flush=True)


def many(batcher: Batcher[Any, Any]) -> Callable[[Item], Awaitable[object]]:
    return lambda item: batcher.infer_many([item])


async def failures(count: int) -> None:
    for what, tried, options in (
        ("a thread", Model, {}),
        ("the event loop", model, {}),
        ("a process", Model, {"run_in": "process"}),
        ("a watched thread", Model, {"batch_timeout": 60.0}),
    ):
        # The way to a process and back takes long.
        fewer = count // 10 if options.get("run_in") else count
        async with open_batcher(tried, max_batch_size=1, **options) as batcher:
            title(f"{fewer} failing batches in {what}")
            await failing(batcher.infer, fewer)
    async with open_batcher(Model, max_batch_size=CALLERS) as batcher:
        title(f"{count} failing requests of infer_many")
        await failing(many(batcher), count)


async def refusals(count: int) -> None:
    gate = threading.Event()

    def blocking(items: list[Any]) -> list[Any]:
        gate.wait()
        return items

    async with (
        open_batcher(blocking, max_batch_size=1, max_queue_size=1) as batcher,
        trio.open_nursery() as nursery,
    ):
        for _ in range(2):
            nursery.start_soon(batcher.infer, Item())
            await trio.testing.wait_all_tasks_blocked()
        title(f"{count} at a full queue")
        await failing(batcher.infer, count)
        title(f"{count} at a full queue, infer_many")
        await failing(many(batcher), count)
        gate.set()

    async def slow(items: list[Any]) -> list[Any]:
        await trio.sleep(0.05)
        return items

    async with (
        open_batcher(slow, max_batch_size=1, warmup=[Item()]) as batcher,
        trio.open_nursery() as nursery,
    ):

        async def keep_busy() -> None:
            while True:
                await batcher.infer(Item())

        async def late(item: Item) -> None:
            with trio.fail_after(0.004):
                await batcher.infer(item)

        nursery.start_soon(keep_busy)
        await trio.sleep(0.06)
        title(f"{count} deadlines that cannot be met")
        await failing(late, count)
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    logging.getLogger("trio_batcher").setLevel(logging.CRITICAL + 1)
    gc.collect()
    gc.disable()
    trio.run(failures, options.count)
    trio.run(refusals, options.count)
    if any(FAILED):
        sys.exit(1)


if __name__ == "__main__":
    main()
