"""A batcher in a Quart-Trio application, as an extension of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import trio
from quart import Response, request

from ._errors import BatcherError
from ._opening import open_batcher
from ._problems import culprit, log_fault, problem_response
from .asgi import BatcherMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from typing import Unpack

    from quart_trio import QuartTrio

    from ._batcher import Batcher
    from ._model import AsyncFunction, BlockingFunction, Infers, Model, Replica
    from ._options import BatcherOptions

__all__ = ["QuartBatcher"]

T = TypeVar("T")
R = TypeVar("R")


class QuartBatcher(Generic[T, R]):
    """A batcher that is open while its application is served; an extension.

    Made where the application is, it is given to it by `init_app`. An application may have
    several, one after the other in the order of `init_app`; and an extension object several
    applications, one after the other in time.

    Args:
        model: as for `open_batcher`, which is called when the application starts.
        **options: as for `open_batcher`.

    Raises:
        TypeError, ValueError: as for `open_batcher`, at once.
    """

    # One overload for each kind of model, as for `open_batcher`.
    @overload
    def __init__(
        self,
        model: Model[T, R] | Sequence[Model[T, R]],
        **options: Unpack[BatcherOptions[T]],
    ) -> None: ...
    @overload
    def __init__(
        self, model: Sequence[Replica[T, R]], **options: Unpack[BatcherOptions[T]]
    ) -> None: ...
    @overload
    def __init__(self, model: Infers[T, R], **options: Unpack[BatcherOptions[T]]) -> None: ...
    @overload
    def __init__(
        self, model: AsyncFunction[T, R], **options: Unpack[BatcherOptions[T]]
    ) -> None: ...
    @overload
    def __init__(
        self, model: BlockingFunction[T, R], **options: Unpack[BatcherOptions[T]]
    ) -> None: ...
    def __init__(self, model: Any, **options: Unpack[BatcherOptions[Any]]) -> None:
        # Nothing is opened before it is entered; a wrong argument is reported now.
        open_batcher(model, **options)
        self._model = model
        self._options = options
        self._batcher: Batcher[T, R] | None = None

    def init_app(
        self, app: QuartTrio, *, default_timeout: float = math.inf, max_timeout: float = math.inf
    ) -> None:
        """Open the batcher while the application is served, and answer its errors.

        The application gets a `trio_batcher.asgi.BatcherMiddleware`, once for all its
        batchers. A `BatcherError` or a deadline's error that a handler raises is answered by
        `trio_batcher.asgi.problem_response`, unless the application has an error handler of
        its own for it.

        Args:
            app: the application.
            default_timeout: seconds for a request whose headers do not say.
            max_timeout: most seconds for any request; longer ones are cut to it.

        Raises:
            TypeError, ValueError: a timeout is not a number > 0, or the default is above the
                maximum; or timeouts are given, and another batcher's `init_app` came before.
        """
        if "trio_batcher" not in app.extensions:
            guarded: Any = BatcherMiddleware(
                app.asgi_app, default_timeout=default_timeout, max_timeout=max_timeout
            )
            app.asgi_app = guarded  # type: ignore[method-assign]
            handlers = app.error_handler_spec[None][None]
            for error in (BatcherError, TimeoutError, trio.TooSlowError):
                handlers.setdefault(error, _answer)
        elif min(default_timeout, max_timeout) < math.inf:
            msg = "timeouts are for the init_app of an application's first batcher"
            raise ValueError(msg)
        app.extensions.setdefault("trio_batcher", []).append(self)

        async def while_serving() -> AsyncGenerator[None]:
            # In a task of its own: a nursery that a generator holds ends out of order where
            # Quart-Trio ends its generators so, or if a later one fails to start.
            stopping = trio.Event()
            stopped: Callable[[], Awaitable[None]] = await app.nursery.start(self._serve, stopping)
            yield
            stopping.set()
            await stopped()

        app.while_serving(while_serving)

    async def _serve(
        self,
        stopping: trio.Event,
        *,
        task_status: trio.TaskStatus[Callable[[], Awaitable[None]]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        ended = trio.Event()
        failure: Exception | None = None

        async def stopped() -> None:
            await ended.wait()
            if failure is not None:
                raise failure

        try:
            async with open_batcher(self._model, **self._options) as self._batcher:
                task_status.started(stopped)
                await stopping.wait()
        except Exception as exc:
            if not stopping.is_set():
                raise  # in the task that waits for the start
            failure = exc
        finally:
            ended.set()

    @property
    def batcher(self) -> Batcher[T, R]:
        """The batcher, for `Batcher.infer_many` and `Batcher.statistics`.

        Raises:
            RuntimeError: no application with it has been started.
        """
        if self._batcher is None:
            msg = (
                "this QuartBatcher is not open: it is while an application that was given to "
                "its init_app is served, or in app.test_app()"
            )
            raise RuntimeError(msg)
        return self._batcher

    async def infer(self, item: T, *, weight: float = 1.0) -> R:
        """Return the model's result for one item; `Batcher.infer` of the batcher.

        Cancellation, arguments and errors: as there.

        Raises:
            RuntimeError: no application with it has been started.
        """
        return await self.batcher.infer(item, weight=weight)


async def _answer(error: Exception) -> Response:
    if culprit(error) is None:
        raise error  # a TimeoutError of some connection: Quart's, as any other
    # Quart lets a middleware see no exception that has a handler.
    log_fault(error, request.method, request.path)
    problem = problem_response(error)
    return Response(problem.body, problem.status, problem.headers)
