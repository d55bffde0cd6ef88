"""What a device waits for: the decision, with so many waiting, at twice what it can do.

python -m tests.bench.decision

A queue in overload is kept at its length: what a batch takes comes back as new arrivals.
Timed is what stands between two batches: carrying out what was planned while the device ran, or,
when there is no plan that holds, deciding; and taking the batch out of the queue. Processor time
in per cent is for 25 batches a second and includes the planning, as often as that is
done if somebody comes all the time. Then decisions with keys and costs, when up to 100,000 wait.
"""

from __future__ import annotations

import math
import sys
from itertools import count
from random import Random
from statistics import fmean, median, quantiles
from time import perf_counter, process_time
from typing import NamedTuple

from trio_batcher._latency import LatencyModel
from trio_batcher._outcomes import ShapedRequest
from trio_batcher._planning import left_at_next_plan, spacing
from trio_batcher._policy import Dispatch, Limits, decide, plan
from trio_batcher._queue import Request, RequestQueue
from trio_batcher._shapes import Shapes

BATCHES_PER_SECOND = 25.0
# Waiting requests, and the goal for the median of what was planned, in microseconds.
GOALS = {100: 200.0, 1000: None, 5000: 2000.0}
MIXES = {
    "one deadline": lambda rng: (1.0, 1.0),
    "two deadlines": lambda rng: (rng.choice((0.33, 1.0)), 1.0),
    "two weights": lambda rng: (1.0, rng.choice((1.0, 1.0, 1.0, 4.0))),
    "both": lambda rng: (rng.choice((0.33, 1.0)), rng.choice((1.0, 4.0))),
    "any of both": lambda rng: (rng.uniform(0.1, 1.0), float(rng.randint(1, 16))),
}


class Times(NamedTuple):
    """Microseconds: while the device waits, and while it runs."""

    carrying_out: list[float]
    deciding: list[float]
    planning: list[float]


def seconds(size: int) -> float:
    """Return what a batch takes: 10 ms and 1 ms for each item."""
    return 0.010 + 0.001 * size


def timed(waiting: int, mix: str, rounds: int, largest: int = 32) -> Times:
    """Return the microseconds that each of some decisions took."""
    rng, number = Random(1), count()
    latency = LatencyModel(largest)
    for size in (1, 2, 3, 5, 9, 17, largest):
        latency.observe(size, seconds(size), 0.0)
    limits, queue, now = Limits(largest, 0.0), RequestQueue[int](), 0.0
    # As many come in the longest deadline as wait: the queue is in balance without a batch.
    longest = max(0.12, waiting / (2.0 * largest / seconds(largest)))
    times = Times([], [], [])

    def fill(span: float) -> None:
        missing = waiting - queue.size
        for arrived in sorted(now - span * rng.random() for _ in range(missing)):
            allowance, weight = MIXES[mix](rng)
            queue.add(Request(next(number), arrived + longest * allowance, arrived, weight))

    fill(longest)
    for turn in range(rounds):
        latency.observe(largest, seconds(largest), now)
        latency.refresh()
        queue.remove_all(queue.due_before(now))
        fill(seconds(largest))
        begun = perf_counter()
        planned = plan(queue, now=now, latency=latency, limits=limits)
        times.planning.append(1e6 * (perf_counter() - begun))
        begun = perf_counter()
        batch = planned.carried_out(now, latency) if planned and turn % 2 else []
        carried_out = bool(batch)
        if not carried_out:
            decision = decide(queue, now=now, latency=latency, limits=limits)
            queue.remove_all(decision.hopeless)
            batch = decision.batch if isinstance(decision, Dispatch) else []
        queue.remove_all(batch)
        took = 1e6 * (perf_counter() - begun)
        (times.carrying_out if carried_out else times.deciding).append(took)
        now += seconds(len(batch)) if batch else 0.01
    return times


KINDS = ("plain", "keys", "costs", "keys, costs")
ALLOWANCES = {"equal": (1.0, 1.0), "mixed": (0.02, 1.0), "none": (math.inf, math.inf)}
# Waiting requests, and the goal for a decision on the spot, milliseconds.
SPOT_GOALS = {100: 1.0, 1000: 1.0, 5000: 1.0, 20_000: 5.0, 100_000: 5.0}


