"""A model in a process of its own: the same answers, and no death but its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from trio_batcher import (
    BatcherClosed,
    BatcherCrashed,
    ChildDied,
    DeviceLost,
    InferenceModel,
    ModelError,
    _process,
    open_batcher,
)

from .hosts import host
from .models import PATIENCE
from .puppets import Broken, Doubler, Puppet, Signaller, Talker
from .strings import Strings

pytestmark = [
    pytest.mark.usefixtures("on_host"),
    pytest.mark.only_on("trio", "asyncio"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals and descriptors are POSIX's"),
]

in_process = partial(open_batcher, run_in="process")


async def ask(batcher, outcomes, item):
    try:
        outcomes[item] = await batcher.infer(item)
    except Exception as exc:
        outcomes[item] = exc


def all_of(batcher, outcomes, items, nursery):
    for item in items:
        nursery.start_soon(ask, batcher, outcomes, item)


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    """No child and no descriptor outlives a test."""
    resource_tracker.ensure_running()  # multiprocessing's own helper, which stays
    before = descriptors()
    yield
    assert multiprocessing.active_children() == []
    if "uvloop" not in request.node.name:  # which keeps some of its own
        assert len(descriptors()) == len(before)


def descriptors():
    path = Path("/proc/self/fd")
    return list(path.iterdir()) if path.exists() else []


@pytest.mark.only_on("trio", "asyncio", "uvloop")
async def test_it_answers_as_a_model_in_a_thread_does():
    """In another process than the caller's, and all in the same one."""
    async with in_process(Doubler) as batcher:
        assert await batcher.infer_many(range(100)) == [item * 2 for item in range(100)]
        first, second = await batcher.infer("pid"), await batcher.infer("pid")
        assert first == second != os.getpid()
        assert batcher.statistics().restarts == 0


@pytest.mark.only_on("trio")
async def test_a_models_process_imports_no_event_loop():
    """Unless its model does, or the program's main module: starting it takes no time for that."""
    async with in_process(Doubler) as batcher:
        assert await batcher.infer("loops") == []


@pytest.mark.only_on("trio")
async def test_replicas_have_a_process_each():
    """Also with arguments, in a partial."""
    async with in_process([Doubler, partial(Doubler)]) as batcher:
        assert await batcher.infer_many(range(10)) == [item * 2 for item in range(10)]
        assert len(multiprocessing.active_children()) == 2


@pytest.mark.parametrize("poison", ["raise", "leave", "exit", "kill", "segfault"])
@pytest.mark.only_on("trio")
async def test_a_poison_input_fails_alone(poison, monkeypatch):
    """Whatever it does to the process: 31 of 31 others are answered."""
    monkeypatch.setattr(_process, "SHORTEST_DELAY", 0.0)
    outcomes = {}
    async with in_process(Doubler, max_batch_size=32) as batcher:
        async with host.open_nursery() as nursery:
            all_of(batcher, outcomes, [*range(20), poison, *range(20, 31)], nursery)
        statistics = batcher.statistics()
    error = outcomes.pop(poison)
    assert outcomes == {item: item * 2 for item in range(31)}
    assert type(error) is ModelError
    assert error.batch_size == 1
    assert statistics.batch_sizes[32] == 1
    if poison in ("raise", "leave"):
        assert statistics.restarts == 0
    else:
        assert type(error.__cause__) is ChildDied
        codes = {"exit": 7, "kill": -signal.SIGKILL, "segfault": -signal.SIGSEGV}
        assert error.__cause__.exit_code == codes[poison]
        assert ("exit code 7" if poison == "exit" else "killed by SIG") in str(error)
        # The batch twice, and from each level down to the input itself the half that it is in:
        # after each a new process, unless that run was the last.
        assert statistics.restarts in (6, 7)


@pytest.mark.only_on("trio")
async def test_an_exception_keeps_its_type_and_its_traceback():
    """The model's own exception is the cause, with the child's traceback as a note."""
    async with in_process(Doubler) as batcher:
        with pytest.raises(ModelError) as caught:
            await batcher.infer("raise")
        assert type(caught.value.__cause__) is LookupError
        assert "puppets.py" in caught.value.__cause__.__notes__[0]
        with pytest.raises(LookupError, match="returned"):
            await batcher.infer("returned")


