"""A stand-in between hypercorn and Quart-Trio for something the two get wrong together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    ASGI: TypeAlias = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]


def undisturbed(app: ASGI) -> ASGI:
    """Let hypercorn finish with a request before Quart-Trio hears that it is over.

    Hypercorn announces the end of every request as `http.disconnect`, from within the sending of
    the last piece of the answer. Quart-Trio takes that for a caller who has left, and cancels the
    task that sends, while hypercorn is still at work in it: connections that idle are then never
    closed, neither by the keep-alive timeout nor at shutdown, and a refused upload leaves its
    caller sending to nobody. So the news is held back once the last piece is being sent.

    A caller who leaves before that is noticed as ever.
    """

    async def undisturbed_app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        ending = False

        async def send_on(message: Mapping[str, Any]) -> None:
            nonlocal ending
            ending = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        async def receive_on() -> Any:
            message = await receive()
            if ending and message["type"] == "http.disconnect":
                await trio.sleep_forever()  # until the application is done, and cancels this
            return message

        await app(scope, receive_on, send_on)

    return undisturbed_app
