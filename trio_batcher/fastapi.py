"""A batcher in a FastAPI or Starlette application, under any of its servers.

`batcher_lifespan` keeps it open while the application is served, `BatcherDependency` gives
it to handlers, and `trio_batcher.asgi.BatcherMiddleware` answers its errors.
"""

# FastAPI reads the annotations of a dependency, and not those that are strings.

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, Unpack

from ._batcher import Batcher
from ._exit_status import clean_exit_status
from ._opening import open_batcher
from ._options import BatcherOptions

if TYPE_CHECKING:
    HTTPConnection: TypeAlias = Any  # a generic class in some versions of Starlette only
else:
    from starlette.requests import HTTPConnection

__all__ = [
    "BatcherDependency",
    "Lifespan",
    "batcher_lifespan",
    "clean_exit_status",
    "get_batcher",
]

State: TypeAlias = Mapping[str, Any]
Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[State | None]]


def batcher_lifespan(
    model: Any,
    *,
    name: str = "batcher",
    lifespan: Lifespan | None = None,
    **options: Unpack[BatcherOptions[Any]],
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """Return a lifespan for an application that has a batcher: ``FastAPI(lifespan=...)``.

    The batcher is open while the application is served, and is in the state of each request
    under its name: ``request.state.batcher``, or `get_batcher` as a dependency. When the
    server stops, what was accepted is answered before the batcher closes; it is left through
    `clean_exit_status`.

    A lifespan that uses the batcher itself, say to fill an index, opens it itself:
    `BatcherDependency` only needs it in what the lifespan yields, under its name.

    Cancellation: as for `open_batcher`.

    Args:
        model: as for `open_batcher`, which is called anew each time the application starts.
        name: the batcher's own name, if there are several.
        lifespan: another one, which is entered first and left last; its state is the
            requests', too. That may be another batcher's.
        **options: as for `open_batcher`.

    Raises:
        TypeError, ValueError: as for `open_batcher`, at once.
    """
    # Nothing is opened before it is entered; a wrong argument is reported now.
    open_batcher(model, **options)

    @asynccontextmanager
    async def with_batcher(app: Any) -> AsyncGenerator[dict[str, Any]]:
        with clean_exit_status():
            async with AsyncExitStack() as stack:
                others = await stack.enter_async_context(lifespan(app)) if lifespan else None
                state = dict(others or {})
                if name in state:
                    msg = f"two lifespans yield a state {name!r}; give the batcher another name"
                    raise ValueError(msg)
                batcher: Batcher[Any, Any] = await stack.enter_async_context(
                    open_batcher(model, **options)
                )
                yield {**state, name: batcher}

    return with_batcher


class BatcherDependency:
    """Gives a handler the batcher of a name: ``Depends(BatcherDependency("embedder"))``.

    The handler's annotation says what it is a batcher of, to type checkers as well:
    ``Annotated[Batcher[str, Embedding], Depends(get_batcher)]``.

    Args:
        name: as in `batcher_lifespan`, or in the state that a lifespan yields.
    """

    def __init__(self, name: str = "batcher") -> None:
        self.name: str = name

    # Async only as FastAPI would call it in a thread otherwise. It never waits.
    async def __call__(self, connection: HTTPConnection) -> Batcher[Any, Any]:
        """Return the batcher; a dependency, for HTTP and for WebSockets.

        Raises:
            RuntimeError: the application's lifespan has not yielded one of this name.
        """
        batcher = getattr(connection.state, self.name, None)
        if not isinstance(batcher, Batcher):
            msg = (
                f"no batcher {self.name!r} in the request's state: the application needs "
                "lifespan=batcher_lifespan(...), and a server, or TestClient in a with "
                "statement, that runs it"
            )
            raise RuntimeError(msg)  # noqa: TRY004  not an argument's type
        return batcher

    def __getattr__(self, name: str) -> NoReturn:
        """Say what was meant: FastAPI makes one of a class, which is then the handler's."""
        raise AttributeError(
            f"a BatcherDependency has no {name!r}; for the batcher write "
            'Depends(BatcherDependency("batcher")) or Depends(get_batcher)',
            name=name,
            obj=self,
        )


get_batcher: BatcherDependency = BatcherDependency()
"""The dependency on the batcher of an application that has one."""
