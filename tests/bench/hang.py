"""One input in a thousand hangs for ever; what the callers of all the others notice of it.

50 callers in a closed loop ask for numbers, each of its own, and give each request 10 s. A batch
takes 5 ms, `batch_timeout` is 1 s. Every other request has to be answered or refused by a named
error before its deadline, whatever the model is: an async function, a model in a process, or two
replicas in threads, both of which are lost in the end.

    python -m tests.bench.hang [--requests 2000] [--callers 50]
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import trio

from trio_batcher import Batcher, BatcherCrashed, BatcherError, open_batcher

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

RUN, TIMEOUT, PATIENCE, EVERY = 0.005, 1.0, 10.0, 1000
NAMES = "async", "process", "two threads"


def hangs(item: int) -> bool:
    return item % EVERY == EVERY // 2


class Model:
    """A model that blocks."""

    def infer(self, items: list[int]) -> list[int]:
        time.sleep(RUN)
        if any(map(hangs, items)):
            threading.Event().wait()
        return [2 * item for item in items]


async def model(items: list[int]) -> list[int]:
    await trio.sleep(RUN)
    if any(map(hangs, items)):
        await trio.sleep_forever()
    return [2 * item for item in items]


def opened(name: str) -> AbstractAsyncContextManager[Batcher[int, int]]:
    options: dict[str, Any] = {"batch_timeout": TIMEOUT}
    match name:
        case "async":
            return open_batcher(model, **options)
        case "process":
            return open_batcher(Model, run_in="process", **options)
    return open_batcher([Model, Model], **options)


class Load:
    """The callers, and what they have seen."""

    def __init__(self, name: str, callers: int, requests: int) -> None:
        self.name, self.callers = name, callers
        self.items = iter(range(requests))
        self.outcomes: Counter[str] = Counter()
        self.longest = 0.0
        self.ended = math.nan

    async def run(self) -> None:
        """Play it."""
        try:
            async with opened(self.name) as batcher:
                async with trio.open_nursery() as nursery:
                    for _ in range(self.callers):
                        nursery.start_soon(self.call, batcher)
                self.ended = time.monotonic()
        except BatcherCrashed:
            self.outcomes["crashes"] += 1
        self.ended = time.monotonic() - self.ended

    async def call(self, batcher: Batcher[int, int]) -> None:
        """Ask until there is nothing left."""
        for item in self.items:
            start = time.monotonic()
            with trio.move_on_after(PATIENCE) as scope:
                try:
                    answer = await batcher.infer(item)
                    outcome = "answered" if answer == 2 * item else "wrong"
                except BatcherError:
                    outcome = "refused"
                self.outcomes["told of its hang" if hangs(item) else outcome] += 1
            self.outcomes["too late"] += scope.cancelled_caught
            self.longest = max(self.longest, time.monotonic() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--callers", type=int, default=50)
    options = parser.parse_args()
    logging.getLogger("trio_batcher").setLevel(logging.CRITICAL + 1)
    columns = "answered", "refused", "told of its hang", "too late", "wrong", "crashes"
    print(f"{'':14}{''.join(f'{each:>18}' for each in (*columns, 'longest, s', 'left after, s'))}")
    missed = False
    for name in NAMES:
        load = Load(name, options.callers, options.requests)
        trio.run(load.run)
        figures = [str(load.outcomes[each]) for each in columns]
        figures += [f"{load.longest:.2f}", f"{load.ended:.2f}"]
        bad = load.outcomes["too late"] or load.outcomes["wrong"] or load.ended > 2 * TIMEOUT
        missed = missed or bool(bad)
        verdict = "  MISSED" if bad else ""
        print(f"{name:14}{''.join(f'{each:>18}' for each in figures)}{verdict}", flush=True)
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
