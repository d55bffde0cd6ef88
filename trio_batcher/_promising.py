"""Which lanes are worth a closer look, where items have keys or costs, and there may be very many.

Pure.
"""

from __future__ import annotations

from heapq import nlargest
from itertools import chain
from math import exp, inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ._index import Family
    from ._lane import Lane
    from ._queue import RequestQueue
    from ._shapes import Shapes

__all__ = ["View", "cost_of", "families_of", "lanes_of", "listed"]

T = TypeVar("T")

# Lanes, and requests, that are all looked at closely. Of more, so many lanes are looked at that are
# first; and of those, and of some keys that fill a batch, keys are looked at closely until so many
# requests are, each lane counting for some more; so many lanes of a key in any case.
_LANES, _FEW, _FIRST, _FULL, _SOME, _MORE, _COMPANIONS = 128, 256, 128, 2, 640, 4, 32
# So many sizes are listed rather than looked up one by one.
_MANY = 128


class View(NamedTuple):
    """What a batch is chosen by.

    Attributes:
        start: the time from which a batch's duration counts.
        full: seconds a full batch takes.
        patience: seconds after which who has no deadline is overdue.
        before: who came then or earlier is.
        bounds: seconds a load is sure to take.
        pace: seconds that its gain is divided by.
        shares: what a seat costs, by the cost of an item.
        shapes: how items differ.
    """

    start: float
    full: float
    patience: float
    before: float
    bounds: Sequence[float]
    pace: Sequence[float]
    shares: Mapping[float, float]
    shapes: Shapes


def cost_of(lane: Lane[Any]) -> float:
    """Return what each item in it costs."""
    return lane.shape.cost if lane.shape else 1.0


def listed(curve: Sequence[float]) -> Sequence[float]:
    """Return it as a list if it is short: all of it is asked for, again and again."""
    return [*curve] if len(curve) <= _MANY else curve


def lanes_of(queue: RequestQueue[T]) -> list[Lane[T]]:
    """Return all lanes in which somebody waits, or of very many those that are first."""
    if queue.index.lanes > _LANES:
        return queue.index.first(_FIRST)
    families = queue.index.families.values()
    return [lane for family in families for lane in family.lanes if lane.size]


def families_of(
    queue: RequestQueue[T], lanes: Sequence[Lane[T]], view: View
) -> Iterator[list[Lane[T]]]:
    """Yield for each key the lanes to look at closely, the cheapest first."""
    families: dict[Family[T], list[Lane[T]]] = {}
    for lane in lanes:
        families.setdefault(lane.family, []).append(lane)
    all_of_them, left = queue.index.lanes <= _LANES, float(_SOME)
    promising = [*families]
    if queue.size > _FEW or not all_of_them:
        hopes = {each: max([_hope(lane, view) for lane in families[each]]) for each in families}
        promising.sort(key=hopes.__getitem__, reverse=True)
        if view.before == -inf:
            promising = [*dict.fromkeys(chain(queue.index.fullest(_FULL), promising))]
    else:
        left = inf
    for family in promising:
        those = families.get(family, [])
        if not all_of_them:
            largest = nlargest(_COMPANIONS, family.lanes, key=_size)
            those = [*{lane for lane in chain(largest, those) if lane.size}]
        yield sorted(those, key=cost_of)
        left -= sum([_MORE + min(lane.size, _COMPANIONS) for lane in those])
        if left <= 0:
            return


def _hope(lane: Lane[T], view: View) -> float:
    """Return about what a batch gains per second that the first of a lane rides in."""
    cost, pace = cost_of(lane), view.pace
    loads, share = view.shapes.loads(cost), view.shares[cost]
    share, seats = min(share, lane.weight), len(loads) - 1
    like, others = min(lane.size, seats), int(min(lane.family.size, seats))
    gain = last = share
    if lane.earliest < inf:
        premium, first = lane.weight - share, lane.first(like)
        gain += premium * exp(min(0.0, 1.0 - (first[0][0] - view.start) / view.full))
        last += premium * exp(min(0.0, 1.0 - (first[-1][0] - view.start) / view.full))
    return max(
        gain / pace[loads[1]],
        like * (gain + last) / 2.0 / pace[loads[like]],
        (gain + (others - 1) * share) / pace[loads[others]],
    )


_size = attrgetter("size")
