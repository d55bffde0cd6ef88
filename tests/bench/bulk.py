"""Bulk work: how busy `map` keeps the devices, what a row costs, how many rows are in memory.

Busy is the devices' time at their batches, as a share of the time from the start of the job to
its end. On virtual time, where Python takes none, that is with an async model; on the real
clock with a model that sleeps 5 ms a batch in a thread, and there a batch counts as long as it
takes on average in a loop of its own, just before the job and just after: what a thread loses
while it waits for a batch or the interpreter lock is idle time.

CPU time for each row, with a model that does nothing, is that of the whole process, beside
`infer_many` with 1,000 rows at a time; each is given the best of its rounds.

    python -m tests.bench.bulk [--rows 20000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import trio
from trio.testing import MockClock

from trio_batcher import open_batcher
from trio_batcher._interpreter import prompt_waking

from .disturbance import undisturbed
from .duty import BATCH_SECONDS, burn, turns_for
from .overhead import asynchronous, blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_batcher import Batcher

BATCH = 32
AT_A_TIME = 1000


class Row:
    """An input whose life is watched."""

    alive: ClassVar[weakref.WeakSet[Row]] = weakref.WeakSet()
    most: ClassVar[int] = 0

    def __init__(self, number: int) -> None:
        self.number = number
        self.alive.add(self)


def watched(rows: int) -> Iterator[Row]:
    """Yield rows, and note how many of them there are at a time."""
    for number in range(rows):
        yield Row(number)
        Row.most = max(Row.most, len(Row.alive))


async def virtual(rows: int, replicas: int) -> float:
    """Return how busy devices are that take 5 ms a batch, on virtual time."""

    async def model(items: list[Any]) -> list[Any]:
        await trio.sleep(BATCH_SECONDS)
        return items

    async with open_batcher([model] * replicas, max_batch_size=BATCH) as batcher:
        started = trio.current_time()
        async with batcher.map(watched(rows)) as results:
            async for _ in results:
                pass
        elapsed = trio.current_time() - started
        return sum(batcher.statistics().busy) / replicas / elapsed


def sleeping(items: list[int]) -> list[int]:
    """Take as long as a small model."""
    time.sleep(BATCH_SECONDS)
    return items


def alone(batches: int = 100) -> float:
    """Return how long such a batch takes on average, one after the other and nothing else."""
    with prompt_waking():
        started = time.perf_counter()
        for _ in range(batches):
            sleeping([])
        return (time.perf_counter() - started) / batches


async def real(rows: int, replicas: int, work: int, order: Any) -> float:
    """Return how busy devices are that sleep 5 ms a batch; the loop over results works besides."""
    before = alone()
    async with open_batcher([sleeping] * replicas, max_batch_size=BATCH) as batcher:
        started = time.perf_counter()
        async with batcher.map(range(rows), order=order) as results:
            async for _ in results:
                burn(work)
        elapsed = time.perf_counter() - started
    # As many batches as it would have been at best.
    return math.ceil(rows / BATCH) * (before + alone()) / 2 / replicas / elapsed


async def by_infer_many(batcher: Batcher[int, int], rows: int) -> None:
    """Ask for all rows, so many at a time."""
    for first in range(0, rows, AT_A_TIME):
        await batcher.infer_many(range(first, min(rows, first + AT_A_TIME)))


async def by_map(batcher: Batcher[int, int], rows: int) -> None:
    """Ask for all rows in one job."""
    async with batcher.map(range(rows)) as results:
        async for _ in results:
            pass


async def by_map_as_they_come(batcher: Batcher[int, int], rows: int) -> None:
    """Likewise, without an order."""
    async with batcher.map(range(rows), order="completion") as results:
        async for _ in results:
            pass


WAYS = {
    "infer_many": by_infer_many,
    "map": by_map,
    "map, as they come": by_map_as_they_come,
}


async def cpu(model: Callable[[list[int]], Any], rows: int, rounds: int) -> dict[str, float]:
    """Return the CPU seconds for each row, by way."""
    best = dict.fromkeys(WAYS, math.inf)
    async with open_batcher(model, max_batch_size=64) as batcher:
        for _ in range(rounds):
            for name, way in WAYS.items():
                before = time.process_time()
                await way(batcher, rows)
                best[name] = min(best[name], (time.process_time() - before) / rows)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows, rounds = options.rows, options.rounds
    print(
        f"devices busy during a map over {rows:,} rows, {BATCH_SECONDS * 1e3:g} ms batches", end=""
    )
    print(f" of {BATCH}; goal: 95%")
    for replicas in (1, 4):
        duty = trio.run(virtual, rows, replicas, clock=MockClock(autojump_threshold=0))
        print(f"  virtual time, {replicas} async models{'':22}{duty:>8.1%}", end="")
        print(f"   {Row.most:,} rows in memory at most")
    for replicas, microseconds, order in [
        (1, 0, "input"),
        (1, 0, "completion"),
        (1, 50, "input"),
        (2, 0, "input"),
    ]:
        work = turns_for(microseconds * 1e-6) if microseconds else 0
        duties, repeated = [], 0
        for _ in range(rounds):
            measure = partial(trio.run, real, rows, replicas, work, order)
            duty, disturbed = undisturbed(measure, rows / BATCH * BATCH_SECONDS / replicas)
            duties.append(duty)
            repeated += disturbed
        name = f"in threads, {replicas}; {microseconds} µs of Python a row; order={order!r}"
        spread = f"({min(duties):.1%}-{max(duties):.1%}; {repeated} rounds repeated)"
        print(f"  {name:50}{statistics.median(duties):>6.1%}   {spread}")
    print(f"CPU time a row, µs, no-op model, batches of 64, best of {rounds}; goal: 1.5x")
    for runner in (trio.run, lambda *args: asyncio.run(args[0](*args[1:]))):
        for model in (asynchronous, blocking):
            best = runner(cpu, model, rows, rounds)
            host = "trio" if runner is trio.run else "asyncio"
            cells = [
                f"{name} {seconds * 1e6:.2f} ({seconds / best['infer_many']:.2f}x)"
                for name, seconds in best.items()
            ]
            print(f"  {host}, {model.__name__}: {', '.join(cells)}")


if __name__ == "__main__":
    main()
