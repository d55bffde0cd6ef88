"""A model's process is killed every second under load; what callers notice of it.

200 callers in a closed loop ask for numbers, each of its own. The model, 5 ms a batch, runs in a
process that gets SIGKILL every second, whatever it is doing. Every request has to be answered, with
its own answer, or to fail by a named error, and to do either soon. The service is back when a
process that was started after the kill has answered.

Then the same with a kill of the batcher's own process: the model's has to end with it.

    python -m tests.bench.chaos [--seconds 30] [--callers 200] [--every 1.0]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial

import trio

from trio_batcher import BatcherError, open_batcher

# Seconds in which the service is back, and in which every single request has its outcome.
BACK, PATIENCE = 2.0, 10.0


class Model:
    """Takes its time, and says who it was."""

    def infer(self, items: list[int]) -> list[tuple[int, int]]:
        time.sleep(0.005)
        return [(item * 2, os.getpid()) for item in items]


class Chaos:
    """The callers, the one who kills, and what they have seen."""

    def __init__(self, callers: int, seconds: float, every: float) -> None:
        self.callers, self.seconds, self.every = callers, seconds, every
        self.next_item = 0
        self.outcomes: Counter[str] = Counter()
        self.longest = 0.0
        self.stopping = False
        self.killed: set[int] = set()
        self.down_since: float | None = None
        self.back = trio.Event()
        self.outages: list[float] = []

    async def run(self) -> None:
        """Play it, then print."""
        started = time.monotonic()
        async with open_batcher(Model, run_in="process") as batcher:
            with trio.move_on_after(self.seconds + PATIENCE) as scope:
                async with trio.open_nursery() as nursery:
                    for _ in range(self.callers):
                        nursery.start_soon(self.call, batcher.infer)
                    nursery.start_soon(self.kill)
            statistics = batcher.statistics()
        self.seconds = time.monotonic() - started
        hanging, settled = scope.cancelled_caught, statistics.completed + statistics.failed
        left = len(multiprocessing.active_children())
        if self.down_since is not None or not self.outages:
            self.outages.append(math.inf)
        rows = [
            ("requests", f"{self.next_item:,}", self.next_item == statistics.submitted),
            ("answered", f"{self.outcomes['answered']:,}", bool(self.outcomes["answered"])),
            ("with a wrong answer", self.outcomes["wrong"], not self.outcomes["wrong"]),
            ("failed by a named error", self.outcomes["named"], True),
            ("failed by another error", self.outcomes["unnamed"], not self.outcomes["unnamed"]),
            ("without an outcome", self.next_item - settled, settled == self.next_item),
            ("callers hanging at the end", "yes" if hanging else "no", not hanging),
            ("longest request", f"{self.longest:.2f} s", self.longest < PATIENCE),
            ("kills", len(self.killed), bool(self.killed)),
            ("processes started anew", statistics.restarts, True),
            ("longest outage", f"{max(self.outages):.2f} s", max(self.outages) <= BACK),
            ("mean outage", f"{sum(self.outages) / len(self.outages):.2f} s", True),
            ("children left", left, not left),
        ]
        report(rows)

    async def call(self, infer) -> None:
        """Ask until it is over."""
        while not self.stopping:
            item, self.next_item = self.next_item, self.next_item + 1
            start = time.monotonic()
            try:
                answer, pid = await infer(item)
            except BatcherError:
                self.outcomes["named"] += 1
            except Exception:
                self.outcomes["unnamed"] += 1
            else:
                self.outcomes["answered" if answer == item * 2 else "wrong"] += 1
                if self.down_since is not None and pid not in self.killed:
                    self.outages.append(time.monotonic() - self.down_since)
                    self.down_since = None
                    self.back.set()
            self.longest = max(self.longest, time.monotonic() - start)

    async def kill(self) -> None:
        """Kill what there is, every so often."""
        end = trio.current_time() + self.seconds
        while trio.current_time() < end:
            await trio.sleep(self.every)
            for child in multiprocessing.active_children():
                pid = child.pid  # while there is one: it is replaced at once
                os.kill(pid, signal.SIGKILL)
                self.killed.add(pid)
                if self.down_since is None:
                    self.down_since, self.back = time.monotonic(), trio.Event()
        await self.back.wait()
        self.stopping = True


def report(rows: list[tuple[str, object, bool]]) -> None:
    """Print a table; end the program if something is amiss."""
    for name, value, is_fine in rows:
        print(f"{name:<36} {value!s:>10} {'' if is_fine else '  MISSED'}")
    if not all(is_fine for _, _, is_fine in rows):
        sys.exit(1)


async def be_killed() -> None:
    """Serve until that happens."""
    async with open_batcher(Model, run_in="process") as batcher, trio.open_nursery() as nursery:
        chaos = Chaos(20, 0.0, 0.0)
        for _ in range(chaos.callers):
            nursery.start_soon(chaos.call, batcher.infer)
        await batcher.infer(0)
        print(multiprocessing.active_children()[0].pid, flush=True)


def kill_the_parent() -> tuple[str, object, bool]:
    """Return how long the child has lived on: it has its parent's standard output too."""
    command = [sys.executable, "-m", "tests.bench.chaos", "--be-killed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as victim:
        victim.stdout.readline()
        victim.kill()
        start = time.monotonic()
        victim.stdout.read()
        seconds = time.monotonic() - start
    return "child's life after its parent's", f"{seconds:.3f} s", seconds < BACK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--be-killed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_killed:
        trio.run(be_killed)
        return
    last = kill_the_parent()
    trio.run(partial(Chaos(options.callers, options.seconds, options.every).run))
    report([last])


if __name__ == "__main__":
    main()
