"""A torch module as a model: it sees batches, and nobody can tell from the answers."""

from __future__ import annotations

import functools
import weakref
from typing import NamedTuple

import pytest
from hypothesis import given, settings, strategies as st

from trio_batcher import ItemError, ModelError, open_batcher

from .hosts import host

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

from trio_batcher.torch import Pad, TorchModel  # noqa: E402

on_hosts = pytest.mark.usefixtures("on_host")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def linear(inputs=4, outputs=2):
    torch.manual_seed(0)
    return torch.nn.Linear(inputs, outputs)


class Watched(torch.nn.Module):
    """Passes inputs on to another module, and notes the shapes of the first."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.shapes = []

    def forward(self, *args, **kwargs):
        self.shapes.append(tuple(next(iter([*args, *kwargs.values()])).shape))
        return self.module(*args, **kwargs)


async def outcomes_of(batcher, items):
    """Ask for all items at a time, each in a task of its own."""
    outcomes = [None] * len(items)

    async def ask(place):
        try:
            outcomes[place] = await batcher.infer(items[place])
        except Exception as exc:
            outcomes[place] = exc

    async with host.open_nursery() as nursery:
        for place in range(len(items)):
            nursery.start_soon(ask, place)
    return outcomes


class Encoder(torch.nn.Module):
    """Attends to what the mask lets through; in dimension 1 are the tokens."""

    class Output(NamedTuple):
        states: torch.Tensor
        pooled: torch.Tensor

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(50, 8)
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.5)

    def forward(self, input_ids, attention_mask):
        hidden = attention_mask == 0
        states = self.layer(self.embedding(input_ids), src_key_padding_mask=hidden)
        states = states * attention_mask[:, :, None]
        return self.Output(states, states.sum(1) / attention_mask.sum(1, keepdim=True))


texts = st.lists(st.lists(st.integers(1, 49), min_size=1, max_size=9), min_size=1, max_size=8)


@given(texts, st.sampled_from([None, [8], [1, 3, 8]]), st.sampled_from([1, 4]))
@settings(max_examples=25)
def test_a_batch_gives_what_the_module_gives_one_by_one(texts, sizes, multiple):
    """Padded, masked, filled up and cut back; dropout is off."""
    encoder = Encoder()
    pad = Pad(mask="attention_mask", multiple_of=multiple, cut={0: 0})
    model = TorchModel(encoder, padding=pad, allowed_sizes=sizes)
    results = model.infer([{"input_ids": text} for text in texts])
    for text, result in zip(texts, results, strict=True):
        ids = torch.tensor([text])
        with torch.inference_mode():
            alone = encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
        assert type(result) is Encoder.Output
        torch.testing.assert_close(result.states, alone.states[0])
        torch.testing.assert_close(result.pooled, alone.pooled[0])


@on_hosts
async def test_arrays_and_tensors_share_a_batch():
    """Each caller has its own item's result."""
    module = Watched(linear())
    items = [np.full(4, n, np.float32) if n % 2 else torch.full((4,), float(n)) for n in range(32)]
    async with open_batcher(TorchModel(module), max_delay=30) as batcher:
        outcomes = await outcomes_of(batcher, items)
    assert module.shapes == [(32, 4)]
    with torch.inference_mode():
        for n, result in enumerate(outcomes):
            torch.testing.assert_close(result, module.module(torch.full((4,), float(n))))


def test_an_encoder_of_hugging_face_takes_what_its_tokenizer_makes():
    """And each result is an output of its own kind."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    bert = transformers.BertModel(config)
    items = [
        transformers.BatchEncoding({"input_ids": ids, "attention_mask": [1] * len(ids)})
        for ids in ([5, 6, 7, 8], [9], [3, 4])
    ]
    pad = Pad(multiple_of=8, cut={"last_hidden_state": 0})
    for item, result in zip(items, TorchModel(bert, padding=pad).infer(items), strict=True):
        with torch.inference_mode():
            alone = bert(**item.convert_to_tensors("pt", prepend_batch_axis=True))
        assert type(result) is type(alone)
        torch.testing.assert_close(
            result.last_hidden_state, alone.last_hidden_state[0], atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            result.pooler_output, alone.pooler_output[0], atol=1e-5, rtol=1e-4
        )


def test_a_module_runs_as_it_is_asked_to():
    """Evaluating, in inference mode, converted, under autocast."""
    seen = []

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear()

        def forward(self, x):
            output = self.layer(x)
            seen.append((self.training, torch.is_inference_mode_enabled(), x.dtype, output.dtype))
            return output

    TorchModel(Module(), dtype=torch.float64).infer([torch.ones(4)])
    TorchModel(Module(), autocast=torch.bfloat16).infer([torch.ones(4)])
    assert seen == [
        (False, True, torch.float64, torch.float64),
        (False, True, torch.float32, torch.bfloat16),
    ]


def test_a_function_is_a_module_too():
    """With what it is given as an item's structure says."""
    assert TorchModel(lambda a, b: a + b).infer([(1, 2), (3, 4)]) == [3, 7]
    assert TorchModel(lambda *, a: {"b": a}).infer([{"a": 5}]) == [{"b": 5}]
    assert TorchModel(lambda x: x * 2).infer([1.5]) == [3.0]


