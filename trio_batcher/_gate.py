"""The gate of a server: counts the requests that are being answered, and closes behind them."""

from __future__ import annotations

import math
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from ._beside import run_beside
from ._inbox import Inbox
from ._outbox import Outbox
from ._problems import closing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

__all__ = ["Gate"]

# Rounds of the event loop without a new request, after which all that had arrived are in.
_LAST_CALL = 50
# Seconds after which the gate is closed even if new requests never stop coming.
_LAST_CALL_LIMIT = 2.0


class Gate:
    """An ASGI application that lets HTTP requests in to another, until it is closed.

    Later ones are answered by 503. WebSockets and the lifespan pass through uncounted.

    Attributes:
        accepted: requests that were let in.
        cut_off: those of them that had no complete answer when the grace ran out.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.accepted = 0
        self.cut_off = 0
        self._app = app
        self._closes_at = math.inf
        self._inside: dict[anyio.CancelScope, Any] = {}  # and whose requests they are
        self._drained = anyio.Event()

    @property
    def closed(self) -> bool:
        """Whether new requests are turned away."""
        return self._closes_at < math.inf

    @property
    def in_flight(self) -> int:
        """Requests that were let in, and have not been answered."""
        return len(self._inside)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one request; an ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = _Passage(self, scope, send)
        if self.closed:
            await passage.refuse()
            return
        self.accepted += 1
        limit = anyio.CancelScope()
        self._inside[limit] = scope.get("client")
        try:
            with limit:
                await passage.through(self._app, receive)
            if limit.cancelled_caught:
                self.cut_off += 1
                if not passage.started:  # else the server breaks the connection off
                    await passage.refuse()
        finally:
            del self._inside[limit]
            self._check_drained()

    async def let_in(self) -> None:
        """Return once the requests that are in the sockets' buffers now have been let in.

        The event loop takes a few rounds for each, and a new connection only every other
        round. So as long as it keeps finding some, it has not caught up.
        """
        with anyio.move_on_after(_LAST_CALL_LIMIT):
            accepted = -1
            while accepted != self.accepted:
                accepted = self.accepted
                for _ in range(_LAST_CALL):
                    await checkpoint()

    def close(self, grace: float) -> None:
        """Turn new requests away, and those inside after ``grace`` seconds."""
        self._closes_at = anyio.current_time() + grace
        for limit in self._inside:
            limit.deadline = self._closes_at
        self._check_drained()

    async def evict(self, grace: float) -> None:
        """Cancel the requests inside and wait for their ends, so many seconds at most.

        Cancellation: it does not come through.
        """
        if self._inside:
            self.close(0.0)
            with anyio.move_on_after(grace, shield=True):
                await self.wait_drained()

    def hang_up(self) -> None:
        """Break off the connections of the requests inside.

        That ends what hypercorn shields from a cancellation, on trio: to write to a client that
        does not read. The connections are only to be had from the system.
        """
        clients = {tuple(client) for client in self._inside.values() if client is not None}
        descriptors = Path("/dev/fd")
        if not clients or not descriptors.is_dir():
            return
        for path in list(descriptors.iterdir()):
            with suppress(OSError):
                number = int(path.name)
                if not stat.S_ISSOCK(os.fstat(number).st_mode):
                    continue
                with socket.socket(fileno=os.dup(number)) as connection:
                    if connection.getpeername()[:2] in clients:
                        connection.shutdown(socket.SHUT_RDWR)

    async def wait_drained(self) -> None:
        """Return once the gate is closed and the last request that was let in is answered."""
        await self._drained.wait()

    def _check_drained(self) -> None:
        if self.closed and not self._inside:
            self._drained.set()


class _Passage:
    """One request's answer on its way out."""

    def __init__(self, gate: Gate, scope: MutableMapping[str, Any], send: Any) -> None:
        self.started = False
        self._gate = gate
        self._scope = scope
        self._is_http1 = scope["http_version"].startswith("1")
        self._outbox = Outbox(send)

    async def through(self, app: ASGIApp, receive: Any) -> None:
        """Let the application answer.

        Over HTTP/2 hypercorn would have what is sent to a client that has left wait for ever. So
        that the leaving is noticed, the gate receives for the application.
        """
        if self._is_http1:
            await app(self._scope, receive, self.send)
            return
        inbox = Inbox(receive)

        async def watch() -> None:
            patient = any(name == b"expect" for name, _ in self._scope["headers"])
            if await inbox.watch(patient=patient):
                await self._outbox.farewell()

        await run_beside(watch, lambda: app(self._scope, inbox.receive, self.send))

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            if self._gate.closed and self._is_http1:
                # Whoever asks again is to ask another server, on another connection.
                headers = [h for h in message.get("headers", ()) if h[0].lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
        await self._outbox.send(message)

    async def refuse(self) -> None:
        for message in closing().as_messages():
            await self.send(message)
