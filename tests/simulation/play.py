"""What becomes of a trace: by a classic policy on made-up time, or through the library itself."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import trio
import trio.testing

from trio_batcher import DeadlineUnreachable, Overloaded, open_batcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.simulation.arrivals import Arrival, Service
    from trio_batcher import Batcher

__all__ = [
    "Choice",
    "Fate",
    "Played",
    "Policy",
    "Ran",
    "Waiting",
    "play",
    "serve",
    "serve_really",
]


class Fate(Enum):
    """What a request got."""

    ON_TIME = auto()
    LATE = auto()  # it was in a batch, which ended after its deadline
    REJECTED = auto()  # turned away before its deadline
    LOST = auto()  # its deadline passed while it waited


@dataclass(frozen=True, slots=True)
class Ran:
    """A batch: when it began and ended, and which requests were in it, by number."""

    began: float
    ended: float
    requests: list[int]


@dataclass
class Played:
    """A trace and what became of it; times are those of the trace."""

    trace: Sequence[Arrival]
    batches: list[Ran] = field(default_factory=list)
    fates: list[Fate] = field(init=False)
    answered: list[float] = field(init=False)  # when the request knew its fate

    def __post_init__(self) -> None:
        self.fates = [Fate.LOST] * len(self.trace)
        self.answered = [math.inf] * len(self.trace)

    def settle(self, request: int, fate: Fate, when: float) -> None:
        """Note a request's fate."""
        self.fates[request] = fate
        self.answered[request] = when

    def count(self, *fates: Fate) -> int:
        """Return how many got one of these."""
        return sum(map(self.fates.count, fates))

    def on_time(self) -> list[int]:
        """Return the requests that were on time, by number."""
        return [each for each, fate in enumerate(self.fates) if fate is Fate.ON_TIME]

    @property
    def earned(self) -> int:
        """What those on time are worth."""
        return sum(self.trace[each].weight for each in self.on_time())

    def latencies(self) -> list[float]:
        """Return how long those on time took, in order."""
        return sorted(self.answered[each] - self.trace[each].time for each in self.on_time())

    def waits(self) -> dict[int, float]:
        """Return how long each request that was run had waited for its batch."""
        return {
            each: batch.began - self.trace[each].time
            for batch in self.batches
            for each in batch.requests
        }

    @property
    def mean_batch(self) -> float:
        """The mean number of requests in a batch."""
        return sum(len(batch.requests) for batch in self.batches) / max(1, len(self.batches))


# Those who wait by number, first come first.
Waiting: TypeAlias = "deque[tuple[int, Arrival]]"


class Choice(NamedTuple):
    """What a policy decides: whom to run now, whom to drop, until when to wait otherwise."""

    batch: Sequence[int] = ()
    dropped: Sequence[int] = ()
    until: float = math.inf


class Policy(Protocol):
    """Asked whenever the device is free and somebody waits, and at each arrival then."""

    def __call__(self, waiting: Waiting, now: float, /) -> Choice:
        """Take whoever it chooses out of ``waiting``."""


def play(trace: Sequence[Arrival], service: Service, policy: Policy) -> Played:
    """Play a trace to a policy on made-up time. Deciding takes none."""
    played, waiting, now, came = Played(trace), deque[tuple[int, "Arrival"]](), 0.0, 0
    while waiting or came < len(trace):
        if not waiting:
            now = max(now, trace[came].time)
        while came < len(trace) and trace[came].time <= now:
            waiting.append((came, trace[came]))
            came += 1
        batch, dropped, until = policy(waiting, now)
        for each in dropped:
            expired = now >= trace[each].deadline
            played.settle(each, Fate.LOST if expired else Fate.REJECTED, now)
        if batch:
            began, now = now, now + service.seconds(len(batch))
            played.batches.append(Ran(began, now, batch))
            for each in batch:
                expired = now > trace[each].deadline
                played.settle(each, Fate.LATE if expired else Fate.ON_TIME, now)
        elif not dropped:
            until = min(until, trace[came].time if came < len(trace) else math.inf)
            if not now < until < math.inf:
                raise ValueError("It neither runs, nor drops, nor waits for anything")
            now = until
    return played


def serve(
    trace: Sequence[Arrival],
    seconds: Callable[[int, float], float],
    most: int,
    *,
    warmup: bool = False,
) -> Played:
    """Play a trace through the library, on virtual time, where deciding takes none.

    Args:
        trace: the requests.
        seconds: how long a batch takes, by its size and the trace's time.
        most: the largest batch.
        warmup: let the batcher run batches of all powers of two beforehand.
    """
    played, start = Played(trace), 0.0

    async def model(items: list[int | None]) -> list[int | None]:
        began = trio.current_time() - start
        takes = seconds(len(items), began)
        if items[0] is not None:
            played.batches.append(Ran(began, began + takes, items))
        await trio.sleep(takes)
        return items

    async def main() -> None:
        nonlocal start
        async with _opened(model, most, warmup) as batcher:
            start = trio.current_time()
            await _call(batcher, played, start)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return played


def serve_really(trace: Sequence[Arrival], service: Service) -> Played:
    """Play a trace through the library, on the real clock, with a model in a thread."""
    played, start = Played(trace), 0.0

    def model(items: list[int]) -> list[int]:
        began = time.perf_counter()
        time.sleep(service.seconds(len(items)))
        # trio's clock is perf_counter, shifted.
        played.batches.append(Ran(began - start, time.perf_counter() - start, items))
        return items

    async def main() -> None:
        nonlocal start
        async with _opened(model, service.most) as batcher:
            # Time for the machine to settle: the first request is to come on time.
            start = trio.current_time() + 0.05
            began, start = start, time.perf_counter() + 0.05
            await _call(batcher, played, began)

    trio.run(main)
    return played


def _opened(model: Any, most: int, warmup: bool = False) -> Any:
    return open_batcher(
        model,
        max_batch_size=most,
        max_queue_size=math.inf,
        warmup=[None] if warmup else (),
    )


async def _call(batcher: Batcher[int | None, Any], played: Played, start: float) -> None:
    """Make each request at its time, each in a task of its own, and wait for all of them.

    A deadline counts from the call, as a caller's does: on the real clock a task that sleeps
    until a request's time and starts another one for it is most of a millisecond late. On the
    virtual clock it is not.
    """

    async def call(request: int, arrival: Arrival) -> None:
        late = trio.current_time() - (start + arrival.time)
        with trio.move_on_at(start + arrival.deadline + late):
            try:
                if arrival.weight == 1:
                    await batcher.infer(request)
                else:
                    await batcher.infer(request, weight=arrival.weight)
            except (DeadlineUnreachable, Overloaded):
                fate = Fate.REJECTED
            else:
                fate = Fate.ON_TIME
            played.settle(request, fate, trio.current_time() - start)

    async with trio.open_nursery() as nursery:
        for request, arrival in enumerate(played.trace):
            await trio.sleep_until(start + arrival.time)
            nursery.start_soon(call, request, arrival)
    # Whoever was cancelled could not tell whether the batch was running already.
    for batch in played.batches:
        for request in batch.requests:
            if played.fates[request] is Fate.LOST:
                played.fates[request] = Fate.LATE
