# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""`infer` returns what the model gives for one item, `infer_many` a list of that."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, AsyncIterator
from typing import TypeVar, assert_type

from trio_batcher import Batcher, BatcherStatistics, InferenceModel, open_batcher

from .models import (
    AsyncCallable,
    Callables,
    Identity,
    Lengths,
    LongLengths,
    Network,
    Weights,
    async_factory,
    factory,
    lengths,
    lengths_async,
    lengths_of_any,
    lengths_or_errors,
    lengths_plus,
    lengths_plus_async,
    lengths_tuple,
    scores,
)

T = TypeVar("T")
R = TypeVar("R")


async def blocking_functions() -> None:
    async with open_batcher(lengths) as batcher:
        assert_type(batcher, Batcher[str, int])
        assert_type(await batcher.infer("text"), int)
        assert_type(await batcher.infer_many(["text"]), list[int])
        assert_type(await batcher.infer_many(text for text in ("a", "b")), list[int])
        assert_type(batcher.statistics(), BatcherStatistics)
    async with open_batcher(lengths_tuple) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(lengths_of_any) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(factory()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Callables().blocking) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(functools.partial(lengths_plus, bonus=1)) as partial:
        assert_type(await partial.infer("text"), int)
    async with open_batcher(scores) as floats:
        assert_type(floats, Batcher[str, float])
    async with open_batcher(lengths_or_errors) as either:
        assert_type(either, Batcher[str, int | ValueError])


async def async_functions() -> None:
    async with open_batcher(lengths_async) as batcher:
        assert_type(batcher, Batcher[str, int])
        assert_type(await batcher.infer("text"), int)
        assert_type(await batcher.infer_many(["text"]), list[int])
    async with open_batcher(async_factory()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(AsyncCallable()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Callables().remote) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(functools.partial(lengths_plus_async, bonus=1)) as partial:
        assert_type(await partial.infer("text"), int)


async def bulk_work(rows: AsyncIterable[str]) -> None:
    async with open_batcher(lengths) as batcher:
        async with batcher.map(["text"]) as results:
            assert_type(results, AsyncIterator[int])
            assert_type([result async for result in results], list[int])
        async with batcher.map(rows, max_in_flight=8, weight=2) as results:
            assert_type(await anext(results), int)
        async with batcher.map(text for text in ("a", "b")) as results:
            assert_type(results, AsyncIterator[int])
        async with batcher.map(rows, errors="return") as outcomes:
            assert_type(outcomes, AsyncIterator[int | Exception])
        async with batcher.map(rows, order="completion") as numbered:
            assert_type(numbered, AsyncIterator[tuple[int, int]])
        async with batcher.map(rows, order="completion", errors="return") as numbered_outcomes:
            assert_type(numbered_outcomes, AsyncIterator[tuple[int, int | Exception]])
        async with batcher.map(rows, order="input", errors="raise") as results:
            assert_type(results, AsyncIterator[int])


async def instances() -> None:
    async with open_batcher(Lengths()) as batcher:
        assert_type(batcher, Batcher[str, int])
        assert_type(await batcher.infer("text"), int)
        assert_type(await batcher.infer_many(["text"]), list[int])
    async with open_batcher(LongLengths()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Weights("weights")) as floats:
        assert_type(floats, Batcher[str, float])
    async with open_batcher(Network()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Identity[bytes]()) as echo:
        assert_type(echo, Batcher[bytes, bytes])


async def subclasses() -> None:
    async with open_batcher(Lengths) as batcher:
        assert_type(batcher, Batcher[str, int])
        assert_type(await batcher.infer("text"), int)
        assert_type(await batcher.infer_many(["text"]), list[int])
    async with open_batcher(LongLengths) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Network) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Identity[bytes]) as echo:
        assert_type(echo, Batcher[bytes, bytes])


async def partials_of_subclasses() -> None:
    async with open_batcher(functools.partial(Weights, "weights")) as batcher:
        assert_type(batcher, Batcher[str, float])
        assert_type(await batcher.infer("text"), float)
        assert_type(await batcher.infer_many(["text"]), list[float])
    load = functools.partial(Weights, "weights", scale=2.0)
    async with open_batcher(load) as batcher:
        assert_type(batcher, Batcher[str, float])


async def replicas() -> None:
    async with open_batcher([lengths, lengths]) as batcher:
        assert_type(batcher, Batcher[str, int])
        assert_type(await batcher.infer("text"), int)
        assert_type(await batcher.infer_many(["text"]), list[int])
    async with open_batcher((lengths, lengths_tuple)) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([lengths_async, lengths_async]) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([Lengths(), LongLengths()]) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([Lengths, LongLengths]) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([Lengths] * 2) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([functools.partial(Weights, path) for path in "ab"]) as floats:
        assert_type(floats, Batcher[str, float])
    async with open_batcher((functools.partial(Weights, "weights"), Weights)) as floats:
        assert_type(floats, Batcher[str, float])


async def generic_code(model: InferenceModel[T, R], item: T) -> R:
    async with open_batcher(model) as batcher:
        assert_type(batcher, Batcher[T, R])
        return await batcher.infer(item)


async def warmed_up() -> None:
    async with open_batcher(lengths, warmup=["text"], max_queue_size=8) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(lengths_async, warmup=["text"]) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Lengths(), warmup=("text",)) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Lengths, warmup=("text",)) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([functools.partial(Weights, "w")], warmup=("text",)) as floats:
        assert_type(floats, Batcher[str, float])
