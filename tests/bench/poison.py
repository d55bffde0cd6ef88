"""What one poison input costs its neighbours, and whoever comes while its batch is run again.

A batch of 32 with one input on which the model raises; each run takes 20 ms, on virtual time. The
poison is tried in each place. How long a healthy neighbour waits is given in runs: the median over
all of them, and the most. So is what an urgent request waits that comes at some moment while the
batch is run again, and one behind another batcher on the same limiter.

    python -m tests.bench.poison
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import trio
import trio.testing

from trio_batcher import Batcher, BatcherError, open_batcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SIZE, RUN = 32, 0.020
POISON, URGENT = "poison", "urgent"
# An urgent request has this long.
PATIENCE = 3 * RUN
GOAL_NEIGHBOUR, GOAL_URGENT = 3.0, 2.0


async def model(items: list[str]) -> list[str]:
    await trio.sleep(RUN)
    if POISON in items:
        raise ValueError(POISON)
    return items


async def ask(
    batcher: Batcher[str, str], item: str, waits: list[float], seconds: float = math.inf
) -> None:
    start = trio.current_time()
    with trio.move_on_after(seconds):
        try:
            await batcher.infer(item)
        except BatcherError:
            return
        waits.append((trio.current_time() - start) / RUN)


async def neighbours(place: int) -> list[float]:
    """Return how many runs each healthy neighbour waits."""
    waits: list[float] = []
    async with (
        open_batcher(model, max_batch_size=SIZE, max_delay=RUN) as batcher,
        trio.open_nursery() as nursery,
    ):
        for number in range(SIZE):
            nursery.start_soon(ask, batcher, POISON if number == place else "good", waits)
    return waits


async def newcomer(moment: float, shared: bool) -> list[float]:
    """Return how many runs somebody urgent waits who comes at that moment."""
    waits: list[float] = []
    limiter = trio.CapacityLimiter(1) if shared else None
    async with (
        open_batcher(model, max_batch_size=SIZE, limiter=limiter) as batcher,
        open_batcher(model, limiter=limiter) as other,
        trio.open_nursery() as nursery,
    ):
        for number in range(SIZE):
            nursery.start_soon(ask, batcher, POISON if number == 0 else "good", [])
        await trio.sleep(moment)
        nursery.start_soon(ask, other if shared else batcher, URGENT, waits, PATIENCE)
    return waits


def virtually(function: Callable[..., Awaitable[list[float]]], *args: object) -> list[float]:
    return trio.run(function, *args, clock=trio.testing.MockClock(autojump_threshold=0))


def show(what: str, waits: list[float], goal: float) -> None:
    median = statistics.median(waits)
    verdict = "" if median <= goal else "   MISSED"
    print(f"{what:40}{median:8.1f}{max(waits):8.1f}{goal:8.1f}{verdict}")


def main() -> None:
    print(f"batches of {SIZE}, one poison, runs of {RUN * 1e3:.0f} ms; waits in runs\n")
    print(f"{'':40}{'median':>8}{'most':>8}{'goal':>8}")
    healthy = [wait for place in range(SIZE) for wait in virtually(neighbours, place)]
    show("a healthy neighbour", healthy, GOAL_NEIGHBOUR)
    moments = [RUN * (1.1 + number / 4) for number in range(36)]
    for what, shared in (("somebody urgent", False), ("another batcher on the limiter", True)):
        waits = [virtually(newcomer, moment, shared) for moment in moments]
        show(what, [wait for each in waits for wait in each or [math.inf]], GOAL_URGENT)


if __name__ == "__main__":
    main()
