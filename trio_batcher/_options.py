"""The keyword arguments of `open_batcher`, for those that pass them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal, TypedDict, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from ._hosts import CapacityLimiter

__all__ = ["BatcherOptions"]

T = TypeVar("T")


class BatcherOptions(TypedDict, Generic[T], total=False):
    """What `open_batcher` takes beside the model, with its defaults.

    The warm-up is a sequence, as it may be needed more than once: an application can be
    started again.
    """

    max_batch_size: int
    max_delay: float
    max_queue_size: float
    key: Callable[[T], Hashable] | None
    cost: Callable[[T], float] | None
    max_batch_cost: float | None
    limiter: CapacityLimiter | None
    warmup: Sequence[T]
    run_in: Literal["thread", "process"]
    batch_timeout: float
