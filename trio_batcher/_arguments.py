"""What callers pass, checked: an error names the argument and its value."""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import AsyncIterable, Hashable, Iterable, Mapping, Set as AbstractSet
from numbers import Real
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ._errors import ItemError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "check_limits",
    "check_several",
    "check_shapes",
    "check_timeout",
    "checked_cost",
    "checked_items",
    "checked_key",
    "checked_weight",
    "is_async",
    "refuse_unknown",
    "with_hints",
]

P = ParamSpec("P")
V = TypeVar("V")

# Sums and ratios of weights stay far from what a float cannot hold.
_LIGHTEST, _HEAVIEST = 1e-9, 1e9

_AT_ONCE = "it is called in the event loop for each item, and has to return at once"

# What would come apart into several items in a way that nobody meant.
_NOT_SEVERAL = str, bytes, bytearray, Mapping, AbstractSet

# What is longer than that is not shown in a message.
_LONGEST = 80

_SCOPE = (
    "the deadline is the cancel scope around the call, such as trio.fail_after(seconds), or under "
    "asyncio anyio.fail_after(seconds)"
)
# What others call it, by the function if there is a difference.
_ELSEWHERE = {
    ("", "timeout"): _SCOPE,
    ("", "deadline"): _SCOPE,
    ("", "priority"): "weight= of infer says what an answer in time is worth beside others'",
    ("", "batch_size"): "it is max_batch_size= of open_batcher",
    ("open_batcher", "timeout"): f"of a request {_SCOPE}; of a batch it is batch_timeout=",
    ("open_batcher", "max_wait"): "it is max_delay=, in seconds",
    ("open_batcher", "max_latency"): "it is max_delay=, in seconds",
    ("open_batcher", "weight"): "it is an argument of infer",
    ("open_batcher", "replicas"): "pass a sequence of models, one for each device",
    ("open_batcher", "workers"): "pass a sequence of models, one for each device",
}


def check_limits(
    max_batch_size: object, max_delay: float, max_queue_size: float, limiter: object
) -> None:
    """Raise what is wrong with the arguments of `open_batcher`, if anything is."""
    try:
        size = operator.index(max_batch_size)  # type: ignore[arg-type]
    except TypeError:
        size = None
    if size is None or isinstance(max_batch_size, bool):
        raise TypeError(f"max_batch_size must be an int, not {max_batch_size!r}")
    if size < 1:
        raise ValueError(f"max_batch_size must be >= 1, not {size}")
    _check_real("max_delay", max_delay, "a number of seconds, such as 0.005")
    _check_real("max_queue_size", max_queue_size, "a number (math.inf for no limit)")
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
    _check_real("batch_timeout", batch_timeout, "a number of seconds (math.inf for no limit)")
    if not batch_timeout > 0.0:
        raise ValueError(
            f"batch_timeout must be > 0 seconds (math.inf for no limit), not {batch_timeout!r}"
        )


