"""The sending side of one HTTP request: what nobody takes any more is not waited for.

A server's ``send`` waits until the client has taken enough of what was sent before. Of a client
that has left it may wait for ever: hypercorn's does, over HTTP/2, once the connection is closed.
Nor is it cancelled without need: if hypercorn's finds the connection closed, it tells all requests
of that, one after the other, and those that it does not come to never hear of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, MutableMapping

    Message: TypeAlias = MutableMapping[str, Any]

__all__ = ["Outbox"]

# Seconds that a server has for what is being sent when the client leaves, and rounds of the event
# loop, for one that is held up.
_FAREWELL = 0.5
_FAREWELL_ROUNDS = 10
# Bytes of a body that are sent at a time. So there is something to see of a client that takes its
# answer slowly.
_PIECE = 256 * 1024


class Outbox:
    """Stands between the application's ``send`` and the server's.

    Attributes:
        abandoned: whether sending was given up, for good. What is sent later is dropped.
    """

    def __init__(
        self, send: Callable[[Message], Awaitable[None]], patience: float = math.inf
    ) -> None:
        """Send nothing yet.

        Args:
            send: the server's.
            patience: seconds that a client has for each piece of a body.
        """
        self.abandoned = False
        self._send = send
        self._patience = patience
        self._underway: set[anyio.CancelScope] = set()
        self._idle = anyio.Event()

    async def send(self, message: Message) -> None:
        """Send a message, in pieces if it is long, until that is given up."""
        if message["type"] != "http.response.body":  # say, a file: at once, and at its own pace
            await self._send_within(math.inf, message)
        elif len(message.get("body", b"")) <= _PIECE:
            await self._send_within(self._patience, message)
        else:
            for piece in _pieces(message):
                await self._send_within(self._patience, piece)

    async def _send_within(self, seconds: float, message: Message) -> None:
        if self.abandoned:
            await checkpoint()
            return
        limit = math.inf if seconds == math.inf else anyio.current_time() + seconds
        with anyio.CancelScope(deadline=limit) as scope:
            self._underway.add(scope)
            try:
                await self._send(message)
            finally:
                self._underway.discard(scope)
                if not self._underway:
                    self._idle.set()
        if scope.cancelled_caught:
            self._abandon()

    async def settle(self) -> None:
        """Return once nothing is being sent to a client that has left, or is not any more."""
        if self._underway:
            self._idle = anyio.Event()
            with anyio.move_on_after(_FAREWELL):
                await self._idle.wait()
                return
            await self._abandon_soon()

    async def farewell(self) -> None:
        """Give up sending, but not at once: what can be sent is."""
        await anyio.sleep(_FAREWELL)
        await self._abandon_soon()

    async def _abandon_soon(self) -> None:
        for _ in range(_FAREWELL_ROUNDS):
            await checkpoint()
        self._abandon()

    def _abandon(self) -> None:
        self.abandoned = True
        for scope in self._underway:
            scope.cancel()


def _pieces(message: Message) -> Iterator[Message]:
    body = message["body"]
    with memoryview(body) as view:
        for start in range(0, len(body), _PIECE):
            end = start + _PIECE
            more = end < len(body) or message.get("more_body", False)
            yield {**message, "body": bytes(view[start:end]), "more_body": more}
