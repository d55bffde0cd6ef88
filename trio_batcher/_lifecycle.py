"""From a model that was passed in to devices that are ready, and away with them again."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import outcome

from ._bisection import Failure, Raised, failures
from ._errors import ChildDied
from ._runner import took_too_long

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from ._bisection import Attempt
    from ._device import Device
    from ._hosts import CapacityLimiter, Host
    from ._policy import Limits

__all__ = ["loaded", "warm_up"]


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
        async with _interrupting(host, device):
            loading = await host.in_thread(outcome.capture, device.load, limiter=limiter)
        loading.unwrap()

    async def close() -> list[BaseException]:
        with host.shield():
            return await _on_each(host, [d for d in devices if d.has_to_be_closed], close_one)

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
    maximum is less where so many of the dearest item would cost more than a batch may.

    The first run of a size pays for what is done once (compiling, allocating); the
    second one is what the latency model learns from.

    Raises:
        ModelError: the model failed; nothing has been served yet, so opening fails too.
        ResultCountError: likewise.
    """
    most, shapes = limits.max_batch_size, limits.shapes
    known = [shapes.of(item) for item in items] if shapes else []
    if shapes and known:
        most = shapes.seats(max([shape.cost for shape in known]))
    steps = [1 + 2**power for power in range(most.bit_length())]
    sizes = [1, *(size for size in steps if size < most)]
    if most > 1:
        sizes.append(most)

    async def warm(device: Device[Any]) -> None:
        for size in sizes:
            inputs = list(islice(cycle(items), size))
            load = shapes.load_of(list(islice(cycle(known), size))) if shapes else size
            await run(device, inputs, load)
            device.forget()
            await run(device, inputs, load)
            device.learn()
        device.reset_counters()

    async def run(device: Device[Any], inputs: list[Any], load: int) -> None:
        attempt = await _run(host, device, limiter, list(inputs), load)
        if isinstance(attempt, Raised) and isinstance(attempt.error, ChildDied):
            # It may have been killed from outside.
            attempt = await _run(host, device, limiter, list(inputs), load)
        results = (
            failures(attempt.error, 1, len(inputs))
            if isinstance(attempt, Raised)
            else attempt.results
        )
        for result in results:
            if isinstance(result, Failure):
                result.error.add_note(f"while warming up with a batch of {len(inputs)}")
                raise result.error

    if items:
        _raise_first(await _on_each(host, devices, warm))


async def _run(
    host: Host, device: Device[Any], limiter: CapacityLimiter, inputs: list[Any], load: int
) -> Attempt:
    """Run a batch on a device and return what came of it."""
    if device.is_async:
        return await device.run_async(inputs, load)
    if not device.is_watched:
        async with _interrupting(host, device):
            run = await host.in_thread(outcome.capture, device.run, inputs, load, limiter=limiter)
        return run.unwrap()
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
                abandonable=True,
            )
            return run.unwrap()
    finally:
        limiter.release_on_behalf_of(device)
    device.abandoned = True
    return Raised(took_too_long(device.batch_timeout))


@asynccontextmanager
async def _interrupting(host: Host, device: Device[Any]) -> AsyncGenerator[None]:
    """Interrupt the device if the block, which waits for its worker, is cancelled."""
    if not device.can_be_interrupted:
        yield
        return
    ended = host.event()

    async def watch() -> None:
        try:
            await ended.wait()
        finally:
            if not ended.is_set():
                device.interrupt()

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
