"""What two processes tell each other: the bulk by shared memory, a few bytes through a pipe.

A message is a pickle and the buffers that protocol 5 keeps out of it: arrays and tensors are
not pickled. All of that is written into a block, a file in memory that has no name, so
that nothing can be left of it however the two end. A header of a few bytes then goes through
the pipe, and the other side reads the block into memory of its own: two copies each way, made
without the interpreter lock, and nothing that the next message could overwrite. There is a block
each way, used again for each message; it is as large as the largest so far.

Nothing here blocks on a full pipe: a header has room in an empty one, and there is never more
than one message on its way.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import struct
import sys
import tempfile
from array import array
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

__all__ = ["NOTHING", "Block", "Line", "Packed", "new_block", "pack", "unpack"]

# What kind of message, and how many parts it has.
_HEADER = struct.Struct("<BQ")


class Packed(NamedTuple):
    """A value as it is sent.

    Attributes:
        pickle: the pickle, in pieces.
        buffers: what is not in the pickle: the arrays' own memory, not copies of it.
    """

    pickle: Sequence[bytes]
    buffers: Sequence[memoryview]


NOTHING = Packed((), ())


class Block:
    """A file in memory without a name, which a child inherits when it is spawned."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Let go of it; the memory is freed when the other side has, too."""
        os.close(self.fd)

    def __reduce__(self) -> tuple[Any, ...]:
        # Only while a process is being spawned: that is when a descriptor can be handed on.
        return _inherited, (reduction.DupFd(self.fd),)

    @property
    def size(self) -> int:
        """How many bytes it holds."""
        return os.fstat(self.fd).st_size

    def write(self, parts: Sequence[memoryview]) -> None:
        """Write the parts from the beginning on."""
        offset = 0
        for part in parts:
            left = part
            while left:
                written = os.pwrite(self.fd, left, offset)
                left, offset = left[written:], offset + written

    def read_into(self, part: memoryview, offset: int) -> int:
        """Fill a part from there and return where that ended."""
        left = part
        while left:
            count = os.preadv(self.fd, [left], offset)
            if not count:
                raise EOFError
            left, offset = left[count:], offset + count
        return offset


def _inherited(handle: Any) -> Block:
    fd: int = handle.detach()
    os.set_inheritable(fd, False)  # noqa: FBT003  positional only
    return Block(fd)


def new_block() -> Block | None:
    """Return a block, or `None` where a child cannot inherit one: the pipe has it all then."""
    if not hasattr(os, "preadv") or sys.platform == "win32":
        return None
    if hasattr(os, "memfd_create"):
        return Block(os.memfd_create("trio_batcher"))
    with tempfile.TemporaryFile() as file:  # has no name any more
        return Block(os.dup(file.fileno()))


class Line:
    """One end of a conversation in which the two sides take turns."""

    def __init__(
        self, connection: Connection, outgoing: Block | None, incoming: Block | None
    ) -> None:
        self.connection = connection
        self._outgoing = outgoing
        self._incoming = incoming
        # The parts of the last message: fresh memory costs more than what is copied into it.
        self._spare: list[bytearray] = []

    def send(self, kind: int, packed: Packed = NOTHING) -> None:
        """Send what `pack` returned.

        Raises:
            EOFError: the other side is gone.
            OSError: there is no room for it. Nothing was sent.
        """
        pieces, buffers = packed
        sizes = array("Q", [sum(map(len, pieces)), *map(len, buffers)])
        views = [memoryview(sizes).cast("B"), *[memoryview(piece) for piece in pieces], *buffers]
        if self._outgoing is not None:
            self._outgoing.write(views)
        try:
            self.connection.send_bytes(_HEADER.pack(kind, len(sizes)))
            if self._outgoing is None:
                for view in (views[0], memoryview(b"".join(pieces)), *buffers):
                    self.connection.send_bytes(view)
        except OSError as exc:
            raise EOFError from exc

    def receive(self) -> tuple[int, list[memoryview]]:
        """Wait for a message and return its kind and what `unpack` wants.

        Raises:
            EOFError: the other side is gone.
        """
        try:
            kind, count = _HEADER.unpack(self.connection.recv_bytes())
            sizes = array("Q", bytes(8 * count))
            offset = self._fill(memoryview(sizes).cast("B"), 0)
            parts = [memoryview(part) for part in self._room(sizes)]
            for part in parts:
                offset = self._fill(part, offset)
        except OSError as exc:
            raise EOFError from exc
        return kind, parts

    def _room(self, sizes: Sequence[int]) -> list[bytearray]:
        unused: dict[int, list[bytearray]] = {}
        for part in filter(_is_unused, self._spare):
            unused.setdefault(len(part), []).append(part)
        self._spare = [unused[n].pop() if unused.get(n) else bytearray(n) for n in sizes]
        return self._spare

    def _fill(self, part: memoryview, offset: int) -> int:
        if self._incoming is not None:
            return self._incoming.read_into(part, offset)
        self.connection.recv_bytes_into(part)
        return offset


def _is_unused(part: bytearray) -> bool:
    """Return whether nobody has a view of it, as every array and tensor in it has."""
    try:
        part.append(part.pop())  # refused as long as there is one
    except (BufferError, IndexError):
        return False
    return True


class _Pieces(list[bytes]):
    """A file to pickle into. What is large comes as the object itself, and is not copied."""

    def write(self, piece: bytes) -> None:
        self.append(piece)


def pack(value: object) -> Packed:
    """Return a pickle of a value, and the buffers of the arrays and tensors in it.

    What is contiguous is not copied.
    """
    pieces, buffers = _Pieces(), list[pickle.PickleBuffer]()
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "Tensor"):
        pickle.Pickler(pieces, 5, buffer_callback=buffers.append).dump(value)
    else:
        _TensorPickler(torch, pieces, 5, buffer_callback=buffers.append).dump(value)
    return Packed(pieces, [buffer.raw() for buffer in buffers])


def unpack(parts: Sequence[memoryview]) -> Any:
    """Return the value that was packed. Its arrays and tensors are views of the parts."""
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  our own process sent it


class _TensorPickler(pickle.Pickler):
    """Tensors as what they are in memory, whatever their type, with or without NumPy."""

    def __init__(self, torch: Any, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._torch = torch

    def reducer_override(self, value: Any) -> Any:
        torch = self._torch
        if (
            type(value) is not torch.Tensor
            or value.layout is not torch.strided
            or value.is_quantized
            or value.device.type == "meta"
        ):
            return NotImplemented
        plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
        memory = pickle.PickleBuffer(_memory_of(plain))
        return _tensor, (memory, str(plain.dtype), tuple(plain.shape))


def _memory_of(tensor: Any) -> Any:
    """Return the bytes of a contiguous tensor, which live as long as anybody looks at them."""
    # Not by way of a memoryview: one that has to be kept for its buffer crashes the interpreter
    # when it is part of a cycle of garbage, such as the traceback of a failed batch.
    size = tensor.numel() * tensor.element_size()
    array_type: Any = type("_Bytes", (ctypes.c_ubyte * size,), {})
    memory = array_type.from_address(tensor.data_ptr()) if size else array_type()
    memory.tensor = tensor
    return memory


def _tensor(buffer: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    import torch  # noqa: PLC0415  only those who have tensors have it

    kind = getattr(torch, dtype.removeprefix("torch."))
    if not len(buffer):
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(buffer, dtype=kind).reshape(shape)
