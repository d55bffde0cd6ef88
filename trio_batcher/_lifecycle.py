"""From a model that was passed in to devices that are ready, and away with them again."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import outcome

from ._bisection import Failure, Raised, failures, too_large
from ._errors import ChildDied, ThreadNotStarted
from ._runner import took_too_long

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Awaitable,
        Callable,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from ._bisection import Attempt
    from ._device import Device
    from ._hosts import CapacityLimiter, Host
    from ._latency import LatencyFit
    from ._policy import Limits
    from ._shapes import Shape, Shapes

__all__ = ["loaded", "warm_up"]

V = TypeVar("V")

_logger = logging.getLogger("trio_batcher")


@asynccontextmanager
async def loaded(
    host: Host, devices: Sequence[Device[Any]], limiter: CapacityLimiter
) -> AsyncGenerator[None]:
    """Construct the devices' models in worker threads, and close them at the end.

    Models that were constructed are closed whatever happens, also when another one's
    construction fails or is cancelled. What a model's `close` raises is raised here,
    unless the block has raised something itself, to which it is then added as a note.
    """

    async def load(device: Device[Any]) -> None:
        await _in_worker(host, device, limiter, device.load)

    async def close() -> list[BaseException]:
        with host.shield():
            errors = await _on_each(host, left(), close_one)
            if any(isinstance(error, ThreadNotStarted) for error in errors):
                # Where there is no thread for each of them, one does for all.
                errors = [each for each in errors if not isinstance(each, ThreadNotStarted)]
                for device in left():
                    errors += await _on_each(host, [device], close_one)
            return errors

    def left() -> list[Device[Any]]:
        return [device for device in devices if device.has_to_be_closed]

    async def close_one(device: Device[Any]) -> None:
        with host.shield():  # also from its own nursery, which asyncio can cancel from outside
            (await host.in_thread(outcome.capture, device.close, limiter=limiter)).unwrap()

    try:
        _raise_first(await _on_each(host, [d for d in devices if d.has_to_be_loaded], load))
        yield
    except BaseException as exc:
        for error in await close():  # noqa: ASYNC102  shielded; a thread cannot be stopped
            exc.add_note(f"trio_batcher: closing a model failed too: {error!r}")
        raise
    _raise_first(await close())


async def warm_up(
    host: Host,
    devices: Sequence[Device[Any]],
    limiter: CapacityLimiter,
    items: Sequence[Any],
    limits: Limits,
) -> None:
    """Run batches of 1, 2, 3, 5, 9, … up to the maximum on each device, each size twice.

    One more than a power of two each: a model that pads to powers of two shows its steps. The
    maximum is less where so many of the dearest item would cost more than a batch may. Items of
    different keys are never in one batch: those of each have batches of their own.

    The first run of a size pays for what is done once (compiling, allocating); the
    second one is what the latency model learns from.

    Where the model says `BatchTooLarge` it ends.

    Raises:
        ModelError: the model failed; nothing has been served yet, so opening fails too.
        ResultCountError: likewise.
    """
    batches = [
        batch for alike in _by_key(items, limits.shapes) for batch in _growing(alike, limits)
    ]

    async def warm(device: Device[Any]) -> None:
        seconds: dict[int, float] = {}
        for inputs, load, size in batches:
            if size > device.safe_size.safe:
                continue
            await run(device, inputs, load, size)
            device.forget()
            if size > device.safe_size.safe:
                continue
            busy = device.busy
            await run(device, inputs, load, size)
            device.learn()
            seconds[len(inputs)] = device.busy - busy
        device.reset_counters()
        _log_fit(device.latency.fit, devices.index(device), seconds, limits)

    async def run(device: Device[Any], inputs: list[Any], load: int, size: float) -> None:
        attempt = await _run(host, device, limiter, inputs, load)
        if isinstance(attempt, Raised) and len(inputs) > 1 and too_large(attempt.error):
            # No larger batch is of any use; how large one may be is found out when it matters.
            device.safe_size.failed(size)
            return
        _raise_failure(attempt, len(inputs))

    if items:
        _raise_first(await _on_each(host, devices, warm))


_Known: TypeAlias = "list[tuple[Any, Shape | None]]"


def _by_key(items: Sequence[Any], shapes: Shapes | None) -> Iterable[_Known]:
    """Return items that may share a batch, with their shapes."""
    groups: dict[Any, _Known] = {}
    for index, item in enumerate(items):
        try:
            shape = None if shapes is None else shapes.of(item)
        except Exception as error:
            error.add_note(f"for warmup[{index}]")
            raise
        groups.setdefault(None if shape is None else shape.key, []).append((item, shape))
    return groups.values()


def _growing(alike: _Known, limits: Limits) -> Iterator[tuple[list[Any], int, float]]:
    """Yield batches of them of growing size, each with its load, and its size by `Limits.size`."""
    most, shapes = limits.max_batch_size, limits.shapes
    known = [shape for _, shape in alike if shape is not None]
    if shapes:
        most = shapes.seats(max([shape.cost for shape in known]))
    steps = [1 + 2**power for power in range(most.bit_length())]
    for size in sorted({1, *(step for step in steps if step < most), most}):
        inputs = [item for item, _ in islice(cycle(alike), size)]
        if shapes is None:
            yield inputs, size, size
        else:
            batch = list(islice(cycle(known), size))
            yield inputs, shapes.load_of(batch), size * max([shape.cost for shape in batch])


def _log_fit(
    fit: LatencyFit | None, number: int, seconds: Mapping[int, float], limits: Limits
) -> None:
    if fit is None:
        return
    costs = limits.shapes is not None and limits.shapes.cost is not None
    _logger.info(
        "model %d is warm: a batch takes about %.3g s, and %.3g s for each %s; measured: %s",
        number,
        fit.fixed,
        fit.per_item,
        f"1/{limits.most} of max_batch_cost" if costs else "item",
        ", ".join(f"{size} in {each:.3g} s" for size, each in seconds.items()),
    )


async def _run(
    host: Host, device: Device[Any], limiter: CapacityLimiter, inputs: list[Any], load: int
) -> Attempt:
    """Run a batch on a device and return what came of it.

    Once more if the model's process has died: it may have been killed from outside.
    """
    attempt = await _run_once(host, device, limiter, list(inputs), load)
    if isinstance(attempt, Raised) and isinstance(attempt.error, ChildDied):
        attempt = await _run_once(host, device, limiter, list(inputs), load)
    return attempt


def _raise_failure(attempt: Attempt, size: int) -> None:
    results = failures(attempt.error, 1, size) if isinstance(attempt, Raised) else attempt.results
    for result in results:
        if isinstance(result, Failure):
            result.error.add_note(f"while warming up with a batch of {size}")
            raise result.error


async def _run_once(
    host: Host, device: Device[Any], limiter: CapacityLimiter, inputs: list[Any], load: int
) -> Attempt:
    if device.is_async:
        await limiter.acquire_on_behalf_of(device)
        try:
            return await device.run_async(inputs, load)
        finally:
            limiter.release_on_behalf_of(device)
    if not device.is_watched:
        if device.has_to_be_prepared:
            # Meanwhile others have the token.
            await _in_worker(host, device, host.limiter(1), device.prepare)
        return await _in_worker(host, device, limiter, device.run, inputs, load)
    await limiter.acquire_on_behalf_of(device)
    try:
        with host.shield() as scope:
            scope.deadline = host.now() + device.batch_timeout
            run = await host.in_thread(
                outcome.capture,
                device.run,
                inputs,
                load,
                limiter=host.limiter(1),
                until=scope,
            )
            return run.unwrap()
    finally:
        limiter.release_on_behalf_of(device)
    device.abandoned = True
    return Raised(took_too_long(device.batch_timeout))


async def _in_worker(
    host: Host,
    device: Device[Any],
    limiter: CapacityLimiter,
    function: Callable[..., V],
    *args: Any,
) -> V:
    """Call a device's function in a worker thread, and have it give up if that is cancelled."""
    async with _interrupting(host, device):
        done = await host.in_thread(outcome.capture, function, *args, limiter=limiter)
    result: V = done.unwrap()
    return result


@asynccontextmanager
async def _interrupting(host: Host, device: Device[Any]) -> AsyncGenerator[None]:
    """Have the device give up if the block, which waits for its worker, is cancelled."""
    if not device.can_be_interrupted:
        yield
        return
    ended = host.event()

    async def watch() -> None:
        try:
            await ended.wait()
        finally:
            if not ended.is_set():
                device.give_up()

    async with host.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            yield
        finally:
            ended.set()


async def _on_each(
    host: Host,
    devices: Sequence[Device[Any]],
    function: Callable[[Device[Any]], Awaitable[None]],
) -> list[BaseException]:
    """Await ``function(device)`` for all devices at a time and return what they raised."""
    errors: list[BaseException] = []

    async def call(device: Device[Any]) -> None:
        try:
            await function(device)
        except Exception as exc:  # noqa: BLE001  returned: each caller says what becomes of it
            errors.append(exc)

    async with host.open_nursery() as nursery:
        for device in devices:
            nursery.start_soon(call, device)
    return errors


def _raise_first(errors: Sequence[BaseException]) -> None:
    if errors:
        for other in errors[1:]:
            errors[0].add_note(f"trio_batcher: another replica failed as well: {other!r}")
        raise errors[0]
