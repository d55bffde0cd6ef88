"""Shared memory without a name."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Block", "Garbled", "new_block"]


# The fewest parts that each kernel takes in one call.
_AT_ONCE = 16


class Garbled(EOFError):
    """What has come is no message, or not the one that had to come."""


class Block:
    """A file in memory without a name, which a child inherits when it is spawned."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._size = 0

    def close(self) -> None:
        """Let go of it; the memory is freed when the other side has, too."""
        os.close(self.fd)

    def __reduce__(self) -> tuple[Any, ...]:
        # Only while a process is being spawned: that is when a descriptor can be handed on.
        return _inherited, (reduction.DupFd(self.fd),)

    def has(self, size: int) -> bool:
        """Return whether it holds so many bytes, or has done so before."""
        if self._size < size:
            self._size = os.fstat(self.fd).st_size
        return self._size >= size

    def write(self, parts: Sequence[memoryview]) -> None:
        """Write the parts from the beginning on."""
        # All at once, as far as that goes: each call costs more than a small part.
        done = offset = os.pwritev(self.fd, parts[:_AT_ONCE], 0)
        for part in parts:
            left = part[done:]
            done = max(0, done - len(part))
            while left:
                written = os.pwrite(self.fd, left, offset)
                left, offset = left[written:], offset + written

    def read_into(self, part: memoryview, offset: int) -> int:
        """Fill a part from there and return where that ended."""
        left = part
        while left:
            count = os.preadv(self.fd, [left], offset)
            if not count:
                raise Garbled("the shared memory is too short")
            left, offset = left[count:], offset + count
        return offset

    def empty(self) -> None:
        """Give its memory back."""
        with suppress(OSError):
            os.ftruncate(self.fd, 0)


def _inherited(handle: Any) -> Block:
    fd: int = handle.detach()
    os.set_inheritable(fd, False)  # noqa: FBT003  positional only
    return Block(fd)


def new_block() -> Block | None:
    """Return a block, or `None` where a child cannot inherit one: the pipe has it all then.

    A kernel, or a container, may refuse any of these calls.
    """
    if not hasattr(os, "preadv") or sys.platform == "win32":
        return None
    for make in (_in_memory, _in_a_file):
        with suppress(OSError, AttributeError):
            block = Block(make())
            try:
                block.write([memoryview(b"?")])
                block.read_into(memoryview(bytearray(1)), 0)
                os.ftruncate(block.fd, 0)
            except BaseException:
                block.close()
                raise
            return block
    return None


def _in_memory() -> int:
    return os.memfd_create("trio_batcher")


def _in_a_file() -> int:
    with tempfile.TemporaryFile() as file:  # has no name any more
        return os.dup(file.fileno())