@pytest.mark.only_on("trio")
@pytest.mark.parametrize("item", ["stubborn", "picky"])
async def test_an_exception_that_cannot_be_pickled_is_told_all_the_same(item):
    """As a RuntimeError that names it; one whose class cannot be made again likewise."""
    async with in_process(Doubler) as batcher:
        with pytest.raises(ModelError) as caught:
            await batcher.infer(item)
    cause = caught.value.__cause__
    assert type(cause) is RuntimeError
    assert item in str(cause).lower()
    assert "cannot be pickled" in cause.__notes__[0]


@pytest.mark.only_on("trio")
@pytest.mark.parametrize("item", [lambda: None, "unpicklable"], ids=["item", "result"])
async def test_what_cannot_be_pickled_fails_alone(item):
    """An item or a result, by a TypeError, and no process has to die for it."""
    outcomes = {}
    async with in_process(Doubler) as batcher:
        async with host.open_nursery() as nursery:
            all_of(batcher, outcomes, [*range(7), item], nursery)
        assert batcher.statistics().restarts == 0
    error = outcomes.pop(item)
    assert outcomes == {n: n * 2 for n in range(7)}
    assert type(error) is ModelError
    assert type(error.__cause__) is TypeError


@pytest.mark.only_on("trio", "asyncio", "uvloop")
async def test_what_does_not_cross_disturbs_nobody_else():
    """Exceptions and results each fail their own caller; nothing is run again for them."""
    outcomes = {}
    bad = [("exception", "plain"), ("exception", "picky"), ("exception", "own"), ("result", "own")]
    async with in_process(Talker) as batcher:
        async with host.open_nursery() as nursery:
            all_of(batcher, outcomes, [*range(4), *bad, *range(4, 8)], nursery)
        statistics = batcher.statistics()
    kinds = [type(outcomes.pop(item)) for item in bad]
    assert kinds == [LookupError, ModelError, ModelError, ModelError]
    assert outcomes == {item: f"answer to {item}" for item in range(8)}
    assert (statistics.reruns, statistics.restarts, statistics.batches) == (0, 0, 1)


async def test_others_have_the_device_while_a_process_is_replaced():
    """That takes no token: a batcher that shares the limiter is served meanwhile."""
    outcomes, limiter = {}, host.CapacityLimiter(1)

    async def lead(strings) -> None:
        puppet = await strings.puppet()
        await puppet.follow("init")
        assert await puppet.step() == ""
        puppet = await strings.puppet()
        assert await puppet.step() == "init"
        assert await other.infer(1) == "answered"
        assert outcomes == {}
        puppet.say()
        await puppet.follow("infer", "close")

    with Strings() as strings:
        async with (
            host.open_nursery() as nursery,
            open_batcher(lambda items: ["answered"] * len(items), limiter=limiter) as other,
        ):
            nursery.start_soon(lead, strings)
            async with in_process(partial(Puppet, strings.port), limiter=limiter) as batcher:
                (child,) = multiprocessing.active_children()
                os.kill(child.pid, signal.SIGKILL)
                child.join()
                await ask(batcher, outcomes, 2)
    assert outcomes == {2: 4}


async def test_others_have_the_device_while_a_process_is_replaced_during_the_warm_up():
    """That takes no token either."""
    limiter = host.CapacityLimiter(1)

    async def lead(strings) -> None:
        puppet = await strings.puppet()
        await puppet.follow("init")
        assert await puppet.step() == "infer"
        puppet.say("exit")
        assert await puppet.step() == ""
        puppet = await strings.puppet()
        assert await puppet.step() == "init"
        assert await other.infer(1) == "answered"
        puppet.say()
        await puppet.follow("infer", "infer", "close")

    with Strings() as strings:
        async with (
            host.open_nursery() as nursery,
            open_batcher(lambda items: ["answered"] * len(items), limiter=limiter) as other,
        ):
            nursery.start_soon(lead, strings)
            model = partial(Puppet, strings.port)
            async with in_process(model, limiter=limiter, warmup=[1], max_batch_size=1):
                pass


