"""What is to be run again of batches that failed: it waits beside the queue.

Each such batch is a `Bisection`, which is told what came of a run and says what to run next; each
part of it is a `Segment`, a batch like any other to whoever runs it.

Pure: no clock, no lock of its own. Whoever owns it holds one lock around each call.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ._bisection import too_large
from ._errors import ChildDied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._queue import Request, RequestQueue

__all__ = ["Bisection", "Reruns", "Segment", "Settled"]

T = TypeVar("T")

# What a segment is to its batch: all of it, one of its first parts, less than that, or a single one
# that is to tell whether the inputs are to blame at all.
_WHOLE, _HALF, _PART, _PROBE = range(4)

_PARTS_OF_A_HANG = 8

# What takes much longer than a run that returns.
_DEAR = ChildDied, TimeoutError

Settled: TypeAlias = "tuple[list[Request[T]], BaseException, int]"
"""Requests that fail, by what, and how many failed together."""


class Segment(list["Request[T]"], Generic[T]):
    """Requests to be run again together, in their batch's order.

    Attributes:
        bisection: that of the batch.
        rank: what part of it they are.
        deadline: the most urgent one's.
        arrived: when the first of them came.
    """

    __slots__ = ("arrived", "bisection", "deadline", "rank")

    def __init__(self, requests: Sequence[Request[T]], bisection: Bisection[T], rank: int) -> None:
        super().__init__(requests)
        self.bisection = bisection
        self.rank = rank
        self.deadline = min([request.deadline for request in requests])
        self.arrived = min([request.arrived for request in requests])

    def parts(self, error: BaseException) -> list[Segment[T]]:
        """Return what to run of it, as it raised that: halves, or nothing of a single one.

        Eighths if it hung: a run that does takes so long that few such runs matter more than few
        runs altogether.
        """
        if len(self) == 1:
            return []
        count = _PARTS_OF_A_HANG if isinstance(error, TimeoutError) else 2
        size, rank = -(-len(self) // count), min(self.rank + 1, _PART)
        return [
            Segment(self[start : start + size], self.bisection, rank)
            for start in range(0, len(self), size)
        ]


class Bisection(Generic[T]):
    """What is left to be run of a batch that raised, and what its runs have told so far.

    Halves are run, then halves of the halves that raise, level by level: an input that fails alone
    is found with 2·log₂(n) further runs and no other input suffers. If the batch and both its
    halves raise the same kind of error, single inputs from all over the batch are tried next; if
    those fail alike too, it is not the inputs: all fail, after 2·log₂(n) further runs rather than
    2n. If the model's process has died, the whole batch is run again first: it may have been
    killed from outside. What hangs is run in eighths instead of halves.

    Several segments may run at a time. Those that nobody waits for are not run, and tell nothing.

    Attributes:
        sizes_before: what was known of how much a device takes, before this batch was too large.
    """

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        # What the whole batch has raised, as long as anybody may have to be told.
        self._reason: BaseException | None = None
        self.sizes_before: dict[Any, Any] = {}
        self._kinds: set[type[BaseException]] = set()
        self._died = False
        self._halves_failed = 0
        self._succeeded = False
        self._untried: deque[Segment[T]] = deque()
        # Single inputs to be tried before anything else, and those of them that run.
        self._probes: deque[Segment[T]] = deque()
        self._probing = False
        self._running: set[Request[T]] = set()
        self._probed: set[Request[T]] = set()

    @classmethod
    def of(cls, batch: Sequence[Request[T]]) -> Segment[T]:
        """Return a whole batch as a segment of its own bisection."""
        return Segment(batch, cls(len(batch)), _WHOLE)

    @property
    def pending(self) -> bool:
        """Whether there is anything to run now."""
        return bool(self._probes if self._probing else self._untried)

    def due(self, patience: float) -> float:
        """Return by when the most urgent of it should run.

        Args:
            patience: for so long after it came a request may wait, if its deadline allows that.
        """
        pending = self._probes if self._probing else self._untried
        return min([min(each.deadline, each.arrived + patience) for each in pending], default=inf)

    def next(self, wanted: Callable[[Request[T]], bool]) -> Segment[T] | None:
        """Return what to run next, without those that nobody waits for; `None` if nothing is."""
        while self.pending:
            if self._probing:
                probe = self._probes.popleft()
                self._probed.update(probe)
                if wanted(probe[0]):
                    self._running.update(probe)
                    return probe
                self._note_settled(1)
                self._replace_probe(wanted)
                continue
            segment = self._untried.popleft()
            left = [request for request in segment if wanted(request)]
            if len(left) == len(segment):
                return segment
            self._note_settled(len(segment) - len(left))
            if left:
                return Segment(left, self, segment.rank)
        return None

    def succeeded(self, segment: Segment[T]) -> None:
        """Note that a run returned."""
        self._succeeded = True
        self._note_settled(len(segment))
        self._running.difference_update(segment)
        self._stop_probing()

    def failed(
        self, segment: Segment[T], error: BaseException, parts: Sequence[Segment[T]]
    ) -> list[Settled[T]]:
        """Note that a run raised.

        Returns:
            Who fails by that: a single one, those that are given up with the batch, or nobody.

        Args:
            segment: what was run.
            error: what was raised.
            parts: of the segment.
        """
        if segment.rank == _WHOLE and isinstance(error, ChildDied) and not self._died:
            self._died = True
            self._untried.append(segment)
            return []
        self._untried.extend(parts)
        if too_large(error) and parts:
            return []
        self._kinds.add(type(error))
        if segment.rank == _WHOLE or self._reason is None:
            self._reason, self._kinds = error, {type(error)}
        reason = self._reason
        self._running.difference_update(segment)
        if segment.rank == _HALF:
            self._halves_failed += 1
            if self._halves_failed == 2 and not self._succeeded:  # noqa: PLR2004
                # The batch and both its halves. A poison input spoils one half only.
                self._start_probing()
        if len(self._kinds) > 1:
            self._stop_probing()
        settled: list[Settled[T]] = [] if parts else [([*segment], error, 1)]
        if self._probing and not self._probes and not self._running:
            settled.append((self.clear(), reason, self._size))
        self._note_settled(0 if parts else 1)
        return settled

    def put_back(self, segment: Segment[T]) -> None:
        """Take back what was not run after all."""
        self._running.difference_update(segment)
        if segment.rank == _PROBE and self._probing:
            self._probes.appendleft(segment)
        else:
            self._untried.appendleft(segment)

    def clear(self) -> list[Request[T]]:
        """Return all that has not been run, which never will be."""
        left = self._unprobed()
        left += [request for probe in self._probes for request in probe if request in self._probed]
        self._left -= len(left)
        self._untried.clear()
        self._stop_probing()
        return left

    def _note_settled(self, count: int) -> None:
        self._left -= count
        if self._left <= 0:
            # Its traceback has frames that have this.
            self._reason = None

    def _start_probing(self) -> None:
        left = self._unprobed()
        count = 2 * (self._size - 1).bit_length() - 2
        places = sorted({i * len(left) // count for i in range(count)}) if left else []
        self._probes.extend([Segment([left[place]], self, _PROBE) for place in places])
        self._probing = bool(self._probes)

    def _replace_probe(self, wanted: Callable[[Request[T]], bool]) -> None:
        """Choose another input in the place of one that nobody waits for any more."""
        chosen = {probe[0] for probe in self._probes}
        left = [each for each in self._unprobed() if each not in chosen and wanted(each)]
        if left:
            self._probes.append(Segment([left[len(left) // 2]], self, _PROBE))
        elif not self._probes and not self._running:
            self._stop_probing()

    def _stop_probing(self) -> None:
        if self._probing:
            self._probing = False
            self._probes.clear()
            parts = [
                ([each for each in segment if each not in self._probed], segment.rank)
                for segment in self._untried
            ]
            self._untried = deque([Segment(left, self, rank) for left, rank in parts if left])
            self._probed.clear()

    def _unprobed(self) -> list[Request[T]]:
        return [each for segment in self._untried for each in segment if each not in self._probed]


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
        # The last run took long for nothing: a batch from the queue goes first, if there is one.
        self._others_turn = False

    def next_before(self, queue: RequestQueue[T], patience: float) -> Segment[T] | None:
        """Return what to run next, unless somebody in the queue is more urgent.

        After a run that hung or died anybody is: others wait for one such run, not for several.

        Args:
            queue: who waits for a first run.
            patience: for so long after it came a request may wait, if its deadline allows that.
                Of those in the queue this counts for those that have none.
        """
        others_turn, self._others_turn = self._others_turn, False
        if others_turn and queue.size:
            return None
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
        self, segment: Segment[T], error: BaseException, parts: Sequence[Segment[T]]
    ) -> list[Settled[T]]:
        """Note that a run raised; see `Bisection.failed`."""
        self._others_turn = isinstance(error, _DEAR)
        settled = segment.bisection.failed(segment, error, parts)
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
