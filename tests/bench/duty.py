"""How busy the device is kept while the event loop has work of its own.

A model that sleeps 5 ms a batch stands for a GPU: it needs the interpreter lock only
between batches. 64 callers in a closed loop, batches of 16, so 3,200 requests a second at
most. Each caller spends some pure Python on every answer; in the second scenario a further
task keeps the event loop busy all the time.

The device's duty is batches x what a batch takes / elapsed, and what it takes is measured
with nobody else about, as a sleep of 5 ms is a little longer than that. So whatever the
thread loses waiting for the interpreter lock, after its sleep too, counts as idle. Beside
the batcher runs what most libraries do: one `to_thread` call for each batch, with CPython's
default switch interval.

    python -m tests.bench.duty [--seconds 1.5] [--rounds 7]
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio
from outcome import Value

from trio_batcher import _interpreter, open_batcher

from .disturbance import undisturbed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CALLERS = 64
BATCH = 16
BATCH_SECONDS = 0.005


@dataclass
class Device:
    """Sleeps, and counts."""

    batches: int = 0
    items: int = 0

    def __call__(self, items: list[int]) -> list[int]:
        time.sleep(BATCH_SECONDS)
        self.batches += 1
        self.items += len(items)
        return items


def burn(turns: int) -> None:
    """Spend time in the interpreter, as parsing a request does, a fixed number of turns."""
    x = 0
    for i in range(turns):
        x += i


def batch_seconds() -> float:
    """Return how long the model takes when nobody else wants the interpreter."""
    device, times = Device(), []
    for _ in range(50):
        start = time.perf_counter()
        device([])
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def turns_for(seconds: float) -> int:
    """Return how many turns take so long when nobody else wants the interpreter."""
    best = math.inf
    for _ in range(20):
        start = time.perf_counter()
        burn(20_000)
        best = min(best, time.perf_counter() - start)
    return max(1, round(20_000 * seconds / best))


async def closed_loop(
    infer: Callable[[int], Awaitable[int]], device: Device, seconds: float, work: int, extra: bool
) -> tuple[float, float]:
    """Return batches a second and requests a second."""

    async def caller(item: int) -> None:
        while True:
            await infer(item)
            burn(work)

    async def busy() -> None:
        while True:
            burn(work)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for item in range(CALLERS):
            nursery.start_soon(caller, item)
        if extra:
            nursery.start_soon(busy)
        await trio.sleep(seconds / 4)
        batches, items, start = device.batches, device.items, time.perf_counter()
        await trio.sleep(seconds)
        elapsed = time.perf_counter() - start
        batches, items = device.batches - batches, device.items - items
        nursery.cancel_scope.cancel()
    return batches / elapsed, items / elapsed


async def with_batcher(seconds: float, work: int, extra: bool) -> tuple[float, float]:
    """Measure the batcher as it comes."""
    device = Device()
    async with open_batcher(device, max_batch_size=BATCH) as batcher:
        return await closed_loop(batcher.infer, device, seconds, work, extra)


async def with_calls(seconds: float, work: int, extra: bool) -> tuple[float, float]:
    """Measure one `to_thread` call per batch."""
    device = Device()
    send, receive = trio.open_memory_channel[tuple[int, trio.lowlevel.Task]](math.inf)
    gone: set[trio.lowlevel.Task] = set()

    async def infer(item: int) -> int:
        def abort(_: object) -> trio.lowlevel.Abort:
            gone.add(task)
            return trio.lowlevel.Abort.SUCCEEDED

        task = trio.lowlevel.current_task()
        send.send_nowait((item, task))
        result: int = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    async def gather() -> None:
        while True:
            batch = [await receive.receive()]
            while len(batch) < BATCH:
                try:
                    batch.append(receive.receive_nowait())
                except trio.WouldBlock:
                    break
            results = await trio.to_thread.run_sync(device, [item for item, _ in batch])
            for result, (_, task) in zip(results, batch, strict=True):
                if task not in gone:
                    trio.lowlevel.reschedule(task, Value(result))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gather)
        measured = await closed_loop(infer, device, seconds, work, extra)
        nursery.cancel_scope.cancel()
    return measured


def one_round(
    run: Callable[[float, int, bool], Awaitable[tuple[float, float]]],
    seconds: float,
    work: float,
    extra: bool,
) -> tuple[float, float]:
    """Return the device's duty and requests a second."""
    # The machine's speed changes: what it does when left alone is measured each time.
    alone, turns = batch_seconds(), turns_for(work)
    batches, rate = trio.run(run, seconds, turns, extra)
    return alone * batches, rate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(
        f"{CALLERS} callers, {BATCH_SECONDS * 1e3:g} ms batches of {BATCH}; "
        f"default switch interval {sys.getswitchinterval() * 1e3:g} ms, "
        f"with a batcher {_interpreter.SWITCH_INTERVAL * 1e3:g} ms; "
        f"medians of {options.rounds} rounds (least to most)"
    )
    for title, work, extra in [
        ("0.3 ms of Python per request", 0.3e-3, False),
        ("0.1 ms, and a loop that is 100% busy besides", 0.1e-3, True),
    ]:
        print(f"{title:46}{'device busy':>28}{'requests/s':>22}")
        rates, repeated = {}, 0
        for name, run in [
            ("  trio_batcher", with_batcher),
            ("  one to_thread call per batch", with_calls),
        ]:
            duties, rates[name] = [], []
            for _ in range(options.rounds):
                measure = partial(one_round, run, options.seconds, work, extra)
                (duty, rate), disturbed = undisturbed(measure, options.seconds)
                repeated += disturbed
                duties.append(100 * duty)
                rates[name].append(rate)
            print(f"{name:46}{_spread(duties, '.1f', '%'):>28}{_spread(rates[name], ',.0f'):>22}")
        ours, theirs = (statistics.median(rate) for rate in rates.values())
        print(f"{'  ratio':46}{'':28}{ours / theirs:>21.1f}x")
        print(f"  {repeated} rounds repeated because other virtual machines had the processors")


def _spread(figures: list[float], form: str, unit: str = "") -> str:
    low, high = min(figures), max(figures)
    return f"{statistics.median(figures):{form}}{unit} ({low:{form}}-{high:{form}})"


if __name__ == "__main__":
    main()
