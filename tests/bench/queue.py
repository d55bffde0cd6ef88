"""What the queue costs with 100,000 requests waiting, whatever the order of deadlines.

python -m tests.bench.queue
"""

from __future__ import annotations

import math
import random
import time
from itertools import product
from typing import TYPE_CHECKING

from trio_batcher._queue import Request, RequestQueue

if TYPE_CHECKING:
    from collections.abc import Callable

WAITING = 100_000
CHANGES = 100_000

ORDERS: dict[str, Callable[[random.Random, int], float]] = {
    "rising (equal relative deadlines)": lambda _, n: float(n),
    "falling (each more urgent)": lambda _, n: -float(n),
    "random": lambda rng, _: rng.random(),
    "two classes": lambda _, n: n + (n % 2) * 50_000.0,
    "none has a deadline": lambda *_: math.inf,
}
# Lanes that requests are spread over at random.
WEIGHTS = [1, 8]


def measure(
    deadline: Callable[[random.Random, int], float], weights: int
) -> tuple[float, float, float, float]:
    """Return mean seconds a request: filling; adding and discarding when full; taking."""
    rng = random.Random(1)
    queue: RequestQueue[int] = RequestQueue()

    def request(n: int) -> Request[int]:
        return Request(n, deadline(rng, n), float(n), float(rng.randint(1, weights)))

    requests = [request(n) for n in range(WAITING)]
    start = time.perf_counter()
    for each in requests:
        queue.add(each)
    filling = (time.perf_counter() - start) / WAITING

    # Cancel one, add one, 100,000 times over, with the queue full all the time.
    fresh = [request(n) for n in range(WAITING, WAITING + CHANGES)]
    victims = rng.sample(requests, CHANGES)
    discarding = adding = 0.0
    for victim, each in zip(victims, fresh, strict=True):
        start = time.perf_counter()
        queue.discard(victim)
        middle = time.perf_counter()
        queue.add(each)
        discarding += middle - start
        adding += time.perf_counter() - middle

    start = time.perf_counter()
    while queue.size:
        queue.remove_all(queue.first(32))
    taking = (time.perf_counter() - start) / WAITING
    return filling, adding / CHANGES, discarding / CHANGES, taking


def main() -> None:
    """Measure and print."""
    print(f"{WAITING:,} waiting; mean µs for each request")
    titles = f"{'fill':>8}{'add':>8}{'discard':>9}{'take':>8}"
    print(f"{'order of deadlines':34}{'weights':>8}{titles}")
    for weights, (name, deadline) in product(WEIGHTS, ORDERS.items()):
        filling, adding, discarding, taking = (1e6 * each for each in measure(deadline, weights))
        figures = f"{filling:>8.2f}{adding:>8.2f}{discarding:>9.2f}{taking:>8.2f}"
        print(f"{name:34}{weights:>8}{figures}")


if __name__ == "__main__":
    main()
