"""What else is promised, on virtual time through the library itself; see `goodput` for how.

- *late*: under twice the load, a request that is run is on time though latency is noisy, and
  one that is not run is told so before its deadline.
- *light*: under light load nobody is rejected and nobody waits longer than if nothing were planned.
- *cold*: a batcher that knows nothing of the device soon earns what a warmed-up one does.
- *change*: so does one whose device has become slower or quicker.
- *pause*: so does one of whose batches one took much longer, as in a garbage collection.
- *steps*: goodput on a device that pads its batches to powers of two.
- *undated*: requests without a deadline do not starve beside those with one.

    python -m tests.bench.promises [SECTION ...]

runs all of them, or those that are named.

The exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count, pairwise
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from tests.simulation.arrivals import RequestClass, Service
from tests.simulation.classics import greedy, max_window
from tests.simulation.optima import optimum
from tests.simulation.play import Fate, Played, play, serve
from tests.simulation.workloads import DEVICE, NOISY, NOISY_SEEDS, PADDED, SEEDS, URGENT, Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Executor

T = TypeVar("T")

# Percent of what was run that was late, by the relative standard deviation of the latency.
LATE_GOALS = {0.0: None, 0.02: 0.1, 0.10: None}
# Batches after which a batcher is to know its device.
EARLY = 5
# Mean latency under light load, relative to first come, first served.
LIGHT_GOAL = 1.02
# Batches until what is earned is `CLOSE` to what a batcher earns that knew the device.
COLD_GOAL, CHANGE_GOAL, CLOSE = 30, 15, 0.95
# The same after a single batch that took PAUSE seconds too long.
PAUSE_GOAL = CHANGE_GOAL
PAUSE = 0.040
# Percent of the optimum, mean over cells.
STEPS_GOAL = 96.0
# Longest wait of a request without a deadline, seconds.
# Of docs/scheduling.md, (12 + k // 16) full batches of 42 ms: k, those without a deadline who
# come in ten of them, is 64 here.
NO_DEADLINE_BOUND = (12 + 64 // 16) * 0.042

MANY_SEEDS = range(100, 110)


def constant(service: Service) -> Callable[[int, float], float]:
    """Return the latency as it is."""
    return lambda size, _: service.seconds(size)


def noisy(service: Service, deviation: float, seed: int) -> Callable[[int, float], float]:
    """Return the latency with noise that is a share of it."""
    rng = Random(f"noise {seed}")
    return lambda size, _: service.seconds(size) * max(0.1, rng.gauss(1.0, deviation))


def changing(before: Service, after: Service, when: float) -> Callable[[int, float], float]:
    """Return a latency that is another one for batches that begin after some moment."""
    return lambda size, now: (before if now < when else after).seconds(size)


def pausing(service: Service, number: int) -> Callable[[int, float], float]:
    """Return a latency with a pause in one batch, by its number from 0."""
    numbers = count()
    return lambda size, _: service.seconds(size) + PAUSE * (next(numbers) == number)


def each_seed(pool: Executor, function: Callable[..., T], seeds: Sequence[int]) -> list[T]:
    """Call a function with each seed, in other processes."""
    return list(pool.map(function, seeds))


# late


def with_noise(cell: Cell, deviation: float, seed: int) -> Counter[str]:
    """Return how many got what, how many of them early on, what they earned and could have."""
    played = serve(cell.trace(seed), noisy(cell.service, deviation, seed), cell.service.most)
    early = played.batches[EARLY].began
    found = Counter(earned=played.earned, best=optimum(cell, seed))
    for arrival, fate, answered in zip(played.trace, played.fates, played.answered, strict=True):
        found[fate.name] += 1
        if fate is Fate.REJECTED and answered >= arrival.deadline:
            found["told late"] += 1
        if arrival.deadline < early:
            found[f"{fate.name} early"] += 1
    return found


def late(pool: Executor) -> bool:
    """Print how many were late."""
    print(f"{'twice the load, noisy latency':52}{'run':>8}{'late (early on)':>17}", end="")
    print(f"{'late %':>9}{'goal':>7}{'% of optimum':>14}{'rejected':>10}", end="")
    print(f"{'in time':>9}{'lost (early on)':>17}")
    all_met = True
    for cell in NOISY:
        for deviation, goal in LATE_GOALS.items():
            n = sum(each_seed(pool, partial(with_noise, cell, deviation), NOISY_SEEDS), Counter())
            run = n["ON_TIME"] + n["LATE"]
            percent = 100 * n["LATE"] / run
            in_time = 100 * (1 - n["told late"] / max(1, n["REJECTED"]))
            # Who came when nothing was known of the device could not be told.
            met = (
                (goal is None or percent <= goal)
                and not n["told late"]
                # With much noise a batch may last until somebody who could be served is late.
                and (goal is None or n["LOST"] == n["LOST early"])
            )
            all_met &= met
            lates, losts = (f"{n[each]} ({n[f'{each} early']})" for each in ("LATE", "LOST"))
            print(f"{f'{cell.requests}, noise {deviation:.0%}':52}{run:8}{lates:>17}", end="")
            print(f"{percent:8.3f}%{_goal(goal):>7}{100 * n['earned'] / n['best']:13.1f}%", end="")
            print(f"{n['REJECTED']:10}{in_time:8.0f}%{losts:>17}{_missed(met)}", flush=True)
    return all_met


# light


def under_light_load(cell: Cell, seed: int) -> tuple[int, int, float, float] | None:
    """Return how many were rejected, not on time otherwise, and both mean latencies.

    None if greedy does not have everybody on time.
    """
    trace = cell.trace(seed)
    first_come = play(trace, cell.service, greedy(cell.service))
    if first_come.count(Fate.ON_TIME) < len(trace):
        return None
    played = serve(trace, constant(cell.service), cell.service.most)
    return (
        played.count(Fate.REJECTED),
        played.count(Fate.LATE, Fate.LOST),
        fmean(played.latencies()),
        fmean(first_come.latencies()),
    )


def light(pool: Executor) -> bool:
    """Print what light load is like."""
    print(f"{'light load, where greedy has all on time':52}{'traces':>8}{'rejected':>10}", end="")
    print(f"{'late, lost':>12}{'mean latency':>14}{'greedy':>10}{'ratio':>8}{'goal':>7}")
    all_met = True
    for allowance in (0.060, 0.100):
        for kind in ("poisson", "square"):
            for load in (0.3, 0.6):
                cell = Cell(DEVICE, (RequestClass(allowance),), kind, load, 1500)
                tried = each_seed(pool, partial(under_light_load, cell), SEEDS)
                found = [each for each in tried if each]
                print(f"{f'{cell.requests}, {kind}, load {load}':52}{len(found):8}", end="")
                if not found:
                    print("  greedy fails in all")
                    continue
                rejected, otherwise, ours, theirs = map(sum, zip(*found, strict=True))
                met = not rejected and ours / theirs <= LIGHT_GOAL
                all_met &= met
                print(f"{rejected:10}{otherwise:12}{1e3 * ours / len(found):11.2f} ms", end="")
                print(f"{1e3 * theirs / len(found):7.2f} ms{ours / theirs:8.3f}", end="")
                print(f"{LIGHT_GOAL:7}{_missed(met)}", flush=True)
    return all_met


# cold and change


def lasting(
    seconds: float, classes: tuple[RequestClass, ...], load: float, service: Service = DEVICE
) -> Cell:
    """Return a cell of Poisson arrivals for about so long."""
    return Cell(service, classes, "poisson", load, int(seconds * load * service.capacity))


def against(
    played: Played, reference: Played, begins: float, window: int, most: int
) -> list[tuple[int, int]]:
    """Return what both earned with the requests that came during each window.

    A window is so many of the first one's batches; the other has the same requests then, and
    its own batches.

    Args:
        played: whose windows they are.
        reference: the other.
        begins: when the first window begins.
        window: batches in a window.
        most: windows at most.
    """
    began = [batch.began for batch in played.batches if batch.began >= begins]
    cuts = [begins, *began[window::window][:most]]
    return [
        (_earned(played, after, until), _earned(reference, after, until))
        for after, until in pairwise(cuts)
    ]


def _earned(played: Played, after: float, until: float) -> int:
    return sum(
        arrival.weight
        for arrival, fate in zip(played.trace, played.fates, strict=True)
        if fate is Fate.ON_TIME and after <= arrival.time < until
    )


def until_close(found: Iterable[list[tuple[int, int]]], window: int) -> tuple[float, list[float]]:
    """Pool traces; return after how many batches it stays close, and the ratio by window.

    Infinity if it is not close in the end.
    """
    ratios = []
    for parts in zip(*found, strict=False):  # as many windows as the shortest trace has
        ours, theirs = map(sum, zip(*parts, strict=True))
        ratios.append(ours / theirs if theirs else 1.0)
    far = [at for at, ratio in enumerate(ratios) if ratio < CLOSE]
    settled = far[-1] + 1 if far else 0
    return window * settled if settled < len(ratios) else math.inf, ratios


def cold_and_warm(cell: Cell, seed: int) -> list[tuple[int, int]]:
    """Return what a cold and a warmed-up batcher earn, by windows of 10 batches."""
    trace, most = cell.trace(seed), cell.service.most
    took = constant(cell.service)
    return against(serve(trace, took, most), serve(trace, took, most, warmup=True), 0.0, 10, 4)


def cold(pool: Executor) -> bool:
    """Print how long it takes to know the device."""
    title = "cold start, against a warmed-up batcher"
    print(f"{title:52}{'batches':>8}{'goal':>7}   ratio in batches 1-10, 11-20, …")
    all_met = True
    for classes in ((RequestClass(0.060),), (RequestClass(0.100),), URGENT):
        for load in (0.9, 1.2, 2.0):
            cell = lasting(2.5, classes, load)
            found = each_seed(pool, partial(cold_and_warm, cell), MANY_SEEDS)
            all_met &= _settling(f"{cell.requests}, load {load}", found, 10, COLD_GOAL)
    return all_met


def changed(cell: Cell, after: Service, when: float, seed: int) -> list[tuple[int, int]]:
    """Return what it earns after a change and would have if it had never been otherwise."""
    trace, most = cell.trace(seed), cell.service.most
    played = serve(trace, changing(cell.service, after, when), most)
    return against(played, serve(trace, constant(after), most), when, 5, 8)


def change(pool: Executor) -> bool:
    """Print how long it takes to notice that the device has changed."""
    title = "latency changes, against one that was always so"
    print(f"{title:52}{'batches':>8}{'goal':>7}   ratio in batches 1-5, 6-10, …")
    slow = replace(DEVICE, fixed=2 * DEVICE.fixed, per_item=2 * DEVICE.per_item)
    all_met = True
    for title, before, after in (("doubles", DEVICE, slow), ("halves", slow, DEVICE)):
        # One second before, and time for more than 40 batches after.
        cell = lasting(5.0, (RequestClass(0.100),), 0.9, before)
        found = each_seed(pool, partial(changed, cell, after, 1.0), MANY_SEEDS)
        name = f"{cell.requests}, load 0.9 before, {title}"
        all_met &= _settling(name, found, 5, CHANGE_GOAL)
    return all_met


def paused(cell: Cell, number: int, seed: int) -> list[tuple[int, int]]:
    """Return what it earns after a batch with a pause and would have without."""
    trace, most = cell.trace(seed), cell.service.most
    played = serve(trace, pausing(cell.service, number), most)
    reference = serve(trace, constant(cell.service), most)
    return against(played, reference, played.batches[number].ended, 5, 6)


def pause(pool: Executor) -> bool:
    """Print how long a single pause is remembered."""
    title = f"one batch takes {1e3 * PAUSE:.0f} ms more, twice the load"
    print(f"{title:52}{'batches':>8}{'goal':>7}   ratio in batches 1-5, 6-10, …")
    all_met = True
    for classes in ((RequestClass(0.060),), URGENT):
        for number in (0, 1, 2, 3, 5, 20):
            cell = lasting(2.5, classes, 2.0)
            found = each_seed(pool, partial(paused, cell, number), SEEDS)
            all_met &= _settling(f"{cell.requests}, batch {number + 1}", found, 5, PAUSE_GOAL)
    return all_met


def _settling(name: str, found: list[list[tuple[int, int]]], window: int, goal: int) -> bool:
    batches, ratios = until_close(found, window)
    met = batches <= goal
    print(f"{name:52}{batches if batches < math.inf else 'never':>8}{goal:>7}   ", end="")
    print(" ".join(f"{ratio:.3f}" for ratio in ratios) + _missed(met), flush=True)
    return met


# steps


def shares(cell: Cell, seed: int) -> tuple[float, float]:
    """Return percent of the optimum, ours and max-window's, which knows the staircase."""
    trace, best = cell.trace(seed), optimum(cell, seed)
    played = serve(trace, constant(cell.service), cell.service.most)
    other = play(trace, cell.service, max_window(cell.service))
    return 100 * played.earned / best, 100 * other.earned / best