def test_a_compiled_module_gives_the_same():
    """Torch has the arguments for it."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    item = torch.ones(4)
    model = TorchModel(linear(), compile={"backend": backend, "dynamic": False})
    torch.testing.assert_close(model.infer([item])[0], linear()(item).detach())
    assert compiled


def test_only_allowed_sizes_are_seen():
    """More than the largest are run in parts; no result of what was filled up gets out."""
    module = Watched(linear())
    model = TorchModel(module, allowed_sizes=[4, 8])
    for count in (1, 4, 5, 19):
        assert len(model.infer([torch.ones(4)] * count)) == count
    assert [rows for rows, _ in module.shapes] == [4, 4, 8, 8, 8, 4]


@on_hosts
async def test_the_worker_constructs_a_subclass():
    """With the arguments of a partial; weights are loaded there."""

    class Classifier(TorchModel[torch.Tensor]):
        def __init__(self, outputs, *, device):
            super().__init__(linear(outputs=outputs), device=device)

    async with open_batcher(functools.partial(Classifier, 3, device="cpu")) as batcher:
        assert (await batcher.infer(torch.ones(4))).shape == (3,)


@on_hosts
async def test_an_instance_can_be_used_again():
    """It is closed with its batcher, and the module stays."""
    model = TorchModel(linear())
    for _ in range(2):
        async with open_batcher(model) as batcher:
            assert (await batcher.infer(torch.ones(4))).shape == (2,)


def test_batches_can_be_launched_before_others_are_collected():
    """Each has what is its own; infer is both at a time."""
    model = TorchModel(torch.nn.Identity(), padding=Pad(cut=0))
    collects = [model.launch([torch.full((n,), n)] * n) for n in range(1, 5)]
    for n, collect in reversed(list(enumerate(collects, 1))):
        results = collect()
        assert [result.tolist() for result in results] == [[n] * n] * n
    assert not model.overlaps


WRONG = {
    "shape": torch.ones(5),
    "dimensions": torch.ones(1, 4),
    "dtype": torch.ones(4, dtype=torch.float64),
    "structure": {"x": torch.ones(4)},
    "type": "text",
}


@on_hosts
@pytest.mark.parametrize("boxes", [0, 1, 2, 8])
async def test_a_detector_answers_each_image_with_its_own(boxes):
    """A dict for each of eight images, also where there are as many boxes as images."""

    def detector(images):
        labels = [f"image {int(image[0])}" for image in images]
        return [
            {"boxes": image.expand(boxes, 4), "label": label}
            for image, label in zip(images, labels, strict=True)
        ]

    images = [torch.full((4,), float(number)) for number in range(8)]
    async with open_batcher(TorchModel(detector), max_batch_size=8, max_delay=30) as batcher:
        outcomes = await outcomes_of(batcher, images)
        assert batcher.statistics().batches == 1
    for number, outcome in enumerate(outcomes):
        assert outcome["label"] == f"image {number}"
        assert outcome["boxes"].shape == (boxes, 4)
        assert (outcome["boxes"] == number).all()


@on_hosts
async def test_an_output_that_can_be_read_in_two_ways_is_its_callers_error():
    """It says which part of it, and how the module can say what it means."""
    async with open_batcher(TorchModel(lambda batch: [batch]), max_batch_size=1) as batcher:
        with pytest.raises(ModelError, match="output is a list of 1 for a batch of 1, as long by"):
            await batcher.infer(torch.ones(4))


@on_hosts
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("place", [0, 31])
async def test_a_wrong_item_is_refused_alone(wrong, place):
    """In the very first batch: 31 others are answered, in the one run there is."""
    module = Watched(linear())
    items = [torch.ones(4)] * 32
    items[place] = WRONG[wrong]
    async with open_batcher(TorchModel(module), max_delay=30) as batcher:
        outcomes = await outcomes_of(batcher, items)
        reruns = batcher.statistics().failed
    assert module.shapes == [(31, 4)]
    assert isinstance(outcomes.pop(place), ItemError)
    assert all(outcome.shape == (2,) for outcome in outcomes)
    assert reruns == 1


@on_hosts
@pytest.mark.parametrize("wrong", WRONG)
async def test_beside_an_example_a_wrong_item_is_refused_also_by_itself(wrong):
    """The module never sees it."""
    module = Watched(linear())
    async with open_batcher(TorchModel(module, example=torch.zeros(4))) as batcher:
        (outcome,) = await outcomes_of(batcher, [WRONG[wrong]])
        assert isinstance(outcome, ItemError)
        assert (await batcher.infer(torch.ones(4))).shape == (2,)
    assert module.shapes == [(1, 4)]


@on_hosts
async def test_an_item_that_the_module_raises_on_fails_alone():
    """What is wrong with its contents, no look at its shape can tell."""
    embedding = torch.nn.Embedding(10, 3)
    items = [torch.tensor(n) for n in [*range(10), 10, *range(10)]]
    async with open_batcher(TorchModel(embedding), max_delay=0.1) as batcher:
        outcomes = await outcomes_of(batcher, items)
    error = outcomes.pop(10)
    assert isinstance(error, ModelError)
    assert isinstance(error.__cause__, IndexError)
    assert all(outcome.shape == (3,) for outcome in outcomes)


@on_hosts
async def test_two_forms_of_which_nobody_knows_the_right_one_run_separately():
    """The one that the module cannot run fails, the other one is answered."""
    async with open_batcher(TorchModel(linear()), max_batch_size=2, max_delay=30) as batcher:
        right, wrong = await outcomes_of(batcher, [torch.ones(4), torch.ones(5)])
    assert right.shape == (2,)
    assert isinstance(wrong, ModelError)


@on_hosts
async def test_what_has_been_run_is_right_from_then_on():
    """However many others there are in a batch."""
    async with open_batcher(TorchModel(linear()), max_batch_size=3, max_delay=30) as batcher:
        await outcomes_of(batcher, [torch.ones(4)] * 3)
        items = [torch.ones(5), torch.ones(4), torch.ones(5)]
        first, right, last = await outcomes_of(batcher, items)
    assert right.shape == (2,)
    assert isinstance(first, ItemError)
    assert isinstance(last, ItemError)


class Scarce(torch.nn.Module):
    """Takes so many rows and no more, as a GPU would."""

    def __init__(self, capacity, error):
        super().__init__()
        self.capacity = capacity
        self.error = error
        self.sizes = []
        self.activations = []

    def forward(self, x):
        self.sizes.append(len(x))
        activations = x.clone()
        self.activations.append(weakref.ref(activations))
        if len(x) > self.capacity:
            raise self.error
        return x * 2


def out_of_memory():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


ERRORS = [
    out_of_memory(),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
]


@on_hosts
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_missing_memory_is_nobodys_error(error):
    """Callers are all answered, what fits is remembered, and the size recovers."""
    module = Scarce(5, error)
    items = [torch.tensor([float(n)]) for n in range(32)]
    async with open_batcher(TorchModel(module), max_delay=30) as batcher:
        for _ in range(3):
            results = await batcher.infer_many(items)
            assert [result.item() for result in results] == [2 * n for n in range(32)]
        assert module.sizes[:6] == [32, 16, 8, 4, 4, 4]
        module.capacity = 1000
        for _ in range(120):
            await batcher.infer_many(items)
        assert module.sizes[-1] == 32
        statistics = batcher.statistics()
    assert statistics.failed == 0
    assert statistics.completed == 123 * 32


def test_what_failed_is_let_go_of_before_memory_is_given_back():
    """No frame of the failing run lives on in a traceback, nor in that of a cause."""
    module = Scarce(0, None)
    model = TorchModel(module)
    alive = []
    model._runner.recover = lambda: alive.append(
        [activations() is not None for activations in module.activations]
    )

    def chained(x):
        try:
            return module(x)
        except TypeError as error:  # raise None
            raise out_of_memory() from error

    model._module = chained
    (error,) = model.infer([torch.ones(1)])
    assert isinstance(error, torch.OutOfMemoryError)
    assert error.__traceback__ is None
    assert alive == [[False]]


@on_hosts
async def test_an_item_that_does_not_fit_alone_fails_alone():
    """With the allocator's error; the others are answered."""

    def module(x):
        if x.shape[1] > 50:
            raise out_of_memory()
        return x.sum(1)

    items = [torch.ones(n) for n in (3, 4, 100, 1, 2)]
    async with open_batcher(
        TorchModel(module, padding=Pad()), max_batch_size=5, max_delay=30
    ) as batcher:
        outcomes = await outcomes_of(batcher, items)
    assert isinstance(outcomes.pop(2), torch.OutOfMemoryError)
    assert outcomes == [3, 4, 1, 2]


