"""The server: opens the batcher, prepares the index, serves, and stops in good order."""

from __future__ import annotations

import logging
import math
import signal
import socket
import sys
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import trio
from hypercorn.config import Config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trio_batcher import open_batcher
from trio_batcher.serving import serve as serve_app

from .app import Limits, create_app
from .corpus import load_corpus, spread
from .encoder import MODEL_NAME, Embedding, Encoder, cost_of
from .index import Index, build_index, cache_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from trio_batcher import Batcher, InferenceModel

    from .corpus import Entry

Encoders: TypeAlias = (
    "type[InferenceModel[str, Embedding]] | partial[InferenceModel[str, Embedding]]"
)
BATCH_COST = 4_000
"""Characters in a batch, padding included, so that a long text does not slow down the short ones
beside it: they only share a batch if that pays."""
HANG_UP = 0.25
"""Seconds, once everything is answered, in which connections are closed in good order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to serve.

    Attributes:
        cache: directory of the index's cache file.
        max_batch_size: as in `trio_batcher.open_batcher`.
        max_queue_size: as in `trio_batcher.open_batcher`.
        max_entries: how many entries to search, spread over the corpus; `math.inf` for all.
        grace: seconds that accepted requests have once the server was told to stop.
        limits: what a request may ask for.
    """

    cache: Path
    max_batch_size: int = 32
    max_queue_size: float = 1024
    max_entries: float = math.inf
    grace: float = 7.0
    limits: Limits = field(default_factory=Limits)


def _print(line: str) -> None:
    print(line, flush=True)


def bind(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Take an address, so that an impossible one is known before anything slow happens.

    Nobody can connect before the server is up.

    Raises:
        OSError: the address cannot be bound.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


async def serve(
    listener: socket.socket,
    settings: Settings,
    stopping: trio.Event,
    *,
    model: Encoders = Encoder,
    corpus: Callable[[], Awaitable[Sequence[Entry]]] = load_corpus,
    announce: Callable[[str], object] = _print,
) -> None:
    """Serve until `stopping` is set or the batcher fails; then drain and return.

    Whatever was accepted is answered; new requests get a 503 until the last answer is out, and then
    no connection. Told to stop while it still prepares, the server gives up preparing.

    Args:
        listener: a bound socket, which this function closes; see `bind`.
        settings: how to serve.
        stopping: set it to stop.
        model: the encoder, constructed in the batcher's worker thread.
        corpus: returns what can be found.
        announce: called with a line of text when the server is up.

    Raises:
        BatcherCrashed: the batcher failed.
    """
    with closing(listener):
        async with trio.open_nursery() as nursery:
            preparing = trio.CancelScope()
            nursery.start_soon(_cancel_once_set, stopping, nursery.cancel_scope, preparing)
            entries = await corpus()
            entries = spread(entries, settings.max_entries)
            async with open_batcher(
                model,
                max_batch_size=settings.max_batch_size,
                max_queue_size=settings.max_queue_size,
                cost=cost_of,
                max_batch_cost=BATCH_COST,
            ) as batcher:
                index = await _prepare(entries, batcher, settings)
                preparing.cancel()  # from here on, stopping means draining
                await _run(
                    listener, settings, stopping, batcher=batcher, index=index, announce=announce
                )


async def _run(
    listener: socket.socket,
    settings: Settings,
    stopping: trio.Event,
    *,
    batcher: Batcher[str, Embedding],
    index: Index,
    announce: Callable[[str], object],
) -> None:
    """Serve and drain."""
    # More texts than the queue holds could never be waited for together.
    texts = int(min(settings.limits.texts, settings.max_queue_size))
    app = create_app(batcher, index, replace(settings.limits, texts=texts))
    listener.listen(1024)  # from now on connections wait instead of being refused
    host, port = listener.getsockname()[:2]
    announce(f"Serving on http://{f'[{host}]' if ':' in host else host}:{port}")
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = 1024
    config.loglevel = "WARNING"
    config.graceful_timeout = HANG_UP
    until = [stopping, batcher.failed]
    await serve_app(app, config, until=until, grace=settings.grace, signals=())


async def main(listener: socket.socket, settings: Settings) -> None:
    """Serve until the first SIGINT or SIGTERM; a second one has its usual effect."""
    logger = logging.getLogger("trio_batcher.serving")  # how many requests it had to answer
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_set_on_signal, stopping)
        await serve(listener, settings, stopping)
        nursery.cancel_scope.cancel()


async def _set_on_signal(
    stopping: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Set the event at the first signal, and give the signals back their usual effect."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        await anext(signals)
    stopping.set()


async def _cancel_once_set(
    event: trio.Event, scope: trio.CancelScope, watching: trio.CancelScope
) -> None:
    """Cancel `scope` once the event is set, unless `watching` is cancelled before."""
    with watching:
        await event.wait()
        scope.cancel()


async def _prepare(
    entries: Sequence[Entry], batcher: Batcher[str, Embedding], settings: Settings
) -> Index:
    """The index from its cache file, or embedded now and kept for the next start."""
    path = cache_path(settings.cache, entries, MODEL_NAME)
    index = await trio.to_thread.run_sync(Index.load, path, entries)
    if index is not None:
        return index
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("Embedding the standard library"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    if not console.is_terminal:
        console.print(f"Embedding {len(entries)} docstrings of the standard library …")
    with progress:
        task = progress.add_task("embedding", total=len(entries))
        index = await build_index(
            entries,
            batcher,
            chunk_size=settings.max_batch_size,
            max_queue_size=settings.max_queue_size,
            on_progress=partial(progress.advance, task),
        )
    try:
        await trio.to_thread.run_sync(index.save, path)
    except OSError as error:
        print(f"The index could not be kept: {error}", file=sys.stderr)
    return index
