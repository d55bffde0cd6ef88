"""The policies that servers are known to use, as `play.Policy`. All of them know the latency.

None of them knows of weights, and all but `max_window` go by arrival alone.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from tests.simulation.play import Choice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.simulation.arrivals import RequestClass, Service
    from tests.simulation.play import Policy, Waiting

__all__ = [
    "CLASSICS",
    "drop_expired",
    "fixed_window",
    "greedy",
    "head_sized",
    "max_window",
    "planned_size",
    "sliding_window",
]


def greedy(service: Service) -> Policy:
    """First come, first served, as many as there are; also those that are late already.

    What a loop around a queue does, or TensorFlow Serving with a batch timeout of 0.
    """

    def choose(waiting: Waiting, _: float) -> Choice:
        return Choice(_taken(waiting, service.most))

    return choose


def fixed_window(service: Service, window: float = 0.005) -> Policy:
    """As `greedy`, but a batch that is not full waits until its oldest has for ``window``.

    ``batch_timeout_micros`` of TensorFlow Serving (C. Olston et al., 2017),
    ``max_queue_delay_microseconds`` of Triton, ``batch_wait_timeout_s`` of Ray Serve.
    """

    def choose(waiting: Waiting, now: float) -> Choice:
        until = waiting[0][1].time + window
        if len(waiting) < service.most and now < until:
            return Choice(until=until)
        return Choice(_taken(waiting, service.most))

    return choose


def drop_expired(service: Service) -> Policy:
    """As `greedy`, but who is past the deadline is dropped when a batch is taken.

    What a cancelled call amounts to where queues heed cancellation, and the timeouts of
    Triton's queue policy.
    """

    def choose(waiting: Waiting, now: float) -> Choice:
        dropped = _dropped(waiting, now)
        return Choice(_taken(waiting, service.most), dropped)

    return choose


def head_sized(service: Service) -> Policy:
    """First come, first served; no more than can end before the oldest's deadline.

    Who cannot be in time even alone is dropped. So Clipper sizes its batches to the latency
    objective (D. Crankshaw et al., NSDI 2017), here with what is left of it.
    """
    table = service.table

    def choose(waiting: Waiting, now: float) -> Choice:
        dropped = _dropped(waiting, now + table[1])
        if not waiting:
            return Choice((), dropped)
        slack = waiting[0][1].deadline - now
        return Choice(_taken(waiting, max(1, bisect_right(table, slack) - 1)), dropped)

    return choose


def sliding_window(service: Service, size: int) -> Policy:
    """Slide a window of the planned ``size`` along the queue; run the first that is in time.

    Its oldest has to be in time with all of them. Whoever came before is dropped. "Early drop" of
    Nexus (H. Shen et al., SOSP 2019).
    """
    table = service.table

    def choose(waiting: Waiting, now: float) -> Choice:
        dropped: list[int] = []
        while waiting:
            window = min(size, len(waiting))
            if waiting[0][1].deadline >= now + table[window]:
                return Choice(_taken(waiting, window), dropped)
            dropped.append(waiting.popleft()[0])
        return Choice((), dropped)

    return choose


def planned_size(service: Service, classes: Sequence[RequestClass]) -> int:
    """Return the size that Nexus plans: a request may have to wait for one batch, and rides in one.

    It plans each objective by itself. Here it is the strictest one's.
    """
    strictest = min(each.allowance for each in classes)
    return max(1, bisect_right(service.table, strictest / 2) - 1)


def max_window(service: Service) -> Policy:
    """In order of deadlines, pass over the fewest of the nearest that make the batch largest.

    Nexus' early drop without a plan, and who is passed over stays as long as a batch of one could
    be in time. Not a classic, but the best there is for equal deadlines that is as simple.
    """
    table, most = service.table, service.most

    def choose(waiting: Waiting, now: float) -> Choice:
        dropped = _dropped_anywhere(waiting, now + table[1])
        if not waiting:
            return Choice((), dropped)
        ordered = sorted(waiting, key=lambda each: each[1].deadline)
        best = first = 0
        for at, (_, arrival) in enumerate(ordered):
            if best >= min(most, len(ordered) - at):
                break
            fits = bisect_right(table, arrival.deadline - now) - 1
            size = min(fits, most, len(ordered) - at)
            if size > best:
                best, first = size, at
        chosen = [number for number, _ in ordered[first : first + best]]
        gone = set(chosen)
        left = [each for each in waiting if each[0] not in gone]
        waiting.clear()
        waiting.extend(left)
        return Choice(chosen, dropped)

    return choose


def _taken(waiting: Waiting, most: int) -> list[int]:
    return [waiting.popleft()[0] for _ in range(min(most, len(waiting)))]


def _dropped(waiting: Waiting, before: float) -> list[int]:
    """Drop from the front whoever is due before that; who came later may be due earlier."""
    dropped = []
    while waiting and waiting[0][1].deadline < before:
        dropped.append(waiting.popleft()[0])
    return dropped


def _dropped_anywhere(waiting: Waiting, before: float) -> list[int]:
    dropped = [number for number, arrival in waiting if arrival.deadline < before]
    if dropped:
        left = [each for each in waiting if each[1].deadline >= before]
        waiting.clear()
        waiting.extend(left)
    return dropped


CLASSICS: dict[str, Callable[[Service, Sequence[RequestClass]], Policy]] = {
    "greedy": lambda service, _: greedy(service),
    "5 ms window": lambda service, _: fixed_window(service),
    "drop expired": lambda service, _: drop_expired(service),
    "head-sized": lambda service, _: head_sized(service),
    "sliding": lambda service, classes: sliding_window(service, planned_size(service, classes)),
    "max-window": lambda service, _: max_window(service),
}
