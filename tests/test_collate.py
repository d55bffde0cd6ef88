"""Items become a batch of tensors, and its output results, each its own item's."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from hypothesis import given, strategies as st

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

from trio_batcher._collate import Collator, mapped  # noqa: E402
from trio_batcher._errors import ItemError  # noqa: E402
from trio_batcher._items import Forms, Reader  # noqa: E402
from trio_batcher._padding import Pad, Sizes  # noqa: E402


def batch_of(items, *, pad=None, sizes=None, dtype=None):
    reader = Reader(dtype, pad)
    collator = Collator(pad, Sizes(sizes), pinned=False)
    batch = collator.collate([reader.read(item) for item in items])
    return collator, batch


def arguments_of(items, **options):
    _, batch = batch_of(items, **options)
    return batch.arguments(batch.tensors)


DTYPES = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool])


@st.composite
def structures(draw, depth=2):
    """Return a function that makes an item of one form, of any length along dimension 0."""
    kind = draw(st.sampled_from(["tensor", "array", "dict", "tuple"])) if depth else "tensor"
    if kind in {"tensor", "array"}:
        dtype, rest = draw(DTYPES), draw(st.lists(st.integers(0, 3), max_size=2))

        def leaf(length, seed):
            generator = torch.Generator().manual_seed(seed)
            numbers = torch.randint(0, 100, (length, *rest), generator=generator).to(dtype)
            return numbers if kind == "tensor" else numbers.numpy()

        return leaf
    children = draw(st.lists(structures(depth=depth - 1), min_size=1, max_size=3))
    if kind == "tuple":
        return lambda length, seed: tuple(child(length, seed) for child in children)
    return lambda length, seed: {
        f"key {i}": child(length, seed) for i, child in enumerate(children)
    }


def as_tensors(item):
    if isinstance(item, dict):
        return {key: as_tensors(child) for key, child in item.items()}
    if isinstance(item, tuple):
        return tuple(map(as_tensors, item))
    return torch.as_tensor(item)


def same(a, b):
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a.dtype == b.dtype and torch.equal(a, b)


lengths = st.lists(st.integers(1, 6), min_size=1, max_size=9)
some_sizes = st.none() | st.just([9]) | st.just([2, 5, 16])


@given(structures(), st.integers(1, 4), st.integers(1, 9), some_sizes)
def test_what_is_stacked_comes_apart_as_it_was(make, length, count, sizes):
    """Nested dicts and tuples, tensors and arrays, filled up or not."""
    items = [make(length, seed) for seed in range(count)]
    collator, batch = batch_of(items, sizes=sizes)
    assert batch.size == Sizes(sizes).filled(count)
    args, kwargs = batch.arguments(batch.tensors)
    output = kwargs if isinstance(items[0], dict) else args
    results = collator.split(output, batch)
    for item, result in zip(items, results, strict=True):
        whole = item if isinstance(item, dict | tuple) else (item,)
        assert same(result, as_tensors(whole))


pads = st.builds(Pad, cut=st.just(0), multiple_of=st.sampled_from([1, 4])) | st.just(
    Pad(cut=0, lengths=[3, 6])
)


@given(structures(), lengths, some_sizes, pads)
def test_what_is_padded_is_cut_back_to_what_it_was(make, lengths, sizes, pad):
    """Each item to its own length, whatever the others' are."""
    items = [make(length, seed) for seed, length in enumerate(lengths)]
    collator, batch = batch_of(items, pad=pad, sizes=sizes)
    assert batch.length == pad.padded(max(lengths))
    args, kwargs = batch.arguments(batch.tensors)
    results = collator.split(kwargs if isinstance(items[0], dict) else args, batch)
    for item, result in zip(items, results, strict=True):
        whole = item if isinstance(item, dict | tuple) else (item,)
        assert same(result, as_tensors(whole))


def test_what_an_encoder_is_given():
    """A tokenizer's lists, padded by each key's value, with the mask it did not make."""
    items = [{"input_ids": [1, 2, 3], "kind": 7}, {"input_ids": [4], "kind": 8}]
    pad = Pad(values={"input_ids": 9}, mask="attention_mask", multiple_of=4)
    args, kwargs = arguments_of(items, pad=pad, sizes=[3])
    assert args == ()
    assert kwargs["input_ids"].tolist() == [[1, 2, 3, 9], [4, 9, 9, 9], [4, 9, 9, 9]]
    assert kwargs["kind"].tolist() == [7, 8, 8]
    assert kwargs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert kwargs["attention_mask"].dtype == torch.int64


