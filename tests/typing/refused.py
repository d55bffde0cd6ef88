# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What a type checker has to refuse: each ignore below is an error if it is not needed."""

from __future__ import annotations

import math

import trio

from trio_batcher import Batcher, InferenceModel, open_batcher

from .models import Lengths, lengths, lengths_async


async def items_of_the_wrong_type(batcher: Batcher[str, int]) -> None:
    await batcher.infer(1)  # type: ignore[arg-type]
    await batcher.infer_many([1, 2])  # type: ignore[list-item]
    text: str = await batcher.infer("text")  # type: ignore[assignment]
    texts: list[str] = await batcher.infer_many(["text"])  # type: ignore[assignment]
    assert text
    assert texts


def bulk_work(batcher: Batcher[str, int]) -> None:
    batcher.map([1, 2])  # type: ignore[list-item]
    batcher.map(3)  # type: ignore[call-overload]
    batcher.map(["text"], order="sorted")  # type: ignore[call-overload]
    batcher.map(["text"], errors=True)  # type: ignore[call-overload]
    batcher.map(["text"], max_in_flight=math.inf)  # type: ignore[call-overload]


async def for_each_kind_of_model() -> None:
    async with open_batcher(lengths) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]
    async with open_batcher(lengths_async) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]
    async with open_batcher(Lengths()) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]
    async with open_batcher(Lengths) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]
    async with open_batcher([Lengths, Lengths]) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]


def one_by_one(text: str) -> int:
    return len(text)


def a_single_number(texts: list[str]) -> int:
    return len(texts)


class AsyncInference(InferenceModel[str, int]):
    async def infer(self, inputs: list[str]) -> list[int]:  # type: ignore[override]
        return lengths(inputs)


def things_that_are_no_model() -> None:
    open_batcher(one_by_one)  # type: ignore[arg-type]
    open_batcher(a_single_number)  # type: ignore[arg-type]
    open_batcher(3)  # type: ignore[call-overload]
    open_batcher([lengths, 3])  # type: ignore[arg-type]


def wrong_arguments() -> None:
    open_batcher(lengths, 32)  # type: ignore[call-overload]
    open_batcher(lengths, max_batch_size=1.5)  # type: ignore[call-overload]
    open_batcher(lengths, limiter=trio.Semaphore(1))  # type: ignore[call-overload]
    open_batcher(lengths, warmup=[1])  # type: ignore[arg-type]
    open_batcher(Lengths, warmup=[1])  # type: ignore[arg-type]
    open_batcher(Lengths, run_in="fork")  # type: ignore[call-overload]


def right_arguments() -> None:
    open_batcher(lengths, max_queue_size=math.inf, max_delay=0.01, max_batch_size=8)
    open_batcher(lengths, limiter=trio.CapacityLimiter(1))
    open_batcher(Lengths, limiter=None)
    open_batcher(Lengths, run_in="process")
