"""What a model returned, as a list with one result for each input; or what is wrong with it.

Pure. Nothing is guessed: what can be read in two ways is refused, and so is what has no order.
"""

from __future__ import annotations

import inspect
import re
from collections import UserString
from collections.abc import Mapping, Sequence, Set as AbstractSet
from typing import Any

__all__ = ["NoResultsError", "a", "advice", "is_not_sent", "listed", "not_sent"]

_NOT_SENT = "_trio_batcher_not_sent"

_WANTED = "it has to return a sequence with one result for each input, in the same order"


class NoResultsError(TypeError):
    """What the model returned is nothing that is read as one result for each input."""


def not_sent(story: str) -> TypeError:
    """Return what is raised if inputs cannot be sent to where the model is: it never saw them."""
    error = TypeError(story)
    vars(error)[_NOT_SENT] = True
    return error


def is_not_sent(error: BaseException) -> bool:
    """Return whether an error is one of these."""
    return type(error) is TypeError and _NOT_SENT in vars(error)


def advice(error: BaseException, text: str) -> str:
    """Return what to say to a model's error that looks as if it wanted one input, not a list."""
    if type(error) in {TypeError, AttributeError} and "list" in re.findall(r"\w+", text):
        return " (a model gets a list of inputs)"
    return ""


def a(thing: object) -> str:
    """Return what kind of thing it is, with an article."""
    if thing is None:
        return "None"
    name = type(thing).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def listed(results: Any, size: int) -> list[Any]:
    """Return a model's results for a batch of ``size``, as they come, in a list of our own.

    Lists, tuples, arrays, tensors and series by position; tables by rows, each a dict; of
    other things with a length, what they have at 0, 1, 2 and so on.

    Raises:
        NoResultsError: it is nothing of that, or can be read in two ways.
        Exception: what the results raise when they are looked at.
    """
    if isinstance(results, list):
        return list(results)
    if isinstance(results, tuple):
        return _of_tuple(results, size)
    _refuse_what_has_no_order(results)
    if isinstance(results, Sequence):
        return list(results)
    shape = getattr(results, "shape", None)
    if shape is not None:
        return _of_array(results, shape)
    _refuse_what_goes_by_keys(results)
    if hasattr(results, "__getitem__"):
        # What is looked up by other keys than 0, 1, 2 has those to iterate over.
        return [results[i] for i in range(len(results))]
    return list(iter(results))  # as list() alone would ask for a length, too


def _refuse_what_has_no_order(results: Any) -> None:
    if inspect.iscoroutine(results):
        results.close()
        raise NoResultsError(
            "the model returned a coroutine: give open_batcher the async function itself, "
            "not a plain function that calls it"
        )
    if isinstance(results, str | bytes | bytearray | UserString) or (
        isinstance(results, memoryview) and results.format in {"B", "b", "c"}
    ):
        raise NoResultsError(
            f"the model returned {a(results)}: {_WANTED}. If that is the result for one input, "
            "return a list with it"
        )
    if (
        not hasattr(results, "__len__")
        or hasattr(results, "__next__")
        or isinstance(results, AbstractSet)
    ):
        raise NoResultsError(f"the model returned {a(results)}: {_WANTED}")


def _refuse_what_goes_by_keys(results: Any) -> None:
    if isinstance(results, Mapping) or hasattr(results, "keys"):
        raise NoResultsError(
            f"the model returned {a(results)}: {_WANTED}. If it has an output under each key, "
            "return a list with a dict for each input"
        )


def _of_array(results: Any, shape: Any) -> list[Any]:
    if len(shape) == 0:
        raise NoResultsError(f"the model returned {a(results)} without a dimension: {_WANTED}")
    if getattr(results, "columns", None) is not None:
        return _rows(results)
    if not hasattr(results, "iloc"):  # a series has keys, and its values by position
        _refuse_what_goes_by_keys(results)
    return list(results)


def _of_tuple(results: tuple[Any, ...], size: int) -> list[Any]:
    if hasattr(results, "_fields") or hasattr(results, "n_fields"):
        raise NoResultsError(
            f"the model returned {a(results)}, whose fields are not one result for each input: "
            "return a list, in which that may well be the result for one"
        )
    if len(results) == size and all(_is_as_long(each, size) for each in results):
        raise NoResultsError(
            f"the model returned a tuple of {size} sequences of {size} for a batch of {size}: they "
            "can be one result for each input, or several outputs for all of them. For the "
            "former return a list of them, for the latter list(zip(*outputs))"
        )
    return list(results)


def _is_as_long(thing: Any, size: int) -> bool:
    # Not what derives from them: that is a record, such as a named tuple, and so a result.
    if type(thing) in {list, tuple}:
        return len(thing) == size
    shape: Any = getattr(thing, "shape", None) or ()
    return len(shape) > 0 and shape[0] == size


def _rows(table: Any) -> list[Any]:
    """Return a table's rows as dicts: each column keeps its own type, and nobody the table."""
    names = list(getattr(table, "column_names", table.columns))
    if len(set(names)) < len(names):
        raise NoResultsError(
            f"the model returned {a(table)} in which several columns have one name: "
            "rename them, or return a list"
        )
    rows: list[Any]
    if hasattr(table, "iloc"):  # pandas, and what is like it
        rows = table.to_dict("records")
    elif hasattr(table, "to_dicts"):  # Polars
        rows = table.to_dicts()
    elif hasattr(table, "to_pylist"):  # Arrow
        rows = table.to_pylist()
    else:
        raise NoResultsError(f"the model returned {a(table)}: return a list of its rows")
    return rows
