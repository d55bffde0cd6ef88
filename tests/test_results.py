"""What a model may return, and what is refused because it could be read in two ways."""

from __future__ import annotations

import io
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, UserString
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from hypothesis import given, strategies as st

from trio_batcher._results import a, advice, is_not_sent, listed, not_sent

np = pytest.importorskip("numpy")


class Rows:
    """As a data set is: a length, and something at each index."""

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Registry:
    """Knows its values by name; a mapping but for that it does not say so."""

    def __init__(self, **values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)

    def __getitem__(self, name):
        return self.values[name]


class Pair(NamedTuple):
    label: object
    score: object


@dataclass
class Boxes:
    boxes: object


@pytest.mark.parametrize(
    "results",
    [
        [[1, 2], [3, 4]],
        UserList([[1, 2], [3, 4]]),
        Rows([1, 2], [3, 4]),
        [{"boxes": 1}, {"boxes": 2}],
        [Pair("cat", 0.5), Pair("dog", 0.25)],
        (Pair("cat", 0.5), Pair("dog", 0.25)),
        ({"boxes": 1}, {"boxes": 2}),
        (Boxes([1, 2]), Boxes([3, 4])),
        ([1, 2, 3], [4, 5, 6]),  # as long as each other, but not as the batch
        ([1, 2], [4, 5, 6]),
        ([1, 2], None),
        ("ab", "cd"),
        (b"ab", b"cd"),
        ["ab", "cd"],
        (1, 2),
        (None, None),
    ],
    ids=repr,
)
def test_what_has_a_result_for_each_input_is_taken_as_it_is(results):
    """A list always; a tuple where it cannot be anything else."""
    assert listed(results, 2) == list(results)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_rows_of_an_array_are_results(size):
    """Whatever their shape: an array's first dimension is the batch's."""
    for shape in [(size,), (size, size), (size, 3, 2), (size, 0)]:
        array = np.arange(np.prod(shape)).reshape(shape)
        assert np.array_equal(np.array(listed(array, size)), array)


def test_the_list_is_never_the_models():
    """It may use its own again."""
    results = [1, 2]
    assert listed(results, 2) is not results


@pytest.mark.parametrize(
    "results",
    ["ab", b"ab", bytearray(b"ab"), memoryview(b"ab"), np.str_("ab"), UserString("ab")],
    ids=lambda results: type(results).__name__,
)
def test_letters_are_nobodys_results(results):
    """One text for two inputs is a mistake, and so is one for one."""
    for size in (2, 1, 7):
        with pytest.raises(TypeError, match=f"the model returned {a(results)}: .*return a list"):
            listed(results, size)


@pytest.mark.parametrize(
    "results",
    [
        {"a": 0, "b": 1},
        OrderedDict(a=0, b=1),
        UserDict(a=0, b=1),
        ChainMap({"a": 0}, {"b": 1}),
        Counter("ab"),
        {0: "zero", 1: "one"},
    ],
    ids=lambda results: type(results).__name__,
)
def test_what_goes_by_keys_is_no_sequence(results):
    """Also if the keys are numbers."""
    with pytest.raises(TypeError, match=f"the model returned {a(results)}: .*for each input"):
        listed(results, 2)


def test_what_is_looked_up_by_name_gives_no_names_away():
    """A dict in all but its class has nothing at 0: that is its own error, and no result."""
    with pytest.raises(KeyError):
        listed(Registry(a=1, b=2), 2)


@pytest.mark.parametrize("results", [np.array(3), np.float64(3), np.array("text")], ids=repr)
def test_an_array_without_a_dimension_is_refused(results):
    """It has one value at most, and no place for it."""
    with pytest.raises(TypeError, match=r"the model returned an? .*one result for each input"):
        listed(results, 1)


@pytest.mark.parametrize(
    "results",
    [(i for i in range(2)), iter([1]), map(str, "ab"), io.StringIO("a\nb"), 7, None, {1, 2}],
)
def test_what_has_no_length_or_no_order_is_refused(results):
    """Even if it could be run to its end."""
    with pytest.raises(TypeError, match=r"the model returned .*: it has to return a sequence"):
        listed(results, 2)


def columns(size):
    """Sequences as long as the batch."""
    values = st.lists(st.integers(0, 9), min_size=size, max_size=size)
    return values | values.map(tuple) | values.map(np.array)


@given(st.data(), st.integers(1, 5))
def test_several_outputs_for_the_whole_batch_are_never_handed_out(data, size):
    """A tuple of as many of them as there are inputs is refused, and told both ways out."""
    outputs = tuple(data.draw(columns(size)) for _ in range(size))
    with pytest.raises(TypeError, match=r"return a list of them.*list\(zip\(\*outputs\)\)"):
        listed(outputs, size)
    assert len(listed(list(outputs), size)) == size
    zipped = list(zip(*outputs, strict=True))
    assert listed(zipped, size) == zipped


def test_a_named_tuple_is_one_result_and_not_several():
    """Its fields are outputs; with two inputs they would be taken for two results."""
    with pytest.raises(TypeError, match="the model returned a Pair, whose fields"):
        listed(Pair([1, 2], [3, 4]), 2)


