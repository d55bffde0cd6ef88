"""What a clairvoyant schedule could have finished on time: the yardstick for policies.

One device, one batch at a time, no preemption. Whoever plans knows every arrival beforehand, may
leave requests out and may let the device idle. Times are floats in one unit, whichever it is; a
request is on time if its batch finishes by arrival + allowance + TOLERANCE, which is for rounding.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Class:
    """Requests that differ in nothing but their arrivals, which are sorted."""

    arrivals: Sequence[float]
    allowance: float
    weight: int = 1


def equal_deadlines(arrivals: Sequence[float], allowance: float, latency: Sequence[float]) -> int:
    """Count the most requests that can be on time; a batch of b takes ``latency[b]``."""
    # Some best schedule serves first come, first served (requests that change places to that
    # effect are on time still), and its batches are contiguous (a request left out between two of
    # a batch can take the place of the batch's oldest). So it is enough to know F[j][k], the
    # earliest finish with the first j requests decided and k of them served, of the last B + 1 j.
    r, takes = _ascending(arrivals), _ascending(latency)
    n, rows = len(r), len(takes)
    finish = np.full((rows, n + 1), np.inf)
    finish[0, 0] = -np.inf
    for j in range(1, n + 1):
        row = finish[(j - 1) % rows].copy()
        for b in range(1, min(j, rows - 1) + 1):
            by = r[j - b] + allowance + TOLERANCE
            if r[j - 1] + takes[b] > by:
                break  # a larger one takes no less time, and its oldest is older
            end = np.maximum(finish[(j - b) % rows, : j - b + 1], r[j - 1]) + takes[b]
            end[end > by] = np.inf
            np.minimum(row[b : j + 1], end, out=row[b : j + 1])
        finish[j % rows] = row
    return int(np.flatnonzero(finish[n % rows] < np.inf)[-1])


def two_classes(first: Class, second: Class, latency: Sequence[float]) -> int:
    """Sum the largest weight that can be on time; a batch of b, mixed or not, as above."""
    total = compiled()(
        _ascending(first.arrivals),
        _ascending(second.arrivals),
        float(first.allowance),
        float(second.allowance),
        first.weight,
        second.weight,
        _ascending(latency),
    )
    return int(total)


def _ascending(numbers: Sequence[float]) -> np.ndarray:
    array = np.array(numbers, float)
    if (array[1:] < array[:-1]).any():
        raise ValueError("Arrivals are to be sorted, and no batch quicker than a smaller one")
    return array


@functools.cache
def compiled() -> Callable[..., int]:
    """Return ``heaviest`` compiled where numba is installed, else as it is: 250 times slower."""
    try:
        import numba  # noqa: PLC0415
    except ImportError:
        return heaviest
    return numba.njit(cache=True)(heaviest)


def heaviest(r1, r2, d1, d2, w1, w2, takes):  # noqa: PLR0912, PLR0917
    """Sum the largest weight on time of two classes: arrivals, allowances, weights, latency.

    A function of arrays and scalars that uses no more of Python than numba can compile.
    """
    # Within a class the arguments for equal deadlines hold. So a batch takes the last b1 of the
    # first i of one class and the last b2 of the first j of the other, and of a cell (i, j), where
    # those are decided, it is enough to know for each weight on time the earliest finish. What is
    # no later and no lighter than another is kept instead of it, so of the labels (weight, finish)
    # of a cell, which lie next to each other, each is heavier and later than the one before.
    n1, n2, largest = len(r1), len(r2), len(takes) - 1
    begins = np.zeros((n1 + 1, n2 + 1), np.int64)
    ends = np.zeros((n1 + 1, n2 + 1), np.int64)
    weights = np.empty(1024, np.int64)
    finishes = np.empty(1024)
    used = gone = 0  # a label's number less those gone is its place
    cell = np.full(w1 * n1 + w2 * n2 + 1, np.inf)  # the earliest finish for each weight

    for i in range(n1 + 1):
        last1 = r1[i - 1] if i else -np.inf
        next1 = r1[i] if i < n1 else np.inf
        # Some best schedule drops what is late by the end of its next batch just before that, and
        # decides on nothing earlier that comes later. Then before and after a batch that ends at
        # T both classes have last <= T <= next + allowance. A cell for which no T does that is
        # skipped. Drops, one at a time, lead from any of the others to any that has as many of
        # both classes or more: j's bounds do not fall as i grows, and one row's meet the next's.
        low = np.searchsorted(r2, last1 - d2 - 2 * TOLERANCE, "left")
        high = np.searchsorted(r2, next1 + d1 + 2 * TOLERANCE, "right")
        for j in range(low, high + 1):
            last2 = r2[j - 1] if j else -np.inf
            next2 = r2[j] if j < n2 else np.inf
            least, most = len(cell), -1
            if i == j == 0:
                cell[0] = -np.inf
                least = most = 0

            for b1 in range(min(i, largest) + 1):
                newest1, by1 = -np.inf, np.inf
                if b1:
                    newest1, by1 = last1, r1[i - b1] + d1 + TOLERANCE
                    if newest1 + takes[b1] > by1:
                        break  # a larger one takes no less time, and its oldest is older
                for b2 in range(min(j, largest - b1) + 1):
                    newest, by = newest1, by1
                    if b2:
                        newest = max(newest1, last2)
                        by = min(by1, r2[j - b2] + d2 + TOLERANCE)
                        if newest + takes[b1 + b2] > by:
                            break
                    elif b1 == 0:
                        continue
                    at = begins[i - b1, j - b2] - gone
                    end = ends[i - b1, j - b2] - gone
                    # Those that finish before the newest comes all start then: take the heaviest.
                    while at + 1 < end and finishes[at + 1] <= newest:
                        at += 1
                    while at < end:
                        finish = max(finishes[at], newest) + takes[b1 + b2]
                        if finish > by:
                            break
                        weight = weights[at] + w1 * b1 + w2 * b2
                        if finish < cell[weight]:
                            cell[weight] = finish
                            least, most = min(least, weight), max(most, weight)
                        at += 1

            for drop1, drop2 in ((1, 0), (0, 1)):
                if drop1 <= i and drop2 <= j:
                    at = begins[i - drop1, j - drop2] - gone
                    end = ends[i - drop1, j - drop2] - gone
                    for k in range(at, end):
                        weight = weights[k]
                        if finishes[k] < cell[weight]:
                            cell[weight] = finishes[k]
                            least, most = min(least, weight), max(most, weight)

            width = max(most - least + 1, 0)
            if used - gone + width > len(weights):
                # Rows that no batch reaches back to from here may go.
                past = used
                for row in range(max(i - largest, 0), i + 1):
                    for column in range(n2 + 1):
                        if ends[row, column] > begins[row, column]:
                            past = min(past, begins[row, column])
                kept = used - past
                size = max(len(weights), 2 * (kept + width))
                more_weights, more_finishes = np.empty(size, np.int64), np.empty(size)
                more_weights[:kept] = weights[past - gone : used - gone]
                more_finishes[:kept] = finishes[past - gone : used - gone]
                weights, finishes, gone = more_weights, more_finishes, past

            # The next batch starts with the next arrival at the earliest: of what finishes by
            # then the heaviest is enough.
            begins[i, j] = used
            earliest = np.inf
            for weight in range(most, least - 1, -1):
                if cell[weight] < earliest:
                    earliest = cell[weight]
                    weights[used - gone] = weight
                    finishes[used - gone] = earliest
                    used += 1
                    if earliest <= min(next1, next2):
                        break
            cell[least : most + 1] = np.inf
            ends[i, j] = used
            here = slice(begins[i, j] - gone, used - gone)
            weights[here] = weights[here][::-1].copy()
            finishes[here] = finishes[here][::-1].copy()
    return weights[used - gone - 1]
