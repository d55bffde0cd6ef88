"""What several devices do together, and batchers that share one.

On virtual time, with async models: two replicas of different speed at saturation, against the sum
of what each does alone; their mean latency under light load, against that of the fast one alone;
goodput at loads around their joint capacity, against the most that any policy could have on time:
what arrives, or what the devices do in batches of the largest size that is no longer than the
deadline. That bound counts on requests always being there, so nobody reaches it at the capacity.

On the real clock, with models that sleep in their threads: the same at saturation; two batchers
that take turns on one device, against one with a limiter of its own; and a device that runs each
batch for 5 ms after 3 ms of preparation by its thread, which overlaps or does not.

    python -m tests.bench.replicas [--seconds 2] [--rounds 5] [--only virtual]

The exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
import trio.testing

from tests.bench.disturbance import undisturbed
from trio_batcher import DeadlineUnreachable, InferenceModel, open_batcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST = 32
# Percent of the sum of both alone; of the latency of the fast one alone, at most; of the bound on
# goodput, the mean and the least; of the throughput of one batcher that two have by turns; of the
# time that a device is busy without preparation, with it and overlap.
SUM_GOAL, LIGHT_GOAL, GOODPUT_GOALS, TURNS_GOAL = 95.0, 102.0, (95.0, 86.0), 70.0
OVERLAP_GOAL = 93.0
HOST_SECONDS, DEVICE_SECONDS = 0.003, 0.005


class Speed(NamedTuple):
    """A batch of n takes ``fixed + per_item * n`` seconds."""

    fixed: float
    per_item: float

    def seconds(self, size: int) -> float:
        """Return what a batch takes."""
        return self.fixed + self.per_item * size

    def most(self, allowed: float) -> float:
        """Return how many a second it serves at most, none for longer than allowed."""
        sizes = [size for size in range(1, MOST + 1) if self.seconds(size) <= allowed]
        return max((size / self.seconds(size) for size in sizes), default=0.0)


FAST = Speed(0.010, 0.001)
PAIRS = {f"1:{n}": (FAST, Speed(FAST.fixed * n, FAST.per_item * n)) for n in (1, 2, 4)}


class Played(NamedTuple):
    """What became of a trace."""

    on_time: float  # part of the requests
    latency: float  # mean, of those
    rate: float  # answers a second


def play(speeds: Sequence[Speed], rate: float, allowed: float, seconds: float) -> Played:
    """Let requests come at random, on virtual time; all have so long until their deadlines."""
    rng, latencies, came = random.Random(1), list[float](), 0

    def replica(speed: Speed) -> Any:
        async def model(items: list[None]) -> list[None]:
            await trio.sleep(speed.seconds(len(items)))
            return items

        return model

    async def call(batcher: Any) -> None:
        start = trio.current_time()
        with trio.move_on_after(allowed):
            try:
                await batcher.infer(None)
            except DeadlineUnreachable:
                return
            latencies.append(trio.current_time() - start)

    async def main() -> float:
        nonlocal came
        models = [replica(speed) for speed in speeds]
        async with (
            open_batcher(
                models, max_batch_size=MOST, max_queue_size=math.inf, warmup=[None]
            ) as batcher,
            trio.open_nursery() as nursery,
        ):
            start = at = trio.current_time()
            while at < start + seconds:
                at += rng.expovariate(rate)
                await trio.sleep_until(at)
                nursery.start_soon(call, batcher)
                came += 1
        return trio.current_time() - start

    elapsed = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return Played(len(latencies) / came, fmean(latencies), len(latencies) / elapsed)


def virtual() -> bool:
    """Measure on virtual time and print; return whether all goals were met."""
    met = True
    print("virtual time                 saturated   light load: mean latency   both / fast alone")
    for name, pair in PAIRS.items():
        together = play(pair, 3 * sum(s.most(math.inf) for s in pair), math.inf, 3.0).rate
        alone = sum(play([s], 3 * s.most(math.inf), math.inf, 3.0).rate for s in pair)
        rate = 0.05 * FAST.most(math.inf)
        light, fast = (play(each, rate, math.inf, 10.0).latency for each in (pair, [FAST]))
        ok = together >= SUM_GOAL / 100 * alone and light <= LIGHT_GOAL / 100 * fast
        met &= ok
        print(
            f"  {name:25}{100 * together / alone:11.1f}%{'':17}"
            f"{1e3 * light:6.1f} / {1e3 * fast:.1f} ms{'' if ok else '  MISSED'}"
        )
    loads = (0.8, 1.0, 1.2, 1.5)
    print(f"goodput, % of the bound      {''.join(f'{load:>8}' for load in loads)}   (load)")
    shares = []
    for name, pair in PAIRS.items():
        for allowed in (0.06, 0.1, 0.2):
            row = []
            for load in loads:
                rate = load * sum(speed.most(math.inf) for speed in pair)
                bound = min(1.0, sum(speed.most(allowed) for speed in pair) / rate)
                # More than all of it is what was still in time after the last one had come.
                row.append(min(100.0, 100 * play(pair, rate, allowed, 5.0).on_time / bound))
            shares += row
            label = f"{name}, {1e3 * allowed:g} ms"
            print(f"  {label:25}  {''.join(f'{share:8.1f}' for share in row)}")
    ok = fmean(shares) >= GOODPUT_GOALS[0] and min(shares) >= GOODPUT_GOALS[1]
    print(f"  mean {fmean(shares):.1f}, least {min(shares):.1f}{'' if ok else '  MISSED'}")
    return met and ok


class Sleeper:
    """Sleeps in its thread, and counts."""

    def __init__(self, speed: Speed) -> None:
        self.speed, self.items = speed, 0

    def __call__(self, items: list[None]) -> list[None]:
        time.sleep(self.speed.seconds(len(items)))
        self.items += len(items)
        return items


class Launched(InferenceModel[None, None]):
    """Its device runs one batch after another; it keeps the thread for so long for each."""

    def __init__(self, *, overlaps: bool) -> None:
        self.overlaps, self.items, self.free = overlaps, 0, 0.0

    def launch(self, inputs: list[None]) -> Callable[[], list[None]]:
        """Spend the host's time, and have the device begin when it can."""
        time.sleep(HOST_SECONDS)
        self.free = end = max(self.free, time.perf_counter()) + DEVICE_SECONDS

        def collect() -> list[None]:
            time.sleep(max(0.0, end - time.perf_counter()))
            self.items += len(inputs)
            return inputs

        return collect

    def infer(self, inputs: list[None]) -> list[None]:
        """Do one after the other."""
        return self.launch(inputs)()


