# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""An async function is a model that runs in the event loop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, assert_type

from trio_batcher import Batcher, open_batcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


async def as_tuple(texts: list[str]) -> tuple[int, ...]:
    return tuple(await lengths(texts))


async def with_bonus(texts: list[str], *, bonus: int = 0) -> list[int]:
    return [bonus + len(text) for text in texts]


async def of_anything(items: list[Any]) -> Any:
    return items


def factory() -> Callable[[list[str]], Awaitable[list[int]]]:
    return lengths


class Remote:
    async def __call__(self, texts: list[str]) -> list[int]:
        return await lengths(texts)

    async def method(self, texts: list[str]) -> list[int]:
        return await lengths(texts)


async def a_def() -> None:
    async with open_batcher(lengths) as batcher:
        assert_type(batcher, Batcher[str, int])
        assert_type(await batcher.infer("text"), int)
        assert_type(await batcher.infer_many(["text"]), list[int])
    async with open_batcher(lengths, warmup=["text"]) as batcher:
        assert_type(batcher, Batcher[str, int])


async def others() -> None:
    async with open_batcher(as_tuple) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(factory()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Remote()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Remote().method) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(partial(with_bonus, bonus=1)) as batcher:
        assert_type(await batcher.infer("text"), int)
    async with open_batcher(of_anything) as anything:
        assert_type(anything, Batcher[Any, Any])


async def replicas() -> None:
    async with open_batcher([lengths, lengths]) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([Remote() for _ in range(2)]) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher((lengths, Remote())) as batcher:
        assert_type(batcher, Batcher[str, int])


async def a_wrong_item() -> None:
    async with open_batcher(lengths) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]
