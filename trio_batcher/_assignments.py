"""What the scheduler answers when it is asked for work, or who waits in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from ._queue import Request

__all__ = ["Outlook", "Taken"]

T = TypeVar("T")


class Taken(NamedTuple, Generic[T]):
    """What a burst gets when it asks for work.

    Attributes:
        batch: the requests to run; empty if the device has to wait.
        hopeless: those to be turned away.
        now: when that was decided.
        unclaimed: whether another, free device should look at who is left, or comes from now on.
    """

    batch: list[Request[T]]
    hopeless: list[Request[T]]
    now: float
    unclaimed: bool


class Outlook(NamedTuple, Generic[T]):
    """What is to be done for those who wait for a burst that has not begun.

    Attributes:
        hopeless: those to be turned away; they have left the queue.
        now: when that was decided.
        until: when to look again, unless somebody more urgent comes.
        earliest: the most urgent deadline that is left; -inf if nobody is to be looked after.
    """

    hopeless: list[Request[T]]
    now: float
    until: float
    earliest: float
