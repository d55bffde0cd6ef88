"""Errors as RFC 9457 ``application/problem+json``: what a caller can do, nothing of the inside."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import trio

from ._errors import (
    BatcherClosed,
    BatcherCrashed,
    BatcherError,
    DeadlineUnreachable,
    ItemError,
    ModelError,
    Overloaded,
    ResultCountError,
)

__all__ = ["Problem", "bad_request", "closing", "culprit", "log_fault", "problem_response"]

_FAULTS = (BatcherCrashed, ModelError, ResultCountError)
_logger = logging.getLogger("trio_batcher.asgi")


@dataclass(frozen=True, slots=True)
class Problem:
    """A response that describes a problem, for any framework to send.

    Attributes:
        status: the HTTP status.
        headers: ``Content-Type``, ``Content-Length``, and ``Retry-After`` where it helps.
        body: a JSON object in UTF-8 with ``type``, ``title``, ``status``, ``detail`` (for
            people) and ``reason`` (for programs).
    """

    status: int
    headers: dict[str, str]
    body: bytes

    def as_messages(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the two ASGI messages that send it."""
        headers = [(k.lower().encode(), v.encode()) for k, v in self.headers.items()]
        start = {"type": "http.response.start", "status": self.status, "headers": headers}
        return start, {"type": "http.response.body", "body": self.body}


def problem_response(error: BaseException) -> Problem:
    """Return the response that tells a client of an error, and no more than it should know.

    =========================================  ======  ===============  ===============
    error                                      status  ``reason``       ``Retry-After``
    =========================================  ======  ===============  ===============
    `Overloaded`                               503     ``overloaded``   yes
    `BatcherClosed`, `BatcherCrashed`          503     ``unavailable``  yes
    `DeadlineUnreachable`, `TimeoutError`,     504     ``deadline``     no
    `trio.TooSlowError`
    `ItemError`                                422     ``item``         no
    `ModelError`, `ResultCountError`           500     ``model``        no
    anything else                              500     ``internal``     no
    =========================================  ======  ===============  ===============

    Of an exception group with errors of the upper five rows only, the one with the lowest
    status counts. Neither an error's message nor its cause is in the response.

    Args:
        error: what escaped from a handler.
    """
    found: tuple[HTTPStatus, str, str, float | None]
    match culprit(error):
        case Overloaded(retry_after=seconds):
            found = (
                HTTPStatus.SERVICE_UNAVAILABLE,
                "overloaded",
                "Too many requests are waiting already.",
                seconds,
            )
        case BatcherClosed() | BatcherCrashed():
            found = (
                HTTPStatus.SERVICE_UNAVAILABLE,
                "unavailable",
                "The model is not available.",
                1.0,
            )
        case DeadlineUnreachable():
            found = (
                HTTPStatus.GATEWAY_TIMEOUT,
                "deadline",
                "No answer could have been ready in time.",
                None,
            )
        case TimeoutError() | trio.TooSlowError():
            found = HTTPStatus.GATEWAY_TIMEOUT, "deadline", "No answer was ready in time.", None
        case ItemError():
            found = (
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "item",
                "The model does not take such an item.",
                None,
            )
        case BatcherError():
            found = (
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "model",
                "The model failed on this request.",
                None,
            )
        case _:
            found = (
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "internal",
                "The server failed on this request.",
                None,
            )
    return _problem(*found)


def bad_request(detail: str) -> Problem:
    """Return a response to a request that cannot be answered as it is."""
    return _problem(HTTPStatus.BAD_REQUEST, "request", detail)


def closing() -> Problem:
    """Return a response to a request that arrives when the server is stopping."""
    detail = "The server is stopping."
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", detail, 1.0)


def log_fault(error: BaseException, method: str, path: str) -> None:
    """Log what a request failed on, if that is the model's fault or the batcher's own."""
    if isinstance(culprit(error), _FAULTS):
        _logger.error("%s %r failed", method, path, exc_info=error)


def culprit(error: BaseException) -> BaseException | None:
    """Return the error by which to answer, `None` if it is neither a batcher's nor a deadline's.

    Of a group, all of whose errors are, it is the one with the lowest status: as long as
    a model fails, it does not help to come back.
    """
    if isinstance(error, BaseExceptionGroup):
        inside = [culprit(each) for each in error.exceptions]
        known = [each for each in inside if each is not None]
        return min(known, key=_status) if len(known) == len(inside) else None
    if isinstance(error, TimeoutError) and error.errno is not None:
        return None  # the operating system's, of some connection: no deadline
    return error if isinstance(error, (BatcherError, TimeoutError, trio.TooSlowError)) else None


def _status(error: BaseException) -> int:
    return problem_response(error).status


def _problem(
    status: HTTPStatus, reason: str, detail: str, retry_after: float | None = None
) -> Problem:
    # The type is "about:blank", so the title has to be the status's (RFC 9457, section 4.2.1).
    fields = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status,
        "detail": detail,
        "reason": reason,
    }
    body = json.dumps(fields).encode()
    headers = {"Content-Type": "application/problem+json", "Content-Length": str(len(body))}
    if retry_after is not None:
        # Whole seconds; the estimate may be anything, and a minute is long enough to be wrong.
        headers["Retry-After"] = str(math.ceil(min(60.0, max(1.0, retry_after))))
    return Problem(int(status), headers, body)