def test_only_a_class_can_be_made_in_a_process():
    """Anything else is refused at the call, by name."""

    async def asynchronous(items):
        return items

    for model in (len, asynchronous, Doubler(), [Doubler, Doubler()]):
        with pytest.raises(TypeError, match=r"run_in='process' needs .* not"):
            open_batcher(model, run_in="process")
    with pytest.raises(ValueError, match="run_in must be 'thread' or 'process', not 'fork'"):
        open_batcher(Doubler, run_in="fork")


@pytest.mark.only_on("trio")
async def test_a_class_that_cannot_be_pickled_is_refused():
    """On entering, with what to do about it."""

    class Local(InferenceModel[int, int]):
        def infer(self, inputs: list[int]) -> list[int]:
            return inputs

    with pytest.raises(TypeError, match="at the top level of a module"):
        async with in_process(Local):
            raise AssertionError


async def test_a_failing_constructor_is_raised_unwrapped():
    """With the child's traceback, and with replicas the others are closed."""
    with Strings() as strings:
        async with host.open_nursery() as nursery:

            async def lead() -> None:
                puppet = await strings.puppet()
                await puppet.follow("init", "close")
                assert await puppet.step() == ""

            nursery.start_soon(lead)
            with pytest.raises(FileNotFoundError, match=r"weights\.bin") as caught:
                async with in_process([partial(Puppet, strings.port), partial(Broken, "raise")]):
                    raise AssertionError
    assert "puppets.py" in caught.value.__notes__[0]


@pytest.mark.only_on("trio")
async def test_a_constructor_that_ends_the_process_is_told():
    """By name and exit code; a SystemExit does not end the batcher's own process."""
    with pytest.raises(ChildDied, match="made the model: exit code 3") as caught:
        async with in_process(partial(Broken, "exit")):
            raise AssertionError
    assert caught.value.exit_code == 3
    with pytest.raises(RuntimeError, match="SystemExit"):
        async with in_process(partial(Broken, "leave")):
            raise AssertionError


async def test_a_child_that_is_killed_while_it_runs_a_batch_is_not_the_batchs_fault():
    """The batch is run again as a whole, in a new child: every caller gets its answer."""
    outcomes = {}
    with Strings() as strings:
        async with host.open_nursery() as nursery:

            async def lead() -> None:
                puppet = await strings.puppet()
                await puppet.follow("init")
                assert await puppet.step() == "infer"
                os.kill(puppet.pid, signal.SIGKILL)
                assert await puppet.step() == ""
                await (await strings.puppet()).follow("init", "infer", "close")

            nursery.start_soon(lead)
            async with in_process(partial(Puppet, strings.port)) as batcher:
                async with host.open_nursery() as callers:
                    all_of(batcher, outcomes, range(8), callers)
                statistics = batcher.statistics()
    assert outcomes == {item: item * 2 for item in range(8)}
    assert (statistics.restarts, statistics.reruns, statistics.batches) == (1, 1, 1)


@pytest.mark.only_on("trio")
async def test_a_child_that_dies_between_two_batches_is_replaced_before_the_next():
    """No batch fails of it, none is run twice."""
    async with in_process(Doubler) as batcher:
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert await batcher.infer(4) == 8
        assert (batcher.statistics().restarts, batcher.statistics().reruns) == (1, 0)


@pytest.mark.only_on("trio")
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux's pidfd")
async def test_what_a_child_has_forked_does_not_hide_its_death(monkeypatch):
    """It has all of the child's descriptors, and the death is noticed all the same."""
    monkeypatch.setattr(_process, "SHORTEST_DELAY", 0.0)
    async with in_process(Doubler) as batcher:
        pid = await batcher.infer("fork")
        try:
            with pytest.raises(ModelError) as caught:
                await batcher.infer("kill")
            assert caught.value.__cause__.exit_code == -signal.SIGKILL
        finally:
            os.kill(pid, signal.SIGKILL)


