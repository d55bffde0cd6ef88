"""Search Python's standard library by meaning: one FastAPI file, for any server.

    uvicorn examples.fastapi_search:app
    uvicorn --loop uvloop examples.fastapi_search:app
    hypercorn examples.fastapi_search:app
    hypercorn -k trio examples.fastapi_search:app

from the repository's root; then http://127.0.0.1:8000/search?q=compress+a+file. It is the search
of `examples/semantic_search`, with its encoder and its index. ``$ENTRIES`` is how many entries to
search, for a quick start, and ``$CACHE`` the directory of the index's cache file.
"""

from __future__ import annotations

import math
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

# Before numpy, which reads it once: the model needs the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import anyio.to_thread
from fastapi import Body, Depends, FastAPI, Query, Request
from pydantic import BaseModel

from examples.semantic_search.corpus import load_corpus, spread
from examples.semantic_search.encoder import MODEL_NAME, Embedding, Encoder
from examples.semantic_search.index import (
    Index,
    build_index,
    cache_path,
    default_cache_directory,
)
from trio_batcher import Batcher, open_batcher
from trio_batcher.asgi import BatcherMiddleware
from trio_batcher.fastapi import clean_exit_status, get_batcher

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

BATCH = 32


class Found(BaseModel):
    """One search result; the score is the cosine similarity, at most 1."""

    name: str
    signature: str
    doc: str
    score: float


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    """Open the batcher, and fill the index with it unless that is on the disk already."""
    entries = spread(await load_corpus(), float(os.environ.get("ENTRIES", math.inf)))
    directory = Path(os.environ.get("CACHE") or default_cache_directory())
    path = cache_path(directory, entries, MODEL_NAME)
    with clean_exit_status():
        async with open_batcher(Encoder, max_batch_size=BATCH) as batcher:
            index = await anyio.to_thread.run_sync(Index.load, path, entries)
            if index is None:
                index = await build_index(
                    entries, batcher, chunk_size=BATCH, on_progress=lambda _count: None
                )
                await anyio.to_thread.run_sync(index.save, path)
            yield {"batcher": batcher, "index": index}


def get_index(request: Request) -> Index:
    """The index that the lifespan has filled."""
    index: Index = request.state.index
    return index


app = FastAPI(title="Python's standard library by meaning", lifespan=lifespan)
app.add_middleware(BatcherMiddleware, default_timeout=2.0, max_timeout=30.0)

Embedder = Annotated[Batcher[str, Embedding], Depends(get_batcher)]
Text = Annotated[str, Query(min_length=1, max_length=2000)]


@app.get("/search")
async def search(
    q: Text, embedder: Embedder, index: Annotated[Index, Depends(get_index)]
) -> list[Found]:
    """The ten nearest entries, best first."""
    embedding = await embedder.infer(q)
    return [
        Found(
            name=hit.entry.name,
            signature=hit.entry.signature,
            doc=hit.entry.doc,
            score=round(hit.score, 4),
        )
        for hit in index.search(embedding.vector)
    ]


@app.post("/embed")
async def embed(
    texts: Annotated[list[str], Body(min_length=1, max_length=64)], embedder: Embedder
) -> list[list[float]]:
    """The embeddings of some texts, in their order."""
    return [embedding.vector.tolist() for embedding in await embedder.infer_many(texts)]
