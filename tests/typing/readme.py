# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""The README's model: the first that anybody writes."""

from __future__ import annotations

from functools import partial
from typing import assert_type

from trio_batcher import Batcher, InferenceModel, open_batcher


class Embedder(InferenceModel[str, list[float]]):
    def __init__(self) -> None:
        self.scale = 0.5

    def infer(self, texts: list[str]) -> list[list[float]]:
        return [[self.scale * len(text), float(text.count(" "))] for text in texts]


async def its_class() -> None:
    async with open_batcher(Embedder) as batcher:
        assert_type(batcher, Batcher[str, list[float]])
        assert_type(await batcher.infer("text"), list[float])
        assert_type(await batcher.infer_many(["text"]), list[list[float]])


async def its_class_with_options() -> None:
    async with open_batcher(Embedder, warmup=["a text to warm up with"]) as batcher:
        assert_type(await batcher.infer("structured concurrency"), list[float])
    async with open_batcher(Embedder, run_in="process", max_batch_size=8) as batcher:
        assert_type(await batcher.infer("structured concurrency"), list[float])


async def an_instance() -> None:
    async with open_batcher(Embedder()) as batcher:
        assert_type(batcher, Batcher[str, list[float]])


async def replicas() -> None:
    async with open_batcher([Embedder, Embedder]) as batcher:
        assert_type(batcher, Batcher[str, list[float]])
    async with open_batcher([Embedder(), Embedder()]) as batcher:
        assert_type(batcher, Batcher[str, list[float]])


async def a_class_beside_an_instance() -> None:
    async with open_batcher((Embedder, Embedder(), partial(Embedder))) as batcher:
        assert_type(batcher, Batcher[str, list[float]])
    async with open_batcher(Embedder()) as batcher:
        assert_type(batcher, Batcher[str, list[float]])


async def a_wrong_item() -> None:
    async with open_batcher(Embedder) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]
