"""Worlds that people have: durations that cannot be foreseen, slow spells, bulk beside callers.

Each is played twice through the same device by the library, with the deadlines shown to it and
hidden from it (by a shielded scope). Then it is first come, first served, batch for batch. To show
a deadline is never to be worse than to hide it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Literal, TypeAlias

import trio
import trio.testing

from tests.simulation.arrivals import times
from trio_batcher import DeadlineUnreachable, open_batcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["BULK", "CONTENTS", "SPELLS", "Beside", "Contents", "Run", "Spell"]

Law: TypeAlias = Literal["constant", "uniform", "exponential", "lognormal", "bimodal"]
Batching: TypeAlias = Literal["longest", "sum"]


def _drawn(law: Law, rng: Random) -> float:
    """Return what an item takes beside others, 1 on average."""
    match law:
        case "constant":
            return 1.0
        case "uniform":
            return rng.uniform(0.0, 2.0)
        case "exponential":
            return rng.expovariate(1.0)
        case "lognormal":
            return rng.lognormvariate(-0.5, 1.0)
        case "bimodal":  # one in five
            return 4.6 if rng.random() < 0.2 else 0.1


@dataclass(frozen=True)
class Run:
    """What became of the requests of one world: who was in time, when each was answered."""

    came: Sequence[float]
    in_time: Sequence[bool]
    answered: Sequence[float]
    rejected: int
    bulk: int = 0
    left: int = 0

    @property
    def share(self) -> float:
        """Percent in time."""
        return 100.0 * fmean(self.in_time)

    def share_from(self, start: float, end: float = math.inf) -> float:
        """Percent in time of those that came in between; 100 if nobody did."""
        each = [ok for came, ok in zip(self.came, self.in_time, strict=True) if start <= came < end]
        return 100.0 * fmean(each) if each else 100.0


@dataclass(frozen=True)
class Contents:
    """Durations that depend on what is in the items: the batch takes the longest, or the sum.

    Attributes:
        law: of an item's duration; its mean is 10 ms.
        batching: what a batch takes.
        allowance: time that a request has, as a multiple of what the longest batch took when
            deadlines were hidden.
        load: of what full batches can do.
        noise: relative standard deviation of a batch's duration.
        fixed: seconds that each batch takes besides.
    """

    law: Law
    batching: Batching
    allowance: float
    load: float
    noise: float = 0.0
    fixed: float = 0.002
    most: int = 8
    count: int = 1500

    @property
    def name(self) -> str:
        noise = f", noise {self.noise:.0%}" if self.noise else ""
        return (
            f"{self.law}, the {self.batching}{noise} | "
            f"{self.allowance:g} x the longest | load {self.load}"
        )

    def seconds(self, items: Sequence[float], rng: Random) -> float:
        whole = max(items) if self.batching == "longest" else sum(items)
        return (self.fixed + 0.010 * whole) * max(0.1, rng.gauss(1.0, self.noise))

    @cached_property
    def capacity(self) -> float:
        """Requests a second that full batches finish."""
        rng = Random(1)
        full = [[_drawn(self.law, rng) for _ in range(self.most)] for _ in range(4000)]
        return self.most / fmean(self.seconds(items, rng) for items in full)

    def play(self, seed: int, *, hide: bool, allowance: float | None = None) -> tuple[Run, float]:
        """Return what became of it, and what the longest batch took."""
        rng = Random(f"{self.law} {seed}")
        items = [_drawn(self.law, rng) for _ in range(self.count)]
        came = times("poisson", self.load * self.capacity, self.count, seed)
        longest = 0.0

        def takes(batch: Sequence[float], _: float) -> float:
            nonlocal longest
            seconds = self.seconds(batch, rng)
            longest = max(longest, seconds)
            return seconds

        if allowance is None:
            allowance = self.allowance * self.play(seed, hide=True, allowance=math.inf)[1]
        run = _play(items, came, allowance, takes, hide=hide, max_batch_size=self.most)
        return run, longest


@dataclass(frozen=True)
class Spell:
    """A device that becomes slower for a while."""

    fixed: float
    per_item: float
    most: int
    allowance: float
    load: float
    spell: float
    factor: float
    noise: float = 0.0
    begins: float = 4.0
    lasts: float = 14.0

    @property
    def name(self) -> str:
        return (
            f"{1e3 * self.fixed:g}+{1e3 * self.per_item:g} ms x{self.most}, "
            f"{1e3 * self.allowance:g} ms | load {self.load} | "
            f"{self.factor:g}x slower for {self.spell:g} s, noise {self.noise:.0%}"
        )

    def play(self, seed: int, *, hide: bool) -> Run:
        rng = Random(f"spell {seed}")
        rate = self.load * self.most / (self.fixed + self.per_item * self.most)
        came = times("poisson", rate, int(self.lasts * rate), seed)

        def takes(batch: Sequence[float], now: float) -> float:
            slow = self.begins <= now < self.begins + self.spell
            noise = max(0.5, rng.gauss(1.0, self.noise))
            seconds = (self.fixed + self.per_item * len(batch)) * noise
            return seconds * self.factor if slow else seconds

        items = [1.0] * len(came)
        return _play(items, came, self.allowance, takes, hide=hide, max_batch_size=self.most)


@dataclass(frozen=True)
class Beside:
    """Requests with a deadline beside bulk callers that have none and never stop."""

    allowance: float
    share: float = 0.05
    bulk: int = 300
    kind: str = "plain"
    devices: int = 1
    most: int = 8
    fixed: float = 0.010
    per_item: float = 0.005
    lasts: float = 20.0

    @property
    def name(self) -> str:
        return (
            f"{self.bulk} bulk callers, {self.kind}, {self.devices} device(s) | "
            f"{self.share:.0%} of capacity with {self.allowance:g} s"
        )

    def play(self, seed: int, *, hide: bool) -> Run:
        rate = self.share * self.devices * self.most / (self.fixed + self.per_item * self.most)
        came = times("poisson", rate, int(self.lasts * rate), seed)
        options: dict[str, Any] = {}
        if self.kind == "cost":
            options = {"cost": lambda _: 1.0, "max_batch_cost": float(self.most)}
        elif self.kind == "key":
            options = {"key": lambda item: item % 3}
        return _play(
            [1.0] * len(came),
            came,
            self.allowance,
            lambda batch, _: self.fixed + self.per_item * len(batch),
            hide=hide,
            bulk=self.bulk,
            devices=self.devices,
            max_batch_size=self.most,
            **options,
        )


def _play(
    items: Sequence[float],
    came: Sequence[float],
    allowance: float,
    takes: Callable[[Sequence[float], float], float],
    *,
    hide: bool,
    bulk: int = 0,
    devices: int = 1,
    **options: Any,
) -> Run:
    count = len(items)
    in_time, answered = [False] * count, [math.inf] * count
    rejected = done = left = 0

    async def model(batch: Sequence[int]) -> Sequence[int]:
        await trio.sleep(takes([items[n % count] for n in batch], trio.current_time() - start))
        return batch

    async def call(number: int) -> None:
        nonlocal left, rejected
        deadline = start + came[number] + allowance
        with trio.CancelScope(deadline=deadline) as scope, trio.CancelScope(shield=hide):
            try:
                await batcher.infer(number)
            except DeadlineUnreachable:
                rejected += 1
                return
            answered[number] = trio.current_time() - start
            in_time[number] = trio.current_time() <= deadline
        left += scope.cancelled_caught

    async def bulk_call(number: int) -> None:
        nonlocal done
        while True:
            await batcher.infer(number)
            done += trio.current_time() <= start + came[-1]

    async def main() -> None:
        nonlocal batcher, start
        opened = open_batcher([model] * devices, max_queue_size=math.inf, **options)
        async with opened as batcher, trio.open_nursery() as outer:
            start = trio.current_time()
            for number in range(bulk):
                outer.start_soon(bulk_call, number)
            async with trio.open_nursery() as nursery:
                for number, time in enumerate(came):
                    await trio.sleep_until(start + time)
                    nursery.start_soon(call, number)
            outer.cancel_scope.cancel()

    batcher: Any = None
    start = 0.0
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return Run(came, in_time, answered, rejected, done, left)


CONTENTS = tuple(
    Contents(law, batching, allowance, load)
    for law in ("uniform", "exponential", "lognormal", "bimodal")
    for batching in ("longest", "sum")
    for allowance in (1.2, 2.0, 3.0)
    for load in (0.1, 0.35, 0.6)
) + tuple(
    Contents("constant", "sum", allowance, load, noise)
    for noise in (0.06, 0.2)
    for allowance in (1.0, 1.2, 2.0)
    for load in (0.1, 0.35, 0.6)
)

SPELLS = tuple(
    Spell(fixed, per_item, most, allowance, load, spell, factor, noise)
    for fixed, per_item, most, allowance in (
        (0.040, 0.002, 32, 0.150),
        (0.020, 0.002, 32, 0.100),
        (0.020, 0.002, 32, 0.500),
        (0.035, 0.003, 16, 0.140),
    )
    for load in (0.05, 0.3, 0.6)
    for spell, factor in ((0.5, 5.0), (2.0, 3.0), (4.0, 8.0))
    for noise in (0.0, 0.2)
)

BULK = tuple(
    Beside(allowance, kind=kind, devices=devices)
    for kind, devices in (("plain", 1), ("cost", 1), ("key", 1), ("plain", 3))
    for allowance in (0.35, 1.0, 4.0, 30.0)
)
