"""What any ASGI application needs around a batcher: deadlines in, problems out, leavers noticed.

`BatcherMiddleware` works on trio and on asyncio, with every framework. `problem_response`
is for frameworks that answer exceptions themselves before a middleware gets to see them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from ._beside import run_beside
from ._deadline_headers import InvalidTimeout, check_timeout, check_timeouts, timeout_of
from ._inbox import Inbox
from ._outbox import Outbox
from ._problems import Problem, bad_request, culprit, log_fault, problem_response
from ._timings import Timings, current_timings

__all__ = [
    "ASGIApp",
    "BatcherMiddleware",
    "Message",
    "Problem",
    "Receive",
    "Scope",
    "Send",
    "problem_response",
]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
# Frameworks disagree about the three; all of theirs are to fit, here and in the middleware.
ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

# Seconds in which the last piece of an answer usually is out. After that, what has arrived of the
# request's body may be what it waits for.
_BODY_IN_THE_WAY = 0.5
_logger = logging.getLogger("trio_batcher.asgi")


class BatcherMiddleware:
    """Gives each HTTP request its deadline, and its handler's errors their status.

    The application runs in a cancel scope whose deadline comes from the request's headers,
    so `Batcher.infer` finds it as the effective deadline. If it passes before the response
    has started the answer is a 504; once it has, the deadline is lifted.

    A client that leaves before the last piece of its answer is being sent cancels the
    handler. Middlewares outside, which may log it, see the status 499 then. So that it is
    noticed, at most one piece of the request's body is received before the application
    asks for it. What is being sent to a client that has left, or that does not take it, is
    given up: half a second after it left, or when a piece has waited for ``send_timeout``.

    A `BatcherError` or a deadline's error (`TimeoutError`, `trio.TooSlowError`) that
    escapes from the application before the response has started is answered by
    `problem_response`; faults of the model or of the batcher are logged then. Whatever
    else escapes goes on as it is. A response in whose handler a batcher answered gets
    a ``Server-Timing`` header.

    WebSockets and the lifespan pass through untouched.

    Cancellation: from outside it goes through, to the application and on.

    Args:
        app: the application, or the next middleware.
        default_timeout: seconds for a request whose headers do not say.
        max_timeout: most seconds for any request; longer ones are cut to it.
        send_timeout: seconds that a client has to take a piece of its answer, of 256 KiB at most.

    Raises:
        TypeError, ValueError: a timeout is not a number > 0, or the default is above the maximum.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        default_timeout: float = math.inf,
        max_timeout: float = math.inf,
        send_timeout: float = 60.0,
    ) -> None:
        check_timeouts(default_timeout, max_timeout)
        check_timeout("send_timeout", send_timeout)
        self.app: ASGIApp = app
        self.default_timeout: float = default_timeout
        self.max_timeout: float = max_timeout
        self.send_timeout: float = send_timeout

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; an ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        app, timeout = self._admit(scope)
        exchange = _Exchange(receive, send, timeout, self.send_timeout)
        token = current_timings.set(exchange.timings)
        try:
            await exchange.run(app, scope)
        finally:
            current_timings.reset(token)

    def _admit(self, scope: Scope) -> tuple[ASGIApp, float]:
        """Return who answers a request, and the seconds that it has."""
        try:
            timeout = timeout_of(scope["headers"])
        except InvalidTimeout as error:
            return _refusal(bad_request(str(error))), math.inf
        if timeout is None:
            timeout = self.default_timeout
        if timeout == 0.0:
            return _refusal(problem_response(TimeoutError())), math.inf
        return self.app, min(timeout, self.max_timeout)


