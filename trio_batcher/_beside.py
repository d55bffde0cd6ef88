"""A task beside another, for as long as that one takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

__all__ = ["run_beside"]


async def run_beside(
    watch: Callable[[], Coroutine[Any, Any, None]], work: Callable[[], Awaitable[None]]
) -> None:
    """Do the work; until it ends, watch. What the work raises is raised as it is.

    Args:
        watch: raises nothing by itself, and ends when it is cancelled.
        work: is done in this task.
    """
    raised: Exception | None = None
    failure: BaseException | None = None
    try:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                try:
                    await work()
                except Exception as exc:
                    raised = exc
                    raise
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failure = _unwrapped(group, raised)
        if failure is not None:
            raise failure  # here, where it gets no context
    finally:
        del raised, failure  # whose traceback has this frame: no cycle for each failure


def _unwrapped(group: BaseExceptionGroup[BaseException], raised: Exception | None) -> BaseException:
    """Return what left the task group's block, which the task group has put into a group.

    Beside that, from the watching task, are cancellations at most, which come again, and
    what comes from nowhere, such as `KeyboardInterrupt`.

    Args:
        group: what left the task group.
        raised: what left the block, if it was an `Exception`. In the group may be a copy: a
            cancel scope that looks for its cancellation in a group takes it apart.
    """
    inside = [
        each for each in group.exceptions if not isinstance(each, anyio.get_cancelled_exc_class())
    ]
    if len(inside) > 1:
        return group
    return inside[0] if raised is None else raised