def test_another_error_of_the_modules_is_not_taken_for_missing_memory():
    """It is raised at once, for the batcher to look into."""
    module = Scarce(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        TorchModel(module).infer([torch.ones(1)] * 4)
    assert module.sizes == [4]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"module": 3}, TypeError, "module must be .* not 3"),
        ({"dtype": torch.int64}, ValueError, "dtype must be a floating-point dtype, not"),
        ({"autocast": torch.int64}, ValueError, "autocast must be a floating-point dtype, not"),
        ({"results": "gpu"}, ValueError, "results must be 'cpu' or 'device', not 'gpu'"),
        ({"allowed_sizes": []}, ValueError, "allowed_sizes must have a size"),
        ({"max_graphs": -1}, ValueError, "max_graphs must be >= 0"),
        ({"max_graphs": 1}, ValueError, "max_graphs needs a CUDA device, not cpu"),
        ({"device": "cuda:99"}, ValueError, "device must be one that is there, not 'cuda:99'"),
        ({"example": "text"}, ItemError, "got a str"),
    ],
)
def test_what_is_wrong_with_an_argument_is_said_at_once(arguments, error, message):
    """The error names the argument and its value."""
    with pytest.raises(error, match=message):
        TorchModel(**{"module": linear()} | arguments)


def test_the_device_is_the_modules_own_unless_it_is_given():
    """The meta device stands for one that is not the CPU; results stay there if asked to."""
    module = linear().to("meta")
    (result,) = TorchModel(module, results="device").infer([torch.ones(4)])
    assert result.device.type == "meta"
    (result,) = TorchModel(linear(), device="meta", results="device").infer([torch.ones(4)])
    assert result.device.type == "meta"
    assert TorchModel(torch.nn.Identity()).infer([torch.ones(4)])[0].device.type == "cpu"


