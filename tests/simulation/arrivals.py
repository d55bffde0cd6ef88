"""Requests that come one by one: four kinds of arrivals, classes of deadline and weight.

A *trace* is made from a seed, so whoever plays it meets the same requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["KINDS", "Arrival", "Kind", "RequestClass", "Service", "times", "trace"]

Kind: TypeAlias = Literal["poisson", "gamma", "bursts", "square"]
KINDS: tuple[Kind, ...] = ("poisson", "gamma", "bursts", "square")


@dataclass(frozen=True, slots=True)
class Service:
    """A device: a batch of ``n`` takes ``fixed + per_item * n`` seconds, ``n`` at most ``most``.

    With ``padded``, a batch takes as long as one of the next power of two.
    """

    fixed: float = 0.010
    per_item: float = 0.001
    most: int = 32
    padded: bool = False

    def seconds(self, size: int) -> float:
        """Return how long a batch of ``size`` takes."""
        if self.padded:
            size = min(self.most, 1 << (size - 1).bit_length())
        return self.fixed + self.per_item * size

    @property
    def table(self) -> list[float]:
        """``seconds(n)`` for each n, 0 for none."""
        return [0.0, *(self.seconds(size) for size in range(1, self.most + 1))]

    @property
    def capacity(self) -> float:
        """The most requests per second that it can finish: load 1."""
        return self.most / self.seconds(self.most)


@dataclass(frozen=True, slots=True)
class RequestClass:
    """Requests that are worth ``weight`` if they are done ``allowance`` seconds after they came."""

    allowance: float
    weight: int = 1
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace."""

    time: float
    allowance: float
    weight: int

    @property
    def deadline(self) -> float:
        """When its answer is due."""
        return self.time + self.allowance


def _gaps(kind: Kind, rate: float, rng: Random) -> Iterator[float]:
    match kind:
        case "poisson":
            while True:
                yield rng.expovariate(rate)
        case "gamma":  # squared coefficient of variation 4
            while True:
                yield rng.gammavariate(0.25, 4.0 / rate)
        case "bursts":  # Poisson at 3x the mean rate for 100 ms, at 1/3 for 300 ms, on average
            yield from _modulated(((3.0 * rate, 0.1), (rate / 3.0, 0.3)), rng, random=True)
        case "square":  # Poisson at 1.6x and 0.4x the mean rate, 200 ms each
            yield from _modulated(((1.6 * rate, 0.2), (0.4 * rate, 0.2)), rng, random=False)


def _modulated(
    levels: Sequence[tuple[float, float]], rng: Random, *, random: bool
) -> Iterator[float]:
    # Memoryless within a level: what is left of a gap when the level changes is drawn anew.
    passed = 0.0
    for rate, length in cycle(levels):
        left = rng.expovariate(1.0 / length) if random else length
        while (gap := rng.expovariate(rate)) < left:
            left -= gap
            yield passed + gap
            passed = 0.0
        passed += left


def times(kind: Kind, rate: float, count: int, seed: int) -> list[float]:
    """Return when ``count`` requests come, ``rate`` a second on average."""
    gaps = _gaps(kind, rate, Random(f"{kind} {rate} {seed}"))
    time, found = 0.0, []
    for _ in range(count):
        time += next(gaps)
        found.append(time)
    return found


def trace(
    kind: Kind, rate: float, count: int, seed: int, classes: Sequence[RequestClass]
) -> list[Arrival]:
    """Return ``count`` requests, each of a class drawn by its share."""
    rng = Random(f"classes {seed}")
    shares = [each.share for each in classes]
    return [
        Arrival(time, chosen.allowance, chosen.weight)
        for time in times(kind, rate, count, seed)
        for chosen in rng.choices(classes, shares)
    ]
