"""Search Python's standard library by meaning: one FastAPI file, for any server.

    uvicorn examples.fastapi_search:app
    uvicorn --loop uvloop examples.fastapi_search:app
    hypercorn examples.fastapi_search:app
    hypercorn -k trio examples.fastapi_search:app

from the repository's root; then http://127.0.0.1:8000/search?q=compress+a+file. It is the search
of `examples/semantic_search`, with its encoder and its index. ``$ENTRIES`` is how many entries to
search, for a quick start, and ``$CACHE`` the directory of the index's cache file.

What everybody may send is limited, as all share one device, and one event loop: a text of some
megabytes would be tokenized for as long as a thousand searches take, and until then nobody else's
would start. So a body has at most `BODY` bytes (413), and a request at most `TEXTS` texts of at
most `CHARACTERS` characters, which are Unicode and not blank (422, with the part that is wrong).
Within these limits it is the batcher's ``cost`` that keeps a long text from slowing down the short
ones beside it: they only share a batch if that pays.
"""

from __future__ import annotations

import math
import os
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

# Before numpy, which reads it once: the model needs the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import anyio.to_thread
from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, StringConstraints
from starlette.exceptions import HTTPException as AnyHTTPException

from examples.semantic_search.corpus import load_corpus, spread
from examples.semantic_search.encoder import MODEL_NAME, Embedding, Encoder, cost_of
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

    from trio_batcher.asgi import ASGIApp, Message, Receive, Scope, Send

BATCH = 32
BATCH_COST = 4_000
"""Characters in a batch, padding included: beyond that a device with two cores gets no faster."""

BODY = 64 * 1024
TEXTS = 64
CHARACTERS = 2_000


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
        async with open_batcher(
            Encoder, max_batch_size=BATCH, cost=cost_of, max_batch_cost=BATCH_COST
        ) as batcher:
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


class BodyLimit:
    """A middleware: a longer body is a 413, where the handler reads it, and is not read on."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = self.limit

        async def receive_some() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"The body must have at most {self.limit} bytes.")
            return message

        await self.app(scope, receive_some if scope["type"] == "http" else receive, send)


app = FastAPI(title="Python's standard library by meaning", lifespan=lifespan)
app.add_middleware(BodyLimit, limit=BODY)
app.add_middleware(BatcherMiddleware, default_timeout=2.0, max_timeout=30.0)


@app.exception_handler(RequestValidationError)
async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """Tell what part of a request is wrong. FastAPI's own answer repeats it, if it can."""
    first = error.errors()[0]
    where, *inside = first["loc"]
    if first["type"] != "json_invalid":
        where += "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in inside)
    return problem(422, f"{where}: {first['msg'].removeprefix('Value error, ')}.")


@app.exception_handler(AnyHTTPException)
async def refused(_: Request, error: AnyHTTPException) -> JSONResponse:
    """A body that is too long or that is no JSON, a path that there is not."""
    answer = problem(error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer


def problem(status: int, detail: str) -> JSONResponse:
    """A response that describes a problem, by RFC 9457."""
    fields = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    return JSONResponse({**fields, "detail": detail}, status, media_type="application/problem+json")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("a text must not be blank")
    return text


Embedder = Annotated[Batcher[str, Embedding], Depends(get_batcher)]
# Half of a surrogate pair, which JSON can say and a tokenizer cannot, is no string to Pydantic.
Text = Annotated[
    str, StringConstraints(min_length=1, max_length=CHARACTERS), AfterValidator(_not_blank)
]


@app.get("/search")
async def search(
    q: Annotated[Text, Query()], embedder: Embedder, index: Annotated[Index, Depends(get_index)]
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
    texts: Annotated[list[Text], Body(min_length=1, max_length=TEXTS)], embedder: Embedder
) -> list[list[float]]:
    """The embeddings of some texts, in their order."""
    return [embedding.vector.tolist() for embedding in await embedder.infer_many(texts)]
