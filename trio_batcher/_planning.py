"""When to plan the next batch of a device that runs.

What a batch is to consist of is decided best when the device is free; but then the device waits
for the decision. So it is decided a little ahead, whenever somebody has come, and again and again:
a plan without those who have come since it was made is a worse one.
"""

from __future__ import annotations

__all__ = ["left_at_next_plan", "spacing"]

# Planning begins so many times as long before the batch ends as deciding takes, but in the last
# part of the batch only.
_AHEAD, _LAST_PART = 12.0, 0.5
# How stale a plan is counts at the end only, so plans follow each other ever more closely: each
# when at most so much is left of the time that was; and when less, if all plans could take more
# than this share of the batch.
_LEFT, _SHARE = 0.75, 0.045


def spacing(deciding: float, running: float) -> tuple[float, float]:
    """Return how long before a batch ends planning begins, and the part left at each next plan.

    Args:
        deciding: seconds a decision takes.
        running: seconds the batch takes; 0 if nobody knows: then nothing is planned.

    Returns:
        Seconds, and the part of the time to the end that is left when a plan is made anew
        (see `left_at_next_plan`). All plans take at most 4.5% of the batch, if there is
        more than one.
    """
    if not running:
        return 0.0, 0.0
    ahead = min(_AHEAD * deciding, _LAST_PART * running)
    # The last one is made when as much is left as it takes, and none later.
    others = _SHARE * running / deciding - 1.0
    if others <= 0.0:
        return ahead, 0.0
    return ahead, min(_LEFT, (deciding / ahead) ** (1.0 / others))


def left_at_next_plan(left: float, part: float, deciding: float) -> float:
    """Return how long before a batch ends the plan that is made now is made anew; 0 if never.

    No plan follows another in less time than one takes, nor is made when less than that is left.

    Args:
        left: seconds until the batch ends.
        part: the second value of `spacing`.
        deciding: seconds a decision takes.
    """
    left = min(part * left, left - deciding)
    return left if left >= deciding else 0.0
