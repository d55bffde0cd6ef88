"""What `test_servers.py` serves: a FastAPI application with a model that can be held.

Beside HTTP it talks to the test by lines on standard output: ``asked x`` right before an item
goes into the queue, ``gone x`` when its handler is cancelled, ``batch x y`` when the model starts.
A batch with an item that starts with ``held`` waits for a byte from the pipe ``$GATE``.

Run as a program, it is served by `trio_batcher.serving.serve`, on the event loop that is named.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
from fastapi import Depends, FastAPI
from hypercorn.config import Config

from trio_batcher import Batcher, _scheduler, open_batcher
from trio_batcher.asgi import BatcherMiddleware
from trio_batcher.fastapi import batcher_lifespan, get_batcher
from trio_batcher.serving import serve


def say(*words):
    """Print a line in one piece: the model does it in another thread."""
    os.write(1, f"{' '.join(words)}\n".encode())


def model(items):
    say("batch", *sorted(items))
    if any(item.startswith("held") for item in items):
        with Path(os.environ["GATE"]).open("rb", buffering=0) as gate:
            gate.read(1)
    if "bad" in items:
        raise ValueError("a bad item")
    return [item.upper() for item in items]


Upper = Annotated[Batcher[str, str], Depends(get_batcher)]
opened = partial(open_batcher, model, max_batch_size=2, max_queue_size=2)


def create_app(lifespan):
    app = FastAPI(lifespan=lifespan)
    app.add_middleware(BatcherMiddleware, default_timeout=60)

    @app.get("/")
    async def infer(item: str, batcher: Upper) -> str:
        say("asked", item)
        try:
            return await batcher.infer(item)
        except anyio.get_cancelled_exc_class():
            say("gone", item)
            raise

    @app.get("/crash")
    async def crash() -> None:
        _scheduler.decide = None  # the next decision of the batcher's own task raises

    return app


app = create_app(batcher_lifespan(model, max_batch_size=2, max_queue_size=2))


async def main():
    """The recipe: the batcher outside, the server inside."""
    async with opened() as batcher:

        @asynccontextmanager
        async def lifespan(_):
            yield {"batcher": batcher}

        config = Config()
        config.bind = ["127.0.0.1:0"]
        await serve(create_app(lifespan), config, until=[batcher.failed], grace=30)
    say("the batcher is closed")


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    anyio.run(main, backend=sys.argv[1])
