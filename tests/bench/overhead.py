"""CPU per request with a model that does nothing, against a bare channel and park.

256 callers in a closed loop, batches of 64. CPU time is that of the whole process, so a
worker thread's share is in it. The floor is the least a trio program can do to get
requests from many tasks into one and answers back: an object per request, one
`send_nowait`, one park, one `reschedule`. Rounds of all variants are interleaved, and
the median of each is compared with the floor's.

    python -m tests.bench.overhead [--rounds 7] [--requests 40]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import trio
from outcome import Value

from trio_batcher import open_batcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

CALLERS = 256
BATCH = 64

Infer = "Callable[[int], Awaitable[int]]"


class _Bare:
    __slots__ = ("item", "task")

    def __init__(self, item: int, task: trio.lowlevel.Task) -> None:
        self.item = item
        self.task = task


async def floor(client: Callable[[Any], Awaitable[float]]) -> float:
    """A memory channel and a park, nothing else: no deadline, no cancellation, no thread."""
    send, receive = trio.open_memory_channel[_Bare](math.inf)

    def abort(_: object) -> trio.lowlevel.Abort:
        return trio.lowlevel.Abort.SUCCEEDED

    async def infer(item: int) -> int:
        send.send_nowait(_Bare(item, trio.lowlevel.current_task()))
        result: int = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    async def gather() -> None:
        while True:
            batch = [await receive.receive()]
            while len(batch) < BATCH:
                try:
                    batch.append(receive.receive_nowait())
                except trio.WouldBlock:
                    batch.append(await receive.receive())
            for request in batch:
                trio.lowlevel.reschedule(request.task, Value(request.item))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gather)
        seconds = await client(infer)
        nursery.cancel_scope.cancel()
    return seconds


def blocking(items: list[int]) -> Sequence[int]:
    """Do nothing, in a worker thread."""
    return items


async def asynchronous(items: list[int]) -> Sequence[int]:
    """Do nothing, in the event loop."""
    return items


async def batched(client: Callable[[Any], Awaitable[float]], model: Any, max_delay: float) -> float:
    """Run the clients against a batcher."""
    async with open_batcher(model, max_batch_size=BATCH, max_delay=max_delay) as batcher:
        seconds = await client(batcher.infer)
        _seen[model.__name__, max_delay] = batcher.statistics()
    return seconds


_seen: dict[tuple[str, float], Any] = {}


async def clients(infer: Callable[[int], Awaitable[int]], requests: int, deadline: bool) -> float:
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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=40, help="per caller and round")
    options = parser.parse_args()

    # A window makes every batch full: the callers that are left always fill one.
    variants: dict[str, Callable[[Any], Awaitable[float]]] = {
        "floor": floor,
        "thread, batches of 64": lambda client: batched(client, blocking, 0.05),
        "thread, as they come": lambda client: batched(client, blocking, 0.0),
        "async, batches of 64": lambda client: batched(client, asynchronous, 0.05),
        "async, as they come": lambda client: batched(client, asynchronous, 0.0),
    }
    times: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for deadline in (False, True):
            for name, run in variants.items():

                async def measured(
                    run: Callable[[Any], Awaitable[float]] = run, deadline: bool = deadline
                ) -> float:
                    return await run(lambda infer: clients(infer, options.requests, deadline))

                times[name, deadline].append(trio.run(measured))

    print(f"CPU per request, no-op model, {CALLERS} callers, median of {options.rounds} rounds")
    print(f"{'':24}{'plain':>10}{'ratio':>8}{'fail_after':>14}{'ratio':>8}")
    for name in variants:
        cells = []
        for deadline in (False, True):
            median = statistics.median(times[name, deadline])
            ratio = median / statistics.median(times["floor", deadline])
            cells.append(f"{median * 1e6:>7.1f} µs{ratio:>7.2f}x")
        print(f"{name:24}{cells[0]}    {cells[1]}")
    for (name, max_delay), seen in _seen.items():
        print(f"{name}, max_delay {max_delay}: mean batch {seen.items / seen.batches:.1f}")


if __name__ == "__main__":
    main()
