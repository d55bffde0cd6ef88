"""Concurrent requests go in one by one, the model sees batches.

Every request's deadline is the cancel scope it was made under.
"""

from __future__ import annotations

from ._batcher import Batcher
from ._errors import (
    BatcherClosed,
    BatcherCrashed,
    BatcherError,
    BatchTooLarge,
    ChildDied,
    DeadlineUnreachable,
    DeviceLost,
    ItemError,
    ModelError,
    Overloaded,
    ResultCountError,
    ThreadNotStarted,
)
from ._latency import LatencyFit
from ._model import InferenceModel
from ._opening import open_batcher
from ._statistics import BatcherStatistics, RejectionReason

__all__ = [
    "BatchTooLarge",
    "Batcher",
    "BatcherClosed",
    "BatcherCrashed",
    "BatcherError",
    "BatcherStatistics",
    "ChildDied",
    "DeadlineUnreachable",
    "DeviceLost",
    "InferenceModel",
    "ItemError",
    "LatencyFit",
    "ModelError",
    "Overloaded",
    "RejectionReason",
    "ResultCountError",
    "ThreadNotStarted",
    "open_batcher",
]
