"""The accumulator that an engine adds to and a web layer reads."""

from __future__ import annotations

from contextvars import copy_context

from trio_batcher._timings import Timings, current_timings


def test_seconds_are_summed_over_calls():
    """Each call counts, whether others ran at the same time or not."""
    timings = Timings()
    assert (timings.calls, timings.queue, timings.model) == (0, 0.0, 0.0)
    timings.add(0.5, 1.0)
    timings.add(0.25, 2.0)
    assert (timings.calls, timings.queue, timings.model) == (2, 0.75, 3.0)


def test_nobody_is_asked_to_add_unless_there_is_somebody_who_reads():
    """Outside a request there is none, and what is set in a context stays in it."""
    assert current_timings.get() is None
    copy_context().run(current_timings.set, Timings())
    assert current_timings.get() is None
