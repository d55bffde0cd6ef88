"""Torch models of two sizes: in batches through the batcher, one at a time, and offline.

A ResNet-101 and an encoder of MiniLM's size, with random weights, by `TorchModel`. Offline means:
stack a batch, copy it, run it, copy the results back, then the next one, all inputs being known.
One at a time is the same with batches of one. Through the batcher 256 callers ask one item after
another. The device is busy while a batch is launched and not collected (`BatcherStatistics.busy`).

    python -m tests.bench.gpu [--seconds 10] [--rounds 3] [--pixels 224] [--batch 32]

It runs on the first CUDA device. Where there is none it runs on the CPU, with smaller images, says
so, and has no goals. On a GPU the exit status is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
import trio
from torch import nn

from trio_batcher import open_batcher
from trio_batcher.torch import TorchModel

from .disturbance import in_worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CALLERS = 256
# Times one at a time, percent of offline, percent of the time.
SPEEDUP_GOAL, OFFLINE_GOAL, BUSY_GOAL = 5.0, 90.0, 95.0


class Bottleneck(nn.Module):
    """K. He et al., "Deep residual learning for image recognition", 2015, figure 5."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        outside = 4 * width
        self.body = nn.Sequential(
            *_convolved(inside, width, 1, 1),
            nn.ReLU(inplace=True),
            *_convolved(width, width, 3, stride),
            nn.ReLU(inplace=True),
            *_convolved(width, outside, 1, 1),
        )
        same = inside == outside and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(*_convolved(inside, outside, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the block to its input."""
        added: Tensor = self.body(x) + self.shortcut(x)
        return added.relu_()


def _convolved(inside: int, outside: int, size: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inside, outside, size, stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outside)


def resnet101() -> nn.Module:
    """Return a ResNet-101 for 1,000 classes."""
    layers: list[nn.Module] = [
        *_convolved(3, 64, 7, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    inside = 64
    for width, depth, stride in [(64, 3, 1), (128, 4, 2), (256, 23, 2), (512, 3, 2)]:
        for place in range(depth):
            layers.append(Bottleneck(inside, width, stride if place == 0 else 1))
            inside = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 1000))


class TextEncoder(nn.Module):
    """Six layers of 384, as MiniLM has; the mean of the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30522, 384)
        layer = nn.TransformerEncoderLayer(384, 12, 1536, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode texts of one length."""
        encoded: Tensor = self.layers(self.embedding(tokens)).mean(1)
        return encoded


def offline(module: nn.Module, make: Callable[[], Tensor], size: int, where: Any) -> float:
    """Return items a second, in batches of that size."""
    items = [make() for _ in range(size)]

    def once() -> None:
        with torch.inference_mode(), torch.autocast(where.kind, where.dtype, enabled=where.cuda):
            module(torch.stack(items).to(where.device, non_blocking=True)).cpu()

    return _rate(once, size, where.seconds)


def _rate(once: Callable[[], None], items: int, seconds: float) -> float:
    once()
    runs, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or runs < 2:
        once()
        runs += 1
    return items * runs / (time.perf_counter() - started)


async def batched(
    module: nn.Module, make: Callable[[], Tensor], size: int, where: Any
) -> tuple[float, float]:
    """Return items a second and percent busy, of 256 callers in a closed loop."""
    model = TorchModel(module, device=where.device, autocast=where.dtype if where.cuda else None)
    item, answered = make(), 0
    async with open_batcher(model, max_batch_size=size, warmup=[item]) as batcher:
        started = time.perf_counter()

        async def caller() -> None:
            nonlocal answered
            while time.perf_counter() - started < where.seconds:
                await batcher.infer(item)
                answered += 1

        async with trio.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(caller)
        # Until the last batch has ended: what is busy is known at the end of a batch.
        elapsed = time.perf_counter() - started
        return answered / elapsed, 100.0 * batcher.statistics().busy[0] / elapsed


def main() -> int:
    """Measure and print; return the exit status."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=10.0 if cuda else 8.0)
    parser.add_argument("--rounds", type=int, default=3 if cuda else 1)
    parser.add_argument("--pixels", type=int, default=224 if cuda else 64)
    parser.add_argument("--batch", type=int, default=32)
    where = parser.parse_args()
    where.cuda, where.kind = cuda, "cuda" if cuda else "cpu"
    where.device = torch.device(where.kind)
    where.dtype = torch.float16 if cuda else torch.bfloat16
    if cuda:
        print(f"on {torch.cuda.get_device_name()}, float16 by autocast")
    else:
        print("on the CPU, as there is no CUDA device: the goals are a GPU's and do not count here")
    missed = False
    for name, build, make in [
        (
            f"ResNet-101, {where.pixels} px",
            resnet101,
            lambda: torch.rand(3, where.pixels, where.pixels),
        ),
        ("MiniLM-sized, 128 tokens", TextEncoder, lambda: torch.randint(30522, (128,))),
    ]:
        torch.manual_seed(0)
        module = build().eval().to(where.device)
        single, listed, rates, busy = [], [], [], []
        for _ in range(where.rounds):
            single.append(in_worker(offline, module, make, 1, where))
            listed.append(in_worker(offline, module, make, where.batch, where))
            rate, share = trio.run(batched, module, make, where.batch, where)
            rates.append(rate)
            busy.append(share)
        rate, share = statistics.median(rates), statistics.median(busy)
        speedup = statistics.median(a / b for a, b in zip(rates, single, strict=True))
        part = 100.0 * statistics.median(a / b for a, b in zip(rates, listed, strict=True))
        print(f"{name}, batches up to {where.batch}")
        print(f"  one at a time {statistics.median(single):10.1f} /s")
        print(f"  offline       {statistics.median(listed):10.1f} /s")
        print(f"  batcher       {rate:10.1f} /s   {speedup:.2f}x (goal {SPEEDUP_GOAL:g})")
        print(f"  of offline    {part:10.1f} %    (goal {OFFLINE_GOAL:g})")
        print(f"  device busy   {share:10.1f} %    (goal {BUSY_GOAL:g})", flush=True)
        missed |= speedup < SPEEDUP_GOAL or part < OFFLINE_GOAL or share < BUSY_GOAL
    if not cuda:
        return 0
    print("MISSED" if missed else "all goals met")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
