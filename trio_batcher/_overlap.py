"""A burst that prepares a batch while another one runs.

Its model has a `launch`, see `InferenceModel`: it starts a batch and returns what waits for it.
While batch k runs, batch k+1 is composed at the last moment that still hides its preparation, and
launched; then k is collected, and so on. So at most two batches are launched at a time, and all is
called in one thread: launch k+1, collect k, launch k+2, collect k+1.

A batch that fails, when it is launched or when it is collected, does so without prejudice to the
other one, which is collected and delivered first. Then nothing is launched, and the failed one is
bisected as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ._bisection import Attempt, Raised, Returned

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from ._device import Device
    from ._queue import Request
    from ._scheduler import Scheduler, Taken

__all__ = ["Overlap"]

T = TypeVar("T")

_Done: TypeAlias = "tuple[Device[T], Sequence[Request[T]], Sequence[Any], float, float]"


class _Flight(Generic[T]):
    """A batch on its way.

    Attributes:
        requests: the batch.
        begun: when its launch was due.
        launched: when that was over.
        collect: waits for it and returns the results, or what launching it raised.
    """

    def __init__(self, device: Device[T], requests: list[Request[T]], due: float) -> None:
        self.requests = requests
        self.begun = due
        self.collect = device.try_launch([request.item for request in requests])
        self.launched = device.now()


class Overlap(Generic[T]):
    """One burst.

    Args:
        scheduler: whose lock guards what the device notes.
        device: what it runs on.
        heed: tells those who are hopeless, and returns the batch.
        post: has a batch and its outcomes delivered.
        go_on: does the same, and returns the batch to launch next; none if the burst is over.
        wanted: whether somebody else waits for the device: then nothing more is launched ahead.
        aborted: set when nobody waits for anything any more.
    """

    def __init__(
        self,
        scheduler: Scheduler[T],
        device: Device[T],
        *,
        heed: Callable[[Taken[T]], list[Request[T]]],
        post: Callable[[_Done[T]], object],
        go_on: Callable[[_Done[T]], list[Request[T]]],
        wanted: Callable[[], bool],
        aborted: threading.Event,
    ) -> None:
        self._scheduler, self._device = scheduler, device
        self._heed, self._post, self._go_on = heed, post, go_on
        self._wanted, self._aborted = wanted, aborted

    def run(self, batch: list[Request[T]]) -> None:
        """Run a batch, and those behind it."""
        flight = self._launch(batch, self._device.now()) if batch else None
        while flight:
            following = self._prepare(flight)
            attempt = self._collect(flight)
            if following is None:
                flight = self._land([(flight, attempt)])
            elif isinstance(attempt, Returned):
                self._post(self._done(flight, attempt))
                self._advance(following)  # until here the device has both in hand
                flight = following
            else:
                self._advance(following, behind=flight)
                other = self._collect(following)
                rest = [(flight, attempt), (following, other)]
                if isinstance(other, Returned):
                    rest.pop()
                    self._post(self._done(following, other))
                flight = self._land(rest)

    def _land(self, flights: list[tuple[_Flight[T], Attempt]]) -> _Flight[T] | None:
        """Deliver what has been collected, when nothing is launched; launch the next batch."""
        *others, last = flights
        for flight, attempt in others:
            self._post(self._done(flight, attempt))
        batch = self._go_on(self._done(*last))
        return self._launch(batch, self._device.now()) if batch else None

    def _prepare(self, flight: _Flight[T]) -> _Flight[T] | None:
        """Compose and launch the next batch when it is time, if anybody waits by then."""
        failed = isinstance(flight.collect, Raised)
        due = None if failed else self._scheduler.stage_at(self._device)
        if due is None:
            return None
        # Not longer than the running batch should take; and that is waited for in any case.
        if (seconds := due - self._device.now()) > 0.0:
            self._aborted.wait(seconds)
        else:
            due = self._device.now()
        if self._wanted():
            return None
        batch = self._heed(self._scheduler.stage(self._device))
        return self._launch(batch, due) if batch else None

    def _launch(self, batch: list[Request[T]], due: float) -> _Flight[T]:
        flight = _Flight(self._device, batch, due)
        self._scheduler.note_launch(self._device, flight.launched, flight.launched - due)
        return flight

    def _collect(self, flight: _Flight[T]) -> Attempt:
        return self._device.try_collect(
            flight.collect,
            self._load(flight) or len(flight.requests),
            flight.begun,
            flight.launched,
        )

    def _load(self, flight: _Flight[T]) -> int | None:
        return self._scheduler.load(flight.requests)

    def _advance(self, following: _Flight[T], *, behind: _Flight[T] | None = None) -> None:
        in_hand = behind.requests if behind else []
        started = max(following.launched, self._device.ended)
        self._scheduler.advance(self._device, following.requests, started, in_hand)

    def _done(self, flight: _Flight[T], attempt: Attempt) -> _Done[T]:
        device, requests = self._device, flight.requests
        ended = device.ended
        items = [request.item for request in requests]
        outcomes = device.outcomes(items, attempt, self._load(flight))
        if isinstance(attempt, Raised):
            ended = device.ended
        return device, requests, outcomes, flight.begun, ended
