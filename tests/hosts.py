"""The event loops that the suite runs on, by one set of names.

`host` has what the tests need of an event loop: trio's own functions where trio runs, anyio's
where asyncio does. A test that uses the fixture ``on_host`` runs once on each of `NAMES`; one
that uses ``virtual_time`` as well runs on those that have a virtual clock: trio with its
`MockClock`, asyncio with a `TestLoop`. uvloop has none.
"""

from __future__ import annotations

import asyncio
import gc
import math
import selectors
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import anyio.to_thread
import sniffio
import trio
import trio.testing

NAMES = ["trio", "asyncio", "uvloop"]
VIRTUAL = ["trio", "asyncio"]


class _Selector(selectors.DefaultSelector):
    loop: TestLoop

    def select(self, timeout=None):
        if timeout is not None and timeout <= 0:
            return super().select(0)
        return super().select(0) or self.loop.nothing_to_do(timeout, super().select)


class TestLoop(asyncio.SelectorEventLoop):
    """Asyncio's own event loop, that knows when nothing is to be done.

    With a virtual clock, time jumps to the next timer then, and stands still otherwise.
    """

    __test__ = False

    def __init__(self, *, virtual):
        self.virtual_now = 0.0 if virtual else None
        selector = _Selector()
        selector.loop = self
        self.idle_waiters = []
        self.passes = 0
        super().__init__(selector)

    @property
    def _clock_resolution(self):
        """Timers that are due within this are due now: asyncio's nanosecond is not exact."""
        return 1e-9 if self.virtual_now is None else math.ulp(self.virtual_now)

    @_clock_resolution.setter
    def _clock_resolution(self, _):
        pass

    def time(self):
        return time.monotonic() if self.virtual_now is None else self.virtual_now

    def nothing_to_do(self, timeout, select):
        if self.idle_waiters:
            for waiter in self.idle_waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self.idle_waiters.clear()
            return []
        if self.virtual_now is None or not self._scheduled:
            return select(timeout)
        # Exactly to the timer's time, without the rounding of a sum.
        self.virtual_now = max(self.virtual_now, self._scheduled[0].when())
        return []

    def _run_once(self):
        self.passes += 1
        super()._run_once()


async def _asyncio_idle():
    loop = asyncio.get_running_loop()
    if isinstance(loop, TestLoop):
        waiter = loop.create_future()
        loop.idle_waiters.append(waiter)
        await waiter
        return
    # uvloop does not tell. A chain of callbacks is shorter than this, between two tasks that wait.
    calm = 0
    while calm < 10:
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        blocked = all(
            task._fut_waiter is not None and not task._fut_waiter.done() for task in others
        )
        calm = calm + 1 if blocked else 0


@contextmanager
def _asyncio_assert_checkpoints():
    ran = []
    asyncio.get_running_loop().call_soon(ran.append, True)
    yield
    assert ran, "nobody else got to run"


_trio = SimpleNamespace(
    Cancelled=trio.Cancelled,
    CancelScope=trio.CancelScope,
    CapacityLimiter=trio.CapacityLimiter,
    Event=trio.Event,
    TooSlowError=trio.TooSlowError,
    assert_checkpoints=trio.testing.assert_checkpoints,
    cancel_shielded_checkpoint=trio.lowlevel.cancel_shielded_checkpoint,
    checkpoint=trio.lowlevel.checkpoint,
    current_time=trio.current_time,
    fail_after=trio.fail_after,
    in_thread=trio.to_thread.run_sync,
    move_on_after=trio.move_on_after,
    open_nursery=trio.open_nursery,
    sleep=trio.sleep,
    sleep_forever=trio.sleep_forever,
    tasks_living=lambda: trio.lowlevel.current_statistics().tasks_living,
    threads_busy=trio.testing.active_thread_count,
    wait_all_tasks_blocked=trio.testing.wait_all_tasks_blocked,
)
_asyncio = SimpleNamespace(
    Cancelled=asyncio.CancelledError,
    CancelScope=anyio.CancelScope,
    CapacityLimiter=anyio.CapacityLimiter,
    Event=anyio.Event,
    TooSlowError=TimeoutError,
    assert_checkpoints=_asyncio_assert_checkpoints,
    cancel_shielded_checkpoint=anyio.lowlevel.cancel_shielded_checkpoint,
    checkpoint=anyio.lowlevel.checkpoint,
    current_time=anyio.current_time,
    fail_after=anyio.fail_after,
    in_thread=anyio.to_thread.run_sync,
    move_on_after=anyio.move_on_after,
    open_nursery=anyio.create_task_group,
    sleep=anyio.sleep,
    sleep_forever=anyio.sleep_forever,
    tasks_living=lambda: len(asyncio.all_tasks()),
    # The batcher's own, idle ones too: anyio's, which the tests use, stay as long as the loop.
    threads_busy=lambda: sum(t.name.startswith("trio_batcher") for t in threading.enumerate()),
    wait_all_tasks_blocked=_asyncio_idle,
)


class _Host:
    def __getattr__(self, name):
        namespaces = {"trio": _trio, "asyncio": _asyncio}
        return getattr(namespaces[sniffio.current_async_library()], name)


host = _Host()


async def wait_all_tasks_blocked():
    """Wait until nobody else has anything to do, but for worker threads and timers."""
    await host.wait_all_tasks_blocked()


def loop_factory(name, *, virtual):
    if name == "uvloop":
        import uvloop  # noqa: PLC0415  not everywhere

        return uvloop.new_event_loop
    return lambda: TestLoop(virtual=virtual)


def run(name, function, *args, virtual=False, clock=None):
    """Run an async function on one of `NAMES`, and see to it that it leaves nothing behind."""
    if name == "trio":
        if virtual and clock is None:
            clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(function, *args, clock=clock)
    complaints = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        try:
            return await function(*args)
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, "a task outlives the test"

    threads = set(threading.enumerate())
    with asyncio.Runner(loop_factory=loop_factory(name, virtual=virtual)) as runner:
        result = runner.run(main())
        # What a future has to complain of, it says when it is collected.
        if complaints or not virtual:
            gc.collect()
    assert not complaints
    for thread in set(threading.enumerate()) - threads:
        thread.join(30)
        assert not thread.is_alive(), "a thread outlives the event loop"
    return result
