"""Errors as RFC 9457 `application/problem+json`: what went wrong, never a stack trace."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

import trio
from quart import Response
from werkzeug.exceptions import HTTPException

from trio_batcher import BatcherError
from trio_batcher.asgi import problem_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quart_trio import QuartTrio

_logger = logging.getLogger(__name__)


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


def install(app: QuartTrio) -> None:
    """Answer every error of the app's handlers with a problem."""

    @app.errorhandler(BadRequest)
    async def bad_request(error: BadRequest) -> Response:
        return problem(error.status, str(error))

    @app.errorhandler(BatcherError)
    @app.errorhandler(TimeoutError)
    @app.errorhandler(trio.TooSlowError)
    async def batcher_error(error: Exception) -> Response:
        answer = problem_response(error)
        if answer.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            _logger.error("the model failed", exc_info=error)
        return Response(answer.body, answer.status, dict(answer.headers))

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        # Also every unexpected error, which Quart logs and turns into a 500.
        status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
        kept = {k: v for k, v in error.get_headers() if k.lower() in ("allow", "location")}
        return problem(status, error.description or status.phrase, kept)
