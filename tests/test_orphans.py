"""A model's process ends with its parent's, in whatever way that ends."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio

from .models import PATIENCE
from .strings import Strings, answer_one

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")

ROOT = Path(__file__).parents[1]

PROGRAM = """
    import os, sys
    from functools import partial

    import trio

    from tests.puppets import Puppet
    from tests.strings import infer_until_told
    from trio_batcher import open_batcher


    async def main():
        model = partial(Puppet, {port})
        async with open_batcher(model, run_in="process") as batcher:
            {body}


    {guard}trio.run(main)
"""
GUARD = 'if __name__ == "__main__": '


@pytest.fixture
def start(tmp_path):
    """Start a program in a session of its own; it is killed at the test's end."""
    started = []

    def start(body, port=0, guard=GUARD):
        path = tmp_path / "program.py"
        source = textwrap.dedent(PROGRAM).format(body=body, port=port, guard=guard)
        path.write_text(source, encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, str(path)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE)


async def ended(process):
    """Wait until all who have its standard error are gone; return what was written to it."""
    _, text = await trio.to_thread.run_sync(lambda: process.communicate(timeout=PATIENCE))
    return text


@pytest.mark.parametrize("doing", ["nothing", "waiting", "holding the interpreter lock"])
@pytest.mark.trio
async def test_no_child_survives_a_parent_that_is_killed(start, doing):
    """By SIGKILL, also in mid-batch, even while the model lets no other thread run."""
    with Strings() as strings:
        process = start("await batcher.infer(1)", strings.port)
        puppet = await strings.puppet()
        if doing != "nothing":
            await puppet.follow("init")
        assert await puppet.step()
        if doing.startswith("holding"):
            puppet.say("hold the lock")
        process.kill()
        assert await puppet.step() == ""
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert "leaked" not in await ended(process)


@pytest.mark.parametrize("body", ["sys.exit(5)", "os._exit(5)"])
@pytest.mark.trio
async def test_no_child_survives_a_parent_that_exits(start, body):
    """In an orderly way, so that the model is closed, or all at once."""
    with Strings() as strings:
        process = start(body, strings.port)
        puppet = await strings.puppet()
        await puppet.follow("init")
        step = await puppet.step()
        if body.startswith("sys"):
            assert step == "close"
            puppet.say()
            step = await puppet.step()
        assert step == ""
    assert await ended(process) == ""
    assert process.returncode == 5


REFUSED = """
    import errno, fcntl, os


    def refuse(*_):
        raise OSError({number}, "refused")


    os.pidfd_open = refuse
    os.memfd_create = refuse
    fcntl.fcntl = refuse
"""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
@pytest.mark.trio
async def test_no_child_survives_a_parent_where_a_container_refuses_calls(start, number):
    """Without pidfds and signals from pipes, in both of them; what the parent has forked lives."""
    refusals = textwrap.dedent(REFUSED).format(number=number)
    body = "os.fork() or os.read(os.pipe()[0], 1); await batcher.infer(1)"
    with Strings() as strings:
        process = start(body, strings.port, guard=refusals + GUARD)
        puppet = await strings.puppet()
        await puppet.follow("init")
        assert await puppet.step() == "infer"
        process.kill()
        assert await puppet.step() == ""
    os.killpg(process.pid, signal.SIGKILL)


async def told_in_mid_batch(start, body, number):
    """Send a signal to parent and child while a batch runs, which then ends; return the parent."""
    with Strings() as strings:
        process = start(body, strings.port)
        puppet = await strings.puppet()
        await puppet.follow("init")
        assert await puppet.step() == "infer"
        os.killpg(process.pid, number)
        puppet.say()
        await puppet.follow("close")
        assert await puppet.step() == ""
    return process


@pytest.mark.trio
async def test_ctrl_c_at_the_terminal_ends_both_in_good_order(start):
    """It tells all processes in the foreground; the child leaves when it is told to."""
    process = await told_in_mid_batch(start, "await batcher.infer(1)", signal.SIGINT)
    text = await ended(process)
    assert text.count("Traceback") == 1
    assert text.endswith("KeyboardInterrupt\n")


@pytest.mark.trio
async def test_a_service_that_is_told_to_stop_answers_what_it_has_accepted(start):
    """A supervisor tells all of its processes; the child does not die in mid-batch of that."""
    process = await told_in_mid_batch(start, "await infer_until_told(batcher)", signal.SIGTERM)
    assert await ended(process) == ""
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.trio
async def test_a_signal_to_a_child_that_starts_is_the_parents_matter(start, number):
    """It comes while the main module is imported: the child cannot have passed over it yet."""
    told = f'if __name__ == "__mp_main__":\n    os.kill(os.getpid(), {int(number)})\n'
    with Strings() as strings:
        process = start("pass", strings.port, guard=told + GUARD)
        puppet = await strings.puppet()
        await puppet.follow("init")
        await puppet.follow("close")
        assert await puppet.step() == ""
    assert await ended(process) == ""
    assert process.returncode == 0


@pytest.mark.trio
async def test_a_missing_guard_is_explained(start):
    """The child imports the main module: one that starts everything at once cannot be."""
    process = start("pass", guard="")
    text = await ended(process)
    assert process.returncode == 1
    assert "trio_batcher._errors.ChildDied: the model's process ended before it could begin" in text
    assert "`if __name__ == '__main__':`" in text


def test_a_daemonic_process_may_have_a_model_of_its_own():
    """Such as a worker of Hypercorn's; it stays what it is."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=answer_one, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    with ours:
        assert ours.recv() == (42, True)
    process.join(PATIENCE)
    assert process.exitcode == 0
    process.close()
