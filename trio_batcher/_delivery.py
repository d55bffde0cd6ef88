"""How long results are on their way to their callers.

Pure: durations come in as arguments.
"""

from __future__ import annotations

from collections import deque

__all__ = ["DeliveryModel"]

# Deliveries that are remembered, and median deviations beyond their median.
_MEMORY, _BEYOND = 9, 3.0


class DeliveryModel:
    """How long after the end of a batch its callers have their results; or how long a launch takes.

    The median of the last few and three median deviations (P. J. Huber, "Robust Statistics",
    1981): the first ones, of cold code, and a pause now and then leave no trace. To be too
    careful here costs places in every batch.

    Attributes:
        seconds: nine in ten take no longer if they scatter evenly, four in five at worst; 0
            while nothing is known.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._recent: deque[float] = deque(maxlen=_MEMORY)

    def observe(self, seconds: float) -> None:
        """Learn that a delivery took so long."""
        self._recent.append(seconds)
        half = len(self._recent) // 2
        middle = sorted(self._recent)[half]
        deviation = sorted([abs(each - middle) for each in self._recent])[half]
        self.seconds = max(0.0, middle + _BEYOND * deviation)
