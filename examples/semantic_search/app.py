"""The web application: four routes over one batcher.

===========  =======  ==============================================================
``/``        GET      the page
``/search``  GET      ``?q=text``: the ten nearest entries
``/embed``   POST     ``{"text": "…"}`` or ``{"texts": ["…", …]}``: their embeddings
``/stats``   GET      the batcher's statistics
===========  =======  ==============================================================

A request has two seconds, or what its header ``X-Request-Timeout`` says, in seconds.
"""

from __future__ import annotations

import json
import math
import platform
import re
from dataclasses import dataclass, fields
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from quart import Response, request
from quart_trio import QuartTrio

from . import problems
from .asgi import undisturbed
from .encoder import MODEL_NAME
from .gate import LATE, Closing
from .problems import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from werkzeug.datastructures import Headers

    from trio_batcher import Batcher

    from .encoder import Embedding
    from .gate import Gate
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

    def as_header(self) -> dict[str, str]:
        """`Server-Timing`, in milliseconds, as browsers show it."""
        sizes = ", ".join(map(str, self.batch_sizes))
        return {
            "Server-Timing": f"queue;dur={self.waited * 1e3:.1f}, "
            f'model;dur={self.ran * 1e3:.1f};desc="batch of {sizes}"'
        }


def create_app(
    batcher: Batcher[str, Embedding], index: Index, gate: Gate, limits: Limits | None = None
) -> QuartTrio:
    """The application.

    Args:
        batcher: runs the encoder; it must outlive the server.
        index: what is searched.
        gate: every request goes through it; whoever stops the server closes it.
        limits: what a request may ask for.
    """
    limits = limits or Limits()
    page = PAGE.read_text(encoding="utf-8")
    app = QuartTrio(__name__)
    app.config["MAX_CONTENT_LENGTH"] = limits.body_length
    app.asgi_app = gate.guard(undisturbed(app.asgi_app))  # type: ignore[assignment,method-assign]
    problems.install(app)

    @app.before_request
    async def turn_away() -> None:
        if LATE in request.scope:
            raise Closing

    @app.after_request
    async def say_goodbye(response: Response) -> Response:
        if gate.closed:
            response.headers["Connection"] = "close"
        return response

    @app.get("/")
    async def home() -> Response:
        return Response(page, content_type="text/html; charset=utf-8")

    @app.get("/search")
    async def search() -> Response:
        query = _checked(request.args.get("q"), "q", limits)
        with gate.limit(_timeout(request.headers, limits)):
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
        body = {"query": query, "hits": hits, "timing": timing.as_json()}
        return _json(body, timing.as_header())

    @app.post("/embed")
    async def embed() -> Response:
        with gate.limit(_timeout(request.headers, limits)):
            texts, single = _texts(await request.get_data(parse_form_data=False), limits)
            started = trio.current_time()
            embeddings = await batcher.infer_many(texts)
            timing = Timing.of(embeddings, trio.current_time() - started)
        vectors = [embedding.vector.tolist() for embedding in embeddings]
        answer = {"embedding": vectors[0]} if single else {"embeddings": vectors}
        return _json({**answer, "timing": timing.as_json()}, timing.as_header())

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


def _json(body: object, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(body, ensure_ascii=False, allow_nan=False)
    return Response(text, headers=dict(headers or {}), content_type="application/json")


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


def _timeout(headers: Headers, limits: Limits) -> float:
    """The seconds a request has: a plain decimal number, cut to the maximum."""
    header = headers.get("X-Request-Timeout")
    if header is None:
        return limits.default_timeout
    if not re.fullmatch(r"[0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20}", header.strip()):
        raise BadRequest("X-Request-Timeout must be a number of seconds, such as 0.5.")
    return min(float(header), limits.max_timeout)


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
