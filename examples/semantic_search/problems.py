"""Errors as RFC 9457 `application/problem+json`: what went wrong, never a stack trace."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import TYPE_CHECKING

import trio
from quart import Response
from werkzeug.exceptions import HTTPException

from trio_batcher import BatcherClosed, BatcherCrashed, DeadlineUnreachable, Overloaded

from .gate import Closing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quart_trio import QuartTrio


class BadRequest(Exception):
    """The request cannot be answered as it is; the message says what is wrong with it.

    Args:
        detail: what is wrong, for the person who sent it.
        status: a 4xx status.
    """

    def __init__(self, detail: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(detail)
        self.status = status


def problem(status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """A response that describes a problem."""
    body = {"type": "about:blank", "title": status.phrase, "status": status, "detail": detail}
    response = Response(json.dumps(body), status, content_type="application/problem+json")
    response.headers.update(headers or {})
    return response


def retry_after(seconds: float = 1.0) -> dict[str, str]:
    """The header that says when to come back: whole seconds, at least one, at most a minute."""
    return {"Retry-After": str(math.ceil(min(max(seconds, 1.0), 60.0)))}


def install(app: QuartTrio) -> None:
    """Answer every error of the app's handlers with a problem."""

    @app.errorhandler(BadRequest)
    async def bad_request(error: BadRequest) -> Response:
        return problem(error.status, str(error))

    @app.errorhandler(Closing)
    async def closing(_: Closing) -> Response:
        detail = "The server is stopping."
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after())

    @app.errorhandler(Overloaded)
    async def overloaded(error: Overloaded) -> Response:
        detail = "Too many requests are waiting already."
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after(error.retry_after))

    @app.errorhandler(trio.TooSlowError)
    @app.errorhandler(DeadlineUnreachable)
    async def too_late(_: Exception) -> Response:
        detail = "No answer was, or would have been, ready in time. See X-Request-Timeout."
        return problem(HTTPStatus.GATEWAY_TIMEOUT, detail)

    @app.errorhandler(BatcherClosed)
    @app.errorhandler(BatcherCrashed)
    async def unavailable(_: Exception) -> Response:
        detail = "The model is not available."
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after())

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        # Also every unexpected error, which Quart logs and turns into a 500.
        status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
        kept = {k: v for k, v in error.get_headers() if k.lower() in ("allow", "location")}
        return problem(status, error.description or status.phrase, kept)
