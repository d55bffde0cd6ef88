"""What a user may pass as a model, and how it is told apart.

Nothing here runs a model; `_device` does.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from ._arguments import is_async

__all__ = [
    "AsyncFunction",
    "BlockingFunction",
    "InferenceModel",
    "Infers",
    "Keeper",
    "Model",
    "ModelSource",
    "Replica",
    "Results",
    "as_sources",
]

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Results(Protocol[R_co]):
    """What a model returns: a list, a tuple, an array, a tensor; one result per input."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> R_co: ...


class Infers(Protocol[T, R_co]):
    """What is taken as an `InferenceModel`: that, or another library's with the same method."""

    def infer(self, inputs: list[T], /) -> Results[R_co]:
        """Return one result for each input, in the same order."""
        ...


class InferenceModel(ABC, Generic[T, R_co]):
    """A model with a state of its own, such as weights.

    Pass the class itself to `open_batcher`, or a `functools.partial` of it, and it is
    constructed in a worker thread while the batcher opens, so that loading weights
    never blocks the event loop. An instance is taken as it is. So are classes that do not
    derive from this one but have its `infer`, and their instances.

    A model that can prepare a batch while another one runs has a further method, which is then
    called in place of `infer`::

        def launch(self, inputs: list[T]) -> Callable[[], Results[R]]: ...

    It starts the batch and returns, as soon as it can, a function that waits for it and gives its
    results. What it takes until then, such as collating inputs and copying them to the device, is
    hidden behind the batch before. Both are called in the worker thread. The functions are called
    once each, in the order of their launches, and at most two batches are launched at a time: the
    second one before the first is collected. What either raises is the failure of that batch
    alone. It is not run again before the other one has been collected; ``launch`` with parts of it,
    one after another, then finds the inputs that fail. If the batcher itself fails, a function may
    not be called any more before `close` is.

    An attribute ``overlaps`` that is false says that ``launch`` is not worth while, on a CPU for
    example; then `infer` is called. It is read once, after construction.
    """

    @abstractmethod
    def infer(self, inputs: list[T], /) -> Results[R_co]:
        """Return one result for each input, in the same order.

        Called in a worker thread: not always the same one, but one batch at a time.

        Args:
            inputs: 1 to ``max_batch_size`` items as they were given to `Batcher.infer`.
                The list is the model's own: it may keep or change it.

        Returns:
            As many results as inputs, in a list, a tuple, an array, a tensor, or a table, whose
            rows are results. An `Exception` instance in a result's place is raised in that
            input's caller alone. What can be read in two ways is refused, such as a tuple of
            several outputs for the whole batch. Rows of an array are views of it: who keeps
            one keeps all of them.
        """

    def close(self) -> None:
        """Let go of what the model holds.

        Called in a worker thread when the batcher that constructed it closes, after
        the last batch; also when opening fails half-way. A model that was passed as an
        instance is closed too.
        """


class InfersToo(Infers[T, R_co], Protocol[T, R_co]):
    """`Infers` again, for what may stand beside a class in a sequence.

    Once pyright has compared a class itself, in vain, with a protocol that its instances fit, it
    refuses these, too, wherever they come later. So no class may ever be compared with `Infers`.
    """


class Partial(Protocol[R_co]):
    """A `functools.partial`, which is invariant: that of a subclass is not one of `Infers`."""

    @property
    def func(self) -> Callable[..., R_co]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> R_co: ...


# No protocol for instances is among these, see `InfersToo`.
Model: TypeAlias = type[Infers[T, R]] | Partial[Infers[T, R]] | InferenceModel[T, R]
BlockingFunction: TypeAlias = Callable[[list[T]], Results[R]]
AsyncFunction: TypeAlias = Callable[[list[T]], Awaitable[Results[R]]]
Replica: TypeAlias = Model[T, R] | InfersToo[T, R] | AsyncFunction[T, R] | BlockingFunction[T, R]


class Keeper(Protocol):
    """What keeps a model that is not in this process; see `_process`.

    Attributes:
        batch_timeout: seconds that a run may take.
        restarts: how many times it was made anew.
    """

    batch_timeout: float
    restarts: int

    def is_ready(self) -> bool:
        """Return whether it can run at once. Callable from any thread."""
        ...

    def ready(self) -> None:
        """See to it that it can run. Called in the worker, before each run."""
        ...

    def interrupt(self) -> None:
        """Have a call that is under way end soon. Callable from any thread."""
        ...

    def give_up(self) -> None:
        """Have it end sooner: nobody wants its result. Callable from any thread."""
        ...


