"""What an item looks like, and which items may run together.

An item's *form* is what it has to have in common with the others of a batch: which parts it
is made of, their dtypes, and their shapes but for the padded dimension.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._errors import ItemError
from ._results import a

if TYPE_CHECKING:
    from ._padding import Name, Pad

__all__ = ["Form", "Forms", "Item", "Part", "Reader", "Row", "rebuilt"]

Item: TypeAlias = (
    # As an attribute: by its own name, pyright takes it for one of `trio_batcher.torch`.
    torch.Tensor
    | NDArray[Any]
    | np.generic
    | float
    | list[Any]
    | tuple[Any, ...]
    | Mapping[str, Any]
)
"""What `TorchModel` takes: tensors, arrays, numbers and lists of them; dicts and tuples of
those."""

_MOST_FORMS = 256


class Part(NamedTuple):
    """The form of one tensor of an item.

    Attributes:
        path: where it is in the item, as it would be written: ``['input_ids']``, ``[0]``, or
            nothing if it is the item.
        name: the key or index at the top of the path, if there is a path.
        dtype: as the module will have it.
        shape: with -1 for the padded dimension.
    """

    path: str
    name: Name | None
    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        shape = ", ".join("length" if size < 0 else str(size) for size in self.shape)
        comma = "," if len(self.shape) == 1 else ""
        return f"{str(self.dtype).removeprefix('torch.')} of shape ({shape}{comma})"


Form: TypeAlias = tuple[Part, ...]


@dataclass(slots=True)
class Row:
    """An item as tensors.

    Attributes:
        item: as it was given, for its structure.
        form: what it has in common with others, sorted by path.
        tensors: in the order of the form's parts, dtypes not converted yet.
        length: of the padded dimension; 0 if nothing is padded.
    """

    item: Any
    form: Form
    tensors: tuple[Tensor, ...]
    length: int


class Reader:
    """Reads items as rows.

    Args:
        dtype: what floating-point tensors will be converted to; `None` if they stay.
        pad: what will be padded.
    """

    def __init__(self, dtype: torch.dtype | None, pad: Pad | None) -> None:
        self._dtype = dtype
        self._pad = pad

    def read(self, item: Any) -> Row:
        """Return an item as a row.

        Raises:
            ItemError: it is not made of tensors, or too long, or lengths differ within it.
        """
        length: int | None = None
        parts = []
        for path, name, leaf in _leaves(item):
            tensor = _tensor(path, leaf)
            shape = tuple(tensor.shape)
            pad = self._pad
            if pad is not None and self._is_padded(pad, path, name, tensor):
                own = shape[pad.dim]
                if length is None:
                    length = own
                    if own > pad.longest:
                        raise ItemError(
                            f"item{path}",
                            f"a length of at most {pad.longest} in dimension {pad.dim}",
                            str(own),
                        )
                elif own != length:
                    raise ItemError(
                        f"item{path}",
                        f"length {length} in dimension {pad.dim}, as the item has elsewhere",
                        str(own),
                    )
                shape = (*shape[: pad.dim], -1, *shape[pad.dim + 1 :])
            dtype = tensor.dtype
            if self._dtype is not None and dtype.is_floating_point:
                dtype = self._dtype
            parts.append((Part(path, name, dtype, shape), tensor))
        if not parts:
            raise ItemError("item", "a tensor somewhere in it", f"an empty {type(item).__name__}")
        # Two dicts with the same keys are alike in whatever order they have them.
        parts.sort(key=lambda part: part[0].path)
        return Row(
            item,
            tuple(part for part, _ in parts),
            tuple(tensor for _, tensor in parts),
            length or 0,
        )

    @staticmethod
    def _is_padded(pad: Pad, path: str, name: Name | None, tensor: Tensor) -> bool:
        if name is not None:
            if pad.keys is not None and name not in pad.keys:
                return False
            if pad.keys is None:
                return tensor.ndim > pad.dim
        if tensor.ndim <= pad.dim:
            raise ItemError(
                f"item{path}", f"a dimension {pad.dim}, along which it is padded", _shown(tensor)
            )
        return True


def _leaves(item: Any, path: str = "", name: Name | None = None) -> Iterator[tuple[str, Any, Any]]:
    children: Sequence[tuple[Any, Any]]
    if isinstance(item, Mapping):
        children = list(item.items())
        for key, _ in children:
            if not isinstance(key, str):
                raise ItemError(f"item{path}", "a dict with strings as keys", f"a key {key!r}")
    elif isinstance(item, tuple):
        children = list(enumerate(item))
    else:
        yield path, name, item
        return
    for key, child in children:
        yield from _leaves(child, f"{path}[{key!r}]", key if name is None else name)


def rebuilt(item: Any, leaves: Mapping[str, Any], path: str = "") -> Any:
    """Return dicts and tuples like an item's, with other leaves, given by their paths."""
    if isinstance(item, Mapping):
        return {key: rebuilt(child, leaves, f"{path}[{key!r}]") for key, child in item.items()}
    if isinstance(item, tuple):
        return tuple(rebuilt(child, leaves, f"{path}[{i}]") for i, child in enumerate(item))
    return leaves[path]