async def test_a_child_that_cannot_be_started_again_crashes_the_batcher(monkeypatch):
    """Who waits is told why; `failed` is set, and leaving the block raises it."""
    monkeypatch.setattr(_process, "SHORTEST_DELAY", 0.0)
    monkeypatch.setattr(_process, "START_ATTEMPTS", 2)
    outcomes = {}
    with Strings() as strings:
        async with host.open_nursery() as nursery:

            async def lead() -> None:
                puppet = await strings.puppet()
                await puppet.follow("init")
                assert await puppet.step() == "infer"
                puppet.say("exit")
                assert await puppet.step() == ""
                for _ in range(_process.START_ATTEMPTS):
                    puppet = await strings.puppet()
                    assert await puppet.step() == "init"
                    puppet.say("raise")
                    assert await puppet.step() == ""

            nursery.start_soon(lead)
            with pytest.raises(BatcherCrashed) as caught:
                async with in_process(partial(Puppet, strings.port), max_batch_size=2) as batcher:
                    async with host.open_nursery() as callers:
                        all_of(batcher, outcomes, range(4), callers)
                    assert batcher.failed.is_set()
                    with pytest.raises(BatcherCrashed):
                        await batcher.infer(1)
    assert len(outcomes) == 4
    for error in [*outcomes.values(), caught.value]:
        assert type(error) is BatcherCrashed
        assert type(error.__cause__) is DeviceLost
        assert type(error.__cause__.__cause__) is ValueError


async def test_one_replicas_death_leaves_the_others_serving(monkeypatch):
    """Its batch goes to them, and nothing is lost."""
    monkeypatch.setattr(_process, "SHORTEST_DELAY", 0.0)
    monkeypatch.setattr(_process, "START_ATTEMPTS", 2)
    outcomes = {}
    with Strings() as one, Strings() as other:
        replicas = [partial(Puppet, one.port), partial(Puppet, other.port)]

        async def lose() -> None:
            puppet = await one.puppet()
            await puppet.follow("init")
            assert await puppet.step() == "infer"
            puppet.say("exit")
            assert await puppet.step() == ""
            for _ in range(_process.START_ATTEMPTS):
                puppet = await one.puppet()
                assert await puppet.step() == "init"
                puppet.say("exit")
                assert await puppet.step() == ""
            lost.set()

        async def win() -> None:
            puppet = await other.puppet()
            await puppet.follow("init")
            assert await puppet.step() == "infer"
            await lost.wait()
            puppet.say()
            while (step := await puppet.step()) != "close":
                assert step == "infer"
                puppet.say()
            puppet.say()

        lost = host.Event()
        async with host.open_nursery() as nursery:
            nursery.start_soon(lose)
            nursery.start_soon(win)
            async with in_process(replicas, max_batch_size=4) as batcher:
                async with host.open_nursery() as callers:
                    all_of(batcher, outcomes, range(16), callers)
                statistics = batcher.statistics()
                assert not batcher.failed.is_set()
    assert outcomes == {item: item * 2 for item in range(16)}
    assert (statistics.submitted, statistics.completed, statistics.running) == (16, 16, 0)
    assert len(statistics.busy) == 2


async def test_cancelled_while_the_model_is_made_the_child_is_killed():
    """The block is not entered, and nobody waits for the constructor."""
    with Strings() as strings:
        async with host.open_nursery() as nursery:
            with host.CancelScope() as scope:

                async def lead() -> None:
                    puppet = await strings.puppet()
                    assert await puppet.step() == "init"
                    scope.cancel()
                    assert await puppet.step() == ""

                nursery.start_soon(lead)
                async with in_process(partial(Puppet, strings.port)):
                    raise AssertionError
    assert scope.cancelled_caught


async def test_cancelled_during_the_warm_up_the_run_gets_a_while(monkeypatch):
    """A short one, then the child is killed; the block is not entered."""
    monkeypatch.setattr(_process, "UNWANTED", 0.0)
    with Strings() as strings:
        async with host.open_nursery() as nursery:
            with host.CancelScope() as scope:

                async def lead() -> None:
                    puppet = await strings.puppet()
                    await puppet.follow("init")
                    assert await puppet.step() == "infer"
                    scope.cancel()
                    assert await puppet.step() == ""

                nursery.start_soon(lead)
                async with in_process(partial(Puppet, strings.port), warmup=[1]):
                    raise AssertionError
    assert scope.cancelled_caught