class ModelSource:
    """One of the models a user passed: how to get it, where it runs, how to let it go.

    Attributes:
        factory: makes the model, to be called in the worker; `None` if there is nothing
            to make.
        model: the model as passed, if it needs no making.
        is_inference_model: what ends up being used has its `infer` called.
        is_async: it runs in the event loop, not in a worker thread.
        keeper: what keeps it, if it is not in this process.
    """

    __slots__ = ("factory", "is_async", "is_inference_model", "keeper", "model")

    def __init__(self, model: Any) -> None:
        made_by: Any = model.func if isinstance(model, functools.partial) else model
        is_class = isinstance(made_by, type) and _infers(made_by)
        self.factory: Callable[[], Infers[Any, Any]] | None = model if is_class else None
        self.model: Any = None if is_class else model
        self.is_inference_model = is_class or _infers(model)
        self.is_async = False
        self.keeper: Keeper | None = None
        if self.is_inference_model:
            for method in ("infer", "launch"):
                if inspect.iscoroutinefunction(getattr(made_by, method, None)):
                    name = made_by.__name__ if is_class else type(model).__name__
                    msg = (
                        f"{name}.{method} must not be async: an InferenceModel runs in a worker "
                        "thread; pass an async function as the model instead"
                    )
                    raise TypeError(msg)
            if is_class:
                _check_that_it_can_be_made(model, made_by.__name__)
        elif isinstance(model, type) or not callable(model):
            msg = (
                "model must be a function list -> sequence (blocking or async), an "
                f"InferenceModel, a subclass of it, or a sequence of those, not {model!r}"
            )
            raise TypeError(msg)
        elif _is_torch_module(model):
            msg = (
                f"model must not be a torch module by itself, as {type(model).__name__} is: wrap "
                "it in trio_batcher.torch.TorchModel, which makes a batch of tensors of a list of "
                "inputs; or pass a function, if the module takes a list"
            )
            raise TypeError(msg)
        else:
            self.is_async = is_async(model)


def _infers(model: Any) -> bool:
    # What can be called has it from its class: an attribute may be anything there, as of a mock.
    owner = type(model) if callable(model) and not isinstance(model, type) else model
    return callable(getattr(owner, "infer", None))


def _is_torch_module(model: Any) -> bool:
    # By its name: torch need not be there.
    return any(
        (cls.__module__, cls.__qualname__) == ("torch.nn.modules.module", "Module")
        for cls in type(model).__mro__
    )


def _check_that_it_can_be_made(factory: Callable[..., Any], name: str) -> None:
    """Raise what its constructor lacks, if that can be known before it is called."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # it is not written in Python
        return
    try:
        signature.bind()
    except TypeError as error:
        msg = (
            f"model must be made without further arguments, but {name} has one more: {error}; "
            f"pass functools.partial({name}, …)"
        )
        raise TypeError(msg) from None


def as_sources(model: Any) -> list[ModelSource]:
    """Return a source for each replica: one, or as many as the sequence holds.

    Raises:
        TypeError: it is nothing that can serve as a model.
        ValueError: it is an empty sequence.
    """
    if callable(model) or _infers(model):
        return [ModelSource(model)]
    if isinstance(model, Sequence) and not isinstance(model, str | bytes):
        if not model:
            msg = "model must not be an empty sequence: each element is a replica"
            raise ValueError(msg)
        return [ModelSource(replica) for replica in _distinct(model)]
    return [ModelSource(model)]


def _distinct(replicas: Sequence[Any]) -> Iterator[Any]:
    # A function can serve several devices at a time if it says so by being listed
    # several times; an instance has one state and one worker.
    seen: set[int] = set()
    for replica in replicas:
        is_instance = not isinstance(replica, type) and _infers(replica)
        if is_instance or not callable(replica):
            if id(replica) in seen:
                msg = (
                    f"model lists the same instance twice: {replica!r}; two workers must "
                    "not run it at once, so pass its class twice or make two instances"
                )
                raise ValueError(msg)
            seen.add(id(replica))
        yield replica
