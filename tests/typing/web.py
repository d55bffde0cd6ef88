# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Handlers of web frameworks have the model's own types."""

from __future__ import annotations

import functools
from typing import Annotated, assert_type

from fastapi import Depends, FastAPI
from quart_trio import QuartTrio

from trio_batcher import Batcher
from trio_batcher.fastapi import BatcherDependency, batcher_lifespan, get_batcher
from trio_batcher.quart import QuartBatcher

from .models import Lengths, Weights, lengths, lengths_async

Length = Annotated[Batcher[str, int], Depends(get_batcher)]
Score = Annotated[Batcher[str, float], Depends(BatcherDependency("scorer"))]

lengths_lifespan = batcher_lifespan(Lengths, max_batch_size=8)
app = FastAPI(lifespan=batcher_lifespan(Weights, name="scorer", lifespan=lengths_lifespan))


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
    partial = QuartBatcher(functools.partial(Weights, "weights"))
    assert_type(await partial.infer("a"), float)
    await functions.infer(1)  # type: ignore[arg-type]


def wrong_options() -> None:
    batcher_lifespan(lengths, max_batch=8)  # type: ignore[call-arg]
    batcher_lifespan(lengths, max_delay="soon")  # type: ignore[arg-type]
    QuartBatcher(lengths, max_batch=8)  # type: ignore[call-overload]
