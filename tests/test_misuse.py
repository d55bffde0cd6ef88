"""What is done wrong at first, and what is said of it: the argument, its value, the way out."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial

import anyio
import pytest
import trio

from trio_batcher import Batcher, InferenceModel, ItemError, ModelError, open_batcher

from .hosts import host

on_each_host = pytest.mark.usefixtures("on_host")


def unchanged(items):
    return items


async def later(_):
    """An async function where none may be."""


class LaterToo:
    """An object with an async `__call__`."""

    async def __call__(self, _):
        return 1


class NeedsArgs(InferenceModel):
    def __init__(self, path, *, device):
        self.path, self.device = path, device

    def infer(self, inputs):
        return inputs


# Arguments of open_batcher


@pytest.mark.parametrize(
    ("arguments", "error", "story"),
    [
        ({"max_delay": "5ms"}, TypeError, "max_delay must be a number of seconds, such as 0.005"),
        ({"max_delay": dt.timedelta(0)}, TypeError, "a number of seconds, .* not datetime"),
        ({"max_queue_size": None}, TypeError, r"a number \(math.inf for no limit\), not None"),
        ({"cost": len}, ValueError, "the most that a batch may cost, which is its number of items"),
        ({"key": later}, TypeError, "key must not be async, as <function later"),
        ({"key": LaterToo()}, TypeError, "key must not be async"),
        ({"cost": later, "max_batch_cost": 9}, TypeError, "cost must not be async"),
        ({"limiter": anyio.Semaphore(1)}, TypeError, "limiter must be a CapacityLimiter of trio's"),
        ({"limiter": trio.Semaphore(1)}, TypeError, "limiter must be a CapacityLimiter of trio's"),
        ({"limiter": threading.Lock()}, TypeError, "limiter must be a CapacityLimiter of trio's"),
        ({"warmup": 5}, TypeError, "warmup must be a sequence .*, not 5: put a single item into"),
        ({"warmup": None}, TypeError, "warmup must be a sequence .*, not None: put a single item"),
        ({"warmup": "hello"}, TypeError, "warmup must be a sequence .*, not 'hello': put"),
        ({"warmup": b"hello"}, TypeError, "warmup must be a sequence .*, not b'hello': put"),
        ({"warmup": {"text": 1}}, TypeError, r"warmup must be a sequence .*, not \{'text': 1\}"),
        ({"warmup": {1, 2}}, TypeError, r"warmup must be a sequence .*, not \{1, 2\}: put"),
        ({"batch_size": 8}, TypeError, "no argument 'batch_size': it is max_batch_size="),
        ({"timeout": 1}, TypeError, "no argument 'timeout': .*cancel scope around the call, such"),
        ({"max_latency": 1}, TypeError, "no argument 'max_latency': it is max_delay=, in seconds"),
        ({"priority": 1}, TypeError, "no argument 'priority': weight= of infer says"),
        ({"weight": 1}, TypeError, "no argument 'weight': it is an argument of infer"),
        ({"replicas": 2}, TypeError, "no argument 'replicas': pass a sequence of models"),
        ({"sise": 2}, TypeError, "open_batcher has no argument 'sise'$"),
        ({"model": NeedsArgs}, TypeError, r"NeedsArgs .*'path'; pass functools.partial\(NeedsArgs"),
        ({"model": partial(NeedsArgs, "x")}, TypeError, "NeedsArgs has one more: .*'device'"),
        ({"model": [NeedsArgs]}, TypeError, "missing a required argument: 'path'"),
    ],
)
def test_a_wrong_argument_says_what_is_right(arguments, error, story):
    """At once, before anything is opened."""
    with pytest.raises(error, match=story):
        open_batcher(**{"model": unchanged, **arguments})


def test_a_class_that_can_be_made_is_not_complained_about():
    """Whatever its constructor looks like; one that is not written in Python may have any."""

    class Any:
        def __init__(self, *args, device="cpu", **others):
            pass

        def infer(self, inputs):
            return inputs

    class Made(type):
        def __call__(cls):
            return super().__call__("made")

    class ByItsMetaclass(metaclass=Made):
        def __init__(self, path):
            self.path = path

        infer = Any.infer

    class Number(int):
        infer = Any.infer

    for model in (Any, ByItsMetaclass, Number, partial(NeedsArgs, "x", device="cpu")):
        open_batcher(model)


def test_a_long_value_is_not_shown():
    """A message is not the place for a whole book."""
    with pytest.raises(TypeError, match="not a str of 10000: put") as caught:
        open_batcher(unchanged, warmup="x" * 10_000)
    assert len(str(caught.value)) < 200


def test_any_integer_is_a_batch_size():
    """NumPy's too; what rounds is none."""
    numpy = pytest.importorskip("numpy")
    open_batcher(unchanged, max_batch_size=numpy.int64(8))
    for wrong in (numpy.float64(8), numpy.array([8, 9]), numpy.bool_(1)):
        with pytest.raises(TypeError, match="max_batch_size must be an int, not "):
            open_batcher(unchanged, max_batch_size=wrong)


