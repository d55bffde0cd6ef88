"""Deadlines in headers: what is understood, and what is turned down."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, strategies as st

from trio_batcher._deadline_headers import InvalidTimeout, check_timeouts, timeout_of

SECONDS, GRPC, ENVOY = b"x-request-timeout", b"grpc-timeout", b"x-envoy-expected-rq-timeout-ms"
HEADERS = [SECONDS, GRPC, ENVOY]


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        (SECONDS, b"2", 2.0),
        (SECONDS, b"0.25", 0.25),
        (SECONDS, b".5", 0.5),
        (SECONDS, b"5.", 5.0),
        (SECONDS, b" \t7 ", 7.0),
        (SECONDS, b"0", 0.0),
        (SECONDS, b"0.000", 0.0),
        (SECONDS, b"9" * 20, 1e20),
        (GRPC, b"2H", 7200.0),
        (GRPC, b"3M", 180.0),
        (GRPC, b"4S", 4.0),
        (GRPC, b"250m", 0.25),
        (GRPC, b"5u", 5e-6),
        (GRPC, b"00000006n", 6e-9),
        (GRPC, b"99999999H", 99999999 * 3600.0),
        (GRPC, b"0S", 0.0),
        (ENVOY, b"15000", 15.0),
        (ENVOY, b"0", 0.0),
    ],
)
def test_each_header_has_its_unit(name, value, seconds):
    """Seconds, gRPC's units, and Envoy's milliseconds; zero is a time, too."""
    assert timeout_of([(b"host", b"here"), (name, value)]) == pytest.approx(seconds)


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"-1",
        b"+1",
        b"-0",
        b"nan",
        b"inf",
        b"Infinity",
        b"1e3",
        b"1" + b"0" * 30,
        b"1_000",
        b"0x10",
        b"1,5",
        b"1, 2",
        b"1S, 2S",
        b"1 S",
        b"5s",
        b"5h",
        b"123456789S",
        b"S",
        b".",
        b"1.5.2",
        b"1\n",
        b"1S\n",
        b"1\x00",
        "\u0661".encode(),
        "\uff11S".encode(),
        "\u00b2".encode("latin-1"),
        b"\xff",
    ],
)
def test_anything_else_is_turned_down(name, value):
    """Whatever the value is not, the error says what it should be, and never repeats it."""
    with pytest.raises(InvalidTimeout, match=rf"(?i)^{name.decode()} must be "):
        timeout_of([(name, value)])


@pytest.mark.parametrize(("name", "value"), [(SECONDS, b"5S"), (GRPC, b"5"), (ENVOY, b"1.5")])
def test_one_headers_form_is_not_anothers(name, value):
    """A number without its unit, or with one too many, is no number."""
    with pytest.raises(InvalidTimeout):
        timeout_of([(name, value)])


def test_no_header_is_no_timeout():
    """The server's default applies then."""
    assert timeout_of([]) is None
    assert timeout_of([(b"x-request-timeout-not", b"1")]) is None


def test_of_several_headers_the_least_counts():
    """In whatever order they are."""
    three = [(SECONDS, b"3"), (GRPC, b"2S"), (ENVOY, b"2500")]
    assert timeout_of(three) == timeout_of(three[::-1]) == 2.0


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_there_twice_is_turned_down(name):
    """Also if both say the same."""
    value = b"1S" if name == GRPC else b"1"
    with pytest.raises(InvalidTimeout, match="must be given once"):
        timeout_of([(name, value), (name, value)])


def test_one_bad_header_is_not_made_good_by_another():
    """Each is checked."""
    with pytest.raises(InvalidTimeout, match="grpc-timeout"):
        timeout_of([(SECONDS, b"1"), (GRPC, b"1")])


values = st.binary(max_size=40) | st.text("0123456789.HMSmun -+eE,_", max_size=12).map(str.encode)


@given(st.lists(st.tuples(st.sampled_from([*HEADERS, b"other"]), values), max_size=4))
@example([(SECONDS, b"1" * 5000)])
def test_whatever_is_sent_is_a_finite_time_or_one_kind_of_error(headers):
    """No value gets another exception out of it, nor an endless or a negative time."""
    try:
        timeout = timeout_of(headers)
    except InvalidTimeout:
        return
    assert timeout is None or 0.0 <= timeout < math.inf


@given(st.floats(0, 1e9))
def test_seconds_are_read_as_they_are_written(seconds):
    """A decimal number of any length that fits means what Python's float means by it."""
    text = f"{seconds:.15f}"
    assert timeout_of([(SECONDS, text.encode())]) == float(text)


@given(st.integers(0, 10**8 - 1), st.sampled_from("HMSmun"))
def test_grpc_units_are_in_order(number, unit):
    """Each is larger than the next, and any eight digits will do."""
    units = "HMSmun"
    seconds = timeout_of([(GRPC, f"{number}{unit}".encode())])
    assert seconds == pytest.approx(number * [3600, 60, 1, 1e-3, 1e-6, 1e-9][units.index(unit)])


@pytest.mark.parametrize("name", ["default_timeout", "max_timeout"])
def test_bounds_are_checked(name):
    """The error names the argument and its value."""
    good = {"default_timeout": math.inf, "max_timeout": math.inf}
    check_timeouts(**good)
    check_timeouts(**{**good, name: 1})
    for value in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"^{name} must be > 0 seconds, not {value!r}"):
            check_timeouts(**{**good, name: value})
    for value in (None, "1", True):
        with pytest.raises(
            TypeError, match=f"^{name} must be a number of seconds .* not {value!r}"
        ):
            check_timeouts(**{**good, name: value})


def test_the_default_is_within_the_maximum():
    """No default means the maximum; a greater one is a mistake."""
    check_timeouts(math.inf, 5.0)
    check_timeouts(5.0, 5.0)
    with pytest.raises(ValueError, match=r"^default_timeout must be <= max_timeout \(5.0\), not 6"):
        check_timeouts(6, 5.0)