def steps(pool: Executor) -> bool:
    """Print goodput on a staircase."""
    title = "batches padded to powers of two"
    print(f"{title:52}{'percent of the optimum':>24}{'worst':>8}{'max-window':>12}")
    means, others = [], []
    for cell in PADDED:
        found, other = zip(*each_seed(pool, partial(shares, cell), SEEDS), strict=True)
        means.append(fmean(found))
        others.append(fmean(other))
        name = f"{cell.requests}, {cell.kind}, load {cell.load}"
        print(f"{name:52}{fmean(found):24.1f}{min(found):8.1f}{fmean(other):12.1f}", flush=True)
    met = fmean(means) >= STEPS_GOAL
    print(f"{'mean':52}{fmean(means):24.2f}{'':8}{fmean(others):12.2f}", end="")
    print(f"   goal {STEPS_GOAL}{_missed(met)}")
    return met


# undated


def beside(cell: Cell, seed: int) -> tuple[list[float], float, float]:
    """Return the waits of those without a deadline, and of the others who were on time a second.

    The latter also if there were none without.
    """
    trace, most = cell.trace(seed), cell.service.most
    dated = [each for each in trace if each.allowance < math.inf]
    played = serve(trace, constant(cell.service), most)
    waits = [wait for each, wait in played.waits().items() if trace[each].allowance == math.inf]
    assert len(waits) == len(trace) - len(dated), "a request without a deadline got no answer"
    on_time = sum(trace[each].allowance < math.inf for each in played.on_time())
    alone = serve(dated, constant(cell.service), most).count(Fate.ON_TIME)
    return waits, on_time / trace[-1].time, alone / trace[-1].time


