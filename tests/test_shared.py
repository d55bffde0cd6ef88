"""What crosses to another process: arrays and tensors by shared memory, nothing aliased."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import weakref
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from trio_batcher import _process, _shared
from trio_batcher._process import Keeper
from trio_batcher._shared import Block, Line, new_block, pack, unpack

from .puppets import Echo

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a child inherits no descriptor")

SIZE = 1_000_000


@pytest.fixture(params=["memory", "file", "pipe"])
def block_maker(request, monkeypatch):
    """Blocks in memory, in a file without a name, and none."""
    if request.param == "memory" and not hasattr(os, "memfd_create"):
        pytest.skip("this system has no files in memory")
    if request.param == "file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    return {"pipe": lambda: None}.get(request.param, new_block)


@pytest.fixture
def lines(block_maker):
    """The two ends of a conversation, as a parent and a child have them."""
    ours, theirs = multiprocessing.Pipe()
    blocks = block_maker(), block_maker()
    yield Line(ours, *blocks), Line(theirs, *blocks[::-1])
    for each in (ours, theirs, *blocks):
        if each is not None:
            each.close()


@dataclass
class Item:
    name: str
    data: object


def through(sender, receiver, kind, value):
    """Send it, from a thread: without a block a pipe is soon full. Return what arrives."""
    thread = threading.Thread(target=sender.send, args=(kind, pack(value)))
    thread.start()
    kind, parts = receiver.receive()
    thread.join()
    return kind, unpack(parts)


def copied(packed):
    """What `Line.receive` would return."""
    return [memoryview(bytearray(each)) for each in (b"".join(packed.pickle), *packed.buffers)]


@pytest.fixture
def numpy():
    return pytest.importorskip("numpy")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def keeper():
    keeper = Keeper(Echo)
    keeper.load()
    yield keeper
    keeper.close()


def test_arrays_are_not_pickled_wherever_they_are(numpy):
    """In lists, dicts, tuples and dataclasses: their memory is handed on, the pickle is small."""
    arrays = [numpy.arange(SIZE, dtype=numpy.float32) + n for n in range(4)]
    value = [arrays[0], {"a": (arrays[1],)}, Item("b", arrays[2])]
    packed = pack(value)
    assert sum(map(len, packed.pickle)) < 1_000
    for array, buffer in zip(arrays, packed.buffers, strict=False):
        assert numpy.shares_memory(array, numpy.frombuffer(buffer, numpy.float32))
    first, second, third = unpack(copied(packed))
    assert third.name == "b"
    for array, twin in zip(arrays, [first, second["a"][0], third.data], strict=False):
        assert twin.flags.writeable
        assert (array == twin).all()


def test_tensors_are_not_pickled_whatever_their_type(torch):
    """Their memory is handed on too, types that NumPy does not have included."""
    for kind in ("float32", "bfloat16", "float16", "int64", "bool", "complex64", "uint8"):
        tensor = torch.arange(10_000).to(getattr(torch, kind)).reshape(100, 100)
        packed = pack([tensor])
        assert sum(map(len, packed.pickle)) < 1_000
        (buffer,) = packed.buffers
        assert torch.frombuffer(buffer, dtype=tensor.dtype).data_ptr() == tensor.data_ptr()
        (twin,) = unpack(copied(packed))
        assert twin.dtype == tensor.dtype
        assert torch.equal(twin, tensor)


def test_tensors_of_every_form_are_the_same_there(torch):
    """Empty, of no dimension, transposed, conjugated, with a gradient to come."""
    grid = torch.arange(12.0).reshape(3, 4)
    for tensor in (
        torch.empty(0, 3),
        torch.tensor(2.5),
        grid.T,
        grid[:, ::2],
        grid.expand(2, 3, 4),
        torch.tensor([1 + 2j]).conj(),
        torch.ones(3, requires_grad=True),
        torch.sparse_coo_tensor([[0], [1]], [2.0], (2, 2), check_invariants=True),
        torch.nn.Parameter(torch.ones(2)),
    ):
        twin = unpack(copied(pack(tensor)))
        assert type(twin) is type(tensor)
        assert (twin.shape, twin.dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(twin.detach().to_dense(), tensor.detach().to_dense())


def test_a_tensors_memory_lives_until_it_is_sent(torch):
    """And not longer."""
    tensor = torch.ones(SIZE)
    gone = weakref.ref(tensor.untyped_storage())
    packed = pack([tensor * 2])
    del tensor
    gc.collect()
    assert gone() is None
    assert unpack(copied(packed))[0].sum() == 2 * SIZE


def test_torch_is_not_imported_for_this():
    """A parent that has no tensors has no torch."""
    source = Path(_shared.__file__).read_text(encoding="utf-8")
    assert source.count("import torch") == 1
    assert source.index("import torch") > source.index("def _tensor(")


def test_large_bytes_are_not_copied_into_the_pickle():
    """They are written to the block from where they are."""
    large = bytes(SIZE)
    assert any(piece is large for piece in pack([1, large, 2]).pickle)


def test_messages_arrive_as_they_were_sent(lines):
    """Of any size, in both directions, one after another."""
    ours, theirs = lines
    for value in ([], [1, "a"], {"x": b"y" * SIZE}, bytearray(3), [bytearray(SIZE)] * 2, None):
        assert through(ours, theirs, 7, value) == (7, value)
        assert through(theirs, ours, 9, (value, 1)) == (9, (value, 1))


def test_the_other_sides_end_is_told(lines):
    """By an EOFError, for whoever sends and for whoever waits."""
    ours, theirs = lines
    theirs.connection.close()
    with pytest.raises(EOFError):
        ours.receive()
    with pytest.raises(EOFError):
        for _ in range(2):
            ours.send(1, pack("x"))


def test_a_block_has_no_name():
    """So that nothing is left of it, however the processes end."""
    for block in (new_block(), new_block()):
        try:
            block.write([memoryview(b"secret")])
            assert os.fstat(block.fd).st_size == 6
            assert os.fstat(block.fd).st_nlink == 0
            assert not os.get_inheritable(block.fd)
        finally:
            block.close()


def test_what_is_cut_short_is_no_message(lines):
    """A block that has less than the header says comes from a process that is dying."""
    ours, theirs = lines
    if ours._outgoing is None:
        pytest.skip("there is no block")
    ours.send(1, pack("x" * 100))
    os.ftruncate(ours._outgoing.fd, 20)
    with pytest.raises(EOFError):
        theirs.receive()


def test_a_block_is_used_again_for_each_batch(keeper, numpy):
    """It grows to the largest one so far."""
    sizes = []
    for n in (SIZE, 10, SIZE, 2 * SIZE, SIZE):
        assert keeper.infer([numpy.ones(n, numpy.uint8)])[0].sum() == n
        sizes.append([os.fstat(block.fd).st_size for block in keeper.blocks])
    assert sizes[0] == sizes[1] == sizes[2]
    assert sizes[3] == sizes[4] > sizes[2]


def test_a_result_is_not_overwritten_by_the_next_batch(keeper, numpy):
    """Neither is an input that the model keeps: each side has a copy of its own."""
    results = [keeper.infer([numpy.full(SIZE, n)])[0] for n in range(4)]
    assert [int(result[0]) for result in results] == [0, 1, 2, 3]
    assert all((result == result[0]).all() for result in results)
    (kept,) = keeper.infer(["first"])
    assert (kept == 0).all()


def test_memory_that_nobody_looks_at_is_used_again(lines, numpy):
    """The next message of that size is read into it, unless anybody still has the last one."""
    ours, theirs = lines

    def sent(value):
        return through(ours, theirs, 1, numpy.full(SIZE, value))[1]

    first = sent(1)
    address = first.__array_interface__["data"][0]
    view = first[5:]
    del first
    second = sent(2)
    assert second.__array_interface__["data"][0] != address
    assert (view == 1).all()
    assert (second == 2).all()
    address = second.__array_interface__["data"][0]
    del view, second
    assert sent(3).__array_interface__["data"][0] == address


def test_a_tensor_keeps_its_memory_from_being_used_again(lines, torch):
    """As an array does, also if all that is kept is a view of it."""
    ours, theirs = lines
    kept = []
    for value in range(3):
        kept.append(through(ours, theirs, 1, torch.full((SIZE,), value))[1][1:])
    assert [int(tensor[0]) for tensor in kept] == [0, 1, 2]


def test_a_failed_start_leaves_nothing_open(monkeypatch):
    """The blocks and pipes of a batcher that was not opened are closed."""
    blocks = []

    def noted():
        blocks.append(new_block())
        return blocks[-1]

    monkeypatch.setattr(_process, "new_block", noted)
    monkeypatch.setattr(_process.multiprocessing, "get_context", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Keeper(partial(Echo)).load()
    assert len(blocks) == 2
    for block in blocks:
        with pytest.raises(OSError, match="descriptor"):
            Block(block.fd).close()


def test_whatever_looks_at_the_memory_keeps_it(lines, numpy):
    """A view of a view, after the array itself has gone, and what is read-only."""
    ours, theirs = lines
    array = numpy.arange(SIZE)
    array.flags.writeable = False
    value = [array, array.copy()]
    first = through(ours, theirs, 1, value)[1]
    views = [memoryview(first[0])[5:], memoryview(first[1]).cast("B")[8:16]]
    del first
    through(ours, theirs, 1, [numpy.zeros(SIZE, numpy.int64)] * 2)
    through(ours, theirs, 1, [numpy.zeros(SIZE, numpy.int64), numpy.zeros(SIZE, numpy.int64)])
    assert views[0][0] == 5
    assert bytes(views[1]) == (1).to_bytes(8, sys.byteorder)


@pytest.mark.parametrize("name", ["torch", "numpy"])
def test_what_is_packed_may_be_part_of_a_cycle_of_garbage(name):
    """The traceback of a batch that failed is one, and holds what was sent and what came back."""
    library = pytest.importorskip(name)
    for value in ([library.ones(4), library.ones(3)], library.ones((3, 3)).T, library.ones(0)):
        packed = pack(value)
        parts = [bytearray(b"".join(packed.pickle)), *map(bytearray, packed.buffers)]
        views = [memoryview(part) for part in parts]
        cycle = [packed, views, unpack(views)]
        cycle.append(cycle)
        del packed, views, cycle
        gc.collect()  # pytest makes an error of what it cannot free