async def test_a_caller_that_leaves_a_running_batch_leaves_at_once():
    """The others in it are answered, and the child lives on."""
    outcomes = {}
    with Strings() as strings:
        async with host.open_nursery() as nursery:

            async def lead() -> None:
                puppet = await strings.puppet()
                await puppet.follow("init")
                assert await puppet.step() == "infer"
                scope.cancel()
                await left.wait()
                puppet.say()
                await puppet.follow("infer", "close")

            async def impatient() -> None:
                with scope:
                    await batcher.infer(1)
                left.set()

            scope, left = host.CancelScope(), host.Event()
            nursery.start_soon(lead)
            async with in_process(partial(Puppet, strings.port)) as batcher:
                async with host.open_nursery() as callers:
                    callers.start_soon(impatient)
                    callers.start_soon(ask, batcher, outcomes, 2)
                assert await batcher.infer(3) == 6
                assert batcher.statistics().restarts == 0
    assert scope.cancelled_caught
    assert outcomes == {2: 4}


@pytest.mark.parametrize("in_time", [True, False])
async def test_leaving_by_an_exception_gives_a_running_batch_a_while(in_time, monkeypatch):
    """Then the child is killed, and the batch's callers are turned away."""
    if not in_time:
        monkeypatch.setattr(_process, "GRACE", 0.0)
    outcomes = {}
    with Strings() as strings:
        async with host.open_nursery() as nursery:

            async def lead() -> None:
                nonlocal puppet
                puppet = await strings.puppet()
                await puppet.follow("init")

            async def finish() -> None:
                if in_time:
                    puppet.say()
                    await puppet.follow("close")
                assert await puppet.step() == ""

            puppet = None
            nursery.start_soon(lead)
            with pytest.raises(KeyError):
                async with in_process(partial(Puppet, strings.port)) as batcher:
                    nursery.start_soon(ask, batcher, outcomes, 1)
                    assert await puppet.step() == "infer"
                    nursery.start_soon(finish)
                    raise KeyError
    if in_time:
        assert outcomes == {1: 2}
    else:
        assert type(outcomes[1]) is BatcherClosed


@pytest.mark.parametrize("way", ["normally", "cancelled", "by an exception"])
@pytest.mark.parametrize("in_time", [True, False])
async def test_a_batch_that_nobody_waits_for_does_not_keep_the_block(way, in_time, monkeypatch):
    """It gets a moment, and its child is killed then, also if its callers leave after the block."""
    monkeypatch.setattr(_process, "GRACE", PATIENCE * 100)
    monkeypatch.setattr(_process, "UNWANTED", PATIENCE if in_time else 0.0)
    with Strings() as strings:
        async with host.open_nursery() as nursery:
            puppet, callers = None, host.CancelScope()
            left = host.Event()

            async def lead() -> None:
                nonlocal puppet
                puppet = await strings.puppet()
                await puppet.follow("init")

            async def leave() -> None:
                with callers:
                    await batcher.infer(1)
                left.set()
                if in_time:
                    puppet.say()
                    await puppet.follow("close")
                assert await puppet.step() == ""

            nursery.start_soon(lead)
            scope = host.CancelScope()
            try:
                with scope:
                    async with in_process(partial(Puppet, strings.port)) as batcher:
                        nursery.start_soon(leave)
                        assert await puppet.step() == "infer"
                        if way == "normally":
                            callers.cancel()
                            await left.wait()
                        elif way == "cancelled":
                            scope.cancel()
                            callers.cancel()
                            await host.checkpoint()
                        else:
                            callers.cancel()
                            raise KeyError
            except KeyError:
                assert way == "by an exception"
            assert scope.cancelled_caught == (way == "cancelled")


