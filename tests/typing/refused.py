# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What a type checker has to refuse: each ignore below is an error if it is not needed."""

from __future__ import annotations

import math

from trio_batcher import Batcher, InferenceModel, open_batcher


def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


class Lengths(InferenceModel[str, int]):
    def infer(self, inputs: list[str]) -> list[int]:
        return lengths(inputs)


def bulk_work(batcher: Batcher[str, int]) -> None:
    batcher.map([1, 2])  # type: ignore[list-item]
    batcher.map(3)  # type: ignore[call-overload]
    batcher.map(["text"], order="sorted")  # type: ignore[call-overload]
    batcher.map(["text"], errors=True)  # type: ignore[call-overload]
    batcher.map(["text"], max_in_flight=math.inf)  # type: ignore[call-overload]


def one_by_one(text: str) -> int:
    return len(text)


def a_single_number(texts: list[str]) -> int:
    return len(texts)


async def a_single_number_async(texts: list[str]) -> int:
    return len(texts)


def load() -> Lengths:
    """A function is called with a batch, whatever it returns."""
    return Lengths()


class Predictor:
    def predict(self, texts: list[str]) -> list[int]:
        return lengths(texts)


class Asynchronous:
    async def infer(self, texts: list[str]) -> list[int]:
        return lengths(texts)


class OneByOne:
    def infer(self, text: str) -> int:
        return len(text)


async def items(batcher: Batcher[str, int]) -> None:
    await batcher.infer(1)  # type: ignore[arg-type]
    await batcher.infer_many([1, 2])  # type: ignore[list-item]
    await batcher.infer("text", weight="high")  # type: ignore[arg-type]


async def results(batcher: Batcher[str, int]) -> None:
    text: str = await batcher.infer("text")  # type: ignore[assignment]
    texts: list[str] = await batcher.infer_many(["text"])  # type: ignore[assignment]
    (await batcher.infer("text")).upper()  # type: ignore[attr-defined]
    assert text
    assert texts


async def without_await(batcher: Batcher[str, int]) -> None:
    length: int = batcher.infer("text")  # type: ignore[assignment]
    assert length


async def without_async_with() -> None:
    await open_batcher(lengths).infer("text")  # type: ignore[attr-defined]


async def a_plain_with() -> None:
    with open_batcher(lengths):  # type: ignore[attr-defined]
        pass


class AsyncInference(InferenceModel[str, int]):
    async def infer(self, inputs: list[str]) -> list[int]:  # type: ignore[override]
        return lengths(inputs)


class WrongResults(InferenceModel[str, int]):
    def infer(self, inputs: list[str]) -> list[str]:  # type: ignore[override]
        return inputs


class WrongInputs(InferenceModel[str, int]):
    def infer(self, inputs: str) -> list[int]:  # type: ignore[override]
        return [len(inputs)]


def functions_that_are_no_model() -> None:
    open_batcher(one_by_one)  # type: ignore[arg-type]
    open_batcher(a_single_number)  # type: ignore[arg-type]
    open_batcher(a_single_number_async)  # type: ignore[arg-type]
    open_batcher(load)  # type: ignore[arg-type]


def classes_that_are_no_model() -> None:
    open_batcher(Predictor)  # type: ignore[arg-type]
    open_batcher(Asynchronous)  # type: ignore[arg-type]
    open_batcher(OneByOne)  # type: ignore[arg-type]


def instances_that_are_no_model() -> None:
    open_batcher(Predictor())  # type: ignore[call-overload]
    open_batcher(Asynchronous())  # type: ignore[call-overload]
    open_batcher(OneByOne())  # type: ignore[call-overload]


def other_things() -> None:
    open_batcher(3)  # type: ignore[call-overload]
    open_batcher("model")  # type: ignore[arg-type]
    open_batcher(None)  # type: ignore[call-overload]
    open_batcher({"model": lengths})  # type: ignore[call-overload]


def replicas_that_are_none() -> None:
    open_batcher([lengths, 3])  # type: ignore[list-item]
    open_batcher([lengths, one_by_one])  # type: ignore[list-item]
    open_batcher([Predictor, Predictor])  # type: ignore[list-item]
