"""What a batcher has done so far, as a frozen snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._latency import LatencyFit

__all__ = ["BatcherStatistics", "RejectionReason"]

RejectionReason: TypeAlias = Literal["overloaded", "deadline", "closed", "crashed"]
"""Why a request was turned away: a key of `BatcherStatistics.rejected`."""


@dataclass(frozen=True, slots=True)
class BatcherStatistics:
    """A snapshot of a batcher; see `Batcher.statistics`.

    It adds up: ``submitted == waiting + running + completed + failed + cancelled +
    sum(rejected.values())``. Items count, not calls: a `Batcher.infer_many` of ten
    counts ten.

    Attributes:
        waiting: requests in the queue now.
        running: requests in a batch that is running now, and whose caller is still there.
        peak_waiting: most requests that ever waited at the same time.
        submitted: requests made, those that were refused at once included.
        completed: requests that got a result.
        failed: requests whose model raised, or that the model gave an exception for.
        cancelled: requests whose caller left before it had an outcome.
        rejected: requests turned away, by reason: ``"overloaded"`` (the queue was full),
            ``"deadline"`` (unreachable), ``"closed"``, ``"crashed"``.
        batches: batches formed.
        reruns: extra runs of the model, made to find the input that a batch failed on.
        restarts: how many times a model's process was started anew, after it had died.
        items: requests in those batches.
        batch_sizes: how many batches there were of each size.
        busy: for each device the seconds its model has spent running.
        latency: for each device the line fitted through its batches, or `None` before
            the first one.
        running_for: for how many seconds each device has been at its batch; 0 if it has none.
    """

    waiting: int
    running: int
    peak_waiting: int
    submitted: int
    completed: int
    failed: int
    cancelled: int
    rejected: Mapping[RejectionReason, int]
    batches: int
    reruns: int
    restarts: int
    items: int
    batch_sizes: Mapping[int, int]
    busy: tuple[float, ...]
    latency: tuple[LatencyFit | None, ...]
    running_for: tuple[float, ...]
