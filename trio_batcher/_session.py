"""An engine that serves as long as a block, and is waited for at its end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ._hosts import TaskLost

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ._engine import Engine
    from ._hosts import Host

__all__ = ["serving"]


@asynccontextmanager
async def serving(host: Host, engine: Engine[Any]) -> AsyncGenerator[None]:
    """Serve inside the block; drain when it ends normally, abort when it does not.

    A block that has lost its task is the engine's failure.
    """
    failure: BaseException | None = None
    async with host.open_nursery() as nursery:
        nursery.start_soon(engine.serve)  # noqa: ASYNC113  it says when, below
        # The nursery never gets to see an exception: it would wrap it in a group.
        try:
            # A task that asyncio cancels before its first step never begins, nor ends.
            await engine.begun.wait()
            yield
            engine.close()
            await engine.ended.wait()
        except BaseException as exc:  # noqa: BLE001, ASYNC103  raised again below
            if isinstance(exc, TaskLost):
                engine.crash(exc)
            else:
                failure = exc
            engine.abort()
            if engine.begun.is_set():
                with host.shield():
                    # Without a limit, as a thread cannot be stopped.
                    await engine.ended.wait()  # noqa: ASYNC102
    if failure is not None:
        raise failure