async def test_leaving_by_an_exception_ends_the_wait_before_a_restart(monkeypatch):
    """However long that would have been."""
    monkeypatch.setattr(_process, "SHORTEST_DELAY", PATIENCE * 100)
    monkeypatch.setattr(_process, "LONGEST_DELAY", PATIENCE * 100)
    waits = []
    pause = _process.Keeper._pause

    def noted(self, seconds):
        if seconds:
            waits.append(seconds)
            waiting.release()
        pause(self, seconds)

    monkeypatch.setattr(_process.Keeper, "_pause", noted)
    waiting = threading.Semaphore(0)

    async def caller() -> None:
        with pytest.raises(BatcherClosed):
            await batcher.infer_many(["exit", "exit"])

    async with host.open_nursery() as nursery:
        with pytest.raises(KeyError):
            async with in_process(Doubler) as batcher:
                nursery.start_soon(caller)
                assert await host.in_thread(lambda: waiting.acquire(timeout=PATIENCE))
                raise KeyError
    assert waits == [PATIENCE * 100]


@pytest.mark.only_on("trio")
async def test_restarts_come_at_once_then_slower_until_a_run_ends_well(monkeypatch):
    """The first one after a run that has ended well is not delayed at all."""
    waits = []
    monkeypatch.setattr(_process.Keeper, "_pause", lambda _, seconds: waits.append(seconds))
    async with in_process(Doubler) as batcher:
        for _ in range(2):
            waits.clear()
            with pytest.raises(ModelError):
                await batcher.infer("exit")
            # Run twice, it has died twice; the next one is started for the next batch.
            assert await batcher.infer(1) == 2
            assert waits == [0.0, _process.SHORTEST_DELAY]


async def test_the_model_is_closed_in_the_child_which_then_ends():
    """Whether the block is left normally or by an exception."""
    for error in (None, KeyError("mine")):
        with Strings() as strings:
            async with host.open_nursery() as nursery:

                async def lead(strings=strings) -> None:
                    puppet = await strings.puppet()
                    await puppet.follow("init", "close")
                    assert await puppet.step() == ""

                nursery.start_soon(lead)
                try:
                    async with in_process(partial(Puppet, strings.port)):
                        if error:
                            raise error
                except KeyError as exc:
                    assert exc is error  # noqa: PT017


@pytest.mark.only_on("trio")
@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        ("raise", ValueError, "told to"),
        ("exit", ChildDied, "exit code 3"),
        (None, ChildDied, "ask"),
    ],
)
async def test_a_close_that_fails_is_raised(answer, error, match, monkeypatch):
    """What it raises, that it has died of it, or that it was killed as it took too long."""
    if answer is None:
        monkeypatch.setattr(_process, "GRACE", 0.0)
    with Strings() as strings:
        async with host.open_nursery() as nursery:

            async def lead() -> None:
                puppet = await strings.puppet()
                await puppet.follow("init")
                if await puppet.step() == "close" and answer:
                    puppet.say(answer)
                    assert await puppet.step() == ""

            nursery.start_soon(lead)
            with pytest.raises(error, match=match):
                async with in_process(partial(Puppet, strings.port)):
                    pass


@pytest.mark.only_on("trio")
async def test_signals_to_a_whole_service_are_the_parents_matter():
    """The child passes over SIGINT and SIGTERM: it leaves when it is told to."""
    async with in_process(Signaller) as batcher:
        assert await batcher.infer("interrupt") == "ignored"
        assert await batcher.infer("terminate") == "ignored"
    assert batcher.statistics().restarts == 0


@pytest.mark.only_on("trio")
@pytest.mark.parametrize("what", ["program", "fork"])
async def test_what_a_model_starts_itself_can_be_terminated(what):
    """It does not inherit that the model's process passes over SIGTERM."""
    async with in_process(Signaller) as batcher:
        assert await batcher.infer(f"terminate_a_{what}") == -signal.SIGTERM


@pytest.mark.only_on("trio")
async def test_it_works_where_a_child_inherits_no_descriptor(monkeypatch):
    """All goes through the pipe then."""
    monkeypatch.setattr(_process, "new_block", lambda: None)
    async with in_process(Doubler) as batcher:
        large = b"x" * 1_000_000
        assert await batcher.infer_many([large, b"", 1]) == [large * 2, b"", 2]