def test_a_mask_that_items_have_is_not_made():
    """Theirs is padded like the rest."""
    items = [{"x": torch.ones(2), "mask": torch.ones(2)}, {"x": torch.ones(1), "mask": [1.0]}]
    _, kwargs = arguments_of(items, pad=Pad(mask="mask"))
    assert kwargs["mask"].tolist() == [[1, 1], [1, 0]]
    assert kwargs["mask"].dtype == torch.float32


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, x)])
def test_tensors_and_tuples_have_the_mask_as_a_keyword(wrap):
    """They have no keys of their own."""
    items = [wrap(torch.ones(3)), wrap(torch.ones(1))]
    args, kwargs = arguments_of(items, pad=Pad(mask="mask", values=5))
    assert args[-1].tolist() == [[1, 1, 1], [1, 5, 5]]
    assert kwargs["mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_only_the_keys_that_are_named_are_padded():
    """What else there is has to be alike."""
    pad = Pad(dim=1, keys=["spectrum"])
    make = lambda n, m=5: {"spectrum": torch.ones(2, n), "picture": torch.ones(3, m)}  # noqa: E731
    _, kwargs = arguments_of([make(4), make(2)], pad=pad)
    assert kwargs["spectrum"].shape == (2, 2, 4)
    assert kwargs["picture"].shape == (2, 3, 5)
    forms = [Reader(None, pad).read(item).form for item in (make(4), make(2), make(4, m=6))]
    assert forms[0] == forms[1] != forms[2]


def test_floating_point_numbers_are_converted_and_others_are_not():
    """To the dtype that is asked for, whatever each item has."""
    items = [(torch.ones(2, dtype=torch.float64), [1, 2]), (np.ones(2, np.float16), [3, 4])]
    (numbers, ids), _ = arguments_of(items, dtype=torch.bfloat16)
    assert (numbers.dtype, ids.dtype) == (torch.bfloat16, torch.int64)


def test_an_array_may_be_read_only_or_backwards():
    """Torch knows neither; the array stays as it is."""
    frozen = np.frombuffer(b"\1\2", dtype=np.uint8)
    (stacked,), _ = arguments_of([frozen, frozen[::-1], np.array([5, 6], np.uint8)])
    assert stacked.tolist() == [[1, 2], [2, 1], [5, 6]]


def test_a_batch_shares_no_memory_with_its_items():
    """A caller may change an item when it has its result, and the module its input."""
    item = torch.zeros(2)
    _, batch = batch_of([item])
    batch.tensors[0].add_(1)
    assert item.tolist() == [0, 0]


REFUSED = [
    ("text", "item: expected a tensor, an array, numbers, .* got a str"),
    (None, "got None"),
    ({"a": {"b": "text"}}, r"item\['a'\]\['b'\]: .* got a str"),
    ({"a": torch.ones(2), 3: torch.ones(2)}, "strings as keys, got a key 3"),
    ({}, "expected a tensor somewhere in it, got an empty dict"),
    (((),), "got an empty tuple"),
    ([[1, 2], [3]], "got a list .*expected sequence of length 2"),
    ([torch.ones(1)], "got a list"),
    (2**70, "got an int .*"),
    (np.array(["a"]), "got an array of <U1 of shape"),
    (np.array([object()]), "got an array of object"),
    (
        torch.ones(2, 2).to_sparse(),
        "a dense tensor on the CPU, got float32 of shape .* torch.sparse",
    ),
    (torch.ones(2, device="meta"), "got float32 of shape .2,. on meta"),
]


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize(("item", "message"), REFUSED, ids=lambda x: str(x)[:20])
def test_what_is_no_item_is_refused_by_name(item, message):
    """The error says which part it is, what was expected and what it got."""
    with pytest.raises(ItemError, match=message) as caught:
        Reader(None, None).read(item)
    error = caught.value
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(twin), vars(twin)) == (str(error), vars(error))


@pytest.mark.parametrize(
    ("pad", "item", "message"),
    [
        (Pad(lengths=[2, 4]), torch.ones(5), "a length of at most 4 in dimension 0, got 5"),
        (Pad(), (torch.ones(2), torch.ones(3)), r"item\[1\]: expected length 2 .*, got 3"),
        (Pad(dim=1), torch.ones(2), "a dimension 1, .*, got float32 of shape .2,."),
        (Pad(keys=["a"]), {"a": 1.0}, r"item\['a'\]: expected a dimension 0"),
    ],
)
def test_what_cannot_be_padded_is_refused_by_name(pad, item, message):
    """It is longer than anything that is allowed, or its parts disagree."""
    with pytest.raises(ItemError, match=message):
        Reader(None, pad).read(item)


