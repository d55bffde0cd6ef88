"""How long results are on their way to their callers.

Pure: durations come in as arguments.
"""

from __future__ import annotations

__all__ = ["DeliveryModel"]


class DeliveryModel:
    """How long after the end of a batch its callers have their results.

    The smoothed mean and two smoothed mean deviations, as TCP guessed when a reply is overdue
    (V. Jacobson, "Congestion avoidance and control", SIGCOMM 1988; today it takes four, but
    here being too careful costs places in every batch).

    Attributes:
        seconds: nine in ten take no longer; 0 while nothing is known.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._mean = self._deviation = 0.0
        self._observed = 0

    def observe(self, seconds: float) -> None:
        """Learn that a delivery took so long."""
        self._observed += 1
        if self._observed == 1:
            self._mean, self._deviation = seconds, seconds / 2.0
        error = seconds - self._mean
        self._mean += error / min(self._observed, 8)
        self._deviation += (abs(error) - self._deviation) / 4.0
        self.seconds = max(0.0, self._mean + 2.0 * self._deviation)
