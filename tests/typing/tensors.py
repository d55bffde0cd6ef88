# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What a `TorchModel` takes is any item, what it gives is as its module's output."""

from __future__ import annotations

import functools
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trio_batcher import Batcher, open_batcher
from trio_batcher.torch import Item, Pad, TorchModel


def double(x: Tensor) -> Tensor:
    return x * 2


def pair(x: Tensor, *, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, y


class Classifier(TorchModel[Tensor]):
    def __init__(self, path: str, *, device: str) -> None:
        super().__init__(double, device=device)


def as_array(texts: list[str]) -> np.ndarray:
    return np.ones(len(texts))


def of_images(images: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    return np.ones(len(images), np.float32)


def as_tensor(texts: list[str]) -> Tensor:
    return torch.ones(len(texts))


async def arrays_as_results() -> None:
    async with open_batcher(as_array) as batcher:
        assert_type(batcher, Batcher[str, Any])
    async with open_batcher(of_images) as images:
        await images.infer(np.ones(1, np.uint8))
        await images.infer("image")  # type: ignore[arg-type]


async def tensors_as_results() -> None:
    async with open_batcher(as_tensor) as batcher:
        assert_type(batcher, Batcher[str, Tensor])
    async with open_batcher([as_tensor, as_tensor]) as batcher:
        assert_type(batcher, Batcher[str, Tensor])


async def functions() -> None:
    async with open_batcher(TorchModel(double)) as batcher:
        assert_type(batcher, Batcher[Item, Tensor])
        assert_type(await batcher.infer(torch.ones(1)), Tensor)
        await batcher.infer(np.ones(1))
        await batcher.infer({"x": torch.ones(1), "y": ([1, 2], 3.0)})
        await batcher.infer("text")  # type: ignore[arg-type]
    async with open_batcher(TorchModel(pair, padding=Pad(mask="y"))) as batcher:
        assert_type(await batcher.infer(torch.ones(1)), tuple[Tensor, Tensor])


async def modules() -> None:
    model = TorchModel(torch.nn.Linear(1, 1), dtype=torch.float64, allowed_sizes=range(1, 9))
    async with open_batcher(model) as batcher:
        assert_type(batcher, Batcher[Item, Any])


async def loaded_in_the_worker() -> None:
    async with open_batcher(functools.partial(Classifier, "path", device="cpu")) as batcher:
        assert_type(batcher, Batcher[Item, Tensor])


async def replicas() -> None:
    async with open_batcher([TorchModel(double, device=f"cuda:{n}") for n in range(2)]) as batcher:
        assert_type(batcher, Batcher[Item, Tensor])
    loads = [functools.partial(Classifier, "path", device=f"cuda:{n}") for n in range(2)]
    async with open_batcher(loads) as batcher:
        assert_type(batcher, Batcher[Item, Tensor])


def padding(values: dict[str, int]) -> None:
    Pad(values=values, cut=values)
    Pad(values={"input_ids": 1, "weights": 0.5}, cut={0: 1})


def wrong_arguments() -> None:
    TorchModel(double, results="gpu")  # type: ignore[arg-type]
    TorchModel(double, padding=8)  # type: ignore[arg-type]