def on_the_spot(waiting: int, kind: str, allowance: str, weights: int, rounds: int = 15) -> float:
    """Return the median milliseconds of processor time that a decision takes.

    1,024 keys, 5 to 512 tokens, batches of up to 32 items and 16,384 tokens. Those who have the
    same deadline have 10 ms for each of those who wait.
    """
    rng, now, span = Random(1), 60.0, 0.01 * waiting
    key = (lambda item: item[0]) if "keys" in kind else None
    cost = (lambda item: item[1]) if "costs" in kind else None
    shapes = None
    if kind != "plain":
        shapes = Shapes(key, cost, 16384.0 if cost else math.inf, 32)
    limits = Limits(32, 0.0, 1, shapes)
    latency = LatencyModel(limits.most)
    for turn in range(60):
        size = rng.randint(1, limits.most)
        latency.observe(size, seconds(size) * rng.uniform(0.98, 1.02), 50.0 + turn / 6)
    latency.refresh()
    queue = RequestQueue[tuple[int, float]]()
    for number in range(waiting):
        item = rng.randrange(1024), float(rng.randint(5, 512))
        least, most = ALLOWANCES[allowance]
        deadline = now + (span * rng.uniform(least, most) if least < math.inf else math.inf)
        arrived, weight = now - 1.0 + number / waiting, float(rng.randint(1, weights))
        if shapes is None:
            queue.add(Request(item, deadline, arrived, weight))
        else:
            queue.add(ShapedRequest(item, deadline, arrived, weight, shapes.of(item)))
    taken = []
    for _ in range(rounds):
        begun = process_time()
        decision = decide(queue, now=now, latency=latency, limits=limits)
        taken.append(1e3 * (process_time() - begun))
        queue.remove_all(decision.hopeless)
    return median(taken)


def _print_on_the_spot() -> bool:
    print("\nmilliseconds of a decision on the spot, by deadlines and weights")
    titles = [f"{each} x{weights}" for each in ALLOWANCES for weights in (1, 8)]
    print(f"{'waiting':>8} {'':<12}" + "".join(f"{title:>10}" for title in titles))
    missed = False
    for waiting, goal in SPOT_GOALS.items():
        for kind in KINDS:
            row = [
                on_the_spot(waiting, kind, allowance, weights)
                for allowance in ALLOWANCES
                for weights in (1, 8)
            ]
            missed |= max(row) > goal
            verdict = "" if max(row) <= goal else ": missed"
            print(f"{waiting:>8} {kind:<12}" + "".join(f"{each:>10.2f}" for each in row), end="")
            print(f"   goal {goal:.0f} ms{verdict}")
    return missed


def _plans(deciding: float, running: float) -> int:
    """Return how many plans a batch has at most, if somebody comes whenever one can be made."""
    left, part = spacing(deciding, running)
    plans = 1
    while left := left_at_next_plan(left, part, deciding):
        plans += 1
    return plans


def main() -> int:
    """Print the table; return 1 if a goal is missed."""
    missed = False
    print(f"{'waiting':>8} {'mix':<14} {'planned':>9} {'decided':>9} {'90%':>9}", end="")
    print("   of a core at 25 batches/s")
    for waiting, goal in GOALS.items():
        for mix in MIXES:
            times = timed(waiting, mix, 600)
            middle, fresh = median(times.carrying_out), median(times.deciding)
            high = quantiles(times.deciding, n=10)[-1]
            plans = _plans(1e-6 * fmean(times.planning), 1.0 / BATCHES_PER_SECOND)
            each = fmean(times.carrying_out) + plans * fmean(times.planning)
            share = 1e-6 * each * BATCHES_PER_SECOND
            verdict = "" if goal is None else f"   goal {goal:.0f} us"
            missed |= goal is not None and middle > goal
            print(f"{waiting:>8} {mix:<14} {middle:6.0f} us {fresh:6.0f} us {high:6.0f} us", end="")
            print(f"   {share:7.2%}{verdict}")
    missed |= _print_on_the_spot()
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
