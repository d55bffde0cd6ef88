"""A burst that prepares a batch while another one runs.

Its model has a `launch`, see `InferenceModel`: it starts a batch and returns what waits for it.
While batch k runs, batch k+1 is composed at the last moment that still hides its preparation, and
launched; then k is collected, and so on. So at most two batches are launched at a time, and all is
called in one thread: launch k+1, collect k, launch k+2, collect k+1.

A batch that fails, when it is launched or when it is collected, does so without prejudice to the
other one. What is run again of it is launched as any other batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ._bisection import Raised

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from ._assignments import Taken
    from ._bisection import Attempt
    from ._device import Device
    from ._queue import Request
    from ._scheduler import Scheduler

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
        device.at = requests
        self.collect = device.try_launch([request.item for request in requests])
        self.launched = device.now()

    def take(self) -> Callable[[], Any] | Raised:
        """Return `collect`, for once: what was raised has this in its traceback."""
        collect, self.collect = self.collect, Raised(RuntimeError("collected already"))
        return collect


class Overlap(Generic[T]):
    """One burst.

    Args:
        scheduler: whose lock guards what the device notes.
        device: what it runs on.
        heed: tells those who are hopeless, and returns the batch.
        done: says whose outcome a run settles, and notes what else is to be run.
        post: has that delivered.
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
        done: Callable[[Device[T], list[Request[T]], Attempt, float], _Done[T]],
        post: Callable[[_Done[T]], object],
        go_on: Callable[[_Done[T]], list[Request[T]]],
        wanted: Callable[[], bool],
        aborted: threading.Event,
    ) -> None:
        self._scheduler, self._device = scheduler, device
        self._heed, self._done, self._post, self._go_on = heed, done, post, go_on
        self._wanted, self._aborted = wanted, aborted

    def run(self, batch: list[Request[T]]) -> None:
        """Run a batch, and those behind it."""
        flight = self._launch_now(batch)
        del batch
        try:
            while flight and not self._device.abandoned:
                following = self._prepare(flight)
                flight = self._follow(flight, following) if following else self._land(flight)
        finally:
            self._device.at = None

    def _follow(self, flight: _Flight[T], following: _Flight[T]) -> _Flight[T]:
        self._deliver(self._collected(flight))
        # Until here the device has both in hand.
        started = max(following.launched, self._device.ended)
        self._scheduler.advance(self._device, following.requests, started)
        return following

    def _deliver(self, done: _Done[T]) -> None:
        if not self._device.abandoned:
            self._post(done)

    def _land(self, flight: _Flight[T]) -> _Flight[T] | None:
        """Collect and deliver it when nothing else is launched; launch the next batch."""
        return self._launch_now(self._go_on(self._collected(flight)))

    def _launch_now(self, batch: list[Request[T]]) -> _Flight[T] | None:
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

    def _collected(self, flight: _Flight[T]) -> _Done[T]:
        device, requests = self._device, flight.requests
        device.at = requests
        return self._done(
            device,
            requests,
            device.try_collect(
                flight.take(),
                len(requests),
                self._scheduler.load(requests),
                flight.begun,
                flight.launched,
            ),
            flight.begun,
        )
