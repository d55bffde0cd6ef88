# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Handlers of web frameworks have the model's own types."""

from __future__ import annotations

import functools
from typing import Annotated, assert_type

from fastapi import Depends, FastAPI
from quart_trio import QuartTrio

from trio_batcher import Batcher, InferenceModel
from trio_batcher.asgi import BatcherMiddleware
from trio_batcher.fastapi import BatcherDependency, batcher_lifespan, get_batcher
from trio_batcher.quart import QuartBatcher


def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


async def lengths_async(texts: list[str]) -> list[int]:
    return lengths(texts)


class Lengths(InferenceModel[str, int]):
    def infer(self, inputs: list[str]) -> list[int]:
        return lengths(inputs)


class Weights(InferenceModel[str, float]):
    def __init__(self, path: str) -> None:
        self.path = path

    def infer(self, texts: list[str]) -> tuple[float, ...]:
        return tuple(float(len(text)) for text in texts)


Length = Annotated[Batcher[str, int], Depends(get_batcher)]
Score = Annotated[Batcher[str, float], Depends(BatcherDependency("scorer"))]

lengths_lifespan = batcher_lifespan(Lengths, max_batch_size=8)
app = FastAPI(
    lifespan=batcher_lifespan(
        functools.partial(Weights, "weights"), name="scorer", lifespan=lengths_lifespan
    )
)


app.add_middleware(BatcherMiddleware, default_timeout=2.0)


@app.get("/length")
async def length_and_score(text: str, batcher: Length, scorer: Score) -> float:
    assert_type(await batcher.infer(text), int)
    assert_type(await scorer.infer(text), float)
    await batcher.infer(1)  # type: ignore[arg-type]
    return await scorer.infer(text)


async def in_quart() -> None:
    functions = QuartBatcher(lengths, max_batch_size=8, warmup=["a"])
    functions.init_app(QuartTrio(__name__), default_timeout=2.0)
    assert_type(functions, QuartBatcher[str, int])
    assert_type(await functions.infer("a"), int)
    assert_type(functions.batcher, Batcher[str, int])
    assert_type(QuartBatcher(lengths_async), QuartBatcher[str, int])
    assert_type(QuartBatcher(Lengths), QuartBatcher[str, int])
    assert_type(QuartBatcher(Lengths()), QuartBatcher[str, int])
    assert_type(QuartBatcher([Lengths, Lengths]), QuartBatcher[str, int])
    assert_type(QuartBatcher((Lengths, Lengths())), QuartBatcher[str, int])
    partial = QuartBatcher(functools.partial(Weights, "weights"))
    assert_type(await partial.infer("a"), float)
    await functions.infer(1)  # type: ignore[arg-type]


def options() -> None:
    assert_type(QuartBatcher(lengths, key=len), QuartBatcher[str, int])
    assert_type(QuartBatcher(Lengths, cost=len, max_batch_cost=8), QuartBatcher[str, int])
    assert_type(QuartBatcher(lengths_async, key=lambda t: t.lower()), QuartBatcher[str, int])
    batcher_lifespan(Lengths, key=len, warmup=["a"], run_in="process")


def wrong_options() -> None:
    QuartBatcher(lengths, warmup=[1])  # type: ignore[arg-type]
    QuartBatcher(lengths, key=str.no_method)  # type: ignore[arg-type, attr-defined]
    batcher_lifespan(lengths, max_batch=8)  # type: ignore[call-arg]
    batcher_lifespan(lengths, max_delay="soon")  # type: ignore[arg-type]
    QuartBatcher(lengths, max_batch=8)  # type: ignore[call-overload]
