# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What a `TorchModel` takes is any item, what it gives is as its module's output."""

from __future__ import annotations

import functools
from typing import Any, assert_type

import numpy as np
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


def wrong_arguments() -> None:
    TorchModel(double, results="gpu")  # type: ignore[arg-type]
    TorchModel(double, padding=8)  # type: ignore[arg-type]
