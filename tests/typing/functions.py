# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""A blocking function is a model: it takes a list and gives what has as many results."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, assert_type

from trio_batcher import Batcher, BatcherStatistics, open_batcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def as_tuple(texts: list[str]) -> tuple[int, ...]:
    return tuple(lengths(texts))


def of_any_sequence(texts: Sequence[str]) -> Sequence[int]:
    """Asks for less than a list, and promises less than one."""
    return [len(text) for text in texts]


def of_any_iterable(texts: Iterable[str]) -> list[int]:
    return [len(text) for text in texts]


class Array:
    """As little of a sequence as an array or a tensor is."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int, /) -> float:
        raise IndexError(index)


def as_array(texts: list[str]) -> Array:
    return Array()


def of_anything(items: list[Any]) -> Any:
    return items


def or_errors(texts: list[str]) -> list[int | ValueError]:
    return [len(text) or ValueError("empty") for text in texts]


def with_bonus(texts: list[str], *, bonus: int = 0) -> list[int]:
    return [bonus + len(text) for text in texts]


def factory() -> Callable[[list[str]], list[int]]:
    return lengths


class Methods:
    def __call__(self, texts: list[str]) -> list[int]:
        return lengths(texts)

    def method(self, texts: list[str]) -> list[int]:
        return lengths(texts)

    @staticmethod
    def static(texts: list[str]) -> list[int]:
        return lengths(texts)

    @classmethod
    def of_class(cls, texts: list[str]) -> list[int]:
        return lengths(texts)


async def a_def() -> None:
    async with open_batcher(lengths) as batcher:
        assert_type(batcher, Batcher[str, int])
        assert_type(await batcher.infer("text", weight=2.0), int)
        assert_type(await batcher.infer_many(["text"]), list[int])
        assert_type(await batcher.infer_many(text for text in ("a", "b")), list[int])
        assert_type(batcher.statistics(), BatcherStatistics)


async def other_sequences() -> None:
    async with open_batcher(as_tuple) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(of_any_sequence) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(of_any_iterable) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(as_array) as floats:
        assert_type(floats, Batcher[str, float])
    async with open_batcher(or_errors) as either:
        assert_type(either, Batcher[str, int | ValueError])


async def anything() -> None:
    async with open_batcher(of_anything) as batcher:
        assert_type(batcher, Batcher[Any, Any])


async def other_functions() -> None:
    async with open_batcher(with_bonus) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(factory()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Methods()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Methods().method) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Methods.static) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Methods.of_class) as batcher:
        assert_type(batcher, Batcher[str, int])


async def a_partial() -> None:
    async with open_batcher(partial(with_bonus, bonus=1)) as batcher:
        assert_type(await batcher.infer("text"), int)
    async with open_batcher(partial(with_bonus, bonus=1), warmup=["text"]) as batcher:
        assert_type(await batcher.infer("text"), int)


async def a_lambda() -> None:
    async with open_batcher(lambda texts: [len(text) for text in texts]) as anything:
        assert_type(anything, Batcher[Any, int])
    async with open_batcher(lambda xs: [x + 1 for x in xs], max_batch_size=8) as anything:
        assert_type(await anything.infer(1), Any)


async def a_lambda_with_a_warmup() -> None:
    async with open_batcher(
        lambda texts: [len(text) for text in texts], warmup=["text"]
    ) as batcher:
        assert_type(batcher, Batcher[str, int])


async def replicas() -> None:
    async with open_batcher([lengths, lengths]) as batcher:
        assert_type(batcher, Batcher[str, int])
        assert_type(await batcher.infer("text"), int)
    async with open_batcher((lengths, as_tuple)) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([lengths] * 2, warmup=["text"]) as batcher:
        assert_type(batcher, Batcher[str, int])
    models = [partial(with_bonus, bonus=bonus) for bonus in (1, 2)]
    async with open_batcher(models) as batcher:
        assert_type(await batcher.infer("text"), int)


async def a_wrong_item() -> None:
    async with open_batcher(lengths) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]
    async with open_batcher((lengths, as_tuple)) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]
