"""The web application: four routes over one batcher.

===========  =======  ==============================================================
``/``        GET      the page
``/search``  GET      ``?q=text``: the ten nearest entries
``/embed``   POST     ``{"text": "…"}`` or ``{"texts": ["…", …]}``: their embeddings
``/stats``   GET      the batcher's statistics
===========  =======  ==============================================================

A request has two seconds, or what its header ``X-Request-Timeout`` says, in seconds. What it may
ask for is limited, see `Limits`: everybody shares one device and one event loop, and a text of some
megabytes would be tokenized for as long as a thousand searches take.
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import dataclass, fields
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from quart import Response, request
from quart_trio import QuartTrio

from trio_batcher.asgi import BatcherMiddleware

from . import problems
from .encoder import MODEL_NAME
from .problems import BadRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_batcher import Batcher

    from .encoder import Embedding
    from .index import Index

PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may ask for.

    Attributes:
        text_length: characters in a text.
        texts: texts in one request.
        body_length: bytes in a body.
        default_timeout: seconds a request has when it does not say.
        max_timeout: seconds a request has at most; longer ones are cut to this.
    """

    text_length: int = 2_000
    texts: int = 64
    body_length: int = 1024 * 1024
    default_timeout: float = 2.0
    max_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's time went: seconds in the queue and in the model, and the batch sizes."""

    waited: float
    ran: float
    batch_sizes: tuple[int, ...]

    @classmethod
    def of(cls, embeddings: Sequence[Embedding], elapsed: float) -> Timing:
        """The timing of embeddings that were there after `elapsed` seconds."""
        runs = list({id(embedding.run): embedding.run for embedding in embeddings}.values())
        ran = min(elapsed, sum(run.seconds for run in runs))
        return cls(elapsed - ran, ran, tuple(run.size for run in runs))

    def as_json(self) -> dict[str, object]:
        """The object that responses carry."""
        return {"waited": self.waited, "ran": self.ran, "batch_sizes": self.batch_sizes}


def create_app(
    batcher: Batcher[str, Embedding], index: Index, limits: Limits | None = None
) -> QuartTrio:
    """The application.

    Args:
        batcher: runs the encoder; it must outlive the server.
        index: what is searched.
        limits: what a request may ask for.
    """
    limits = limits or Limits()
    page = PAGE.read_text(encoding="utf-8")
    app = QuartTrio(__name__)
    app.config["MAX_CONTENT_LENGTH"] = limits.body_length
    guarded: Any = BatcherMiddleware(
        app.asgi_app, default_timeout=limits.default_timeout, max_timeout=limits.max_timeout
    )
    app.asgi_app = guarded  # type: ignore[method-assign]
    problems.install(app)

    @app.get("/")
    async def home() -> Response:
        return Response(page, content_type="text/html; charset=utf-8")

    @app.get("/search")
    async def search() -> Response:
        query = _checked(request.args.get("q"), "q", limits)
        started = trio.current_time()
        embedding = await batcher.infer(query)
        timing = Timing.of([embedding], trio.current_time() - started)
        hits = [
            {
                "name": hit.entry.name,
                "kind": hit.entry.kind,
                "signature": hit.entry.signature,
                "doc": hit.entry.doc,
                "score": round(hit.score, 4),
            }
            for hit in index.search(embedding.vector)
        ]
        return _json({"query": query, "hits": hits, "timing": timing.as_json()})

    @app.post("/embed")
    async def embed() -> Response:
        texts, single = _texts(await request.get_data(parse_form_data=False), limits)
        started = trio.current_time()
        embeddings = await batcher.infer_many(texts)
        timing = Timing.of(embeddings, trio.current_time() - started)
        vectors = [embedding.vector.tolist() for embedding in embeddings]
        answer = {"embedding": vectors[0]} if single else {"embeddings": vectors}
        return _json({**answer, "timing": timing.as_json()})

    @app.get("/stats")
    async def stats() -> Response:
        snapshot = batcher.statistics()
        return _json(
            {
                "model": MODEL_NAME,
                "python": platform.python_version(),
                "entries": len(index),
                "batcher": {f.name: _plain(getattr(snapshot, f.name)) for f in fields(snapshot)},
            }
        )

    return app


def _json(body: object) -> Response:
    text = json.dumps(body, ensure_ascii=False, allow_nan=False)
    return Response(text, content_type="application/json")


def _plain(value: Any) -> object:
    """A statistic as JSON can say it: mappings and records as objects, no infinities."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case str() | int() | float() | None:
            return value
        case _ if hasattr(value, "items"):
            return {str(key): _plain(item) for key, item in value.items()}
        case _ if hasattr(value, "__dataclass_fields__"):
            return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        case _:
            return [_plain(item) for item in value]


def _texts(body: str | bytes, limits: Limits) -> tuple[list[str], bool]:
    """The texts in a body, and whether it was a single one."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body must be JSON.") from None
    match value:
        case {"text": text, "texts": _}:
            raise BadRequest('Send "text" or "texts", not both.', HTTPStatus.UNPROCESSABLE_ENTITY)
        case {"text": text}:
            return [_checked(text, "text", limits)], True
        case {"texts": list(texts)} if 1 <= len(texts) <= limits.texts:
            return [_checked(text, f"texts[{i}]", limits) for i, text in enumerate(texts)], False
        case {"texts": _}:
            detail = f'"texts" must be a list of 1 to {limits.texts} texts.'
            raise BadRequest(detail, HTTPStatus.UNPROCESSABLE_ENTITY)
    detail = 'The body must be an object with "text" or "texts".'
    raise BadRequest(detail, HTTPStatus.UNPROCESSABLE_ENTITY)


def _checked(text: object, name: str, limits: Limits) -> str:
    """The text, if it is one that the model can be asked about."""
    unprocessable = HTTPStatus.UNPROCESSABLE_ENTITY
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(f"{name} must be a text that is not empty.", unprocessable)
    if len(text) > limits.text_length:
        detail = f"{name} must have at most {limits.text_length} characters, not {len(text)}."
        raise BadRequest(detail, unprocessable)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can say it, a tokenizer cannot
        raise BadRequest(f"{name} must be valid Unicode.", unprocessable) from None
    return text