def test_a_torch_module_by_itself_is_no_model():
    """It wants a batch of tensors; `TorchModel` makes one of a list."""
    torch = pytest.importorskip("torch")
    with pytest.raises(
        TypeError, match=r"as Linear is: wrap it in trio_batcher\.torch\.TorchModel"
    ):
        open_batcher(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"wrap it in trio_batcher\.torch\.TorchModel"):
        open_batcher([unchanged, torch.nn.Identity()])

    class TakesLists(torch.nn.Module):
        def infer(self, inputs):
            return inputs

    module = torch.nn.Identity()
    open_batcher(TakesLists())
    open_batcher(module.forward)
    open_batcher(lambda inputs: [module(each) for each in inputs])


def test_a_table_of_items_is_refused():
    """To iterate over it would give its columns."""

    class Frame(list):
        columns = "label", "score"

    with pytest.raises(TypeError, match="not a Frame, which gives its columns: pass a list of"):
        open_batcher(unchanged, warmup=Frame())


# What open_batcher gives


@on_each_host
async def test_what_is_to_be_entered_is_entered_and_nothing_else():
    """Each thing that is tried instead is told how it is done."""
    entry = open_batcher(unchanged)
    how = r"use: async with open_batcher\(model\) as batcher"
    with pytest.raises(TypeError, match=f"opened and closed asynchronously; {how}"), entry:
        raise AssertionError
    with pytest.raises(TypeError, match=how), ExitStack() as stack:
        stack.enter_context(entry)
    with pytest.raises(TypeError, match=f"is not awaited but entered; {how}"):
        await entry
    with pytest.raises(TypeError, match=f"neither a decorator nor a function; {how}"):
        entry(unchanged)
    for name in ("infer", "infer_many", "statistics", "failed"):
        with pytest.raises(AttributeError, match=f"has no '{name}'; .* in the block; {how}"):
            getattr(entry, name)
    assert not hasattr(entry, "anything")
    with pytest.raises(RuntimeError, match=f"has not been opened; {how}"):
        await entry.__aexit__(None, None, None)
    async with entry as batcher:
        assert isinstance(batcher, Batcher)
        assert await batcher.infer(1) == 1


@on_each_host
async def test_a_batcher_is_opened_once():
    """Neither twice at a time nor again: the second attempt harms nobody."""
    entry = open_batcher(unchanged)
    async with entry as batcher:
        with pytest.raises(
            RuntimeError, match=r"has been opened before: .*call open_batcher again"
        ):
            await entry.__aenter__()
        assert await batcher.infer(1) == 1
    with pytest.raises(RuntimeError, match="has been opened before"):
        async with entry:
            raise AssertionError


@on_each_host
async def test_after_the_end_it_says_that_it_has_ended():
    """Before that, that it is ending."""
    left = host.Event()
    asked = []

    async def model(items):
        await left.wait()
        return items

    async def ask(batcher):
        try:
            await batcher.infer(1)
        except Exception as exc:
            asked.append(str(exc))

    async with host.open_nursery() as callers:
        with host.CancelScope() as scope:
            async with open_batcher(model) as batcher:
                callers.start_soon(ask, batcher)
                await host.wait_all_tasks_blocked()
                scope.cancel()
    await ask(batcher)
    assert asked == [
        "the batcher is closing: its async with block is being left",
        "the batcher is closed: its async with block has been left",
    ]


# Calls


@on_each_host
@pytest.mark.parametrize("call", ["infer", "infer_many"])
@pytest.mark.parametrize(
    ("name", "story"),
    [
        ("timeout", "the deadline is the cancel scope around the call, such as trio.fail_after"),
        ("deadline", "the deadline is the cancel scope around the call"),
        ("priority", "weight= of infer says what an answer in time is worth beside others'"),
        ("batch_size", "it is max_batch_size= of open_batcher"),
    ],
)
async def test_a_call_has_no_such_argument(call, name, story):
    """And says what there is instead."""
    async with open_batcher(unchanged) as batcher:
        with pytest.raises(TypeError, match=f"{call} has no argument '{name}': {story}"):
            await getattr(batcher, call)([1], **{name: 1})
        with pytest.raises(TypeError, match=f"{call} has no argument 'colour'$"):
            await getattr(batcher, call)([1], colour="red")


async def async_generator():
    yield 1


