# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""A subclass of `InferenceModel` is a model, and so are a partial and an instance of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, assert_type

from trio_batcher import Batcher, InferenceModel, open_batcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


class Lengths(InferenceModel[str, int]):
    def infer(self, inputs: list[str]) -> list[int]:
        return [len(text) for text in inputs]


class LongLengths(Lengths):
    """A subclass's subclass."""


class Weights(InferenceModel[str, float]):
    """Needs arguments to be constructed, one of them a list."""

    def __init__(self, paths: list[str], *, scale: float = 1.0) -> None:
        self.paths = paths
        self.scale = scale

    def infer(self, texts: Sequence[str], normalize: bool = True) -> tuple[float, ...]:
        return tuple(self.scale * len(text) for text in texts)

    def close(self) -> None:
        self.paths.clear()


class Overlapped(InferenceModel[str, int]):
    """Prepares a batch while another one runs."""

    overlaps = True

    def infer(self, inputs: list[str]) -> list[int]:
        return self.launch(inputs)()

    def launch(self, inputs: list[str]) -> Callable[[], list[int]]:
        return lambda: [len(text) for text in inputs]


class Module:
    """Callable, and says nothing of what that gives, as a neural network's base class does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return None


class Network(Module, InferenceModel[str, int]):
    def infer(self, inputs: list[str]) -> list[int]:
        return [len(text) for text in inputs]


class Identity(InferenceModel[T, T], Generic[T]):
    """Generic itself."""

    def infer(self, inputs: list[T]) -> list[T]:
        return inputs


async def classes() -> None:
    async with open_batcher(Lengths) as batcher:
        assert_type(batcher, Batcher[str, int])
        assert_type(await batcher.infer("text"), int)
    async with open_batcher(LongLengths) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Overlapped) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Network) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Identity[bytes]) as echo:
        assert_type(echo, Batcher[bytes, bytes])


async def instances() -> None:
    async with open_batcher(Lengths()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(LongLengths()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Overlapped()) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher(Weights([])) as floats:
        assert_type(floats, Batcher[str, float])
    async with open_batcher(Identity[bytes]()) as echo:
        assert_type(echo, Batcher[bytes, bytes])


async def a_callable_instance() -> None:
    async with open_batcher(Network()) as batcher:
        assert_type(batcher, Batcher[str, int])


async def partials() -> None:
    async with open_batcher(partial(Weights, ["weights"])) as batcher:
        assert_type(batcher, Batcher[str, float])
        assert_type(await batcher.infer("text"), float)
    load = partial(Weights, ["weights"], scale=2.0)
    async with open_batcher(load, warmup=["text"]) as batcher:
        assert_type(batcher, Batcher[str, float])


async def replicas_of_classes() -> None:
    async with open_batcher([Lengths, LongLengths]) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([Lengths] * 2) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher((Lengths,) * 2) as batcher:
        assert_type(batcher, Batcher[str, int])


async def replicas_of_partials() -> None:
    async with open_batcher([partial(Weights, [path]) for path in "ab"]) as floats:
        assert_type(floats, Batcher[str, float])
    async with open_batcher((partial(Weights, ["weights"]), Weights)) as floats:
        assert_type(floats, Batcher[str, float])


async def replicas_of_instances() -> None:
    async with open_batcher([Lengths(), LongLengths()]) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher([Weights([path]) for path in "ab"], warmup=["text"]) as floats:
        assert_type(floats, Batcher[str, float])


async def replicas_of_all_kinds() -> None:
    async with open_batcher([Network(), Network()]) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher((Lengths, Lengths(), Overlapped().infer)) as batcher:
        assert_type(batcher, Batcher[str, int])
    async with open_batcher((Weights([]), partial(Weights, ["weights"]), Weights)) as floats:
        assert_type(floats, Batcher[str, float])
    async with open_batcher((Lengths, Network())) as batcher:
        assert_type(batcher, Batcher[str, int])


async def a_wrong_item() -> None:
    async with open_batcher(Lengths) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]
    async with open_batcher(partial(Weights, ["weights"])) as floats:
        await floats.infer(b"bytes")  # type: ignore[arg-type]
    async with open_batcher([Lengths, Lengths]) as batcher:
        await batcher.infer(b"bytes")  # type: ignore[arg-type]