def check_shapes(key: object, cost: object, max_batch_cost: float | None) -> None:
    """Raise what is wrong with what `open_batcher` is told of items' shapes."""
    for name, function in (("key", key), ("cost", cost)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function of an item, not {function!r}")
        if is_async(function):
            raise TypeError(f"{name} must not be async, as {function!r} is: {_AT_ONCE}")
    if (cost is None) != (max_batch_cost is None):
        given, missing = ("cost", "max_batch_cost")[:: 1 if cost is not None else -1]
        raise ValueError(
            f"{given} needs {missing} beside it: cost gives what an item costs, max_batch_cost "
            "the most that a batch may cost, which is its number of items times the cost of "
            "its dearest one"
        )
    if max_batch_cost is not None:
        _check_real("max_batch_cost", max_batch_cost, "a number")
        if not 0.0 < max_batch_cost < math.inf:
            raise ValueError(f"max_batch_cost must be > 0 and finite, not {max_batch_cost!r}")


def checked_key(key: Hashable) -> Hashable:
    """Return an item's key, or raise what is wrong with it."""
    _refuse_awaitable("key", key)
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(
            f"key must return something that can be hashed, such as a tuple, not {key!r}"
        ) from error
    return key


def checked_cost(cost: float, most: float) -> float:
    """Return what an item costs, or raise what is wrong with that."""
    _refuse_awaitable("cost", cost)
    if isinstance(cost, bool) or not isinstance(cost, Real):
        raise TypeError(f"cost must return a number, not {cost!r}")
    if cost == 0:
        raise ItemError("the item's cost", "more than 0", repr(cost))
    if not 0.0 < cost < math.inf:
        raise ValueError(f"cost must return a number > 0 and finite, not {cost!r}")
    if cost > most:
        raise ItemError("the item's cost", f"no more than max_batch_cost, {most!r}", repr(cost))
    return float(cost)


def _refuse_awaitable(name: str, returned: object) -> None:
    if hasattr(returned, "__await__"):
        if inspect.iscoroutine(returned):
            returned.close()
        raise TypeError(f"{name} must return its value, not an awaitable: {_AT_ONCE}")


def is_async(function: object) -> bool:
    """Return whether what it returns is to be awaited."""
    if inspect.iscoroutinefunction(function):
        return True
    call = getattr(type(function), "__call__", None)  # noqa: B004  an object with an async __call__
    return inspect.iscoroutinefunction(call)


def checked_items(name: str, items: Any) -> list[Any]:
    """Return items as a list, or raise what is wrong with them."""
    if isinstance(items, AsyncIterable):
        raise TypeError(
            f"{name} must be a sequence or another iterable of items, not {_kind(items)}: "
            f"collect it first, [item async for item in {name}]"
        )
    check_several(name, items, "a sequence or another iterable of items")
    return list(items)


def check_several(name: str, items: Any, wanted: str) -> None:
    """Raise what is wrong with what is to be iterated over, if anything is; nothing is yet."""
    if (
        isinstance(items, _NOT_SEVERAL)
        or not (isinstance(items, Iterable) or hasattr(items, "__getitem__"))
        or getattr(items, "shape", None) == ()
    ):
        raise TypeError(
            f"{name} must be {wanted}, not {_kind(items)}: put a single item into a list"
        )
    if getattr(items, "columns", None) is not None:
        raise TypeError(
            f"{name} must be {wanted}, not a {type(items).__name__}, which gives its columns: "
            "pass a list of its rows"
        )


def _kind(thing: object) -> str:
    if isinstance(thing, _NOT_SEVERAL) and len(thing) > _LONGEST:
        return f"a {type(thing).__name__} of {len(thing)}"
    return repr(thing)


def refuse_unknown(function: str, names: Iterable[str]) -> None:
    """Raise what is said of keyword arguments that a function does not have, if there are any."""
    for name in names:
        hint = _ELSEWHERE.get((function, name)) or _ELSEWHERE.get(("", name))
        story = f"{function} has no argument {name!r}"
        raise TypeError(story if hint is None else f"{story}: {hint}")


def with_hints(function: Callable[P, V]) -> Callable[P, V]:
    """Have a function say more of keyword arguments that it does not have than Python would."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def hinted(*args: P.args, **kwargs: P.kwargs) -> V:
        refuse_unknown(function.__name__, [name for name in kwargs if name not in known])
        return function(*args, **kwargs)

    return hinted


def checked_weight(weight: float) -> float:
    """Return a request's weight, rounded, or raise what is wrong with it."""
    _check_real("weight", weight, "a number > 0")
    if not _LIGHTEST <= weight <= _HEAVIEST:
        raise ValueError(f"weight must be from {_LIGHTEST} to {_HEAVIEST}, not {weight!r}")
    # Eight steps to a doubling, so that as many kinds of requests can wait as there are
    # weights in use, and not more than can be told apart.
    mantissa, exponent = math.frexp(weight)
    return math.ldexp(round(16.0 * mantissa), exponent - 4)


def _check_real(name: str, value: object, wanted: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