def form_of(item, pad=None):
    return Reader(None, pad).read(item).form


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"a": torch.ones(3)}, r"item\['b'\]: expected int64 of shape \(length, 2\), got nothing"),
        ({"a": torch.ones(3), "b": torch.ones(3, 2)}, "got float32 of shape .length, 2."),
        (
            {"a": [1.0], "b": [[1, 2]], "c": [1]},
            r"item\['c'\]: expected nothing there, got int64",
        ),
        (torch.ones(3), r"item\['a'\]: expected float32 of shape \(length,\), got nothing there"),
    ],
)
def test_what_differs_is_named(item, message):
    """The first part that is missing, of another dtype or shape, or too many."""
    example = {"b": [[1, 2]], "a": [1.0]}
    error = Forms.refusal(form_of(item, Pad()), form_of(example, Pad()))
    with pytest.raises(ItemError, match=message):
        raise error


def rows(*items):
    return [Reader(None, None).read(item) for item in items]


def test_with_an_example_nothing_else_is_right():
    """Not even if the whole batch is like it."""
    right, wrong = torch.ones(2), torch.ones(3)
    forms = Forms(*rows(right))
    forms.succeeded(form_of(wrong))
    assert forms.accepted(rows(wrong, wrong)) == {form_of(right)}


def test_without_an_example_most_of_the_batch_is_right():
    """Until something has succeeded: then that is, however few."""
    usual, other, third = torch.ones(2), torch.ones(3), torch.ones(4)
    forms = Forms(None)
    assert forms.accepted([]) == set()
    assert forms.accepted(rows(other)) == {form_of(other)}
    assert forms.accepted(rows(other, usual, usual)) == {form_of(usual)}
    assert forms.accepted(rows(other, usual)) == {form_of(usual), form_of(other)}
    forms.succeeded(form_of(usual))
    assert forms.accepted(rows(other, other, usual)) == {form_of(usual)}
    assert forms.accepted(rows(other, other)) == {form_of(other)}
    assert forms.accepted(rows(other, third)) == {form_of(other), form_of(third)}


def test_what_has_succeeded_is_not_remembered_without_bounds():
    """Items of ever new shapes do not fill the memory."""
    forms = Forms(None)
    for size in range(1000):
        forms.succeeded(form_of(torch.ones(size)))
        forms.succeeded(form_of(torch.ones(size)))
    assert len(forms._known) == 256
    assert form_of(torch.ones(999)) in forms._known


class Pair(NamedTuple):
    left: object
    right: object


@dataclass
class Output:
    scores: object
    extra: object = None


def test_results_are_of_the_outputs_kind():
    """Tuples, named or not, lists, dicts, dataclasses; nothing stays nothing."""
    collator, batch = batch_of([torch.ones(1), torch.ones(1)])
    column = torch.tensor([1, 2])
    output = {
        "pair": Pair(column, (column, None)),
        "list": [column],
        "output": Output(column),
        "none": (),
    }
    first, second = collator.split(output, batch)
    assert first == {"pair": Pair(1, (1, None)), "list": [1], "output": Output(1), "none": ()}
    assert second == {"pair": Pair(2, (2, None)), "list": [2], "output": Output(2), "none": ()}
    doubled = mapped(output, lambda tensor: tensor * 2)
    assert collator.split(doubled, batch)[1]["pair"] == Pair(4, (4, None))
    assert type(first["pair"]) is Pair


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (torch.ones(3), ValueError, r"output is of shape \(3,\) for a batch of 2"),
        ({"loss": torch.tensor(1.0)}, ValueError, r"output\['loss'\] is of shape \(\)"),
        ((torch.ones(2), 3.0), TypeError, r"output\[1\] is a float"),
        (Output(torch.ones(2), "text"), TypeError, r"output.extra is a str"),
    ],
)
def test_an_output_that_cannot_be_split_is_the_models_failure(output, error, message):
    """The error names the part."""
    collator, batch = batch_of([torch.ones(1), torch.ones(1)])
    with pytest.raises(error, match=message):
        collator.split(output, batch)


class Boxes(NamedTuple):
    boxes: object
    scores: object


class Instances:
    """A detector's own class, that nobody here knows."""


