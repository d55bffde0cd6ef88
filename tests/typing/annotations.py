# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""`Batcher`, `InferenceModel` and what `open_batcher` gives in annotations of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar, assert_type

from trio_batcher import Batcher, InferenceModel, open_batcher

T = TypeVar("T")
R = TypeVar("R")


class Embedder(InferenceModel[str, list[float]]):
    def infer(self, texts: list[str]) -> list[list[float]]:
        return [[float(len(text))] for text in texts]


def lengths(items: list[Sequence[int]]) -> list[int]:
    return [len(item) for item in items]


async def embedding(batcher: Batcher[str, list[float]], text: str) -> list[float]:
    return await batcher.infer(text)


async def first(batcher: Batcher[str, Sequence[float]]) -> float:
    return (await batcher.infer("text"))[0]


async def given_to_a_function() -> None:
    async with open_batcher(Embedder) as batcher:
        assert_type(await embedding(batcher, "text"), list[float])
        await first(batcher)


async def of_more_and_of_less() -> None:
    async with open_batcher(lengths) as batcher:
        assert_type(batcher, Batcher[Sequence[int], int])
        of_lists: Batcher[list[int], float] = batcher
        await of_lists.infer([1])
        of_objects: Batcher[object, int] = batcher  # type: ignore[assignment]
        texts: Batcher[list[int], str] = batcher  # type: ignore[assignment]
        assert [of_objects, texts]


async def anything(batcher: Batcher[Any, Any]) -> None:
    await embedding(batcher, "text")


class Service:
    """Holds a batcher."""

    def __init__(self, batcher: Batcher[str, list[float]]) -> None:
        self.batcher = batcher

    async def ask(self, text: str) -> float:
        return (await self.batcher.infer(text))[0]


async def in_an_exit_stack() -> None:
    async with AsyncExitStack() as stack:
        batcher = await stack.enter_async_context(open_batcher(Embedder))
        assert_type(batcher, Batcher[str, list[float]])
        await Service(batcher).ask("text")


def opened() -> AbstractAsyncContextManager[Batcher[str, list[float]]]:
    return open_batcher(Embedder, max_batch_size=8)


async def opened_elsewhere() -> None:
    async with opened() as batcher:
        assert_type(batcher, Batcher[str, list[float]])


async def generic_code(model: InferenceModel[T, R], item: T) -> R:
    async with open_batcher(model) as batcher:
        return await batcher.infer(item)


async def generic_loading(model: type[InferenceModel[T, R]], item: T) -> R:
    async with open_batcher(model) as batcher:
        return await batcher.infer(item)
