"""A model that is launched, on made-up time, and all that is needed to run bursts of it there.

Nothing here waits: whoever would wait moves the clock on, and what was to happen meanwhile does.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from types import SimpleNamespace

from trio_batcher._bursts import Bursts
from trio_batcher._device import Device
from trio_batcher._model import as_sources
from trio_batcher._overlap import Overlap
from trio_batcher._policy import Limits
from trio_batcher._queue import Request
from trio_batcher._scheduler import Scheduler


class Clock:
    """The time, and what is to happen when."""

    def __init__(self):
        self.time = 0.0
        self._coming, self._numbers = [], count()

    def __call__(self):
        return self.time

    def at(self, time, function, *args):
        heappush(self._coming, (time, next(self._numbers), function, args))

    def run_until(self, time):
        while self._coming and self._coming[0][0] <= time:
            at, _, function, args = heappop(self._coming)
            self.time = max(self.time, at)
            function(*args)
        self.time = max(self.time, time)

    def wait(self, seconds):
        self.run_until(self.time + seconds)


class Launched:
    """Spends ``host`` seconds launching; then its device needs ``device + per_item * n``.

    The device runs one batch after another. Inputs named "launch" or "collect" fail there.
    """

    overlaps = True

    def __init__(self, clock, host=0.003, device=0.005, per_item=0.0):
        self.clock, self.host, self.device, self.per_item = clock, host, device, per_item
        self.free, self.busy = 0.0, 0.0
        self.log, self.launches = [], []

    def infer(self, inputs):
        raise AssertionError("it is launched")

    def launch(self, inputs):
        inputs = list(inputs)
        self.log.append(("launch", inputs))
        self.clock.wait(self.host)
        self.launches.append((self.clock.time, inputs))
        if "launch" in inputs:
            raise ValueError("launch")
        seconds = self.device + self.per_item * len(inputs)
        self.free = end = max(self.free, self.clock.time) + seconds
        self.busy += seconds

        def collect():
            self.log.append(("collect", inputs))
            self.clock.run_until(end)
            if "collect" in inputs:
                raise ValueError("collect")
            return [("answer", item) for item in inputs]

        return collect


class Stage:
    """A queue, one device and its bursts. ``answers`` has what came of each item."""

    def __init__(self, most=8, **kwargs):
        self.clock = Clock()
        self.model = Launched(self.clock, **kwargs)
        (source,) = as_sources(self.model)
        self.device = Device(
            source, most, SimpleNamespace(now=self.clock, call=None, doorbell=object)
        )
        self.scheduler = Scheduler([self.device], Limits(most, 0.0), self.clock)
        host = SimpleNamespace(limiter=lambda _: None)
        nothing = dict.fromkeys(["outcomes", "deliver", "ring", "watch"])
        self.done = Bursts(host, self.scheduler, None, **nothing).done
        self.wanted, self.aborted = False, SimpleNamespace(wait=self.clock.wait)
        self.answers, self.refused, self.delivered = [], [], []

    def come(self, item, allowed=float("inf")):
        now = self.clock.time
        request = Request(item, now + allowed, now)
        self.scheduler.queue.add(request)
        return request

    def coming(self, time, item, **kwargs):
        self.clock.at(time, lambda: self.come(item, **kwargs))

    def deliver(self, done):
        device, batch, outcomes, _, ended = done
        self.delivered.append([request.item for request in batch])
        self.answers += zip([request.item for request in batch], outcomes, strict=True)
        self.refused += self.scheduler.note_delivery(
            device, self.clock.time, self.clock.time - ended
        )

    def heed(self, taken):
        self.refused += taken.hopeless
        return taken.batch

    def take(self):
        return self.heed(self.scheduler.take(self.device))

    def go_on(self, done):
        self.deliver(done)
        return [] if self.wanted else self.take()

    def burst(self):
        Overlap(
            self.scheduler,
            self.device,
            heed=self.heed,
            done=self.done,
            post=self.deliver,
            go_on=self.go_on,
            wanted=lambda: self.wanted,
            aborted=self.aborted,
        ).run(self.take())

    def learn(self, batches=6):
        """Let it know the device, and forget what has been."""
        for item in range(batches):
            self.come(f"learned {item}")
            self.burst()
        self.answers.clear()
        self.delivered.clear()
        self.model.log.clear()
        self.model.launches.clear()
        self.model.busy = 0.0
        return self.clock.time
