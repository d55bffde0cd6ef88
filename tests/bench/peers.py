"""Who is measured on asyncio: this library, its peers from the package index, and floors.

Each is an async context manager that takes a model, blocking or async, and gives an `infer`.
The peers are in the dependency group ``bench``; one that is not installed is reported as such.
A run that fails is the end of the benchmark: nothing is tidied up then but by `asyncio.run`.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from trio_batcher import open_batcher

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Infer: TypeAlias = Callable[[Any], Awaitable[Any]]
    Contestant: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Infer]]


@asynccontextmanager
async def bare_future(model: Any, *, batch: int) -> AsyncGenerator[Infer]:
    """Run full batches only, and nothing but a list and a future for each caller."""
    loop = asyncio.get_running_loop()
    waiting: list[tuple[Any, asyncio.Future[Any]]] = []
    full = asyncio.Event()

    async def infer(item: Any) -> Any:
        future = loop.create_future()
        waiting.append((item, future))
        if len(waiting) >= batch:
            full.set()
        return await future

    async def serve() -> None:
        while True:
            await full.wait()
            while len(waiting) >= batch:
                taken = waiting[:batch]
                del waiting[:batch]
                items = [item for item, _ in taken]
                if inspect.iscoroutinefunction(model):
                    results = await model(items)
                else:
                    results = await anyio.to_thread.run_sync(model, items)
                for (_, future), result in zip(taken, results, strict=True):
                    future.set_result(result)
            full.clear()

    task = asyncio.create_task(serve())
    yield infer
    task.cancel()
    await asyncio.wait({task})


@asynccontextmanager
async def ours(model: Any, *, batch: int, max_delay: float = 0.0) -> AsyncGenerator[Infer]:
    """Run this library."""
    async with open_batcher(model, max_batch_size=batch, max_delay=max_delay) as batcher:
        yield batcher.infer


@asynccontextmanager
async def batched(model: Any, *, batch: int) -> AsyncGenerator[Infer]:
    """Run mixedbread's ``batched``, with its own window."""
    processor_class = importlib.import_module("batched.aio").AsyncBatchProcessor
    processor = processor_class(model, batch_size=batch)
    yield processor
    # It has no way of closing that waits.
    task = processor._task
    if task is not None:
        task.cancel()
        await asyncio.wait({task})


@asynccontextmanager
async def async_batcher(model: Any, *, batch: int) -> AsyncGenerator[Infer]:
    """Run ``async-batcher``, with its own window."""
    base: Any = importlib.import_module("async_batcher.batcher").AsyncBatcher

    class Blocking(base):  # type: ignore[misc]
        def process_batch(self, batch: list[Any]) -> Any:
            return model(batch)

    class Asynchronous(base):  # type: ignore[misc]
        async def process_batch(self, batch: list[Any]) -> Any:
            return await model(batch)

    batcher_class = Asynchronous if inspect.iscoroutinefunction(model) else Blocking
    batcher = batcher_class(max_batch_size=batch)
    yield batcher.process
    await batcher.stop()


def contestants(batch: int) -> tuple[dict[str, Contestant], dict[str, Contestant], list[str]]:
    """Return this library's ways and its peers, by name, and the names of missing peers."""
    ways: dict[str, Contestant] = {
        "trio_batcher, full batches": partial(ours, batch=batch, max_delay=0.05),
        "trio_batcher, as they come": partial(ours, batch=batch),
    }
    peers: dict[str, Contestant] = {}
    missing = []
    for module, peer in (("batched", batched), ("async_batcher", async_batcher)):
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(module)
        else:
            peers[module] = partial(peer, batch=batch)
    return ways, peers, missing


async def cpu_per_request(
    contestant: Contestant, model: Any, *, callers: int, requests: int, deadline: bool
) -> float:
    """Return the CPU seconds per request of tasks that ask again and again."""
    async with contestant(model) as infer:

        async def caller(base: int) -> None:
            for i in range(requests):
                if deadline:
                    with anyio.fail_after(60):
                        assert await infer(base + i) == base + i
                else:
                    assert await infer(base + i) == base + i

        before = time.process_time()
        await asyncio.gather(*(caller(n * requests) for n in range(callers)))
        return (time.process_time() - before) / (callers * requests)
