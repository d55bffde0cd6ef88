"""What a lone request costs more than calling the model in a thread oneself.

One caller, one request at a time, a model that sleeps 1 ms. The two are interleaved, one
request of each in turn, and their medians subtracted. On asyncio the same is done with peers,
one after the other, each with the window that it has by default.

    python -m tests.bench.lone [--requests 2000]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from trio_batcher import open_batcher

from .peers import contestants, ours

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .peers import Contestant

MODEL_SECONDS = 0.001
# As in `overhead`; nobody's batch is larger than one here.
BATCH = 64


def model(items: list[int]) -> list[int]:
    """Sleep as long as a small model takes."""
    time.sleep(MODEL_SECONDS)
    return items


async def interleaved(
    infers: dict[str, Callable[[int], Awaitable[Any]]], requests: int
) -> dict[str, list[float]]:
    """Return the seconds of each one's requests."""
    times: dict[str, list[float]] = {name: [] for name in infers}
    for item in range(requests):
        for name, infer in infers.items():
            start = time.perf_counter()
            await infer(item)
            times[name].append(time.perf_counter() - start)
    return times


async def on_trio(requests: int) -> dict[str, list[float]]:
    """Measure a thread call and this library."""
    limiter = trio.CapacityLimiter(1)

    async def bare(item: int) -> list[int]:
        return await trio.to_thread.run_sync(model, [item], limiter=limiter)

    async with open_batcher(model) as batcher:
        return await interleaved(
            {"bare thread call": bare, "trio_batcher": batcher.infer}, requests
        )


async def on_asyncio(contestant: Contestant, requests: int) -> dict[str, list[float]]:
    """Measure a thread call and one contestant."""

    async def bare(item: int) -> list[int]:
        return await asyncio.to_thread(model, [item])

    async with contestant(model) as infer:
        return await interleaved({"bare thread call": bare, "": infer}, requests)


def show(name: str, bare: list[float], seconds: list[float]) -> None:
    """Print the median, the 95th percentile, and what was added to a bare call's median."""
    p50, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
    added = p50 - statistics.median(bare)
    print(f"{name:24}" + "".join(f"{value * 1e6:>9.0f} µs" for value in (p50, p95, added)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    requests = parser.parse_args().requests
    print(f"{'':24}{'p50':>12}{'p95':>12}{'added':>12}")
    bare, seconds = trio.run(on_trio, requests).values()
    show("bare thread call, trio", bare, bare)
    show("trio_batcher, trio", bare, seconds)
    _, peers, missing = contestants(BATCH)
    for name, contestant in {"trio_batcher": partial(ours, batch=BATCH), **peers}.items():
        # The peers' windows make theirs ten times as long.
        count = max(20, requests // 10) if name in peers else requests
        bare, seconds = asyncio.run(on_asyncio(contestant, count)).values()
        show("bare call, asyncio", bare, bare)
        show(f"{name}, asyncio", bare, seconds)
    for name in missing:
        print(f"{name} is not installed: pip install --group bench")


if __name__ == "__main__":
    main()