@on_each_host
@pytest.mark.parametrize(
    ("items", "story"),
    [
        ("abc", "not 'abc': put a single item into a list"),
        (b"abc", "not b'abc': put a single item into a list"),
        (bytearray(b"abc"), r"not bytearray\(b'abc'\): put a single item into a list"),
        ({"k": 1}, r"not \{'k': 1\}: put a single item into a list"),
        ({1, 2}, r"not \{1, 2\}: put a single item into a list"),
        ({"k": 1}.keys(), r"not dict_keys\(\['k'\]\): put a single item into a list"),
        (5, "not 5: put a single item into a list"),
        (None, "not None: put a single item into a list"),
        (async_generator(), r"not <async_gen.*\[item async for item in items\]"),
    ],
)
async def test_several_items_are_a_sequence_of_them(items, story):
    """What would come apart in a way that nobody meant is refused, and nothing is submitted."""
    async with open_batcher(unchanged) as batcher:
        with pytest.raises(TypeError, match=f"items must be a sequence .*, {story}"):
            await batcher.infer_many(items)
        assert batcher.statistics().submitted == 0


@on_each_host
async def test_items_may_come_from_anything_with_an_order():
    """A generator, a range, the values of a dict, an array, what is only known by index."""

    class Indexed:
        def __getitem__(self, index):
            return [1, 2][index]

    async with open_batcher(unchanged) as batcher:
        for items in ([1, 2], (1, 2), range(1, 3), iter([1, 2]), {"a": 1, "b": 2}.values()):
            assert await batcher.infer_many(items) == [1, 2]
        assert await batcher.infer_many(Indexed()) == [1, 2]


async def test_an_array_without_a_dimension_has_no_items(on_host):
    """One with some has as many as its first one says."""
    numpy = pytest.importorskip("numpy")
    async with open_batcher(unchanged) as batcher:
        with pytest.raises(TypeError, match=r"items must be a sequence .* not array"):
            await batcher.infer_many(numpy.array(1))
        assert len(await batcher.infer_many(numpy.ones((3, 2)))) == 3


@on_each_host
@pytest.mark.parametrize(
    ("options", "error", "story"),
    [
        ({"key": lambda _: [1]}, TypeError, r"key must return .* hashed, .* tuple, not \[1\]"),
        ({"key": lambda _: {}}, TypeError, r"key must return .* not \{\}"),
        ({"key": lambda _: later(1)}, TypeError, "key must return its value, not an await"),
        ({"cost": lambda _: later(1)}, TypeError, "cost must return its value, not an await"),
        ({"cost": lambda _: None}, TypeError, "cost must return a number, not None"),
        ({"cost": lambda _: 0}, ItemError, "the item's cost: expected more than 0, got 0"),
        ({"cost": lambda _: -0.0}, ItemError, "the item's cost: expected more than 0, got -0.0"),
        ({"cost": lambda _: 11}, ItemError, "expected no more than max_batch_cost, 10, got 11"),
        ({"key": lambda item: item.key}, AttributeError, "'int' object has no attribute 'key'"),
    ],
)
async def test_a_wrong_key_or_cost_is_its_callers_alone(options, error, story):
    """By name; of several items it says which, and a cancelled caller does not hear of it."""
    if "cost" in options:
        options = {**options, "max_batch_cost": 10}
    wrong, right = 1, 2
    options = {
        name: (lambda item, f=option: f(item) if item == wrong else 1)
        if callable(option)
        else option
        for name, option in options.items()
    }
    async with open_batcher(unchanged, **options) as batcher:
        with host.assert_checkpoints(), pytest.raises(error, match=story):
            await batcher.infer(wrong)
        with host.assert_checkpoints(), pytest.raises(error, match=story) as caught:
            await batcher.infer_many([right, right, wrong])
        told = [str(caught.value), *getattr(caught.value, "__notes__", [])]
        assert "items[2]" in told[0] or told[1] == "for items[2] of infer_many"
        for call in (lambda: batcher.infer(wrong), lambda: batcher.infer_many([wrong])):
            with host.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught
        assert batcher.statistics().submitted == 0
        assert await batcher.infer_many([right, right]) == [right, right]


@on_each_host
@pytest.mark.parametrize(
    "call",
    [
        lambda b: b.infer(1, weight=-1),
        lambda b: b.infer(1, weight="high"),
        lambda b: b.infer(1, timeout=1),
        lambda b: b.infer_many([1], weight=0),
        lambda b: b.infer_many([1], timeout=1),
        lambda b: b.infer_many("ab"),
        lambda b: b.infer_many([1, 2, 3]),
        lambda b: b.infer_many(1 / n for n in (1, 0)),
    ],
)
async def test_a_call_is_a_checkpoint_whatever_is_wrong_with_it(call):
    """Others run, however often it is made; and a cancelled caller is cancelled, not told."""
    async with open_batcher(unchanged, max_queue_size=2) as batcher:
        with host.assert_checkpoints(), pytest.raises((TypeError, ValueError, ZeroDivisionError)):
            await call(batcher)
        with host.CancelScope() as scope:
            scope.cancel()
            await call(batcher)
        assert scope.cancelled_caught
        assert batcher.statistics().submitted == 0


