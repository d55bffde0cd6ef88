"""How far rows and batches are filled up.

Pure: it counts; `_collate` fills.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Name", "Pad", "Sizes"]

Name: TypeAlias = str | int
"""A part at the top of an item or of an output: a key of a dict, an index of a tuple."""


@dataclass(frozen=True, kw_only=True)
class Pad:
    """Along which dimension items may differ, and how they are brought to one length.

    Items are padded at their ends: to the longest of a batch, or to a multiple above that, or to
    one of a few given lengths.

    Attributes:
        dim: the dimension of an item's tensors that may differ, counted without the batch's.
            What is padded of one item has to agree in it.
        multiple_of: lengths are rounded up to multiples of this.
        lengths: the only lengths there are, if there are any; a longer item is refused.
        values: what is filled in, or that for each key of a dict or index of a tuple; 0 for
            those that are not named.
        keys: which keys or indices of an item are padded. `None`: all that have ``dim``.
        mask: the name of a keyword argument for the module, unless items have that key
            themselves: int64 of shape (rows, padded length), 1 where an item is and 0 where
            it was padded.
        cut: which dimension of a result, counted without the batch's, is cut back to the
            item's own length; of results that are tuples or dicts, of all parts, or a
            mapping from the key or index to that part's. `None`: results stay as they are.

    Raises:
        ValueError: an argument is out of range, or both ``multiple_of`` and ``lengths`` are
            given.
    """

    dim: int = 0
    multiple_of: int = 1
    lengths: Collection[int] = ()
    values: float | Mapping[Any, float] = 0  # of names; a mapping is invariant in its keys
    keys: Collection[Name] | None = None
    mask: str | None = None
    cut: int | Mapping[Any, int] | None = None

    def __post_init__(self) -> None:
        if self.dim < 0:
            raise ValueError(f"dim must be >= 0, counted without the batch's, not {self.dim}")
        if self.multiple_of < 1:
            raise ValueError(f"multiple_of must be >= 1, not {self.multiple_of}")
        if self.lengths and self.multiple_of > 1:
            raise ValueError("give lengths or multiple_of, not both")
        if isinstance(self.keys, str):
            raise ValueError(f"keys must be a collection of names, not the string {self.keys!r}")  # noqa: TRY004
        cuts = self.cut.values() if isinstance(self.cut, Mapping) else [self.cut or 0]
        if min(cuts, default=0) < 0:
            raise ValueError(f"cut must be >= 0, counted without the batch's, not {self.cut}")
        # Sorted once; frozen means that nobody else sets it.
        object.__setattr__(self, "lengths", _ascending("lengths", self.lengths))

    @property
    def longest(self) -> float:
        """The longest that an item may be; infinity without ``lengths``."""
        return max(self.lengths, default=math.inf)

    def padded(self, length: int) -> int:
        """Return to what an item of this length, at most `longest`, is padded by itself.

        The longest item of a batch decides for all of them.
        """
        if self.lengths:
            lengths = tuple(self.lengths)
            return lengths[bisect_left(lengths, length)]
        return -(-length // self.multiple_of) * self.multiple_of

    def value_of(self, name: Name | None) -> float:
        """Return what is filled in where an item's part of this name ends."""
        if isinstance(self.values, Mapping):
            return 0 if name is None else self.values.get(name, 0)
        return self.values

    def cut_of(self, name: Name | None) -> int | None:
        """Return which dimension is cut of a result's part of this name, if any."""
        if isinstance(self.cut, Mapping):
            return None if name is None else self.cut.get(name)
        return self.cut


class Sizes:
    """How many rows a batch may have.

    Args:
        allowed: the only sizes that there are; `None` if any will do.

    Raises:
        ValueError: there is none among them, or one that is not a whole number >= 1.
    """

    def __init__(self, allowed: Iterable[int] | None = None) -> None:
        self._allowed = None if allowed is None else _ascending("allowed_sizes", allowed)
        if self._allowed == ():
            raise ValueError("allowed_sizes must have a size, or be None")

    @property
    def most(self) -> float:
        """The most rows that may run together."""
        return math.inf if self._allowed is None else self._allowed[-1]

    def filled(self, rows: int) -> int:
        """Return to how many rows so many, at most `most`, are filled up."""
        if self._allowed is None:
            return rows
        return self._allowed[bisect_left(self._allowed, rows)]


def _ascending(name: str, numbers: Iterable[Any]) -> tuple[int, ...]:
    ascending = tuple(sorted(set(numbers)))
    for number in ascending:
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be whole numbers >= 1, not {number!r}")
    return ascending
