"""Items into a batch of tensors, and the module's output into results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._items import rebuilt
from ._results import a

if TYPE_CHECKING:
    from ._items import Form, Part, Row
    from ._padding import Name, Pad, Sizes

__all__ = ["Batch", "Collator", "mapped"]

# Its name in messages.
_OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one form, stacked.

    Attributes:
        rows: what is in it, without those that it was filled up by.
        tensors: one for each part of their form, of shape (size, …), then the mask if there is
            one to be made.
        length: that of the padded dimension, padded.
        mask: the mask's keyword.
    """

    rows: Sequence[Row]
    tensors: list[Tensor]
    length: int
    mask: str | None

    @property
    def size(self) -> int:
        """How many rows the module sees."""
        return len(self.tensors[0])

    @property
    def signature(self) -> tuple[Form, int, int]:
        """What batches have in common that are alike in all but the tensors' contents."""
        return self.rows[0].form, self.size, self.length

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return a call's arguments, with these tensors in the place of the batch's own."""
        first = self.rows[0]
        leaves = {part.path: tensor for part, tensor in zip(first.form, tensors, strict=False)}
        whole = rebuilt(first.item, leaves)
        masks = {} if self.mask is None else {self.mask: tensors[-1]}
        if isinstance(whole, dict):
            return (), whole | masks
        return whole if isinstance(whole, tuple) else (whole,), masks


class Collator:
    """Stacks, pads and fills up; cuts outputs apart.

    Args:
        pad: how rows are padded.
        sizes: how many rows a batch may have.
        pinned: batches are made in page-locked memory, for a copy that nobody waits for.
    """

    def __init__(self, pad: Pad | None, sizes: Sizes, *, pinned: bool) -> None:
        self._pad = pad
        self._sizes = sizes
        self._pinned = pinned

    def numbers_in(self, row: Row) -> int:
        """Return how many numbers a row consists of when it is padded by itself."""
        length = self._padded(row.length)
        return sum(
            math.prod(length if size < 0 else size for size in part.shape) for part in row.form
        )

    def _padded(self, length: int) -> int:
        return 0 if self._pad is None else self._pad.padded(length)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return a batch of rows of one form."""
        pad, length = self._pad, self._padded(max(row.length for row in rows))
        size = self._sizes.filled(len(rows))
        tensors = [
            self._stacked(part, [row.tensors[i] for row in rows], size, length)
            for i, part in enumerate(rows[0].form)
        ]
        mask = None
        if pad is not None and pad.mask is not None:
            item = rows[0].item
            if not (isinstance(item, Mapping) and pad.mask in item):
                mask = pad.mask
                lengths = [row.length for row in rows]
                lengths += lengths[-1:] * (size - len(rows))
                ones = (torch.arange(length) < torch.tensor(lengths)[:, None]).to(torch.int64)
                tensors.append(ones.pin_memory() if self._pinned else ones)
        return Batch(rows, tensors, length, mask)

    def _stacked(self, part: Part, rows: list[Tensor], size: int, length: int) -> Tensor:
        shape = tuple(length if n < 0 else n for n in part.shape)
        alike = all(row.shape == shape and row.dtype == part.dtype for row in rows)
        if alike and size == len(rows) and not self._pinned:
            return torch.stack(rows)
        stacked = torch.empty((size, *shape), dtype=part.dtype, pin_memory=self._pinned)
        if alike:
            torch.stack(rows, out=stacked[: len(rows)])
        else:
            dim = part.shape.index(-1) if -1 in part.shape else None
            if dim is not None and self._pad is not None:
                stacked.fill_(self._pad.value_of(part.name))
            for place, row in zip(stacked, rows, strict=False):
                (place if dim is None else place.narrow(dim, 0, row.shape[dim])).copy_(row)
        if size > len(rows):
            stacked[len(rows) :] = stacked[len(rows) - 1]
        return stacked

    def split(self, output: Any, batch: Batch) -> list[Any]:
        """Return a result for each row, given the module's output for the batch.

        Results are views of the output where that is made of tensors. A list with something else
        than such tensors for each row is taken as it is.

        Raises:
            TypeError: there is something in the output that cannot be split.
            ValueError: a tensor in it has another number of rows, or is to be cut and does
                not have the padded length; or a list can be read in two ways.
        """
        return self._split(output, batch, _OUTPUT, None)

    def _split(self, output: Any, batch: Batch, path: str, name: Name | None) -> list[Any]:
        if isinstance(output, Tensor):
            return self._split_tensor(output, batch, path, name)
        if output is None:
            return [None] * len(batch.rows)
        if isinstance(output, list) and _is_of_results(output, batch.size, path):
            return output[: len(batch.rows)]
        children = _children(output, path)
        split = [
            self._split(child, batch, f"{path}{step}", key if name is None else name)
            for key, step, child in children
        ]
        columns = zip(*split, strict=True) if split else [()] * len(batch.rows)
        return [_rebuilt_output(output, column) for column in columns]

    def _split_tensor(
        self, output: Tensor, batch: Batch, path: str, name: Name | None
    ) -> list[Tensor]:
        if not _has_rows(output, batch.size):
            raise ValueError(
                f"{path} is of shape {tuple(output.shape)} for a batch of {batch.size}: "
                "the first dimension has to be the batch's"
            )
        dim = None if self._pad is None else self._pad.cut_of(name)
        rows = list(output[: len(batch.rows)].unbind())
        if dim is None:
            return rows
        if output.ndim < dim + 2 or output.shape[dim + 1] != batch.length:
            raise ValueError(
                f"{path} is of shape {tuple(output.shape)}: dimension {dim} of a result cannot be "
                f"cut back, the padded length is {batch.length}"
            )
        return [
            result.narrow(dim, 0, row.length) for result, row in zip(rows, batch.rows, strict=True)
        ]


