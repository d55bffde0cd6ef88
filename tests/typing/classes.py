# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Any class with an `infer` is a model, as one that was written for another library is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, assert_type

from trio_batcher import Batcher, open_batcher

if TYPE_CHECKING:
    from collections.abc import Callable


class Lengths:
    def infer(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]


class Weights:
    def __init__(self, path: str) -> None:
        self.path = path

    def infer(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    def launch(self, texts: list[str]) -> Callable[[], list[int]]:
        return lambda: self.infer(texts)


class Static:
    @staticmethod
    def infer(texts: list[str]) -> list[int]:
        return [len(text) for text in texts]


class Foreign(ABC):
    """As FastDynamicBatcher has it."""

    @abstractmethod
    def infer(self, inputs: list[Any]) -> list[Any]: ...


class Demo(Foreign):
    def infer(self, inputs: list[Any]) -> list[Any]:
        return inputs


async def a_class() -> None:
    async with open_batcher(Lengths) as batcher:
        assert_type(batcher, Batcher[str, int])
        assert_type(await batcher.infer("text"), int)


async def an_instance() -> None:
    async with open_batcher(Lengths()) as batcher:
        assert_type(batcher, Batcher[str, int])


async def the_class_and_then_an_instance() -> None:
    async with open_batcher(Lengths, warmup=["text"]) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([Lengths, Lengths]) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Lengths()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([Lengths(), Lengths()]) as batcher:
        assert_type(batcher, Batcher[str, int])


async def a_partial() -> None:
    async with open_batcher(partial(Weights, "weights")) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([partial(Weights, path) for path in "ab"]) as batcher:
        assert_type(batcher, Batcher[str, int])


async def a_static_method() -> None:
    async with open_batcher(Static) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Static()) as batcher:
        assert_type(batcher, Batcher[str, int])


async def another_librarys() -> None:
    async with open_batcher(Demo, max_batch_size=8) as batcher:
        assert_type(batcher, Batcher[Any, Any])
    async with open_batcher(Demo()) as batcher:
        assert_type(batcher, Batcher[Any, Any])


async def of_all_kinds() -> None:
    async with open_batcher((Weights("weights"), Lengths, partial(Weights, "w"))) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Lengths()) as batcher:
        assert_type(batcher, Batcher[str, int])


async def a_wrong_item() -> None:
    async with open_batcher(Lengths()) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]
