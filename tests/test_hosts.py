"""What the engine needs of a host, where the behavioural tests do not show it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from trio_batcher._hosts.asyncio import AsyncioHost, _clock

from .hosts import run

REAL = pytest.mark.only_on("asyncio", "uvloop")


@REAL
def test_the_time_is_not_that_of_the_last_pass_of_the_loop(on_host):
    """A worker thread, or a task that has computed for long, is told the time as it is."""

    async def main():
        now = AsyncioHost().now
        time.sleep(0.005)  # noqa: ASYNC251  the loop is to be late
        return [time.monotonic(), await asyncio.to_thread(now), now(), time.monotonic()]

    times = run(on_host, main)
    assert times == sorted(times)


@pytest.mark.parametrize(("late", "ahead"), [(0.0, 0.0), (3.0, 0.0), (-1e4, 1e4)])
def test_the_time_agrees_with_the_loops(late, ahead):
    """A foreign loop's clock may be read late, which is no reason to go by another one."""
    now, grain = _clock(SimpleNamespace(time=lambda: time.monotonic() - late))
    before = time.monotonic()
    assert before + ahead <= now() + 1e-3 <= time.monotonic() + ahead + 1.0
    assert grain == 1e-3


@REAL
def test_a_timer_never_goes_off_without_end_before_its_time(on_host):
    """Whatever the loop's grain, a wait that ends early is followed by one more at the most."""

    async def main():
        host = AsyncioHost()
        doorbell = host.doorbell()
        waits = 0
        for microseconds in (100, 400, 600, 1_400, 1_600, 2_500):
            until = host.now() + microseconds / 1e6
            while host.now() < until:
                await doorbell.listen(until)
                waits += 1
        return waits

    assert run(on_host, main) <= 2 * 6


def test_a_trio_program_does_not_import_anyio():
    """A host is imported where it runs, and nowhere else."""
    program = """
import sys, trio, trio_batcher
async def main():
    async with trio_batcher.open_batcher(lambda items: items) as batcher:
        await batcher.infer(1)
trio.run(main)
print(sorted({"anyio", "trio_batcher._hosts.asyncio"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
