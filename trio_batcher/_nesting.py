"""Models that call batchers, and which of these calls would wait for ever.

A model at work holds one of its batcher's devices, and one of the limiter's tokens. While it waits
for a batcher that it has called, it goes on holding them. So a call is in vain if all devices of
that batcher, or all tokens of its limiter, are held by models that wait in vain. Only a further
call can bring that about, so that is when it is looked for.

Whatever inherits a model's context, such as a task that it starts, is the model as long as its
batch runs.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["Holder", "Place", "Work", "at_work", "at_work_async", "model_at_work", "waiting_for"]

V = TypeVar("V")


class Place:
    """Where the models of one batcher work.

    Attributes:
        devices: how many there are.
        limiter: the user's, of which others may hold tokens as well; or `None`.
    """

    def __init__(self, devices: int, limiter: object) -> None:
        self.devices, self.limiter = devices, limiter

    def is_taken_by(self, works: set[Work]) -> bool:
        """Return whether they leave no device, or no token, to anybody else."""
        if sum(work.place is self for work in works) >= self.devices:
            return True
        tokens: float = getattr(self.limiter, "total_tokens", math.inf)
        return sum(work.place.limiter is self.limiter for work in works) >= tokens


class Holder(Protocol):
    """Whoever has a model at work."""

    place: Place
    # It holds nothing any more, whatever its model does.
    abandoned: bool


class Work:
    """A model at work on a batch.

    Attributes:
        place: what it holds a part of.
        over: it does not any more.
    """

    __slots__ = ("_calls", "_holder", "over", "place")

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self.place = holder.place
        self.over = False
        self._calls: Counter[Place] = Counter()

    def call(self, place: Place) -> RuntimeError | None:
        """Note that it waits for an answer from there, or return why it must not."""
        with _lock:
            self._calls[place] += 1
            _waiting.add(self)
            in_vain = place.is_taken_by(_waiting_in_vain())
        if not in_vain:
            return None
        self.hang_up(place)
        own = place is self.place
        return RuntimeError(
            f"the batcher was called by {'its own' if own else 'a'} model and would never answer: "
            f"all its devices, or its limiter's tokens, are held by models that wait for such "
            "calls. Call what does the work directly, or a batcher that has a device and a "
            "limiter of its own; work that the model does not wait for belongs into a context "
            "of its own, contextvars.Context()"
        )

    def hang_up(self, place: Place) -> None:
        """Note that one of its calls there is over."""
        with _lock:
            self._calls[place] -= 1
            if not self._calls[place]:
                del self._calls[place]
            if not self._calls:
                _waiting.discard(self)

    def goes_on(self, in_vain: set[Work]) -> bool:
        """Return whether it has an answer to all its calls some day, if only they have not."""
        if self.over or self._holder.abandoned:
            return True
        return not any(place.is_taken_by(in_vain) for place in self._calls)


# Whose call this is; `None` if no model's.
model_at_work: ContextVar[Work | None] = ContextVar("model_at_work", default=None)


@contextmanager
def waiting_for(place: Place) -> Iterator[None]:
    """Note for a block that whoever is in it waits for an answer from there.

    Raises:
        RuntimeError: it is a model, and would wait for ever.
    """
    work = model_at_work.get()
    if work is None:
        yield
        return
    refusal = work.call(place)
    if refusal is not None:
        raise refusal
    try:
        yield
    finally:
        work.hang_up(place)


# Event loops in several threads may have batchers that call each other.
_waiting: set[Work] = set()
_lock = threading.Lock()


def _waiting_in_vain() -> set[Work]:
    works = set(_waiting)
    while going_on := {work for work in works if work.goes_on(works)}:
        works -= going_on
    return works


def at_work(holder: Holder, model: Callable[..., V], *args: Any) -> V:
    """Call what is a model's and holds its place meanwhile."""
    work = Work(holder)
    model_at_work.set(work)
    try:
        return model(*args)
    finally:
        work.over = True
        model_at_work.set(None)


async def at_work_async(holder: Holder, model: Callable[..., Awaitable[V]], *args: Any) -> V:
    """Await it."""
    work = Work(holder)
    model_at_work.set(work)
    try:
        return await model(*args)
    finally:
        work.over = True
        model_at_work.set(None)
