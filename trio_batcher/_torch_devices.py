"""Where a batch of tensors is run: on the CPU at once, on CUDA while the next one is made."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from ._collate import mapped

if TYPE_CHECKING:
    from ._collate import Batch

__all__ = ["Call", "Cuda", "Plain", "Runner", "device_of"]

Call: TypeAlias = Callable[..., Any]


def device_of(module: object, device: torch.device | str | None) -> torch.device:
    """Return the device that is asked for, or that the module is on.

    Raises:
        ValueError: there is no such CUDA device.
    """
    if device is None:
        if not isinstance(module, torch.nn.Module):
            return torch.device("cpu")
        first = next(itertools.chain(module.parameters(), module.buffers()), None)
        return torch.device("cpu") if first is None else first.device
    found = torch.device(device)
    if found.type != "cuda":
        return found
    index = found.index
    if index is None:
        index = torch.cuda.current_device() if torch.cuda.is_available() else 0
    count = torch.cuda.device_count()
    if index >= count:
        raise ValueError(f"device must be one that is there, not {device!r}: CUDA has {count}")
    return torch.device("cuda", index)


class Runner(ABC):
    """Runs a module on one device, in inference mode: the caller sees to that.

    Attributes:
        overlaps: `start` returns before the module has finished.
    """

    overlaps: bool

    @abstractmethod
    def start(self, batch: Batch) -> Callable[[], Any]:
        """Start the module on a batch; return what waits for its output and returns that.

        Any number of batches may be started before the first one is waited for.
        """

    def recover(self) -> None:  # noqa: B027  nothing to do on most
        """Give back what memory is held for later, after some was missing."""

    def close(self) -> None:  # noqa: B027  as above
        """Give back what memory is held, after the last batch."""


class Plain(Runner):
    """Runs a batch at once; on the CPU with no copy but the stacking.

    Args:
        call: what to run.
        device: where its arguments are to be.
        results: whether outputs are brought to the CPU or stay.
    """

    overlaps = False

    def __init__(self, call: Call, device: torch.device, results: Literal["cpu", "device"]) -> None:
        self._call = call
        self._device = device
        self._results = results

    def start(self, batch: Batch) -> Callable[[], Any]:
        """Run a batch; its output is there when this returns."""
        tensors = [tensor.to(self._device) for tensor in batch.tensors]
        args, kwargs = batch.arguments(tensors)
        output = self._call(*args, **kwargs)
        if self._results == "cpu":
            output = mapped(output, Tensor.cpu)
        return lambda: output


class Cuda(Runner):
    """Copies, computes and copies back on three streams, each waiting for the one before.

    A batch has its own memory everywhere. What one stream allocates and another one uses is
    recorded there, so that it is not given to anybody else before that is done.

    Args:
        call: what to run.
        device: on which GPU.
        results: whether outputs are brought to the CPU, to page-locked memory, or stay.
        max_graphs: for how many different shapes of a batch the call is captured.
    """

    overlaps = True

    def __init__(
        self,
        call: Call,
        device: torch.device,
        results: Literal["cpu", "device"],
        max_graphs: int,
    ) -> None:
        self._call = call
        self._device = device
        self._results = results
        self._max_graphs = max_graphs
        self._graphs: dict[Hashable, _Graph] = {}
        self._copy_in = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._compute = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copy_out = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # What was done to the module's weights before, on the default stream, comes first.
        self._compute.wait_stream(torch.cuda.default_stream(device))

    def start(self, batch: Batch) -> Callable[[], Any]:
        """Queue all of it; whoever waits sleeps until the GPU is done with this batch."""
        with torch.cuda.device(self._device):
            with torch.cuda.stream(self._copy_in):
                tensors = [t.to(self._device, non_blocking=True) for t in batch.tensors]
            self._compute.wait_stream(self._copy_in)
            with torch.cuda.stream(self._compute):
                for tensor in tensors:
                    tensor.record_stream(self._compute)
                output = self._run(batch, tensors)
            last = self._compute
            if self._results == "cpu":
                last = self._copy_out
                last.wait_stream(self._compute)
                with torch.cuda.stream(last):
                    output = mapped(output, self._to_host)
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            done.record(last)

        def finish() -> Any:
            done.synchronize()
            if self._results == "device":
                mapped(output, self._leave)
            return output

        return finish

    def _run(self, batch: Batch, tensors: list[Tensor]) -> Any:
        graph = self._graphs.get(batch.signature)
        if graph is None:
            if len(self._graphs) == self._max_graphs:
                args, kwargs = batch.arguments(tensors)
                return self._call(*args, **kwargs)
            graph = _Graph(self._call, batch, tensors, self._compute)
            self._graphs[batch.signature] = graph
        return graph.replay(tensors)

    def _to_host(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == "cpu":
            return tensor
        tensor.record_stream(self._copy_out)
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)

    def _leave(self, tensor: Tensor) -> Tensor:
        # Whoever has it now is most likely to use it there.
        if tensor.device.type != "cpu":
            tensor.record_stream(torch.cuda.default_stream(self._device))
        return tensor

    def recover(self) -> None:
        """Wait for what runs, and give back the allocator's cache."""
        torch.cuda.synchronize(self._device)
        with torch.cuda.device(self._device):
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Let the graphs go as well."""
        self._graphs.clear()
        self.recover()


class _Graph:
    """A call captured for one form, size and length, replayed on other tensors' contents."""

    def __init__(
        self, call: Call, batch: Batch, tensors: list[Tensor], stream: torch.cuda.Stream
    ) -> None:
        self._inputs = [tensor.clone() for tensor in tensors]
        args, kwargs = batch.arguments(self._inputs)
        # What a library sets up at its first runs cannot be captured.
        for _ in range(3):
            call(*args, **kwargs)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._output = call(*args, **kwargs)

    def replay(self, tensors: list[Tensor]) -> Any:
        for mine, tensor in zip(self._inputs, tensors, strict=True):
            mine.copy_(tensor)
        self._graph.replay()
        # The next replay, on this stream too, writes over it.
        # Anything but a tensor is what it was when the call was captured.
        return mapped(self._output, Tensor.clone, strict=True)
