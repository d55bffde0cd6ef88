"""What `open_batcher` gives: to be entered once, and helpful to whoever tries anything else."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Entry"]

V = TypeVar("V")

_HOW = "use: async with open_batcher(model) as batcher"


class Entry(AbstractAsyncContextManager[V], Generic[V]):
    """An async context manager that can be entered once.

    Args:
        make: makes the one that does the work, on entering.
    """

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[V]]) -> None:
        self._make = make
        self._block: AbstractAsyncContextManager[V] | None = None

    async def __aenter__(self) -> V:
        if self._block is not None:
            raise RuntimeError(
                "this batcher has been opened before: each can be once; call open_batcher again"
            )
        self._block = self._make()
        return await self._block.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._block is None:
            raise RuntimeError(f"this batcher has not been opened; {_HOW}")
        return await self._block.__aexit__(kind, error, traceback)  # noqa: ASYNC102  its own matter

    # What is tried instead of entering it

    def __enter__(self) -> NoReturn:
        raise TypeError(f"a batcher is opened and closed asynchronously; {_HOW}")

    def __exit__(self, *_: object) -> None:
        """Make it the above that a ``with`` fails for."""

    def __await__(self) -> NoReturn:
        raise TypeError(f"what open_batcher gives is not awaited but entered; {_HOW}")

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(
            f"what open_batcher gives is neither a decorator nor a function; {_HOW}, "
            "and in the block: await batcher.infer(item)"
        )

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"what open_batcher gives has no {name!r}; what the batcher has, it has in the "
            f"block; {_HOW}",
            name=name,
            obj=self,
        )
