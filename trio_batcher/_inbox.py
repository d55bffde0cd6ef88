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

# Seconds after which the rest of a body is in the way of the answer's end.
_IN_THE_WAY = 0.5


class Inbox:
    """Stands between the server's ``receive`` and the application's."""

    def __init__(self, receive: Callable[[], Awaitable[Message]]) -> None:
        self._receive = receive
        self._piece: Message | None = None
        self._end: Message | Exception | None = None
        self._holding = False
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
            elif self._end is not None and not self._holding:
                await cancel_shielded_checkpoint()
                if isinstance(self._end, Exception):
                    raise self._end
                return self._end
            else:
                await self._changed.wait()

    def answered(self) -> None:
        """Receive from now on, if that has waited: the server was told to go on, or not to."""
        self._asked.set()

    def hold(self) -> None:
        """Keep the end back until `release`, and soon nothing else."""
        self._holding = True
        if self._piece is not None:
            self._notify()

    def release(self) -> None:
        """Let the application have the end, if it has come."""
        self._holding = False
        self._notify()

    async def _until_taken(self) -> None:
        while self._piece is not None:
            with anyio.move_on_after(_IN_THE_WAY if self._holding else math.inf) as limit:
                await self._changed.wait()
            if limit.cancelled_caught:
                self._piece = None

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
