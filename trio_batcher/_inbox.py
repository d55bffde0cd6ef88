"""The receiving side of one HTTP request: its body for the application, its end for us.

To learn that a client has left one has to receive, and what comes instead may be a piece
of the body. So one task receives for everybody, and keeps

- at most one piece that the application has not asked for: until that is taken nothing
  more is received, unless it was the last, after which there is no more body to come.
  Only while the last piece of the answer cannot leave is it thrown away: hypercorn has to
  get rid of what it has received of the body, before it can end the request;
- the end of it all, which stays: the client's leaving, or what receiving raised. The
  application gets either after the last piece, as often as it asks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message: TypeAlias = MutableMapping[str, Any]

__all__ = ["Inbox"]


class Inbox:
    """Stands between the server's ``receive`` and the application's."""

    def __init__(self, receive: Callable[[], Awaitable[Message]]) -> None:
        self._receive = receive
        self._piece: Message | None = None
        self._end: Message | Exception | None = None
        self._holders = 0
        self._patience = math.inf
        self._asked = anyio.Event()
        self._changed = anyio.Event()

    async def watch(self, *, patient: bool) -> bool:
        """Receive until there is nothing more; return whether that is as the client has left.

        Args:
            patient: wait until the application has asked for the first time, or has answered.
        """
        if patient:
            await self._asked.wait()
        try:
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self._end = message
                    return True
                if message.get("more_body") and not message.get("body"):
                    continue  # nothing: for many a request without a body it comes before the last
                await self._until_taken()
                self._piece = message
                self._notify()
                if message.get("more_body"):
                    await self._until_taken()
        except Exception as exc:  # noqa: BLE001  the application's to see, where it receives
            self._end = exc
            return False
        finally:
            self._notify()

    async def receive(self) -> Message:
        """Return what the application is to have next; its ``receive``.

        Cancellation: a piece of the body is not lost to it. The end is returned also to
        somebody who is cancelled already: that is how Starlette asks whether it has come.
        """
        self._asked.set()
        while True:
            if self._piece is not None:
                await checkpoint()
                piece, self._piece = self._piece, None
                if piece is not None:
                    self._notify()
                    return piece
            elif self._end is not None and not self._holders:
                await cancel_shielded_checkpoint()
                if isinstance(self._end, Exception):
                    raise self._end
                return self._end
            else:
                await self._changed.wait()

    def answered(self) -> None:
        """Receive from now on, if that has waited: the server was told to go on, or not to."""
        self._asked.set()

    def hold(self, patience: float = math.inf) -> None:
        """Keep the end back until `release`.

        Args:
            patience: seconds after which the rest of the body is thrown away meanwhile.
        """
        self._holders += 1
        self._patience = min(self._patience, patience)
        if self._piece is not None:
            self._notify()

    def release(self) -> None:
        """Let the application have the end, if it has come and nobody else holds it."""
        self._holders -= 1
        if not self._holders:
            self._patience = math.inf
            if self._piece is not None or self._end is not None:
                self._notify()

    async def _until_taken(self) -> None:
        while self._piece is not None:
            with anyio.move_on_after(self._patience) as limit:
                await self._changed.wait()
            if limit.cancelled_caught:
                self._piece = None

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
