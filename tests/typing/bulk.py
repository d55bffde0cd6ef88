# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers make of `Batcher.map`."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import assert_type

from trio_batcher import open_batcher


def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


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
