"""What it costs to send a batch to a model's process and its results back.

The model returns its inputs. Beside it the same objects through `multiprocessing.Pipe` to a
process that returns them, which pickles all of it. Medians, in milliseconds.

    python -m tests.bench.crossing [--rounds 50]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from typing import TYPE_CHECKING, Any

from trio_batcher._process import Keeper

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection


class Echo:
    def infer(self, items: list[Any]) -> list[Any]:
        return items


def echo(connection: Connection) -> None:
    """Return what comes until the other side hangs up."""
    while True:
        try:
            connection.send(connection.recv())
        except EOFError:
            return


def batches() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {
        "32 numbers": list(range(32)),
        "32 x 320 kB, bytes": [bytes(320_000) for _ in range(32)],
    }
    try:
        import numpy as np  # noqa: PLC0415  where there is one
    except ImportError:
        return found
    found["32 x 320 kB, arrays"] = [np.ones(40_000) for _ in range(32)]
    found["1 x 10 MB, array"] = [np.ones(1_280_000)]
    return found


def median(call: Callable[[list[Any]], object], batch: list[Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call(batch)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    keeper = Keeper(Echo).load()
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    peer = context.Process(target=echo, args=(theirs,))
    peer.start()
    theirs.close()

    def by_pipe(batch: list[Any]) -> Any:
        ours.send(batch)
        return ours.recv()

    print(f"{'there and back, ms':<24} {'here':>8} {'pickled':>8}")
    for name, batch in batches().items():
        here, pickled = median(keeper.infer, batch, rounds), median(by_pipe, batch, rounds)
        print(f"{name:<24} {here:>8.2f} {pickled:>8.2f}")
    keeper.close()
    ours.close()
    peer.join()


if __name__ == "__main__":
    main()
