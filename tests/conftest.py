"""Settings for all tests, and how those that run on several event loops are run."""

from __future__ import annotations

import inspect
import os
import signal

import pytest
import trio.testing
from hypothesis import HealthCheck, settings

from . import hosts

# Derandomised: a run that fails, fails again. `HYPOTHESIS_PROFILE=explore` looks further.
settings.register_profile(
    "default", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("default"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A shell has what it runs in the background ignore Ctrl-C, and so would all that is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def on_host(request):
    """The event loop that the test runs on: it is run once on each, see `hosts`."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return request.param


@pytest.fixture
def virtual_time(on_host):
    """The test runs on a virtual clock, and only where there is one."""


@pytest.fixture
def still_clock(on_host):
    """A virtual clock which on trio stands still until the test has it jump."""
    return trio.testing.MockClock() if on_host == "trio" else None


def pytest_generate_tests(metafunc):
    if "on_host" in metafunc.fixturenames:
        names = hosts.VIRTUAL if "virtual_time" in metafunc.fixturenames else hosts.NAMES
        if only := metafunc.definition.get_closest_marker("only_on"):
            names = only.args
        metafunc.parametrize("on_host", names, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if "on_host" not in pyfuncitem.fixturenames or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    values = pyfuncitem.funcargs
    arguments = {name: values[name] for name in inspect.signature(pyfuncitem.obj).parameters}

    async def test():
        await pyfuncitem.obj(**arguments)

    virtual = bool({"virtual_time", "still_clock"} & values.keys())
    hosts.run(values["on_host"], test, virtual=virtual, clock=values.get("still_clock"))
    return True
