"""Exceptions as they are told to another process, which may know less about them."""

from __future__ import annotations

import pickle
import traceback
from contextlib import suppress
from typing import NamedTuple

__all__ = ["Told", "error_of", "tell"]


class Told(NamedTuple):
    """An exception, so that something of it arrives in any case.

    Attributes:
        headline: its class and message.
        text: its traceback, and why it cannot be pickled; empty if there is neither.
        pickled: itself, if it is the same when it is unpickled here.
        message: a group's.
        members: a group's own exceptions, which may arrive where the group does not.
    """

    headline: str
    text: str = ""
    pickled: bytes | None = None
    message: str = ""
    members: tuple[Told, ...] = ()


def tell(error: BaseException) -> Told:
    """Return what is told of an exception, whatever its class does.

    Raises:
        MemoryError: there is no room for that.
    """
    headline = _headline(error)
    try:
        text, pickled = _traceback_of(error), None
        try:
            pickled = pickle.dumps(error)
            twin = pickle.loads(pickled)  # noqa: S301  made in the line above
            if type(twin) is not type(error):
                pickled, text = None, f"{text}\n(pickled, it becomes a {type(twin).__name__})"
        except MemoryError:
            raise
        except BaseException as exc:  # noqa: BLE001, ASYNC103  of a class's own methods
            pickled, text = None, f"{text}\n(it cannot be pickled: {_headline(exc)})".lstrip()
        if isinstance(error, BaseExceptionGroup):
            members = tuple(map(tell, error.exceptions))
            return Told(headline, text, pickled, str(error.message), members)
        return Told(headline, text, pickled)
    except MemoryError:
        raise
    except BaseException as exc:  # noqa: BLE001, ASYNC103  as of a group that is too deep
        return Told(headline, f"(no more is known of it: {_headline(exc)})")  # noqa: ASYNC104


def error_of(told: Told) -> tuple[BaseException, bool]:
    """Return the exception itself, or else one that quotes it, and whether it is itself.

    Raises:
        MemoryError: there is no room for it.
    """
    error, text = None, told.text
    if told.pickled is not None:
        try:
            found = pickle.loads(told.pickled)  # noqa: S301  our own process sent it
            error = found if isinstance(found, BaseException) else None
        except MemoryError:
            raise
        except BaseException as exc:  # noqa: BLE001, ASYNC103  of a class's own methods
            text = f"{text}\n(it cannot be unpickled here: {_headline(exc)})".lstrip()
    if error is None and told.members:
        error = BaseExceptionGroup(told.message, [error_of(each)[0] for each in told.members])
    is_itself = error is not None
    if error is None:
        error = RuntimeError(f"{told.headline} (in the model's process; it cannot leave that)")
    if text:
        with suppress(TypeError):  # it has notes that are none
            BaseException.add_note(error, f"In the model's process:\n{text}")
    return error, is_itself


def _headline(error: BaseException) -> str:
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = str(error)
    except MemoryError:
        raise
    except BaseException as exc:  # noqa: BLE001, ASYNC103  of a class's own methods
        text = f"(its message cannot be made: {type(exc).__name__})"  # noqa: ASYNC104
    return f"{name.removeprefix('builtins.')}: {text}" if text else name.removeprefix("builtins.")


def _traceback_of(error: BaseException) -> str:
    """Return it as Python prints it; nothing if it was never raised and has no reason."""
    if error.__traceback__ is None and error.__cause__ is None and error.__context__ is None:
        return ""
    return "".join(traceback.format_exception(error)).rstrip()
