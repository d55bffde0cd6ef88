"""What a lone request costs more than calling the model in a thread oneself.

One caller, one request at a time, a model that sleeps 1 ms. The two are interleaved, one
request of each in turn, and their medians subtracted.

    python -m tests.bench.lone [--requests 2000]
"""

from __future__ import annotations

import argparse
import statistics
import time

import trio

from trio_batcher import open_batcher

MODEL_SECONDS = 0.001


def model(items: list[int]) -> list[int]:
    """Sleep as long as a small model takes."""
    time.sleep(MODEL_SECONDS)
    return items


async def measure(requests: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each bare call and of each request."""
    bare, batched = [], []
    limiter = trio.CapacityLimiter(1)
    async with open_batcher(model) as batcher:
        for item in range(requests):
            start = time.perf_counter()
            await trio.to_thread.run_sync(model, [item], limiter=limiter)
            bare.append(time.perf_counter() - start)
            start = time.perf_counter()
            await batcher.infer(item)
            batched.append(time.perf_counter() - start)
    return bare, batched


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    bare, batched = trio.run(measure, parser.parse_args().requests)
    print(f"{'':24}{'p50':>12}{'p95':>12}")
    for name, times in [("bare thread call", bare), ("batcher.infer", batched)]:
        p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        print(f"{name:24}{p50 * 1e6:>9.0f} µs{p95 * 1e6:>9.0f} µs")
    added = statistics.median(batched) - statistics.median(bare)
    print(f"{'added by the batcher':24}{added * 1e6:>9.0f} µs")


if __name__ == "__main__":
    main()