class _Exchange:
    """One request: the scope its handler runs in, and how far its answer has come."""

    def __init__(self, receive: Receive, send: Send, timeout: float, send_timeout: float) -> None:
        self.timings = Timings()
        self._inbox = Inbox(receive)
        self._outbox = Outbox(send, send_timeout)
        self._handler = anyio.CancelScope(deadline=anyio.current_time() + timeout)
        self._lost: str | None = None  # what the client did instead of taking its answer
        self._started = False
        self._has_trailers = False
        self._ending = False  # the last piece is being sent
        self._ended = False  # it has been, or nobody takes it

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the application answer, or answer in its place."""
        await run_beside(partial(self._watch, scope), partial(self._answer, app, scope))

    async def _answer(self, app: ASGIApp, scope: Scope) -> None:
        failure: Exception | None = None
        try:
            try:
                with self._handler:
                    await app(scope, self._inbox.receive, self.send)
            except Exception as exc:  # noqa: BLE001  answered, or raised, below
                failure = exc
            else:
                if self._handler.cancelled_caught and not self._ended:
                    failure = TimeoutError("the request's deadline passed, or its client left")
            if failure is None:
                return
            known = culprit(failure)
            if known is not None and self._lost is not None:
                _logger.info("%s %r: the client %s", scope["method"], scope["path"], self._lost)
                if not self._started:
                    await self._send_499()
                return
            if known is None or self._started:
                # A response that has started cannot be taken back. By the exception the server
                # knows not to end it as if it were whole.
                raise failure
            log_fault(failure, scope["method"], scope["path"])
            for message in problem_response(known).as_messages():
                await self.send(message)
        finally:
            del failure  # whose traceback has this frame: no cycle for each failure

    async def _send_499(self) -> None:
        # For middlewares outside, which may log it, or insist on a response; nobody else listens.
        with suppress(OSError):  # what a server may raise then, by ASGI 2.4
            await self.send({"type": "http.response.start", "status": 499, "headers": []})
            await self.send({"type": "http.response.body", "body": b""})

    async def _watch(self, scope: Scope) -> None:
        # To receive is what makes a server answer "100 Continue": for the application to say.
        patient = any(name == b"expect" for name, _ in scope["headers"])
        if await self._inbox.watch(patient=patient):
            await self._outbox.settle()
            self._lose("left")
            await self._outbox.farewell()

    def _lose(self, reason: str) -> None:
        if not self._ending and self._lost is None:
            self._lost = reason
            self._handler.cancel()

    async def send(self, message: Message) -> None:
        """Send for the application; its ``send``."""
        if message["type"] == "http.response.start":
            if self._handler.cancel_called:
                await checkpoint()  # not to start what can still become a 504
            self._started = True
            self._handler.deadline = math.inf
            self._has_trailers = message.get("trailers", False)
            message = _with_timings(message, self.timings)
        # Hypercorn announces the end of every request as the client's leaving, from within
        # the sending of the last piece. An application that hears of it cancels what it sends.
        last = self._is_last(message)
        self._ending = self._ending or last
        self._inbox.hold(_BODY_IN_THE_WAY if last else math.inf)
        try:
            await self._outbox.send(message)
            self._ended = self._ended or last
        finally:
            self._inbox.release()
        if self._started:
            self._inbox.answered()
        if self._outbox.abandoned:
            self._lose("did not take its answer")

    def _is_last(self, message: Message) -> bool:
        match message["type"]:
            case "http.response.body" | "http.response.zerocopysend":
                return not message.get("more_body") and not self._has_trailers
            case "http.response.pathsend":
                return not self._has_trailers
            case "http.response.trailers":
                return not message.get("more_trailers")
            case _:
                return False


def _refusal(problem: Problem) -> ASGIApp:
    async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in problem.as_messages():
            await send(message)

    return refuse


def _with_timings(start: Message, timings: Timings) -> Message:
    if not timings.calls:
        return start
    value = f"queue;dur={timings.queue * 1e3:.1f}, model;dur={timings.model * 1e3:.1f}"
    headers = [*start.get("headers", ()), (b"server-timing", value.encode())]
    return {**start, "headers": headers}