@needs_cuda
@pytest.mark.parametrize("graphs", [0, 2])
def test_batches_overlap_on_cuda(graphs):
    """Launched ahead of each other, replayed or run, each has its own results on the CPU."""
    module = linear()
    items = [torch.randn(4) for _ in range(64)]
    with torch.inference_mode():
        expected = [linear()(item) for item in items]
    model = TorchModel(module, device="cuda", allowed_sizes=[4, 8, 16], max_graphs=graphs)
    assert model.overlaps
    for count in (3, 8, 16):
        collects = [model.launch(items[i : i + count]) for i in range(0, 64, count)]
        results = [result for collect in collects for result in collect()]
        assert {result.device.type for result in results} == {"cpu"}
        torch.testing.assert_close(results, expected, atol=1e-4, rtol=1e-4)
    model.close()


@needs_cuda
def test_missing_memory_on_cuda_is_nobodys_error():
    """A batch that the GPU cannot hold is run in parts."""
    free, _ = torch.cuda.mem_get_info()
    row = free // 4 // 10

    def module(x):
        return torch.ones(len(x), row, device="cuda").sum(1) * x.sign()

    results = TorchModel(module, device="cuda").infer([float(n) for n in range(32)])
    expected = [0.0] + [float(row)] * 31
    assert [result.item() for result in results] == pytest.approx(expected, rel=1e-3)


@needs_cuda
def test_graphs_want_sizes():
    """Each of them is captured by itself."""
    with pytest.raises(ValueError, match="max_graphs needs allowed_sizes"):
        TorchModel(linear(), device="cuda", max_graphs=1)
