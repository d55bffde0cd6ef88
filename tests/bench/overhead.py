"""CPU per request with a model that does nothing, against a bare channel and park.

256 callers in a closed loop, batches of 64. CPU time is that of the whole process, so a
worker thread's share is in it. Four floors, none of which cancels, bounds or orders
anything:

- *channel and park*: the ordinary way. Each caller does one `send_nowait` and parks; one
  task does `await receive()` for each request and reschedules a batch's callers.
- *and a thread call*: the same, and the task calls the model in a worker thread for each
  batch, as whoever has a blocking model must.
- *leanest*: the first, but the task empties the channel with `receive_nowait` and goes
  through the event loop once a batch.
- *leanest, deadline read*: and each caller asks trio for its effective deadline, the one
  thing without which a deadline cannot be kept. It is half of what a batcher adds.

The ratio is to the first, in brackets to the others, in this order. As the speed of a
shared machine changes within seconds, each measurement is divided by measurements of the
floors made just before it, and the median of these ratios is given.

On asyncio, the same clients ask this library and its peers from the package index, each with
the window that it has by default; the floor is a list and a bare future. There each is
given the best of its rounds, and the goal is: two thirds of what the best peer takes, or less.

    python -m tests.bench.overhead [--rounds 15] [--requests 20] [--host trio]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import trio
from outcome import Value

from trio_batcher import open_batcher

from .peers import bare_future, contestants, cpu_per_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

CALLERS = 256
BATCH = 64

# What is measured: it is given clients, which are given an `infer`.
if TYPE_CHECKING:
    Client: TypeAlias = Callable[[Callable[[int], Awaitable[int]]], Awaitable[float]]
    Run: TypeAlias = Callable[[Client], Awaitable[float]]


class _Bare:
    __slots__ = ("item", "task")

    def __init__(self, item: int, task: trio.lowlevel.Task) -> None:
        self.item = item
        self.task = task


def floor(*, lean: bool = False, deadline: bool = False, thread: bool = False) -> Run:
    """Return a run of clients against a memory channel and a park, and nothing else."""

    async def run(client: Client) -> float:
        send, receive = trio.open_memory_channel[_Bare](math.inf)

        def abort(_: object) -> trio.lowlevel.Abort:
            return trio.lowlevel.Abort.SUCCEEDED

        async def infer(item: int) -> int:
            if deadline:
                trio.current_effective_deadline()
            send.send_nowait(_Bare(item, trio.lowlevel.current_task()))
            result: int = await trio.lowlevel.wait_task_rescheduled(abort)
            return result

        async def one_by_one() -> None:
            while True:
                batch = [await receive.receive() for _ in range(BATCH)]
                if thread:
                    await trio.to_thread.run_sync(blocking, [request.item for request in batch])
                deliver(batch)

        async def all_there_are() -> None:
            while True:
                batch = [await receive.receive()]
                while len(batch) < BATCH:
                    try:
                        batch.append(receive.receive_nowait())
                    except trio.WouldBlock:
                        batch.append(await receive.receive())
                deliver(batch)

        def deliver(batch: list[_Bare]) -> None:
            for request in batch:
                trio.lowlevel.reschedule(request.task, Value(request.item))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_there_are if lean else one_by_one)
            seconds = await client(infer)
            nursery.cancel_scope.cancel()
        return seconds

    return run


def blocking(items: list[int]) -> Sequence[int]:
    """Do nothing, in a worker thread."""
    return items


async def asynchronous(items: list[int]) -> Sequence[int]:
    """Do nothing, in the event loop."""
    return items


def batcher(model: Any, max_delay: float, seen: dict[str, float]) -> Run:
    """Return a run of clients against a batcher, which notes its mean batch in ``seen``."""

    async def run(client: Client) -> float:
        async with open_batcher(model, max_batch_size=BATCH, max_delay=max_delay) as batcher:
            seconds = await client(batcher.infer)
            statistics = batcher.statistics()
        seen[f"{model.__name__} model, max_delay {max_delay}"] = (
            statistics.items / statistics.batches
        )
        return seconds

    return run


async def clients(
    infer: Callable[[int], Awaitable[int]], *, requests: int, deadline: bool
) -> float:
    """Return the CPU seconds per request of `CALLERS` tasks that ask again and again."""

    async def plain(base: int) -> None:
        for i in range(requests):
            assert await infer(base + i) == base + i

    async def hurried(base: int) -> None:
        for i in range(requests):
            with trio.fail_after(60):
                assert await infer(base + i) == base + i

    caller = hurried if deadline else plain
    before = time.process_time()
    async with trio.open_nursery() as nursery:
        for n in range(CALLERS):
            nursery.start_soon(caller, n * requests)
    return (time.process_time() - before) / (CALLERS * requests)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=20, help="per caller and round")
    parser.add_argument("--host", choices=["trio", "asyncio"], help="only this one")
    options = parser.parse_args()
    if options.host != "asyncio":
        measure_trio(options.rounds, options.requests)
    if options.host != "trio":
        measure_asyncio(options.rounds, options.requests)


def measure_trio(rounds: int, requests: int) -> None:
    """Measure on trio, against floors, and print."""
    seen: dict[str, float] = {}
    floors = {
        "floor: channel and park": floor(),
        "  and a thread call": floor(thread=True),
        "  leanest": floor(lean=True),
        "  leanest, deadline read": floor(lean=True, deadline=True),
    }
    # A window makes every batch full: the callers that are left always fill one.
    batchers = {
        "thread, batches of 64": batcher(blocking, 0.05, seen),
        "thread, as they come": batcher(blocking, 0.0, seen),
        "async, batches of 64": batcher(asynchronous, 0.05, seen),
        "async, as they come": batcher(asynchronous, 0.0, seen),
    }
    spent: dict[tuple[str, bool], list[float]] = defaultdict(list)
    ratios: dict[tuple[str, bool], list[list[float]]] = defaultdict(list)
    for _ in range(rounds):
        for deadline in (False, True):
            client = partial(clients, requests=requests, deadline=deadline)
            for name, run in batchers.items():
                before = [trio.run(floor, client) for floor in floors.values()]
                seconds = trio.run(run, client)
                spent[name, deadline].append(seconds)
                ratios[name, deadline].append([seconds / floor for floor in before])
                for floor_name, floor_seconds in zip(floors, before, strict=True):
                    spent[floor_name, deadline].append(floor_seconds)

    print(f"CPU per request, no-op model, {CALLERS} callers, medians of {rounds} rounds")
    print(f"{'':26}{'plain':>10}{'ratio':>26}{'fail_after':>14}{'ratio':>26}")
    for name in floors | batchers:
        cells = ""
        for deadline in (False, True):
            cells += (
                f"{statistics.median(spent[name, deadline]) * 1e6:>{14 if deadline else 10}.1f}"
            )
            medians = [
                statistics.median(column) for column in zip(*ratios[name, deadline], strict=True)
            ]
            first, *others = (f"{ratio:.2f}" for ratio in medians or [1.0])
            shown = f"{first}x ({', '.join(others)})" if others else ""
            cells += f"{shown:>26}"
        print(f"{name:26}{cells}")
    print("mean batch:", "; ".join(f"{name}: {mean:.1f}" for name, mean in seen.items()))


def measure_asyncio(rounds: int, requests: int) -> None:
    """Measure on asyncio, against a floor and peers, and print."""
    ways, peers, missing = contestants(BATCH)
    everybody = {"floor: list and future": partial(bare_future, batch=BATCH), **ways, **peers}
    print(f"\nthe same on asyncio, best of {rounds} rounds each, beside the best peer")
    for model in (asynchronous, blocking):
        for deadline in (False, True):
            best = dict.fromkeys(everybody, math.inf)
            for _ in range(rounds):
                for name, contestant in everybody.items():
                    run = cpu_per_request(
                        contestant, model, callers=CALLERS, requests=requests, deadline=deadline
                    )
                    best[name] = min(best[name], asyncio.run(run))
            print(f"{model.__name__} model{', fail_after around each' if deadline else ''}")
            peer = min((best[name] for name in peers), default=math.nan)
            for name, seconds in best.items():
                print(f"  {name:28}{seconds * 1e6:>8.1f}{seconds / peer:>10.2f}x")
    for name in missing:
        print(f"{name} is not installed: pip install --group bench")
    print("goal: at most 0.67x the best peer without a deadline; peers know of none")


if __name__ == "__main__":
    main()