def test_what_torch_returns_for_a_maximum_is_no_two_results():
    """Values and indices are fields of one thing."""
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="the model returned a max, whose fields"):
        listed(torch.ones(2, 3).max(1), 2)
    with pytest.raises(TypeError, match="return a list of them"):
        listed((torch.ones(2, 3), torch.ones(2)), 2)
    with pytest.raises(TypeError, match="a Tensor without a dimension"):
        listed(torch.tensor(1.0), 1)
    assert [len(row) for row in listed(torch.ones(2, 3), 2)] == [3, 3]


class Frame:
    """As much of a table as is looked at, whoever makes it: iterating over it gives columns."""

    def __init__(self, columns, *rows):
        self.columns, self.rows = columns, rows
        self.shape = len(rows), len(columns)

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.columns)

    def __getitem__(self, _):
        raise AssertionError

    def keys(self):
        return self.columns

    def dicts(self):
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class PandasFrame(Frame):
    iloc = object()

    def to_dict(self, orient):
        assert orient == "records"
        return self.dicts()


class PolarsFrame(Frame):
    to_dicts = Frame.dicts


class ArrowTable(Frame):
    def __init__(self, columns, *rows):
        super().__init__(columns, *rows)
        self.column_names = columns

    @property
    def columns(self):
        return [[1], [1]]  # arrays, in truth

    @columns.setter
    def columns(self, names):
        pass

    def dicts(self):
        return [dict(zip(self.column_names, row, strict=True)) for row in self.rows]

    to_pylist = dicts


@pytest.mark.parametrize("kind", [PandasFrame, PolarsFrame, ArrowTable])
def test_a_table_has_rows(kind):
    """Each a dict by column, never a column; and no column is lost."""
    frame = kind(["label", "score"], ("cat", 0.5), ("dog", 0.25))
    assert listed(frame, 2) == [{"label": "cat", "score": 0.5}, {"label": "dog", "score": 0.25}]
    with pytest.raises(TypeError, match="several columns have one name"):
        listed(kind(["label", "label"], (1, 2), (3, 4)), 2)


def test_a_table_of_another_kind_is_refused():
    """Nobody knows how to get at its rows."""
    with pytest.raises(TypeError, match="the model returned a Frame: return a list of its rows"):
        listed(Frame(["label"], (1,)), 1)


def test_a_series_goes_by_position():
    """Its keys are of no interest."""

    class Series(Frame):
        iloc, columns = object(), None

        def __init__(self, *values):
            self.shape, self.values = (len(values),), values

        def __len__(self):
            return len(self.values)

        def __iter__(self):
            return iter(self.values)

    assert listed(Series("a", "b"), 2) == ["a", "b"]


ROWS = [{"label": "cat", "score": 1}, {"label": "dog", "score": 0}]


def test_tables_of_pandas():
    """By row, by position: an index says nothing of the order of inputs."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, index=[1, 0])
    assert listed(frame, 2) == ROWS
    assert [type(row["score"]) for row in listed(frame, 2)] == [int, int]
    assert listed(frame["label"], 2) == ["cat", "dog"]
    assert listed(frame.to_numpy(), 2)[1].tolist() == ["dog", 0]
    frame.columns = ["label", "label"]
    with pytest.raises(TypeError, match="several columns have one name"):
        listed(frame, 2)
    with pytest.raises(TypeError, match=r"return a list of them.*zip"):
        listed((frame.iloc[:, 0], frame.iloc[:, 1]), 2)


def test_tables_of_polars():
    """Likewise."""
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(ROWS)
    assert listed(frame, 2) == ROWS
    assert listed(frame["label"], 2) == ["cat", "dog"]
    with pytest.raises(TypeError, match="the model returned a LazyFrame"):
        listed(frame.lazy(), 2)


def test_tables_of_arrow():
    """Likewise."""
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pylist(ROWS)
    assert listed(table, 2) == ROWS
    assert listed(table.to_batches()[0], 2) == ROWS


def test_arrays_with_names_for_their_dimensions():
    """By the first one; a data set of several arrays is a mapping."""
    xarray = pytest.importorskip("xarray")
    array = xarray.DataArray([[1, 2], [3, 4]], dims=["input", "x"])
    assert [row.values.tolist() for row in listed(array, 2)] == [[1, 2], [3, 4]]
    with pytest.raises(TypeError, match="the model returned a Dataset: "):
        listed(xarray.Dataset({"a": array, "b": array}), 2)


def test_a_coroutine_is_refused_and_closed():
    """Nothing complains later that nobody awaited it."""

    async def infer():
        """Do nothing."""

    with pytest.raises(TypeError, match="give open_batcher the async function itself"):
        listed(infer(), 1)


def test_what_has_a_length_and_an_order_needs_no_index():
    """Such as a dict's values."""
    assert listed({"a": 1, "b": 2}.values(), 2) == [1, 2]
    assert listed(range(2), 2) == [0, 1]


def test_advice_is_given_where_lists_are_complained_of():
    """To whoever wrote a model for one input; not for errors of other kinds."""
    assert advice(TypeError(), "must be Tensor, not list") == " (a model gets a list of inputs)"
    assert not advice(ValueError(), "not list")
    assert not advice(TypeError(), "listen")


def test_inputs_that_were_not_sent_are_marked():
    """By an ordinary `TypeError`."""
    assert is_not_sent(not_sent("no pickle"))
    assert type(not_sent("no pickle")) is TypeError
    assert not is_not_sent(TypeError("no pickle"))
    assert not is_not_sent(ValueError("no pickle"))
