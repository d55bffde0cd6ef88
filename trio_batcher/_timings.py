"""Where a request's time went, from the batcher that knows it to the web layer that tells.

What an engine has to do, in the event loop, once for each call of `infer` or `infer_many`
that returns a result:

- read ``current_timings.get()`` in the caller's own task, which is the one that runs
  `infer`. The gather task, a burst and a delivery run in the context of whoever opened
  the batcher, and would find another request's, or none;
- if that is not `None`, call ``add(queue, model)`` before `infer` returns: seconds from
  submission to the start of the batch that answered it, and from there to its result.
  Of an `infer_many`, those of the item that was answered last.

A call that raises adds nothing. Tasks and worker threads that a handler starts inherit
its context, and so add to the request they work for; one that outlives the request adds
to a figure that nobody reads any more. An engine reads a `ContextVar` for each call,
and nothing else if no web layer has set it.
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
