"""The same application under each server, over real sockets, each in a process of its own.

FastAPI's under all of them, Quart-Trio's under the one that runs it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("fastapi", reason="most of them serve a FastAPI application")
pytest.importorskip("hypercorn", reason="the application is also served by hypercorn")

ROOT = Path(__file__).parents[2]
APP = "tests.integration.served:app"
UVICORN = ("uvicorn", APP, "--port", "0", "--http", "h11", "--loop")
HYPERCORN = ("--bind", "127.0.0.1:0", "--graceful-timeout", "60", "-k")
COMMANDS = {
    "uvicorn": (*UVICORN, "asyncio"),
    "uvicorn-uvloop": (*UVICORN, "uvloop"),
    "hypercorn": ("hypercorn", APP, *HYPERCORN, "asyncio"),
    "hypercorn-trio": ("hypercorn", APP, *HYPERCORN, "trio"),
    "hypercorn-trio-quart": ("hypercorn", "tests.integration.served_quart:app", *HYPERCORN, "trio"),
    "serve-asyncio": ("tests.integration.served", "asyncio"),
    "serve-trio": ("tests.integration.served", "trio"),
}
# Those that a signal is for, and not for a process that has started them.
IN_ONE_PROCESS = {
    **{name: COMMANDS[name] for name in COMMANDS if not name.startswith("hypercorn")},
    "hypercorn-0": (*COMMANDS["hypercorn"], "--workers", "0"),
}
HANGING = "tests.integration.served_hanging"
SOON = {"uvicorn": ("--timeout-graceful-shutdown", "1"), "hypercorn": ("--graceful-timeout", "1")}
# Longer than anything here takes, so that what hangs fails.
PATIENCE = 60


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self):
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)["reason"]


class Call:
    """A connection, on which one request was sent."""

    def __init__(self, address, target, headers=()):
        self.socket = socket.create_connection(address, timeout=PATIENCE)
        lines = [f"GET {target} HTTP/1.1", "Host: server", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode())

    def answer(self):
        response = HTTPResponse(self.socket)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())

    def leave(self):
        self.socket.close()

    def wait_closed(self):
        """Wait until the server closes the connection."""
        assert self.socket.recv(1) == b""
        self.socket.close()


class Server:
    """A server in a process of its own, and what it has said so far."""

    def __init__(self, name, process, gate):
        self.name = name
        self.process = process
        self.unread = []
        self._gate = gate
        self._calls = []
        running = re.search(r"unning on http://([\d.]+):(\d+)", self.read(".*unning on http.*"))
        self.address = running[1], int(running[2])

    def read(self, pattern):
        """Return the line that fits, waiting for it; each line once."""
        while True:
            for line in self.unread:
                if re.fullmatch(pattern, line):
                    self.unread.remove(line)
                    return line
            line = self.process.stdout.readline()
            assert line, f"the server has ended before {pattern!r}: {self.unread}"
            self.unread.append(line.rstrip())

    def get(self, target, *headers):
        call = Call(self.address, target, headers)
        self._calls.append(call)
        return call

    def ask(self, item, *headers):
        """Send an item, and wait until it is in the queue."""
        call = self.get(f"/?item={item}", *headers)
        self.read(f"asked {item}")
        # The event loop goes on to another request only after the item was queued.
        assert self.get("/nothing").answer().status == 404
        return call

    def hold(self, item):
        """Send an item, and wait until the model holds it."""
        call = self.ask(item)
        self.read(f"batch {item}")
        return call

    def let_go(self):
        os.write(self._gate, b"!")

    def close(self):
        for call in self._calls:
            call.leave()


@contextmanager
def serving(name, path, *command):
    if name.startswith("uvicorn") and importlib.util.find_spec("uvicorn") is None:
        pytest.skip("uvicorn is not installed")
    if name == "uvicorn-uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    if name.endswith("quart") and importlib.util.find_spec("quart_trio") is None:
        pytest.skip("Quart-Trio is not installed")
    os.mkfifo(path / "gate")
    gate = os.open(path / "gate", os.O_RDWR)
    process = subprocess.Popen(
        [sys.executable, "-m", *(command or COMMANDS[name])],
        cwd=ROOT,
        env={**os.environ, "GATE": str(path / "gate"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # to be ended as a whole, with a worker that it may have
    )
    try:
        with process.stdout:
            server = Server(name, process, gate)
            yield server
            server.close()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(gate)


@pytest.fixture(scope="module", params=COMMANDS)
def server(request, tmp_path_factory):
    """A server for several tests, each of which leaves it idle."""
    with serving(request.param, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(params=COMMANDS)
def own_server(request, tmp_path):
    """A server to be stopped."""
    with serving(request.param, tmp_path) as server:
        yield server


def stop(server, idle):
    """Tell a server to stop, and wait until it does; ``idle`` is a connection that idles."""
    server.process.send_signal(signal.SIGTERM)
    if server.name.startswith("serve"):
        server.read("Stopping: .*")
    else:
        idle.wait_closed()  # the first thing that they do


def test_a_client_that_leaves_makes_room_before_its_batch_starts(server):
    """A full queue answers 503 and when to come back; who leaves it gives up the slot."""
    held = server.hold("held")
    leaver, stayer = server.ask("leaver"), server.ask("stayer")
    full = server.ask("one-more").answer()
    assert (full.status, full.reason) == (503, "overloaded")
    assert int(full.headers["retry-after"]) >= 1
    leaver.leave()
    server.read("gone leaver")
    newcomer = server.ask("newcomer")
    server.let_go()
    answers = [call.answer() for call in (held, stayer, newcomer)]
    assert [json.loads(answer.body) for answer in answers] == ["HELD", "STAYER", "NEWCOMER"]
    server.read("batch newcomer stayer")


def test_a_deadline_is_answered_in_time(server):
    """504, while the model still runs."""
    held = server.hold("held")
    late = server.ask("late", "X-Request-Timeout: 0.2").answer()
    assert (late.status, late.reason) == (504, "deadline")
    server.let_go()
    assert held.answer().status == 200


def test_a_failing_item_fails_its_own_request(server):
    """Those in its batch are answered."""
    held = server.hold("held")
    bad, good = server.ask("bad"), server.ask("good")
    server.let_go()
    assert held.answer().status == 200
    server.read("batch bad good")
    assert json.loads(good.answer().body) == "GOOD"
    answer = bad.answer()
    assert (answer.status, answer.reason) == (500, "model")


def test_sigterm_answers_everything_that_was_accepted(own_server):
    """What runs and what waits; then the server ends with 0."""
    server = own_server
    idle = server.ask("idle")
    assert idle.answer().status == 200
    calls = [server.hold("held"), server.ask("a"), server.ask("held-too")]
    stop(server, idle)
    server.let_go()
    server.let_go()
    assert [call.answer().status for call in calls] == [200, 200, 200]
    assert server.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", IN_ONE_PROCESS)
def test_a_second_signal_ends_it_at_once(name, second, tmp_path):
    """Whatever it is doing, a batch in a thread included."""
    with serving(name, tmp_path, *IN_ONE_PROCESS[name]) as server:
        idle = server.ask("idle")
        assert idle.answer().status == 200
        server.hold("held")
        stop(server, idle)
        server.process.send_signal(second)
        assert server.process.wait(PATIENCE) == -second


@pytest.mark.parametrize("name", COMMANDS)
def test_a_model_that_hangs_in_a_process_does_not_keep_a_server(name, tmp_path):
    """Told to stop, it gives the requests up when their time is over, and their batch with them."""
    if name.endswith("quart"):
        pytest.skip("the same server")
    command = [HANGING if each == "tests.integration.served" else each for each in COMMANDS[name]]
    command = [f"{HANGING}:app" if each == APP else each for each in command]
    with serving(name, tmp_path, *command, *SOON.get(name.split("-")[0], ())) as server:
        server.get("/")
        server.read("hangs")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


def test_a_crashed_batcher_leaves_a_server_that_answers_and_can_be_stopped(own_server):
    """503, to what waits and to whatever comes; a server that was told of it stops by itself."""
    server = own_server
    assert server.get("/crash").answer().status == 200
    answer = server.get("/?item=a").answer()
    assert (answer.status, answer.reason) == (503, "unavailable")
    if server.name.startswith("serve"):
        server.read("Stopped: 0 accepted requests were cut off")
        server.read(".*BatcherCrashed: .*")
        assert server.process.wait(PATIENCE) == 1
        return
    answer = server.get("/?item=b").answer()
    assert (answer.status, answer.reason) == (503, "unavailable")
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(PATIENCE)