def undated(pool: Executor) -> bool:
    """Print how long requests without a deadline wait."""
    print(f"{'10% without a deadline, twice the load':52}{'mean wait':>12}{'longest':>12}", end="")
    print(f"{'bound':>12}{'others on time':>18}{'if alone':>12}")
    all_met = True
    for allowance in (0.060, 0.100):
        classes = (RequestClass(allowance, share=0.9), RequestClass(math.inf, share=0.1))
        cell = Cell(DEVICE, classes, "poisson", 2.0, 6000)
        found = each_seed(pool, partial(beside, cell), SEEDS)
        waits = [wait for each, _, _ in found for wait in each]
        met = max(waits) <= NO_DEADLINE_BOUND
        all_met &= met
        bound = f"{1e3 * NO_DEADLINE_BOUND:.0f} ms"
        print(f"{cell.requests:52}{1e3 * fmean(waits):9.1f} ms{1e3 * max(waits):9.1f} ms", end="")
        print(f"{bound:>12}{fmean(ours for _, ours, _ in found):16.0f}/s", end="")
        print(f"{fmean(alone for _, _, alone in found):10.0f}/s{_missed(met)}", flush=True)
    return all_met


def _goal(goal: Any) -> str:
    return "-" if goal is None else str(goal)


def _missed(met: bool) -> str:
    return "" if met else "   MISSED"


SECTIONS = {each.__name__: each for each in (late, light, cold, change, pause, steps, undated)}


def main() -> None:
    """Measure, print, compare with the goals."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)}")
    began, all_met = time.perf_counter(), True
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        for name in options.sections or SECTIONS:
            all_met &= SECTIONS[name](pool)
            print()
    print(f"{'all goals met' if all_met else 'A GOAL IS MISSED'}, ", end="")
    print(f"{time.perf_counter() - began:.0f} s")
    sys.exit(not all_met)


if __name__ == "__main__":
    main()
