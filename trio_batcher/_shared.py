"""What two processes tell each other: the bulk by shared memory, a few bytes through a pipe.

A message is a pickle and the buffers that protocol 5 keeps out of it: arrays and tensors are
not pickled. All of that is written into a block, a file in memory that has no name, so
that nothing can be left of it however the two end. A header of a few bytes then goes through
the pipe, and the other side reads the block into memory of its own: two copies each way, made
without the interpreter lock, and nothing that the next message could overwrite. There is a block
each way, used again for each message; it is as large as the largest so far. Where there is none,
or no room in it, the pipe has it all.

Nothing here blocks on a full pipe as long as the blocks are used: a header has room in an empty
one, and there is never more than one message on its way.

Messages have numbers; an answer has its question's. What is not as it has to be is no message, and
the conversation is over.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import struct
import sys
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from ._block import Block, Garbled, new_block

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

__all__ = ["NOTHING", "Block", "Garbled", "Line", "Packed", "new_block", "pack", "unpack"]

# Its number, what kind of message, where its parts are, how many, and the bytes in all of them.
_HEADER = struct.Struct("<QBBQQ")
_IN_THE_BLOCK, _IN_THE_PIPE = 0xB1, 0xB2
# What goes through the pipe goes in pieces, so that it can be passed over without memory for it.
_PIECE = 1 << 20


class Packed(NamedTuple):
    """A value as it is sent.

    Attributes:
        pickle: the pickle, in pieces.
        buffers: what is not in the pickle: the arrays' own memory, not copies of it.
    """

    pickle: Sequence[bytes]
    buffers: Sequence[memoryview]


NOTHING = Packed((), ())


class Line:
    """One end of a conversation in which the two sides take turns.

    Attributes:
        number: of the message that is sent next.
        heard: of the last one received.
        our_turn: nothing was sent that is not answered, and nothing received in part.
    """

    def __init__(
        self, connection: Connection, outgoing: Block | None, incoming: Block | None
    ) -> None:
        self.connection = connection
        self.number = self.heard = 0
        self.our_turn = True
        self._outgoing = outgoing
        self._incoming = incoming
        # Whoever closes all descriptors gets their numbers again, for files of its own: what is
        # written to is looked at before. What is read tells by itself, and does no harm.
        self._fds = [] if sys.platform == "win32" else [connection.fileno()]
        if outgoing is not None:
            self._fds.append(outgoing.fd)
        self._files = self._identities()
        # The parts of the last message: fresh memory costs more than what is copied into it.
        self._spare: list[bytearray] = []

    def send(self, kind: int, packed: Packed = NOTHING) -> None:
        """Send what `pack` returned.

        Raises:
            EOFError: the other side is gone.
            Garbled: the descriptors are not what they were.
            MemoryError: nothing was sent, if it is `our_turn`.
        """
        pieces, buffers = packed
        sizes = array("Q", [self.number, sum(map(len, pieces)), *map(len, buffers)])
        views = [memoryview(sizes).cast("B"), *[memoryview(piece) for piece in pieces], *buffers]
        self._check_files()
        way = self._written(views)
        header = _HEADER.pack(self.number, kind, way, len(sizes), sum(sizes) - self.number)
        self.our_turn = False
        try:
            self._put(header)
            if way == _IN_THE_PIPE:
                self._send_all(views)
        except OSError as exc:
            raise _gone(exc) from exc

    def receive(self) -> tuple[int, list[memoryview]]:
        """Wait for a message and return its kind and what `unpack` wants.

        Raises:
            EOFError: the other side is gone.
            Garbled: it says what makes no sense.
            MemoryError: there is no room for it. It was passed over, if it is `our_turn`.
        """
        self.our_turn = False
        try:
            self.heard, kind, way, count, total = _HEADER.unpack(self._get())
            fill = self._filler(way, count, total)
            sizes = array("Q", bytes(8 * count))
            offset = fill(memoryview(sizes).cast("B"), 0)
            if sizes[0] != self.heard or sum(sizes) - self.heard != total:
                raise Garbled("the sizes are another message's")
            try:
                parts = [memoryview(part) for part in self._room(sizes[1:])]
            except MemoryError:
                if way == _IN_THE_PIPE:
                    self._pass_over(total)
                self.our_turn = True
                raise
            for part in parts:
                offset = fill(part, offset)
        except OSError as exc:
            raise _gone(exc) from exc
        self.our_turn = True
        return kind, parts

    # Without the length that a connection puts before each message: half the time.

    def _put(self, header: bytes) -> None:
        if sys.platform == "win32":
            self.connection.send_bytes(header)
        elif os.write(self._fds[0], header) != _HEADER.size:
            raise Garbled("no room for a header")

    def _get(self) -> bytes:
        if sys.platform == "win32":
            return self.connection.recv_bytes(_HEADER.size)
        header = b""
        while left := _HEADER.size - len(header):
            if not (more := os.read(self._fds[0], left)):
                raise EOFError
            header += more
        return header

    def _filler(self, way: int, count: int, total: int) -> Callable[[memoryview, int], int]:
        if count < 2:  # noqa: PLR2004  its number, and a pickle
            raise Garbled("it consists of nothing")
        if way == _IN_THE_PIPE:
            return self._receive_into
        if way != _IN_THE_BLOCK or self._incoming is None:
            raise Garbled("it is nowhere")
        if not self._incoming.has(8 * count + total):
            raise Garbled("it is longer than the shared memory")
        return self._incoming.read_into

    def _written(self, views: Sequence[memoryview]) -> int:
        """Write it into the block, if there is one and room in it; return where it is."""
        if self._outgoing is not None:
            try:
                self._outgoing.write(views)
            except OSError:  # a limit, or a full disk
                self._outgoing.empty()
            else:
                return _IN_THE_BLOCK
        return _IN_THE_PIPE

    def _room(self, sizes: Sequence[int]) -> list[bytearray]:
        unused: dict[int, list[bytearray]] = {}
        for part in filter(_is_unused, self._spare):
            unused.setdefault(len(part), []).append(part)
        self._spare = []
        self._spare = [unused[n].pop() if unused.get(n) else bytearray(n) for n in sizes]
        return self._spare

    def _send_all(self, views: Sequence[memoryview]) -> None:
        for view in views:
            for start in range(0, len(view), _PIECE):
                self.connection.send_bytes(view[start : start + _PIECE])

    def _receive_into(self, part: memoryview, offset: int) -> int:
        start = 0
        while start < len(part):
            piece = self.connection.recv_bytes(_PIECE)
            if not piece or start + len(piece) > len(part):
                raise Garbled("a piece of another length")
            part[start : start + len(piece)] = piece
            start += len(piece)
        return offset + start

    def _pass_over(self, total: int) -> None:
        while total > 0:
            total -= len(self.connection.recv_bytes(_PIECE))

    def _check_files(self) -> None:
        if self._identities() != self._files:
            raise Garbled("its descriptors were closed, and belong to somebody else")

    def _identities(self) -> list[tuple[int, int]]:
        try:
            return [(found.st_dev, found.st_ino) for found in map(os.fstat, self._fds)]
        except OSError as exc:
            raise EOFError from exc


def _gone(error: OSError) -> EOFError:
    """Return how to tell it: the other side is gone, or what it has sent stops in the middle."""
    if error.errno in (None, errno.EAGAIN):
        return Garbled(f"it is not whole: {error}")
    return EOFError()


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
