"""What is to be run again of batches that failed: it waits beside the queue.

Pure: no clock, no lock of its own. Whoever owns it holds one lock around each call.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._bisection import Bisection, Segment
    from ._queue import Request, RequestQueue

__all__ = ["Reruns"]

T = TypeVar("T")


class Reruns(Generic[T]):
    """The batches that failed and have something left to be run.

    Args:
        awaited: says whether anybody waits for a request.

    Attributes:
        pending: those of which something can be run now.
    """

    def __init__(self, awaited: Callable[[Request[T]], bool]) -> None:
        self.pending: list[Bisection[T]] = []
        self._awaited = awaited
        self._closed = False

    def next_before(self, queue: RequestQueue[T], patience: float) -> Segment[T] | None:
        """Return what to run next, unless somebody in the queue is more urgent.

        Args:
            queue: who waits for a first run.
            patience: for so long after it came a request may wait, if its deadline allows that.
                Of those in the queue this counts for those that have none.
        """
        due = min([bisection.due(patience) for bisection in self.pending], default=inf)
        fronts = [lane.first(1) for lane in queue.undue.values() if lane.size]
        oldest = min([front[0][2].arrived for front in fronts], default=inf)
        if due > min(queue.earliest_deadline, oldest + patience):
            return None
        return self.next(patience)

    def next(self, patience: float = inf) -> Segment[T] | None:
        """Return what to run next; `None` if nobody waits for anything of it."""
        while self.pending and not self._closed:
            bisection = min(self.pending, key=lambda each: each.due(patience))
            segment = bisection.next(self._awaited)
            self._note(bisection)
            if segment is not None:
                return segment
        return None

    def succeeded(self, segment: Segment[T]) -> None:
        """Note that what was run again returned."""
        segment.bisection.succeeded(segment)
        self._note(segment.bisection)

    def failed(
        self, segment: Segment[T], error: BaseException, halves: Sequence[Segment[T]]
    ) -> tuple[list[Request[T]], list[Request[T]]]:
        """Note that a run raised; see `Bisection.failed`."""
        settled = segment.bisection.failed(segment, error, halves)
        self._note(segment.bisection)
        return settled

    def put_back(self, segment: Segment[T]) -> None:
        """Take back what was not run after all."""
        segment.bisection.put_back(segment)
        self._note(segment.bisection)

    def clear(self) -> list[Request[T]]:
        """Return all that is left; from now on nothing is run again."""
        self._closed = True
        left = [request for bisection in self.pending for request in bisection.clear()]
        self.pending.clear()
        return left

    def _note(self, bisection: Bisection[T]) -> None:
        if not bisection.pending:
            self.pending = [each for each in self.pending if each is not bisection]
        elif bisection not in self.pending:
            self.pending.append(bisection)
