"""Concurrent requests go in one by one, the model sees batches.

Every request's deadline is the cancel scope it was made under.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

# Where they are. A model's process imports what its model needs of them: mostly no event loop.
_ROOMS = {
    "Batcher": "_batcher",
    "BatcherStatistics": "_statistics",
    "InferenceModel": "_model",
    "LatencyFit": "_latency",
    "RejectionReason": "_statistics",
    "open_batcher": "_opening",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    found = getattr(import_module(f".{_ROOMS.get(name, '_errors')}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
