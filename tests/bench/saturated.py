"""What a saturated event loop leaves of a model's throughput, in a thread and in a process.

64 callers in a closed loop. Beside them either nothing, or a task that burns
Python all the time, 0.1 ms between two checkpoints. One model sleeps 5 ms; the other is MiniLM with
a processor fewer than there are, so that one is left for the event loop. Idle and saturated are
measured in turns. With batches of 16, as in `duty`, the sleeping model answers 3,000 requests a
second; with 32 of them the event loop has twice as much to do for it.

A loop that burns Python holds the interpreter lock while a hypervisor has its processor serve
somebody else, and a worker waits for both. So those rounds count of which next to nothing was
stolen, or, if there are too few of them, those of which least was: whatever they showed. The
sleeping model's are an eighth as long as MiniLM's: they hold more batches all the same, and quiet
moments are short.

    python -m tests.bench.saturated [--seconds 4] [--rounds 7]

The exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from examples.semantic_search.encoder import Encoder
from trio_batcher import Batcher, InferenceModel, open_batcher

from .disturbance import least_disturbed
from .duty import burn, turns_for

if TYPE_CHECKING:
    from collections.abc import Sequence

CALLERS = 64
TEXT = "Return a new list containing all items from the iterable in ascending order."
# Percent of what there is with an idle loop.
SLEEPING_GOAL, PROCESS_GOAL = 90.0, 85.0


class Share(NamedTuple):
    """What a saturated loop leaves.

    Attributes:
        idle: requests a second with an idle one.
        left: percent of these, the median.
        rounds: percent, by round.
        repeated: how many rounds were disturbed.
    """

    idle: float
    left: float
    rounds: tuple[float, ...]
    repeated: int


class Sleeper(InferenceModel[str, str]):
    """Takes 5 ms a batch without the interpreter lock, as a GPU does."""

    def infer(self, inputs: list[str]) -> Sequence[str]:
        """Return the inputs."""
        time.sleep(0.005)
        return inputs


async def throughput(batcher: Batcher[str, Any], seconds: float, turns: int) -> float:
    """Return how many requests a second are answered while a task burns so many turns, or none."""
    answers: list[float] = []

    async def caller() -> None:
        while True:
            await batcher.infer(TEXT)
            answers.append(time.perf_counter())

    async def busy() -> None:
        while True:
            burn(turns)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(CALLERS):
            nursery.start_soon(caller)
        if turns:
            nursery.start_soon(busy)
        await trio.sleep(seconds / 4)
        answers.clear()
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    return whole_batches(answers)


def whole_batches(answers: Sequence[float]) -> float:
    """Return answers a second, from the end of one batch to that of another, given their times.

    Few batches of MiniLM's end within seconds, and one more or less would be several percent. The
    longest of the first and of the last pauses between answers are where batches end.
    """

    if len(answers) <= 2 * CALLERS:
        raise SystemExit(f"{len(answers)} answers are too few to go by: give more --seconds")

    def pause(number: int) -> float:
        return answers[number + 1] - answers[number]

    first = max(range(CALLERS), key=pause)
    last = max(range(len(answers) - 1 - CALLERS, len(answers) - 1), key=pause)
    return (last - first) / (answers[last] - answers[first])


async def both(batcher: Batcher[str, Any], seconds: float) -> tuple[float, float]:
    """Return requests a second with an idle loop, and the percentage left in a saturated one."""
    alone = await throughput(batcher, seconds, 0)
    return alone, 100.0 * await throughput(batcher, seconds, turns_for(0.1e-3)) / alone


async def measure(batcher: Batcher[str, Any], seconds: float, rounds: int, most: int) -> Share:
    """Return the medians of some rounds, for each of which there are so many tries at most."""
    measured = partial(
        least_disturbed,
        partial(trio.from_thread.run, both, batcher, seconds),
        # Each half begins with a quarter more that does not count.
        2.5 * seconds,
        rounds=rounds,
        most=most,
    )
    results, repeated = await trio.to_thread.run_sync(measured)
    idle, shares = zip(*results, strict=True)
    return Share(statistics.median(idle), statistics.median(shares), shares, repeated)


async def run(model: type[InferenceModel[str, Any]], *how_long: Any, **how: Any) -> Share:
    """Open a batcher and measure it."""
    async with open_batcher(model, warmup=[TEXT], **how) as batcher:
        return await measure(batcher, *how_long)


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    missed = False
    # Seconds, rounds, and tries at most.
    how_long: dict[type[InferenceModel[str, Any]], tuple[float, int, int]] = {
        Sleeper: (options.seconds / 8.0, 2 * options.rounds + 1, 8),
        Encoder: (options.seconds, options.rounds, 4),
    }
    print("median (least to most) of", end=" ")
    print(f"{how_long[Sleeper][1]} rounds of the 5 ms model, {how_long[Encoder][1]} of MiniLM")
    print(f"{'':26}{'idle loop':>16}{'saturated loop':>24}{'goal':>8}{'disturbed':>12}")
    for title, model, size, goal, where in [
        ("5 ms, 16 items, thread", Sleeper, 16, SLEEPING_GOAL, "thread"),
        ("5 ms, 16 items, process", Sleeper, 16, None, "process"),
        ("5 ms, 32 items, thread", Sleeper, 32, None, "thread"),
        ("5 ms, 32 items, process", Sleeper, 32, None, "process"),
        ("MiniLM, thread", Encoder, 32, None, "thread"),
        ("MiniLM, process", Encoder, 32, PROCESS_GOAL, "process"),
    ]:
        how: dict[str, Any] = {"max_batch_size": size, "run_in": where}
        share = trio.run(partial(run, model, *how_long[model], **how))
        bound = "" if goal is None else f"{goal:.0f}%"
        spread = f"{share.left:.1f}% ({min(share.rounds):.0f}-{max(share.rounds):.0f})"
        print(
            f"{title:26}{share.idle:12.0f} /s{spread:>24}{bound:>8}{share.repeated:>12}", flush=True
        )
        missed |= goal is not None and share.left < goal
    print("MISSED" if missed else "all goals met")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
