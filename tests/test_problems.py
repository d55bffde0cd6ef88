"""Errors as problem documents: the status that helps, and nothing of the inside."""

from __future__ import annotations

import errno
import json
import math
from http import HTTPStatus

import pytest
import trio

from trio_batcher import (
    BatcherClosed,
    BatcherCrashed,
    BatcherError,
    DeadlineUnreachable,
    ItemError,
    ModelError,
    Overloaded,
    ResultCountError,
)
from trio_batcher._problems import bad_request, culprit, problem_response

SECRET = "a secret"  # noqa: S105  no password


def overloaded(seconds=2.0):
    return Overloaded(SECRET, retry_after=seconds)


def model_error():
    error = ModelError(SECRET, batch_size=1)
    error.__cause__ = ValueError(SECRET)
    return error


CASES = [
    (overloaded(), 503, "overloaded"),
    (BatcherClosed(SECRET), 503, "unavailable"),
    (BatcherCrashed(SECRET), 503, "unavailable"),
    (DeadlineUnreachable(0.123), 504, "deadline"),
    (TimeoutError(SECRET), 504, "deadline"),
    (trio.TooSlowError(SECRET), 504, "deadline"),
    (model_error(), 500, "model"),
    (ItemError("part 123", "321", "nothing"), 422, "item"),
    (ResultCountError(123, 321), 500, "model"),
    (BatcherError(SECRET), 500, "model"),
]
OTHERS = [ValueError(SECRET), TimeoutError(errno.ETIMEDOUT, SECRET), KeyboardInterrupt(SECRET)]


@pytest.mark.parametrize(
    ("error", "status", "reason"), [*CASES, *((other, 500, "internal") for other in OTHERS)]
)
def test_each_error_has_its_status(error, status, reason):
    """An RFC 9457 document whose status is the response's, and no word of the error itself."""
    problem = problem_response(error)
    document = json.loads(problem.body)
    assert problem.status == status
    assert document.pop("detail").endswith(".")
    assert document == {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "reason": reason,
    }
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert problem.headers["Content-Length"] == str(len(problem.body))
    assert ("Retry-After" in problem.headers) == (status == 503)
    text = problem.body.decode() + str(problem.headers)
    assert not [word for word in (SECRET, "0.123", "321", type(error).__name__) if word in text]


@pytest.mark.parametrize(
    ("seconds", "header"),
    [
        (0.0, "1"),
        (-5.0, "1"),
        (1.01, "2"),
        (7, "7"),
        (1e300, "60"),
        (math.inf, "60"),
        (math.nan, "1"),
    ],
)
def test_retry_after_is_whole_seconds_up_to_a_minute(seconds, header):
    """Whatever the estimate."""
    assert problem_response(overloaded(seconds)).headers["Retry-After"] == header


def test_a_request_that_cannot_be_answered():
    """Its detail is for whoever sent it."""
    problem = bad_request("say it again")
    assert problem.status == 400
    assert json.loads(problem.body)["detail"] == "say it again"


@pytest.mark.parametrize("error", [error for error, _, _ in CASES])
def test_the_batchers_and_the_deadlines_are_known(error):
    """By itself, or in any group of such."""
    assert culprit(error) is error
    assert culprit(ExceptionGroup("", [ExceptionGroup("", [error])])) is error


@pytest.mark.parametrize("error", OTHERS)
def test_others_errors_are_not_known(error):
    """Nor a group that has one: that is somebody's mistake, not to be covered up."""
    assert culprit(error) is None
    assert culprit(BaseExceptionGroup("", [overloaded(), error])) is None


def test_of_a_group_the_lowest_status_counts():
    """Where a model fails, coming back or waiting longer does not help."""
    slow, full, broken = TimeoutError(), overloaded(), model_error()
    assert culprit(ExceptionGroup("", [slow, full])) is full
    assert culprit(ExceptionGroup("", [slow, ExceptionGroup("", [full, broken])])) is broken
    assert problem_response(ExceptionGroup("", [slow, broken, full])).status == 500