def _has_rows(tensor: Tensor, size: int) -> bool:
    return tensor.ndim > 0 and len(tensor) == size


def _is_of_results(output: list[Any], size: int, path: str) -> bool:
    """Return whether a list has a result for each item, not an output for all of them each.

    A detector returns a list of dicts, one for each image. Tensors can be either, and so can
    what is inside a larger output, if all that is in it has the batch's size.

    Raises:
        ValueError: nobody can tell.
    """
    if len(output) != size:
        return False
    tensors = [each for each in output if isinstance(each, Tensor)]
    if len(tensors) == size:
        kinds = {(tensor.ndim, tensor.dtype) for tensor in tensors}
        clear = len(kinds) == 1 and not all(_has_rows(tensor, size) for tensor in tensors)
    else:
        clear = not tensors and (path == _OUTPUT or not all(_can_be_split(e, size) for e in output))
    if not clear:
        raise ValueError(
            f"{path} is a list of {size} for a batch of {size}, as long by chance or because it "
            "has one result for each item. For the latter have the module return a list of dicts "
            "and nothing around it, for several outputs a tuple"
        )
    return True


def _can_be_split(output: Any, size: int) -> bool:
    if isinstance(output, Tensor):
        return _has_rows(output, size)
    try:
        return output is None or all(_can_be_split(e, size) for _, _, e in _children(output, ""))
    except TypeError:
        return False


def mapped(output: Any, change: Callable[[Tensor], Tensor], *, strict: bool = False) -> Any:
    """Return an output with each tensor in it changed.

    Raises:
        TypeError: there is something in it that no tensors can be found in, and it is ``strict``.
    """
    if isinstance(output, Tensor):
        return change(output)
    if output is None:
        return None
    try:
        parts = _children(output, _OUTPUT)
    except TypeError:
        if strict:
            raise
        return output
    children = [mapped(child, change, strict=strict) for _, _, child in parts]
    return _rebuilt_output(output, children)


def _children(output: Any, path: str) -> list[tuple[Name, str, Any]]:
    # Hugging Face's outputs are both dataclasses and mappings, of what is not None.
    if isinstance(output, Mapping):
        return [(key, f"[{key!r}]", child) for key, child in output.items()]
    if isinstance(output, tuple | list):
        return [(i, f"[{i}]", child) for i, child in enumerate(output)]
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [
            (field.name, f".{field.name}", getattr(output, field.name))
            for field in dataclasses.fields(output)
        ]
    raise TypeError(
        f"{path} is {a(output)}: results are split from tensors, tuples, lists, "
        "dicts and dataclasses of them; have the module return the part that is wanted"
    )


def _rebuilt_output(output: Any, children: Sequence[Any]) -> Any:
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        if isinstance(output, Mapping):
            return type(output)(**dict(zip(output, children, strict=True)))
        names = [field.name for field in dataclasses.fields(output)]
        return type(output)(**dict(zip(names, children, strict=True)))
    if isinstance(output, Mapping):
        return dict(zip(output, children, strict=True))
    if isinstance(output, list):
        return list(children)
    return type(output)(*children) if hasattr(output, "_fields") else tuple(children)