@on_each_host
async def test_a_call_that_is_always_refused_can_be_cancelled():
    """A loop that passes over refusals ends with its scope."""
    async with open_batcher(unchanged, cost=len, max_batch_cost=1) as batcher:
        with host.move_on_after(0.02) as scope:
            while True:
                with pytest.raises(ItemError):
                    await batcher.infer("too long")
        assert scope.cancelled_caught


# Limiters


@on_each_host
async def test_a_limiter_of_the_other_loop_is_refused_on_entering(on_host):
    """Before a model is made; the right one is named."""
    made = []

    class Model(InferenceModel):
        def __init__(self):
            made.append(self)

        def infer(self, inputs):
            return inputs

    async def of_anyio():
        return anyio.CapacityLimiter(1)

    if on_host == "trio":
        wrong, right = [await host.in_thread(asyncio.run, of_anyio())], "a trio.CapacityLimiter"
    else:
        wrong = [trio.CapacityLimiter(1), await host.in_thread(trio.run, of_anyio)]
        right = "an anyio.CapacityLimiter"
    for limiter in wrong:
        with pytest.raises(TypeError, match=f"limiter must be {right}.* not <.*for another one"):
            async with open_batcher(Model, limiter=limiter):
                raise AssertionError
    assert not made


@on_each_host
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_limiter_of_anyios_will_do_on_each_loop(is_async):
    """Made there or before there was a loop; batches and the warm-up run under its tokens."""
    early = await host.in_thread(anyio.CapacityLimiter, 1)
    for limiter in (early, anyio.CapacityLimiter(1)):
        held = []

        def model(items, limiter=limiter, held=held):
            held.append(limiter.borrowed_tokens)
            return items

        async def async_model(items, model=model):
            await host.checkpoint()
            return model(items)

        async with open_batcher(
            async_model if is_async else model, limiter=limiter, warmup=[1], max_batch_size=2
        ) as batcher:
            assert await batcher.infer(1) == 1
        assert held == [1] * 5
        assert limiter.borrowed_tokens == 0


# Models


@on_each_host
@pytest.mark.parametrize(
    ("model", "item", "told"),
    [
        (lambda x: x + 1, 1, True),
        (lambda x: x.shape, 1, True),
        (lambda x: abs(x) - x, [1], True),
        (lambda x: {x: 1}, 1, True),
        (lambda xs: [x + "" for x in xs], 1, False),
        (lambda xs: [1 / x for x in xs], 0, False),
        (lambda xs: [xs[0].listed for _ in xs], 1, False),
    ],
)
async def test_a_model_for_one_input_is_told_that_it_gets_a_list(model, item, told):
    """If its error looks as if it had wanted none."""
    async with open_batcher(model) as batcher:
        with pytest.raises(ModelError, match="on this input alone: ") as caught:
            await batcher.infer(item)
    assert str(caught.value).endswith(" (a model gets a list of inputs)") == told


@on_each_host
async def test_what_is_wrong_with_a_model_is_not_said_of_the_input():
    """Results that are none are not this input's failure."""
    async with open_batcher(lambda items: None) as batcher:
        with pytest.raises(
            ModelError, match=r"^the model's results cannot be used: .*None: it has"
        ):
            await batcher.infer(1)


@on_each_host
async def test_of_a_model_that_is_called_and_infers_the_latter_counts():
    """As for its class; an attribute that only its instance has is none of its class."""

    class Both:
        def __call__(self, inputs):
            return ["called"] * len(inputs)

        def infer(self, inputs):
            return ["inferred"] * len(inputs)

    class Called:
        def __init__(self):
            self.infer = None

        __call__ = Both.__call__

    model = Both()
    for each, answer in ((Both, "inferred"), (model, "inferred"), (Called(), "called")):
        async with open_batcher(each) as batcher:
            assert await batcher.infer(1) == answer
    with pytest.raises(ValueError, match="lists the same instance twice"):
        open_batcher([model, model])


def test_a_program_that_forgets_to_enter_says_so():
    """As a traceback shows it."""
    program = (
        "import trio_batcher\n@trio_batcher.open_batcher(lambda xs: xs)\nasync def ask(text): ...\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "what open_batcher gives is neither a decorator nor a function" in run.stderr
