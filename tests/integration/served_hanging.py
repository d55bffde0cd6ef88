"""What `test_servers.py` serves: a FastAPI application whose model hangs, in a process of its own.

It says ``hangs`` on standard output when it does. Run as a program, it is served by
`trio_batcher.serving.serve`, on the event loop that is named.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
from fastapi import Depends, FastAPI
from hypercorn.config import Config

from trio_batcher import Batcher, _process, open_batcher
from trio_batcher.asgi import BatcherMiddleware
from trio_batcher.fastapi import batcher_lifespan, get_batcher
from trio_batcher.serving import serve

# What a model gets whose answers are wanted: this one's are not, when its callers were cancelled.
_process.GRACE = 3600.0


class Hanging:
    """A model that never answers."""

    def infer(self, items):
        os.write(1, b"hangs\n")
        time.sleep(3600)


def create_app(lifespan):
    app = FastAPI(lifespan=lifespan)
    app.add_middleware(BatcherMiddleware)

    @app.get("/")
    async def infer(batcher: Annotated[Batcher[str, str], Depends(get_batcher)]) -> str:
        return await batcher.infer("item")

    return app


app = create_app(batcher_lifespan(Hanging, run_in="process"))


async def main():
    async with open_batcher(Hanging, run_in="process") as batcher:

        @asynccontextmanager
        async def lifespan(_):
            yield {"batcher": batcher}

        config = Config()
        config.bind = ["127.0.0.1:0"]
        await serve(create_app(lifespan), config, until=[batcher.failed], grace=0.5)


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1])
