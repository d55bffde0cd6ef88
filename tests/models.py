"""Models for tests: on virtual time if async, with events as gates if in a thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from .hosts import host

# Longer than any test waits for anything, so that a broken gate fails and does not hang.
PATIENCE = 30


@dataclass
class Run:
    """One run of a model."""

    start: float
    items: list[Any]


class TimedModel:
    """An async model that takes ``fixed + per_item * n`` seconds and doubles its inputs."""

    def __init__(self, fixed: float = 0.010, per_item: float = 0.001) -> None:
        self.fixed = fixed
        self.per_item = per_item
        self.runs: list[Run] = []

    async def __call__(self, items: list[Any]) -> list[Any]:
        self.runs.append(Run(host.current_time(), list(items)))
        await host.sleep(self.fixed + self.per_item * len(items))
        return [self.answer(item) for item in items]

    def answer(self, item: Any) -> Any:
        return item * 2

    @property
    def batches(self) -> list[list[Any]]:
        return [run.items for run in self.runs]

    @property
    def executed(self) -> list[Any]:
        return [item for run in self.runs for item in run.items]


class GatedModel:
    """A blocking model that waits in its thread to be let go, once per run."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.threads: set[int] = set()
        self._started = threading.Semaphore(0)
        self._gate = threading.Semaphore(0)

    def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(list(items))
        self.threads.add(threading.get_ident())
        self._started.release()
        if not self._gate.acquire(timeout=PATIENCE):
            msg = "nobody opened the gate"
            raise AssertionError(msg)
        return [item * 2 for item in items]

    def open(self, runs: int = 1) -> None:
        self._gate.release(runs)

    async def started(self) -> None:
        """Wait until one more run has started."""
        got_it = await host.in_thread(lambda: self._started.acquire(timeout=PATIENCE))
        assert got_it, "no run started"

    @property
    def executed(self) -> list[Any]:
        return [item for batch in self.batches for item in batch]
