"""What callers pass, checked: an error names the argument and its value."""

from __future__ import annotations

import math
from numbers import Real

from ._errors import ItemError

__all__ = ["check_limits", "check_shapes", "check_timeout", "checked_cost", "checked_weight"]

# Sums and ratios of weights stay far from what a float cannot hold.
_LIGHTEST, _HEAVIEST = 1e-9, 1e9


def check_limits(
    max_batch_size: object, max_delay: float, max_queue_size: float, limiter: object
) -> None:
    """Raise what is wrong with the arguments of `open_batcher`, if anything is."""
    if isinstance(max_batch_size, bool) or not isinstance(max_batch_size, int):
        raise TypeError(f"max_batch_size must be an int, not {max_batch_size!r}")
    _check_real("max_delay", max_delay)
    _check_real("max_queue_size", max_queue_size)
    if max_batch_size < 1:
        raise ValueError(f"max_batch_size must be >= 1, not {max_batch_size}")
    if not 0.0 <= max_delay < math.inf:
        raise ValueError(f"max_delay must be >= 0 seconds and finite, not {max_delay!r}")
    if not (max_queue_size >= 1 and (max_queue_size == math.inf or max_queue_size % 1 == 0)):
        raise ValueError(
            f"max_queue_size must be a whole number >= 1, or math.inf, not {max_queue_size!r}"
        )
    if limiter is not None and not hasattr(limiter, "acquire_on_behalf_of"):
        raise TypeError(f"limiter must be a CapacityLimiter of trio's or anyio's, not {limiter!r}")


def check_timeout(batch_timeout: float) -> None:
    """Raise what is wrong with the time that a run of the model may take, if anything is."""
    _check_real("batch_timeout", batch_timeout)
    if not batch_timeout > 0.0:
        raise ValueError(
            f"batch_timeout must be > 0 seconds (math.inf for no limit), not {batch_timeout!r}"
        )


def check_shapes(key: object, cost: object, max_batch_cost: float | None) -> None:
    """Raise what is wrong with what `open_batcher` is told of items' shapes."""
    for name, function in (("key", key), ("cost", cost)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function of an item, not {function!r}")
    if (cost is None) != (max_batch_cost is None):
        given, missing = ("cost", "max_batch_cost")[:: 1 if cost is not None else -1]
        raise ValueError(
            f"{given} needs {missing} beside it: a batch may have as many items as fit, each "
            "at the cost of the dearest"
        )
    if max_batch_cost is not None:
        _check_real("max_batch_cost", max_batch_cost)
        if not 0.0 < max_batch_cost < math.inf:
            raise ValueError(f"max_batch_cost must be > 0 and finite, not {max_batch_cost!r}")


def checked_cost(cost: float, most: float) -> float:
    """Return what an item costs, or raise what is wrong with that."""
    if isinstance(cost, bool) or not isinstance(cost, Real):
        raise TypeError(f"cost must return a number, not {cost!r}")
    if not 0.0 < cost < math.inf:
        raise ValueError(f"cost must return a number > 0 and finite, not {cost!r}")
    if cost > most:
        raise ItemError("the item's cost", f"no more than max_batch_cost, {most!r}", repr(cost))
    return float(cost)


def checked_weight(weight: float) -> float:
    """Return a request's weight, rounded, or raise what is wrong with it."""
    _check_real("weight", weight)
    if not _LIGHTEST <= weight <= _HEAVIEST:
        raise ValueError(f"weight must be from {_LIGHTEST} to {_HEAVIEST}, not {weight!r}")
    # Eight steps to a doubling, so that as many kinds of requests can wait as there are
    # weights in use, and not more than can be told apart.
    mantissa, exponent = math.frexp(weight)
    return math.ldexp(round(16.0 * mantissa), exponent - 4)


def _check_real(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number (math.inf for no limit), not {value!r}")
