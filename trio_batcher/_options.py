"""The keyword arguments of `open_batcher`, for those that pass them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from ._hosts import CapacityLimiter

__all__ = ["BatcherOptions"]


class BatcherOptions(TypedDict, total=False):
    """What `open_batcher` takes beside the model, with its defaults.

    The warm-up is a sequence, as it may be needed more than once: an application can be
    started again.
    """

    max_batch_size: int
    max_delay: float
    max_queue_size: float
    key: Callable[[Any], Hashable] | None
    cost: Callable[[Any], float] | None
    max_batch_cost: float | None
    limiter: CapacityLimiter | None
    warmup: Sequence[Any]
    run_in: Literal["thread", "process"]
    batch_timeout: float
