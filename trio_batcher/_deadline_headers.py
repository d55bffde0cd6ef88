"""Deadlines as callers send them: in a header, as the time they are ready to wait.

======================================  =============================================
``x-request-timeout``                   seconds, a plain decimal number: ``0.25``
``grpc-timeout``                        1 to 8 digits and a unit, as gRPC has it:
                                        H, M, S, m, u, n (hours down to nanoseconds)
``x-envoy-expected-rq-timeout-ms``      milliseconds, a whole number, as Envoy has it
======================================  =============================================
"""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["InvalidTimeout", "check_timeout", "check_timeouts", "timeout_of"]

# Twenty digits are more time than there is. [0-9], as \d would take other scripts' in a str.
_SECONDS = re.compile(rb"[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}")
_GRPC = re.compile(rb"([0-9]{1,8})([HMSmun])")
_MILLISECONDS = re.compile(rb"[0-9]{1,20}")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class InvalidTimeout(ValueError):
    """A header's value is not one; the message tells the caller what would be."""


def _seconds(value: bytes) -> float | None:
    return float(value) if _SECONDS.fullmatch(value) else None


def _grpc(value: bytes) -> float | None:
    match = _GRPC.fullmatch(value)
    return None if match is None else float(match[1]) * _UNITS[match[2]]


def _milliseconds(value: bytes) -> float | None:
    return float(value) * 1e-3 if _MILLISECONDS.fullmatch(value) else None


_READERS: dict[bytes, tuple[str, Callable[[bytes], float | None], str]] = {
    b"x-request-timeout": ("X-Request-Timeout", _seconds, "a number of seconds, such as 0.5"),
    b"grpc-timeout": ("grpc-timeout", _grpc, "1 to 8 digits and one of H M S m u n, such as 500m"),
    b"x-envoy-expected-rq-timeout-ms": (
        "x-envoy-expected-rq-timeout-ms",
        _milliseconds,
        "a whole number of milliseconds, such as 500",
    ),
}


def timeout_of(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Return the seconds that a request has by its headers, `None` if they do not say.

    Of several headers the least counts: whoever set it gives up then.

    Args:
        headers: pairs of name, in lower case, and value, as in an ASGI scope.

    Raises:
        InvalidTimeout: a value is not of its header's form, or a header is there twice.
    """
    given: dict[bytes, float] = {}
    for name, value in headers:
        if name in _READERS:
            shown, read, form = _READERS[name]
            seconds = read(value.strip(b" \t"))
            if seconds is None:
                raise InvalidTimeout(f"{shown} must be {form}.")
            if name in given:
                raise InvalidTimeout(f"{shown} must be given once.")
            given[name] = seconds
    return min(given.values(), default=None)


def check_timeouts(default_timeout: float, max_timeout: float) -> None:
    """Raise what is wrong with the bounds of a server's timeouts, if anything is."""
    check_timeout("default_timeout", default_timeout)
    check_timeout("max_timeout", max_timeout)
    if max_timeout < default_timeout < math.inf:
        raise ValueError(
            f"default_timeout must be <= max_timeout ({max_timeout!r}), not {default_timeout!r}"
        )


def check_timeout(name: str, value: float) -> None:
    """Raise what is wrong with a number of seconds, if anything is."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a number of seconds (math.inf for no limit), not {value!r}"
        )
    if not value > 0:
        raise ValueError(f"{name} must be > 0 seconds, not {value!r}")