def _tensor(path: str, leaf: Any) -> Tensor:
    if isinstance(leaf, torch.Tensor):
        if leaf.device.type != "cpu" or leaf.layout is not torch.strided or leaf.is_quantized:
            raise ItemError(f"item{path}", "a dense tensor on the CPU", _shown(leaf))
        return leaf
    try:
        if isinstance(leaf, np.ndarray | np.generic):
            array = np.asarray(leaf)
            # Torch shares an array's memory, but wants to be able to write to it and knows no
            # negative strides.
            if not array.flags.writeable or min(array.strides, default=0) < 0:
                array = array.copy()
            return torch.from_numpy(array)
        if isinstance(leaf, int | float) or (isinstance(leaf, list) and _is_of_numbers(leaf)):
            return torch.tensor(leaf)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ItemError(f"item{path}", _WANTED, f"{_shown(leaf)} ({error})") from None
    raise ItemError(f"item{path}", _WANTED, _shown(leaf))


_WANTED = "a tensor, an array, numbers, or a dict or tuple of those"


def _is_of_numbers(leaf: list[Any]) -> bool:
    kinds = set(map(type, leaf))
    if kinds == {list}:
        return all(map(_is_of_numbers, leaf))
    return all(issubclass(kind, int | float) for kind in kinds)


def _shown(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        elsewhere = "" if leaf.device.type == "cpu" else f" on {leaf.device}"
        layout = "" if leaf.layout is torch.strided else f" {leaf.layout}"
        return f"{Part('', None, leaf.dtype, tuple(leaf.shape))}{layout}{elsewhere}"
    if isinstance(leaf, np.ndarray):
        return f"an array of {leaf.dtype} of shape {leaf.shape}"
    return a(leaf)


class Forms:
    """Tells which items of a batch may run, by the forms of all of them.

    If there is an example, those of its form. If there is none, those of forms that have
    succeeded before; if there are none of these, those of the batch's most frequent form,
    or several that are equally frequent.

    Args:
        example: an item as it should be, if one is known.
    """

    def __init__(self, example: Row | None) -> None:
        self._expected = None if example is None else example.form
        # In the order of their first success; values are not used.
        self._known: dict[Form, None] = {}

    def succeeded(self, form: Form) -> None:
        """Note that a run of this form succeeded."""
        if self._expected is None and form not in self._known:
            if len(self._known) == _MOST_FORMS:
                del self._known[next(iter(self._known))]
            self._known[form] = None

    def accepted(self, rows: Sequence[Row]) -> set[Form]:
        """Return the forms that may run, each with its own kind."""
        if self._expected is not None:
            return {self._expected}
        counts = Counter(row.form for row in rows)
        if len(counts) < 2:  # noqa: PLR2004  nobody to be spoiled
            return set(counts)
        # Nothing that minds if another thread adds to it: one may be collecting.
        known = {form for form in counts if form in self._known}
        most = max(counts.values())
        return known or {form for form, count in counts.items() if count == most}

    @staticmethod
    def refusal(form: Form, accepted: Form) -> ItemError:
        """Return what is wrong with an item's form, beside an accepted one."""
        got = {part.path: part for part in form}
        expected = {part.path: part for part in accepted}
        for path, part in expected.items():
            if path not in got:
                return ItemError(f"item{path}", str(part), "nothing there")
            if got[path] != part:
                return ItemError(f"item{path}", str(part), str(got[path]))
        path = next(path for path in got if path not in expected)
        return ItemError(f"item{path}", "nothing there", str(got[path]))
