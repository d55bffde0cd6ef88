"""A torch module as a model: items are collated, moved, run, and split into results.

`TorchModel` is passed to `trio_batcher.open_batcher`; `Pad` says how items of different lengths
are padded, `ItemError` is what the caller of a wrong item has.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import torch

from ._collate import Collator
from ._errors import ItemError
from ._items import Form, Forms, Item, Reader, Row
from ._memory import SafeSize, runs_of
from ._model import InferenceModel
from ._padding import Pad, Sizes
from ._torch_devices import Cuda, Plain, Runner, device_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from ._collate import Batch

__all__ = ["Item", "Pad", "TorchModel"]

R = TypeVar("R")

# How allocators and libraries say it that have no exception of their own for it.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


class TorchModel(InferenceModel[Item, R], Generic[R]):
    """Runs a `torch.nn.Module`, or any function on tensors, on batches of single items.

    An item is a tensor, a NumPy array, a number or a list of numbers, without the batch's
    dimension; or a dict or tuple of items. Items are stacked along a new first dimension and
    passed on: a dict as ``module(**batch)``, a tuple as ``module(*batch)``, anything else as
    ``module(batch)``. What a tokenizer of Hugging Face's makes of one text is an item for an
    encoder of theirs.

    The output, a tensor or a tuple, list, dict or dataclass of tensors, is split along its first
    dimension: each result is of the output's kind, dataclasses of Hugging Face's included. A list
    with something for each item that is no tensor, such as a detector's dicts, is results as
    they are. A list that could be either is refused; several outputs are best a tuple.
    Results are views of their batch's output and were made in inference mode: clone those that
    are to be kept for long, changed, or used for training.

    To have weights loaded in the worker thread, make a subclass, and pass that, or a
    `functools.partial` of it, to `open_batcher`::

        class Classifier(TorchModel[Tensor]):
            def __init__(self, path: str, device: str) -> None:
                super().__init__(torch.load(path, weights_only=False), device=device)

    **Wrong items.** Items that run together have the same structure, dtypes and shapes, but for
    the padded dimension. One that is no item at all, or not like ``example``, is refused: its
    caller has an `ItemError`, and the others run. Without an example, what the module has run
    before is right; before anything has run, what most of the batch is like, or what several
    equally large parts of it are like, each run separately. A batch whose items are all alike
    is run in any case.

    **Out of memory.** A batch that does not fit is halved and run again, and so are its halves.
    The size that fits is remembered, counted in numbers of the padded inputs; every now and
    then a somewhat larger one is tried, less often each time that this fails. An item that does
    not fit alone has torch's own error, or `MemoryError`.

    On CUDA, copying in, computing and copying out are queued on three streams by `launch`, from
    and to page-locked memory, and `overlaps` is true. On other devices, `launch` computes.

    Args:
        module: a `torch.nn.Module`, which is moved to the device, converted to ``dtype`` and set
            to evaluate itself, not a copy of it; or a function on tensors.
        device: such as ``"cuda:1"``. `None`: where the module's first parameter is; the CPU, if
            it has none.
        dtype: a floating-point one, to which the module's and the items' floating-point tensors
            are converted. `None`: both stay as they are, and items of another dtype are wrong.
        padding: how items are padded that differ in one dimension. `None`: not at all, all
            shapes of a batch have to be equal.
        allowed_sizes: the only numbers of rows that the module sees. A batch is filled up to the
            next of them by its last row, a larger one than the largest is run in parts.
            `None`: any.
        example: an item as it should be, of any length; it is not run.
        autocast: the dtype of a `torch.autocast` around each run. `None`: none.
        compile: a ``mode`` for `torch.compile`, or a mapping with its keyword arguments.
            `None`: the module is run as it is. What needs CUDA graphs of its own, such as
            ``"reduce-overhead"``, wants always the same thread, which a worker is not: use
            ``max_graphs``.
        max_graphs: on CUDA, the number of different batch shapes, rows and padded lengths,
            that the module is captured for in a CUDA graph, each when it comes for the first
            time, after three runs of it; later shapes run without. It has to be a module that
            can be captured: no waiting for the GPU, no control flow that depends on values.
            Each graph keeps its memory. 0: none.
        results: ``"cpu"``, or ``"device"`` to leave them there. They are ready for use in any
            stream.

    Raises:
        TypeError: the module cannot be called.
        ValueError: an argument is out of range, or not for this device.
        ItemError: the example is no item.
    """

    def __init__(
        self,
        module: Callable[..., R],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        padding: Pad | None = None,
        allowed_sizes: Iterable[int] | None = None,
        example: Item | None = None,
        autocast: torch.dtype | None = None,
        compile: str | Mapping[str, Any] | None = None,  # noqa: A002  torch's name
        max_graphs: int = 0,
        results: Literal["cpu", "device"] = "cpu",
    ) -> None:
        if not callable(module):
            raise TypeError(f"module must be a module or a function on tensors, not {module!r}")
        _check_dtypes(dtype=dtype, autocast=autocast)
        if results not in {"cpu", "device"}:
            raise ValueError(f"results must be 'cpu' or 'device', not {results!r}")
        target = device_of(module, device)
        _check_graphs(max_graphs, target, allowed_sizes)
        self._sizes = Sizes(allowed_sizes)
        self._reader = Reader(dtype, padding)
        self._forms = Forms(None if example is None else self._reader.read(example))
        self._collator = Collator(padding, self._sizes, pinned=target.type == "cuda")
        self._memory = SafeSize()
        self._autocast = autocast
        self._device = target
        # Autocast keeps converted weights, which a graph must not depend on.
        self._cache_enabled = max_graphs == 0
        if isinstance(module, torch.nn.Module):
            module.to(device=target, dtype=dtype).eval()
        if compile is not None:
            options: dict[str, Any] = (
                {"mode": compile} if isinstance(compile, str) else dict(compile)
            )
            module = torch.compile(module, **options)
        self._module = module
        self._runner: Runner
        if target.type == "cuda":
            self._runner = Cuda(self._call, target, results, max_graphs)
        else:
            self._runner = Plain(self._call, target, results)

    @property
    def overlaps(self) -> bool:
        """Whether `launch` returns before the batch has been computed: on CUDA."""
        return self._runner.overlaps

    def infer(self, inputs: list[Item]) -> list[R]:
        """Return one result for each item, or an exception in its place.

        That is `launch`, and waiting for it.
        """
        return self.launch(inputs)()

    def launch(self, inputs: Sequence[Item]) -> Callable[[], list[R]]:
        """Start a batch; return a function that waits for its results and returns them.

        Any number of batches may be launched before that is called; call it once for each.

        Args:
            inputs: any number of items.

        Raises:
            Exception: what the module raises, but for missing memory. What a GPU only finds out
                later is raised by the function that waits.
        """
        results: list[Any] = [None] * len(inputs)
        with torch.inference_mode():
            started = [
                (places, batch, finish)
                for places, rows in self._groups(inputs, results)
                for places, batch, finish in self._started(places, rows, results)
            ]

        def collect() -> list[R]:
            with torch.inference_mode():
                for places, batch, finish in started:
                    for place, result in zip(
                        places, self._collator.split(finish(), batch), strict=True
                    ):
                        results[place] = result
                    self._forms.succeeded(batch.rows[0].form)
            return cast("list[R]", results)

        return collect

    def close(self) -> None:
        """Give back the memory that was held for later batches; the module stays as it is."""
        self._runner.close()

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        autocast: AbstractContextManager[Any] = nullcontext()
        if self._autocast is not None:
            autocast = torch.autocast(
                self._device.type, dtype=self._autocast, cache_enabled=self._cache_enabled
            )
        with autocast:
            return self._module(*args, **kwargs)

    def _groups(
        self, inputs: Sequence[Item], results: list[Any]
    ) -> Iterable[tuple[list[int], list[Row]]]:
        """Return items that may run together, with their places; the others are refused."""
        rows: dict[int, Row] = {}
        for place, item in enumerate(inputs):
            try:
                rows[place] = self._reader.read(item)
            except ItemError as error:
                results[place] = error.with_traceback(None)
        accepted = self._forms.accepted(list(rows.values()))
        groups: dict[Form, tuple[list[int], list[Row]]] = {}
        for place, row in rows.items():
            if row.form in accepted:
                places, members = groups.setdefault(row.form, ([], []))
                places.append(place)
                members.append(row)
            else:
                results[place] = self._forms.refusal(row.form, next(iter(accepted)))
        return groups.values()

    def _started(
        self, places: list[int], rows: list[Row], results: list[Any]
    ) -> Iterable[tuple[list[int], Batch, Callable[[], Any]]]:
        """Start items of one form, in as many runs as memory wants; those that never fit fail."""
        started: list[tuple[list[int], Batch, Callable[[], Any]]] = []
        runs = runs_of([self._collator.numbers_in(row) for row in rows], self._sizes, self._memory)
        fits: Any = None
        error: BaseException | None = None
        while True:
            try:
                members = runs.send(fits)
            except StopIteration as finished:
                for member in finished.value:
                    results[places[member]] = error
                return started
            attempt = self._attempt([rows[member] for member in members])
            fits = not isinstance(attempt, BaseException)
            if isinstance(attempt, BaseException):
                error = attempt
                self._runner.recover()
            else:
                started.append(([places[member] for member in members], *attempt))

    def _attempt(self, rows: list[Row]) -> tuple[Batch, Callable[[], Any]] | Exception:
        try:
            batch = self._collator.collate(rows)
            return batch, self._runner.start(batch)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            # Its frames hold the very memory that is missing.
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)


def _check_dtypes(**dtypes: torch.dtype | None) -> None:
    for name, dtype in dtypes.items():
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"{name} must be a floating-point dtype, not {dtype}")


def _check_graphs(max_graphs: int, device: torch.device, allowed_sizes: object) -> None:
    if max_graphs < 0:
        raise ValueError(f"max_graphs must be >= 0, not {max_graphs}")
    if max_graphs and device.type != "cuda":
        raise ValueError(f"max_graphs needs a CUDA device, not {device}")
    if max_graphs and allowed_sizes is None:
        raise ValueError("max_graphs needs allowed_sizes: each of them is captured by itself")
