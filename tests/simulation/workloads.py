"""The cells that a policy is scored in: a device, classes of requests, arrivals, a load.

A policy's constants may be chosen on seeds 0 to 3. It is scored on others, `SEEDS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from tests.simulation.arrivals import KINDS, Arrival, Kind, RequestClass, Service, trace

__all__ = [
    "CELLS",
    "DEVICE",
    "EQUAL",
    "MIXED",
    "NOISY",
    "NOISY_SEEDS",
    "PADDED",
    "REAL",
    "SEEDS",
    "URGENT",
    "Cell",
]

SEEDS = range(100, 104)


@dataclass(frozen=True)
class Cell:
    """Traces of ``count`` requests, ``load`` times as many as the device can finish at most."""

    service: Service
    classes: tuple[RequestClass, ...]
    kind: Kind
    load: float
    count: int

    @property
    def name(self) -> str:
        """What is different from cell to cell, to read and to search."""
        service = self.service
        device = (
            f"{_ms(service.fixed)}+{_ms(service.per_item)} ms x{service.most}"
            f"{' padded' if service.padded else ''}"
        )
        return f"{device} | {self.requests} | {self.kind} | {self.load}"

    @property
    def requests(self) -> str:
        """The classes, briefly."""
        return " + ".join(
            (f"{each.share:.0%} " if each.share < 1 else "")
            + (f"{_ms(each.allowance)} ms" if each.allowance < math.inf else "undated")
            + (f" worth {each.weight}" if each.weight != 1 else "")
            for each in self.classes
        )

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.load * self.service.capacity

    @property
    def heaviest(self) -> RequestClass | None:
        """The class that is worth more than the others, if there is one."""
        first, *others = sorted(self.classes, key=lambda each: -each.weight)
        return first if others and first.weight > others[0].weight else None

    def trace(self, seed: int) -> list[Arrival]:
        """Return the requests, the same for the same seed."""
        return trace(self.kind, self.rate, self.count, seed, self.classes)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:g}"


def _count(service: Service) -> int:
    # A device with batches of 64 finishes some 1,800 a second. At twice that a trace of 1,000
    # lasts a quarter of a second, less than one cycle of the bursts (100 ms and 300 ms).
    return 3000 if service.most <= 32 else 6000


DEVICE = Service()

EQUAL = tuple(
    Cell(service, (RequestClass(allowance),), kind, load, _count(service))
    for (service, allowance), kind, load in product(
        (
            (DEVICE, 0.060),
            (DEVICE, 0.100),
            (Service(0.005, 0.0005, 64), 0.060),
            (Service(0.020, 0.0002, 64), 0.100),
        ),
        KINDS,
        (0.6, 0.9, 1.2, 2.0),
    )
)

URGENT = (RequestClass(0.040, share=0.3), RequestClass(0.120, share=0.7))
_MIXES = (
    URGENT,
    (RequestClass(0.040, share=0.6), RequestClass(0.120, share=0.4)),
    (RequestClass(0.060, 4, 0.25), RequestClass(0.060, 1, 0.75)),
    (RequestClass(0.040, 4, 0.25), RequestClass(0.120, 1, 0.75)),
    (RequestClass(0.120, 4, 0.25), RequestClass(0.040, 1, 0.75)),
)
# The optimum of two classes takes time and memory that grow faster than the trace.
MIXED = tuple(
    Cell(DEVICE, classes, kind, load, 1000)
    for classes, kind, load in product(_MIXES, ("poisson", "bursts"), (0.8, 1.0, 1.3, 2.0))
)

# Played on the real clock. Long enough that the first few batches are not a tenth of them.
REAL = tuple(
    Cell(DEVICE, classes, "poisson", load, 3000)
    for classes, load in product(
        ((RequestClass(0.060),), (RequestClass(0.100),), URGENT), (0.9, 1.2, 2.0)
    )
)

# Sizes are padded to powers of two: no straight line.
PADDED = tuple(
    Cell(Service(padded=True), (RequestClass(allowance),), kind, load, 1500)
    for allowance, kind, load in product(
        (0.060, 0.100), ("poisson", "bursts"), (0.6, 0.9, 1.2, 2.0)
    )
)

# Played with noise; so many that one late result in 1,000 can be told from none.
NOISY = tuple(
    Cell(DEVICE, classes, "poisson", 2.0, 3000) for classes in ((RequestClass(0.060),), URGENT)
)
NOISY_SEEDS = range(100, 116)

# Each with its seeds.
CELLS = tuple(
    (cell, seeds)
    for cells, seeds in ((EQUAL + MIXED + REAL + PADDED, SEEDS), (NOISY, NOISY_SEEDS))
    for cell in cells
)
