"""Where a request's time went, from the batcher that knows it to the web layer that tells.

Each call of `infer` or `infer_many` that returns a result adds to what it finds in
`current_timings`, if anything, in the caller's own task: the gather task, a burst and a
delivery run in the context of whoever opened the batcher. Added are the seconds from
submission to the start of the batch that answered it, and from there to its result; of an
`infer_many`, those of the item that was answered last.

A call that raises adds nothing. Tasks and worker threads that a handler starts inherit
its context, and so add to the request they work for; one that outlives the request adds
to a figure that nobody reads any more.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["Timings", "current_timings"]


class Timings:
    """The seconds that one request's calls took, summed: calls at the same time count each."""

    __slots__ = ("calls", "model", "queue")

    def __init__(self) -> None:
        self.calls = 0
        self.queue = 0.0
        self.model = 0.0

    def add(self, queue: float, model: float) -> None:
        """Count one answered call. Not for several threads at a time.

        Args:
            queue: seconds until its batch started.
            model: seconds from there until its result.
        """
        self.calls += 1
        self.queue += queue
        self.model += model


# Set around each HTTP request, in the task that answers it.
current_timings: ContextVar[Timings | None] = ContextVar("current_timings", default=None)
