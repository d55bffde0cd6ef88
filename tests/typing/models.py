# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""One of each kind of model; the other files here open batchers on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from trio_batcher import InferenceModel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")


def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def lengths_tuple(texts: list[str]) -> tuple[int, ...]:
    return tuple(len(text) for text in texts)


def lengths_of_any(texts: Sequence[str]) -> Sequence[int]:
    """Asks for less than a list, and promises less than one."""
    return [len(text) for text in texts]


class Array:
    """As little of a sequence as an array or a tensor is."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int, /) -> float:
        raise IndexError(index)


def scores(texts: list[str]) -> Array:
    return Array()


async def lengths_async(texts: list[str]) -> list[int]:
    return lengths(texts)


class AsyncCallable:
    async def __call__(self, texts: list[str]) -> list[int]:
        return lengths(texts)


class Callables:
    """Bound methods are functions as well."""

    def blocking(self, texts: list[str]) -> list[int]:
        return lengths(texts)

    async def remote(self, texts: list[str]) -> list[int]:
        return lengths(texts)


def lengths_plus(texts: list[str], *, bonus: int) -> list[int]:
    return [length + bonus for length in lengths(texts)]


async def lengths_plus_async(texts: list[str], *, bonus: int) -> list[int]:
    return lengths_plus(texts, bonus=bonus)


class Lengths(InferenceModel[str, int]):
    """Can be constructed without arguments."""

    def infer(self, inputs: list[str]) -> list[int]:
        return lengths(inputs)


class LongLengths(Lengths):
    """A subclass's subclass."""


class Weights(InferenceModel[str, float]):
    """Needs arguments to be constructed."""

    def __init__(self, path: str, *, scale: float = 1.0) -> None:
        self.path = path
        self.scale = scale

    def infer(self, inputs: list[str]) -> tuple[float, ...]:
        return tuple(self.scale * length for length in lengths(inputs))


class Module:
    """Callable, and says nothing of what that gives, as a neural network's base class does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return None


class Network(Module, InferenceModel[str, int]):
    def infer(self, inputs: list[str]) -> list[int]:
        return lengths(inputs)


class Identity(InferenceModel[T, T], Generic[T]):
    """Generic itself."""

    def infer(self, inputs: list[T]) -> list[T]:
        return inputs


def lengths_or_errors(texts: list[str]) -> list[int | ValueError]:
    """Answers some items with an exception."""
    return [len(text) or ValueError("empty") for text in texts]


def factory() -> Callable[[list[str]], list[int]]:
    return lengths


def async_factory() -> Callable[[list[str]], Awaitable[list[int]]]:
    return lengths_async
