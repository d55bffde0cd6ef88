"""Models written for other libraries: whatever has `infer` is one."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import pytest

from trio_batcher import ModelError, open_batcher

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


def template(library):
    """The class that a library has its users' models derive from."""
    if library == "fast_dynamic_batcher":
        module = pytest.importorskip(
            "fast_dynamic_batcher.inference_template", reason="the library itself"
        )
        return module.InferenceModel

    class Template(ABC):
        @abstractmethod
        def infer(self, tasks: list[Any]) -> list[Any]: ...

    return Template


@pytest.fixture(params=["fast_dynamic_batcher", "one like it"])
def model(request):
    """A model as FastDynamicBatcher's documentation has it."""

    class DemoModel(template(request.param)):
        def __init__(self, sign=1):
            super().__init__()
            self.sign = sign
            self.loaded_in = threading.get_ident()

        def infer(self, tasks: list[Any]) -> list[Any]:
            if "bad" in tasks:
                raise ValueError("bad")
            return [(self.loaded_in, self.sign * len(task)) for task in tasks]

    return DemoModel


async def test_a_class_is_constructed_in_a_worker_thread(model):
    """As an `InferenceModel` is, with the arguments of a partial if it is one."""
    async with open_batcher(model) as batcher:
        loaded_in, length = await batcher.infer("four")
        assert length == 4
        assert loaded_in != threading.get_ident()
    async with open_batcher(partial(model, sign=-1)) as batcher:
        assert (await batcher.infer("four"))[1] == -4


async def test_an_instance_is_taken_as_it_is(model):
    """Constructed by whoever passes it."""
    async with open_batcher(model()) as batcher:
        assert await batcher.infer("four") == (threading.get_ident(), 4)


async def test_replicas(model):
    """Several of the class are several models; one instance twice is refused."""
    async with open_batcher([model, model]) as batcher:
        assert [length for _, length in await batcher.infer_many(["a", "bc"])] == [1, 2]
    instance = model()
    with pytest.raises(ValueError, match="same instance twice"):
        open_batcher([instance, instance])


async def test_its_failures_are_model_errors(model):
    """Of the input that is to blame."""
    async with open_batcher(model) as batcher:
        with pytest.raises(ModelError):
            await batcher.infer("bad")


async def test_one_with_a_close_is_closed():
    """When the batcher that constructed it closes."""
    closed = []

    class Model:
        def infer(self, inputs):
            return inputs

        def close(self):
            closed.append(self)

    async with open_batcher(Model) as batcher:
        assert await batcher.infer(1) == 1
        assert not closed
    assert len(closed) == 1


async def test_an_instance_with_both_is_what_its_class_is():
    """Its `infer` counts, though it could be called."""

    class Both:
        def __call__(self, inputs):
            raise AssertionError("nobody calls it")

        def infer(self, inputs):
            return ["inferred"] * len(inputs)

    for model in (Both, Both()):
        async with open_batcher(model) as batcher:
            assert await batcher.infer(1) == "inferred"


async def test_an_async_infer_is_refused():
    """An `infer` runs in a thread, whoever's it is."""

    class Model:
        async def infer(self, inputs):
            return inputs

    with pytest.raises(TypeError, match=r"Model\.infer must not be async"):
        open_batcher(Model)
    with pytest.raises(TypeError, match=r"Model\.infer must not be async"):
        open_batcher(Model())