@pytest.mark.parametrize("boxes", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: {"boxes": torch.ones(n, 4), "labels": ["cat"] * n},
        lambda n: {"boxes": torch.ones(n, 4), "scores": torch.ones(n)},
        lambda n: (torch.ones(n, 4), torch.ones(n)),
        lambda n: Boxes(torch.ones(n, 4), torch.ones(n)),
        lambda n: Output(torch.ones(n), "text"),
        lambda n: ["cat"] * n,
        lambda _: "cat",
        lambda _: None,
        lambda _: Instances(),
    ],
)
def test_a_list_with_something_for_each_item_is_results_as_they_are(make, count, boxes):
    """As a detector's are, also if there happen to be as many boxes as images."""
    collator, batch = batch_of([torch.ones(1)] * count, sizes=[count, 4])
    output = [make(boxes) for _ in range(batch.size)]
    results = collator.split(output, batch)
    assert len(results) == count
    assert all(result is each for result, each in zip(results, output, strict=False))
    kept = mapped(output, lambda tensor: tensor)
    assert [type(each) for each in collator.split(kept, batch)] == [type(output[0])] * count


def test_places_that_were_filled_up_have_no_result():
    """Of three results two are somebody's."""
    collator, batch = batch_of([torch.ones(1)] * 2, sizes=[3])
    assert collator.split(["a", "b", "filled up"], batch) == ["a", "b"]
    with pytest.raises(TypeError, match=r"output\[0\] is a str"):
        collator.split(["a", "b"], batch)


def test_tensors_of_different_lengths_are_results():
    """One for each item, such as a mask; if all have the batch's length, nobody knows."""
    collator, batch = batch_of([torch.ones(1), torch.ones(1)])
    lengths = [torch.ones(2, 4), torch.ones(3, 4)]
    assert collator.split(lengths, batch) == lengths
    first, _ = collator.split({"masks": lengths, "label": ["cat", "dog"]}, batch)
    assert first["masks"] is lengths[0]
    assert first["label"] == "cat"


@pytest.mark.parametrize(
    ("output", "path"),
    [
        ([torch.ones(2, 4), torch.ones(2, 4)], "output"),
        ([torch.ones(2, 4), torch.tensor(1.0)], "output"),  # logits and a loss
        ([torch.ones(2, 4), torch.ones(3, dtype=torch.int64)], "output"),
        ([torch.ones(2, 4), None], "output"),
        ([{"a": torch.ones(2)}, torch.ones(2)], "output"),
        ((torch.ones(2), [(torch.ones(2), torch.ones(2))] * 2), r"output\[1\]"),  # two layers
        ({"layers": [torch.ones(2, 3)] * 2}, r"output\['layers'\]"),
        ({"layers": [{"a": torch.ones(2)}, {"a": torch.ones(2)}]}, r"output\['layers'\]"),
        ({"nothing": [None, None]}, r"output\['nothing'\]"),
    ],
)
def test_a_list_that_can_be_read_in_two_ways_is_refused_by_name(output, path):
    """With the way out: what is several outputs is returned as a tuple."""
    collator, batch = batch_of([torch.ones(1), torch.ones(1)])
    with pytest.raises(ValueError, match=f"{path} is a list of 2 .* for several outputs a tuple"):
        collator.split(output, batch)


def test_a_list_that_is_not_as_long_as_the_batch_is_several_outputs():
    """As a tuple always is."""
    collator, batch = batch_of([torch.ones(1), torch.ones(1)])
    rows = torch.tensor([1, 2])
    assert collator.split([rows, rows, rows], batch) == [[1, 1, 1], [2, 2, 2]]
    assert collator.split((rows, rows), batch) == [(1, 1), (2, 2)]
    assert collator.split({"layers": [(rows, rows)] * 3}, batch)[1] == {"layers": [(2, 2)] * 3}


def test_what_is_replayed_is_made_of_tensors():
    """A graph captures no others: they would be the first batch's for ever."""
    with pytest.raises(TypeError, match="output is a str"):
        mapped([{"label": "cat"}], torch.clone, strict=True)


def test_parts_of_an_output_are_cut_as_they_are_named():
    """By a mapping; and what has not the padded length cannot be cut."""
    items = [torch.ones(3), torch.ones(1)]
    collator, batch = batch_of(items, pad=Pad(cut={"states": 1}))
    output = {"states": torch.ones(2, 5, 3), "pooled": torch.ones(2, 3)}
    first, second = collator.split(output, batch)
    assert (first["states"].shape, first["pooled"].shape) == ((5, 3), (3,))
    assert (second["states"].shape, second["pooled"].shape) == ((5, 1), (3,))
    for wrong in (torch.ones(2, 5), torch.ones(2, 5, 4)):
        with pytest.raises(ValueError, match="dimension 1 of a result cannot be cut back"):
            collator.split({"states": wrong}, batch)
