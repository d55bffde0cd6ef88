"""The gate: counts the requests that are being answered, and closes behind the last of them."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .asgi import ASGI

LATE = "semantic_search.late"
"""Key in the ASGI scope of a request that arrived after the gate was closed."""


class Closing(Exception):
    """The server is stopping; ask another one, or this one later."""


class Gate:
    """Lets requests in until it is closed, and knows when the last one was answered."""

    def __init__(self) -> None:
        self._closes_at = math.inf
        self._accepted = 0
        self._in_flight = 0
        self._cut_off = 0
        self._limits: set[trio.CancelScope] = set()
        self._drained = trio.Event()

    @property
    def closed(self) -> bool:
        """Whether new requests are turned away."""
        return self._closes_at != math.inf

    @property
    def accepted(self) -> int:
        """Requests that were let in so far."""
        return self._accepted

    @property
    def in_flight(self) -> int:
        """Requests that were let in, and whose answers are not on their way yet."""
        return self._in_flight

    @property
    def cut_off(self) -> int:
        """Requests that were let in, and ran out of grace."""
        return self._cut_off

    def guard(self, app: ASGI) -> ASGI:
        """Let the requests of an ASGI application in, from arrival to the end of the answer.

        Those that come after the gate was closed reach the application marked as `LATE`.
        """

        async def guarded(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
            elif self.closed:
                await app({**scope, LATE: True}, receive, send)
            else:
                self._accepted += 1
                self._in_flight += 1
                try:
                    await app(scope, receive, send)
                finally:
                    self._in_flight -= 1
                    self._check_drained()

        return guarded

    @contextmanager
    def limit(self, timeout: float) -> Iterator[None]:
        """Give the block `timeout` seconds, or what is left of the grace if that is less.

        Raises:
            Closing: the grace ran out.
            trio.TooSlowError: the time ran out.
        """
        deadline = trio.current_time() + timeout
        with trio.CancelScope(deadline=min(deadline, self._closes_at)) as scope:
            self._limits.add(scope)
            try:
                yield
            finally:
                self._limits.discard(scope)
        if scope.cancelled_caught:
            if scope.deadline < deadline:
                self._cut_off += 1
                raise Closing
            raise trio.TooSlowError

    def close(self, grace: float) -> None:
        """Turn new requests away; give those inside `grace` seconds, or their own deadline."""
        if self.closed:
            return
        self._closes_at = trio.current_time() + grace
        for scope in self._limits:
            scope.deadline = min(scope.deadline, self._closes_at)
        self._check_drained()

    async def wait_drained(self) -> None:
        """Return once the gate is closed and the last request that was let in is answered."""
        await self._drained.wait()

    def _check_drained(self) -> None:
        if self.closed and not self._in_flight:
            self._drained.set()
