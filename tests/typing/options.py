# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What is said of items, `key`, `cost` and `warmup`, is about the model's items."""

from __future__ import annotations

import math
from functools import partial
from typing import assert_type

import anyio
import trio

from trio_batcher import Batcher, InferenceModel, open_batcher


def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


async def lengths_async(texts: list[str]) -> list[int]:
    return lengths(texts)


class Lengths(InferenceModel[str, int]):
    def infer(self, texts: list[str]) -> list[int]:
        return lengths(texts)


class Duck:
    def infer(self, texts: list[str]) -> list[int]:
        return lengths(texts)


def tokens(text: str) -> int:
    return len(text.split())


def numbers(n: int) -> int:
    return n


async def keys() -> None:
    async with open_batcher(lengths, key=tokens) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(lengths, key=len) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Lengths, key=lambda text: text.lower()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Duck, key=lambda text: text.lower()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(lengths_async, key=None) as batcher:
        assert_type(batcher, Batcher[str, int])


async def costs() -> None:
    async with open_batcher(lengths, cost=tokens, max_batch_cost=8192) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(
        Lengths(), cost=lambda text: len(text.split()), max_batch_cost=8192.0
    ) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([Lengths, Lengths], cost=len, max_batch_cost=64) as batcher:
        assert_type(batcher, Batcher[str, int])


async def warmups() -> None:
    async with open_batcher(lengths, warmup=["text"], max_queue_size=8) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(lengths_async, warmup={"text"}) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Lengths(), warmup=("text",)) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(partial(Lengths), warmup=(t for t in "ab")) as batcher:
        assert_type(batcher, Batcher[str, int])


def others() -> None:
    open_batcher(lengths, max_queue_size=math.inf, max_delay=0.01, max_batch_size=8)
    open_batcher(lengths, limiter=trio.CapacityLimiter(1))
    open_batcher(lengths, limiter=anyio.CapacityLimiter(1))
    open_batcher(Lengths, limiter=None)
    open_batcher(Lengths, run_in="process")


def wrong_keys() -> None:
    open_batcher(lengths, key=numbers)  # type: ignore[arg-type, misc]
    open_batcher(lengths_async, cost=numbers, max_batch_cost=1)  # type: ignore[misc]


def wrong_keys_for_a_class() -> None:
    open_batcher(Lengths, key=numbers)  # type: ignore[arg-type]
    open_batcher(Lengths, key=lambda text: text.no_method())  # type: ignore[attr-defined]


def wrong_keys_for_an_instance() -> None:
    open_batcher(Lengths(), key=numbers)  # type: ignore[arg-type]
    open_batcher(Duck(), cost=numbers, max_batch_cost=1)  # type: ignore[arg-type]


def wrong_costs() -> None:
    open_batcher(lengths, cost=str.lower, max_batch_cost=1)  # type: ignore[arg-type]


def wrong_warmups() -> None:
    open_batcher(lengths, warmup=[1])  # type: ignore[arg-type]
    open_batcher(lengths_async, warmup=[1])  # type: ignore[arg-type]


def wrong_warmups_for_classes() -> None:
    open_batcher(Lengths, warmup=[1])  # type: ignore[misc]
    open_batcher(Duck, warmup=[1])  # type: ignore[misc]


def wrong_warmups_for_instances() -> None:
    open_batcher(Lengths(), warmup=[1])  # type: ignore[misc]
    open_batcher(Duck(), warmup=[1])  # type: ignore[misc]


def wrong_warmups_for_replicas() -> None:
    open_batcher([Lengths, Lengths], warmup=[1])  # type: ignore[misc]
    open_batcher((Lengths, lengths), warmup=[1])  # type: ignore[arg-type]


def wrong_values() -> None:
    open_batcher(lengths, 32)  # type: ignore[call-overload]
    open_batcher(lengths, max_batch_size=1.5)  # type: ignore[call-overload]
    open_batcher(lengths, max_delay="5ms")  # type: ignore[call-overload]
    open_batcher(lengths, limiter=trio.Semaphore(1))  # type: ignore[call-overload]
    open_batcher(lengths, max_batch=8)  # type: ignore[call-overload]
    open_batcher(Lengths, run_in="fork")  # type: ignore[call-overload]