async def saturated(
    fleets: Sequence[Sequence[Sleeper | Launched]], shared: bool, seconds: float
) -> float:
    """Return how many answers a second batchers with these replicas give on the real clock."""
    limiter = trio.CapacityLimiter(1) if shared else None

    async def caller(batcher: Any) -> None:
        while True:
            await batcher.infer_many([None] * 8)

    def count() -> int:
        return sum(model.items for models in fleets for model in models)

    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(
                open_batcher(models, max_batch_size=MOST, limiter=limiter)
            )
            for models in fleets
        ]
        async with trio.open_nursery() as nursery:
            for batcher, models in zip(opened, fleets, strict=True):
                for _ in range(MOST // 8 * 3 * len(models)):
                    nursery.start_soon(caller, batcher)
            await trio.sleep(seconds / 4)
            before, start = count(), time.perf_counter()
            await trio.sleep(seconds)
            rate = (count() - before) / (time.perf_counter() - start)
            nursery.cancel_scope.cancel()
    return rate


def real(seconds: float, rounds: int) -> bool:
    """Measure on the real clock and print; return whether all goals were met."""

    def measured(*fleets: Sequence[Sleeper | Launched], shared: bool = False) -> float:
        return undisturbed(partial(trio.run, saturated, fleets, shared, seconds), seconds)[0]

    def rate(*batchers: Sequence[Speed], shared: bool = False) -> float:
        return measured(*[[Sleeper(s) for s in speeds] for speeds in batchers], shared=shared)

    def duty(*, overlaps: bool) -> float:
        return 100 * measured([Launched(overlaps=overlaps)]) / MOST * DEVICE_SECONDS

    met = True
    print(f"real clock, threads; median of {rounds} rounds (least to most)")
    for name, pair in PAIRS.items():
        shares = [100 * rate(pair) / sum(rate([each]) for each in pair) for _ in range(rounds)]
        met &= _line(f"  {name}, of the sum of both alone", shares, SUM_GOAL)
    quick = Speed(0.005, 0.0)
    shares = [100 * rate([quick], [quick], shared=True) / rate([quick]) for _ in range(rounds)]
    met &= _line("  turns on one device, 5 ms batches, of one batcher alone", shares, TURNS_GOAL)
    plain, without, overlapped = list[float](), list[float](), list[float]()
    for _ in range(rounds):  # beside each other: the machine's speed changes
        plain.append(100 * rate([quick]) / MOST * DEVICE_SECONDS)
        without.append(duty(overlaps=False))
        overlapped.append(duty(overlaps=True))
    _line("  busy, a plain model of 5 ms", plain)
    _line("  busy, 3 ms of preparation and 5 ms, without overlap", without)
    _line("  busy, with overlap", overlapped)
    shares = [100 * ours / best for ours, best in zip(overlapped, plain, strict=True)]
    return met & _line("  with overlap, of the plain model", shares, OVERLAP_GOAL)


def _line(label: str, shares: Sequence[float], goal: float = 0.0) -> bool:
    middle = median(shares)
    spread = f"{middle:.1f}% ({min(shares):.1f}-{max(shares):.1f})"
    print(f"{label:58}{spread:>22}{'' if middle >= goal else '  MISSED'}", flush=True)
    return middle >= goal


def main() -> None:
    """Measure, print, and exit with 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["virtual", "real"])
    options = parser.parse_args()
    met = options.only == "real" or virtual()
    if options.only != "virtual":
        met &= real(options.seconds, options.rounds)
    sys.exit(not met)


if __name__ == "__main__":
    main()
