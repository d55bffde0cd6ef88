"""One outcome for each input of a batch, whatever the model does with it."""

from __future__ import annotations

import copy
import traceback
from array import array
from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from trio_batcher._bisection import Failure, Raised, Returned, _leave_us_out, checked, failures
from trio_batcher._errors import (
    BatchTooLarge,
    ChildDied,
    ItemError,
    ModelError,
    ResultCountError,
)
from trio_batcher._queue import Request
from trio_batcher._reruns import Bisection
from trio_batcher._results import a, not_sent


class PoisonError(Exception):
    """What the models here raise."""


class OtherError(Exception):
    """What they raise for a change."""


class Driven:
    """A batch that is run, and run again until each input has its outcome.

    Attributes:
        tried: the inputs of every run.
        outcomes: what each input came to.
        settled: the numbers of runs after which each input had its outcome.
    """

    def __init__(self, items):
        self.requests = [Request(item, 0.0, 0.0) for item in items]
        self.whole = Bisection.of(self.requests)
        self.bisection = self.whole.bisection
        self.tried, self.outcomes, self.settled = [], {}, {}

    def run(self, segment, model):
        """Run a segment as a device and the engine do."""
        inputs = [request.item for request in segment]
        self.tried.append(list(inputs))
        try:
            outcomes = checked(model(inputs), len(segment))
        except BaseException as exc:  # noqa: ASYNC103  as a device does
            for requests, reason, size in self.bisection.failed(segment, exc, segment.parts(exc)):
                self._settle(requests, failures(reason, len(requests), size))
            return  # noqa: ASYNC104
        self.bisection.succeeded(segment)
        self._settle(segment, outcomes)

    def _settle(self, requests, outcomes):
        for request, outcome in zip(requests, outcomes, strict=True):
            assert request not in self.outcomes, "two outcomes"
            self.outcomes[request] = outcome
            self.settled[request] = len(self.tried)

    def run_all(self, model, wanted=lambda _: True):
        self.run(self.whole, model)
        while segment := self.bisection.next(wanted):
            self.run(segment, model)
        assert not self.bisection.pending


def drive(items, model) -> tuple[list, list[list]]:
    """Run a batch; return its outcomes, and the inputs of every run."""
    driven = Driven(items)
    driven.run_all(model)
    return [driven.outcomes[request] for request in driven.requests], driven.tried


def answer(item):
    return ("answer", item)


def poisoned(poison, error=PoisonError):
    """A model that raises when any of these is among its inputs, for the first of them."""

    def model(inputs):
        for item in inputs:
            if item in poison:
                raise error(item)
        return [answer(item) for item in inputs]

    return model


def returning(results):
    """A model that returns this whatever it is given."""
    return lambda inputs: results


def levels(size: int) -> int:
    """⌈log₂ n⌉."""
    return (size - 1).bit_length()


def errors_of(outcomes) -> list:
    assert all(type(outcome) is Failure for outcome in outcomes)
    errors = [outcome.error for outcome in outcomes]
    assert len({id(error) for error in errors}) == len(errors), "each caller has its own"
    return errors


def comparable(outcome):
    """An outcome without the identity of its error."""
    if type(outcome) is Failure:
        return type(outcome.error), outcome.error.batch_size
    return outcome


@st.composite
def batches(draw, largest=40):
    """The size of a batch, and which of its inputs are poison."""
    size = draw(st.integers(1, largest))
    return size, draw(st.sets(st.integers(0, size - 1)))


# Results


@given(st.lists(st.integers(), min_size=1))
def test_a_batch_that_succeeds_is_run_once(items):
    """Each input gets its own result, and the model sees the batch as it is."""
    outcomes, tried = drive(items, poisoned(()))
    assert outcomes == [answer(item) for item in items]
    assert tried == [items]


@pytest.mark.parametrize(
    "results",
    [
        [0, 1, 2],
        (0, 1, 2),
        range(3),
        array("i", [0, 1, 2]),
        memoryview(array("i", [0, 1, 2])),
        deque([0, 1, 2]),
        {"a": 0, "b": 1, "c": 2}.values(),
    ],
)
def test_any_sequence_will_do(results):
    """A list, a tuple, an array: whatever has a length and an order."""
    assert drive("abc", returning(results))[0] == [0, 1, 2]


def test_results_are_looked_at_by_index_if_need_be():
    """`__len__` and `__getitem__` are all that a sequence needs."""

    class Indexed:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return [0, 1, 2][index]

    assert drive("abc", returning(Indexed()))[0] == [0, 1, 2]


def test_none_is_a_result_like_any_other():
    """A model may have nothing to say about its inputs."""
    assert drive("abc", returning([None] * 3))[0] == [None, None, None]


@pytest.mark.parametrize("size", [1, 4, 9, 32])
def test_inputs_may_be_equal_and_unhashable(size):
    """Inputs are told apart by their place, never compared."""
    poison = []

    def model(inputs):
        if any(item is poison for item in inputs):
            raise PoisonError
        return [id(item) for item in inputs]

    for place in range(size):
        items = [[] for _ in range(size)]
        items[place] = poison
        outcomes, _ = drive(items, model)
        assert [type(outcome) is Failure for outcome in outcomes] == [
            i == place for i in range(size)
        ]
        assert [outcomes[i] for i in range(size) if i != place] == [
            id(items[i]) for i in range(size) if i != place
        ]


@given(batches())
def test_the_list_is_the_models_own(batch):
    """A model that empties, sorts or keeps its list does no harm to the runs that follow."""
    size, poison = batch
    items = list(range(size))
    kept = []

    def model(inputs):
        assert type(inputs) is list
        assert not any(inputs is other for other in kept)
        kept.append(inputs)
        results = [answer(item) for item in inputs]
        failed = poison.intersection(inputs)
        inputs.reverse()
        inputs.append("rubbish")
        inputs.clear()
        if failed:
            raise PoisonError
        return results

    outcomes, tried = drive(items, model)
    expected, expected_tried = drive(items, poisoned(poison))
    assert items == list(range(size))
    assert tried == expected_tried
    assert list(map(comparable, outcomes)) == list(map(comparable, expected))


# The model raises


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 100])
def test_one_poison_input_fails_alone(size):
    """Wherever it stands, it is found with 2·⌈log₂ n⌉ further runs, and nobody else suffers."""
    for poison in range(size):
        outcomes, tried = drive(list(range(size)), poisoned({poison}))
        assert len(tried) - 1 <= 2 * levels(size)
        assert tried.count([poison]) == 1
        failed = outcomes.pop(poison)
        assert type(failed.error) is ModelError
        assert failed.error.batch_size == 1
        assert failed.error.__cause__.args == (poison,)
        assert outcomes == [answer(i) for i in range(size) if i != poison]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 100, 1000])
def test_a_model_that_fails_on_everything_is_given_up_early(size):
    """2·⌈log₂ n⌉ further runs, not 2n; every caller has its own error with the reason."""
    outcomes, tried = drive(list(range(size)), poisoned(set(range(size))))
    assert len(tried) - 1 <= 2 * levels(size)
    errors = errors_of(outcomes)
    assert len(errors) == size
    for place, error in enumerate(errors):
        assert type(error) is ModelError
        # Alone if it was tried alone, or else on the batch as a whole.
        assert error.batch_size == (1 if [place] in tried else size)
        assert type(error.__cause__) is PoisonError
    shared = {id(error.__cause__) for error in errors if error.batch_size > 1}
    assert len(shared) <= 1


def test_a_model_that_is_given_up_is_given_up_for_what_it_raised_first():
    """Who was not tried alone has the error of the batch it was in as the cause."""

    def model(inputs):
        raise PoisonError(len(inputs))

    for error in errors_of(drive(list(range(32)), model)[0]):
        assert error.__cause__.args == (error.batch_size,)
        assert error.batch_size in (1, 32)


@given(batches())
def test_good_inputs_get_their_results(batch):
    """Unless 2·⌈log₂ n⌉ - 2 inputs from all over the batch fail alone, and alike, none suffers."""
    size, poison = batch
    outcomes, tried = drive(list(range(size)), poisoned(poison))
    failed_alone = {
        i
        for i, outcome in enumerate(outcomes)
        if type(outcome) is Failure and outcome.error.batch_size == 1
    }
    assert failed_alone <= poison
    wronged = [i for i in range(size) if i not in poison and outcomes[i] != answer(i)]
    if wronged:
        # Taken for the whole batch's failure: only after that much evidence, from both halves.
        assert len(failed_alone) >= 2 * levels(size) - 2 >= 2
        assert min(failed_alone) < (size + 1) // 2 <= max(failed_alone)
        assert len(tried) - 1 == 2 * levels(size)
        assert errors_of(outcomes)
    else:
        assert {i for i in range(size) if type(outcomes[i]) is Failure} == poison


@given(batches(), st.data())
def test_few_poison_inputs_harm_nobody(batch, data):
    """Fewer than 2·⌈log₂ n⌉ - 2 of them, wherever they stand: each fails alone."""
    size, _ = batch
    few = max(1, 2 * levels(size) - 3)
    poison = data.draw(st.sets(st.integers(0, size - 1), max_size=few))
    outcomes, _ = drive(list(range(size)), poisoned(poison))
    for i, outcome in enumerate(outcomes):
        if i in poison:
            assert outcome.error.batch_size == 1
            assert outcome.error.__cause__.args == (i,)
        else:
            assert outcome == answer(i)


@given(batches(), st.sets(st.integers(0, 39)))
def test_inputs_that_fail_differently_fail_on_their_own_account(batch, others):
    """A batch is given up as a whole only when all that failed so far is of one kind."""
    size, poison = batch
    model = poisoned(poison, lambda i: OtherError(i) if i in others else PoisonError(i))
    outcomes, tried = drive(list(range(size)), model)
    if any(outcomes[i] != answer(i) for i in range(size) if i not in poison):
        assert len({type(error.__cause__) for error in errors_of(outcomes)}) == 1
        assert len(tried) - 1 == 2 * levels(size)


@pytest.mark.parametrize("size", [4, 5, 8, 9, 16, 33])
@pytest.mark.parametrize("good", [1, 3])
def test_one_input_that_fails_in_another_way_clears_the_model(size, good):
    """The batch and both halves fail alike, one probe does not: every input is tried alone."""
    alike = {0, (size + 1) // 2}
    model = poisoned(
        set(range(size)) - {good}, lambda i: PoisonError(i) if i in alike else OtherError(i)
    )
    outcomes, tried = drive(list(range(size)), model)
    if size == 4:
        # Both probes happen to be those that fail like the batch.
        assert [error.batch_size for error in errors_of(outcomes)] == [1, 4, 1, 4]
        return
    assert outcomes.pop(good) == answer(good)
    assert all(error.batch_size == 1 for error in errors_of(outcomes))
    assert all([i] in tried for i in range(size) if i != good)


@given(batches())
def test_the_work_is_bounded(batch):
    """Twice as many runs as inputs at the very most, and no input is run alone twice."""
    size, poison = batch
    for kinds in ([PoisonError], [PoisonError, OtherError]):
        model = poisoned(poison, lambda item, kinds=kinds: kinds[item % len(kinds)](item))
        outcomes, tried = drive(list(range(size)), model)
        assert len(outcomes) == size
        assert len(tried) <= 2 * size
        alone = [inputs[0] for inputs in tried[1:] if len(inputs) == 1]
        assert len(alone) == len(set(alone))


@given(batches())
def test_a_result_of_none_is_not_taken_for_no_result(batch):
    """An input that was run and has `None` for a result is not run again alone."""
    size, poison = batch

    def model(inputs):
        if poison.intersection(inputs):
            raise PoisonError
        return [None] * len(inputs)

    outcomes, tried = drive(list(range(size)), model)
    assert [[i] for i in range(size) if tried[1:].count([i]) > 1] == []
    assert all(outcome is None or type(outcome) is Failure for outcome in outcomes)


@given(batches())
def test_every_run_is_part_of_the_batch_in_order(batch):
    """A run has inputs of the batch, each once, in the batch's order."""
    size, poison = batch
    _, tried = drive(list(range(size)), poisoned(poison))
    assert tried[0] == list(range(size))
    for inputs in tried:
        assert inputs
        assert inputs == sorted(set(inputs))


def test_a_failure_that_does_not_happen_again_costs_nobody_anything():
    """Out of memory on the whole batch, fine on its halves: everybody has a result."""
    for most in (1, 3, 5):

        def model(inputs, most=most):
            if len(inputs) > most:
                raise MemoryError
            return [answer(item) for item in inputs]

        outcomes, tried = drive(list(range(10)), model)
        assert outcomes == [answer(i) for i in range(10)]
        assert max(map(len, tried[1:])) > 1 or most == 1


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_an_input_may_not_end_the_program(error):
    """`sys.exit()` in a model is that input's failure like any other."""
    outcomes, _ = drive([0, 1, 2, 3], poisoned({2}, lambda _: error))
    assert outcomes[2].error.__cause__ is error
    assert [outcomes[i] for i in (0, 1, 3)] == [answer(i) for i in (0, 1, 3)]


def test_the_message_says_how_much_failed_and_why():
    """This input alone, or all of a batch; the model's error in words."""
    outcomes, _ = drive([0, 1], poisoned({1}, lambda _: PoisonError("no such word")))
    assert str(outcomes[1].error) == (
        "the model failed on this input alone: PoisonError: no such word"
    )
    outcomes, _ = drive(list(range(16)), poisoned(set(range(16)), lambda _: PoisonError("no GPU")))
    assert str(outcomes[1].error) == (
        "the model failed on all of a batch of 16: PoisonError: no GPU"
    )


class SpeechlessError(Exception):
    """Cannot say what it is."""

    def __str__(self):
        raise ZeroDivisionError

    __repr__ = __str__


def test_inputs_that_were_not_sent_are_not_said_to_have_failed():
    """The model has not seen them: the error that says why is the cause, and the message."""

    def model(inputs):
        raise not_sent("the inputs cannot be sent: no pickle")

    (error,) = errors_of(drive("a", model)[0])
    story = "the model was not run on this input alone: the inputs cannot be sent: no pickle"
    assert str(error) == story
    assert type(error.__cause__) is TypeError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TypeError('can only concatenate list (not "int") to list'), True),
        (AttributeError("'list' object has no attribute 'shape'"), True),
        (TypeError("unlisted"), False),
        (ValueError("no list"), False),
        (TypeError(), False),
    ],
)
def test_an_error_about_lists_comes_with_advice(error, told):
    """Who writes a model for one input is told that it gets a list of them."""

    def model(inputs):
        raise error

    (failure,) = errors_of(drive("a", model)[0])
    assert str(failure).endswith(f": {error} (a model gets a list of inputs)") == told


def test_an_error_without_a_message_does_not_hide_the_failure():
    """`__str__` raises: the callers are told the class, and have the error as the cause."""
    outcomes, _ = drive([0, 1], poisoned({1}, lambda _: SpeechlessError()))
    assert outcomes[0] == answer(0)
    assert str(outcomes[1].error).endswith(": SpeechlessError")
    assert type(outcomes[1].error.__cause__) is SpeechlessError


# The model returns something else than as many results


@given(st.integers(1, 40), st.integers(0, 80))
def test_a_wrong_number_of_results_is_told_to_each_caller(size, got):
    """Each has a `ResultCountError` of its own; nothing is run again; no result is guessed."""
    outcomes, tried = drive(list(range(size)), returning([7] * got))
    assert len(tried) == 1
    if got == size:
        assert outcomes == [7] * size
        return
    for error in errors_of(outcomes):
        assert type(error) is ResultCountError
        assert (error.expected, error.got) == (size, got)
        assert error.__cause__ is None
    assert len(outcomes) == size


def test_a_wrong_number_of_results_in_a_later_run_is_that_runs_alone():
    """While a batch is bisected, only those of the run that is short suffer."""

    def model(inputs):
        if 0 in inputs:
            raise PoisonError
        return [answer(item) for item in inputs if item != 7]

    outcomes, _ = drive(list(range(8)), model)
    assert type(outcomes[0].error) is ModelError
    assert outcomes[1:4] == [answer(1), answer(2), answer(3)]
    for error in errors_of(outcomes[4:]):
        assert (error.expected, error.got) == (4, 3)


class Unlistable:
    """Has a length, and cannot be looked at."""

    def __len__(self):
        return 3

    def __iter__(self):
        raise PoisonError


class BreaksHalfway:
    """Its first element can be had, its second one not."""

    def __len__(self):
        return 3

    def __iter__(self):
        yield 0
        raise PoisonError


class LengthUnknowable:
    """Asking whether it has a length is an error already."""

    @property
    def __len__(self):
        raise PoisonError


class Panic(BaseException):
    """As a Rust extension's is: no `Exception`."""


class Panics:
    """Its elements cannot be had, and that is no `Exception`."""

    def __len__(self):
        return 3

    def __getitem__(self, _):
        raise Panic


def test_results_that_panic_are_the_models_failure():
    """Whatever is raised while they are read: it ends neither the thread nor the event loop."""
    errors = errors_of(drive("abc", returning(Panics()))[0])
    assert {type(error.__cause__) for error in errors} == {Panic}
    frames = traceback.extract_tb(errors[0].__cause__.__traceback__)
    assert [frame.name for frame in frames] == ["run", "__getitem__"]  # nothing of ours


@pytest.mark.parametrize("make", [Unlistable, BreaksHalfway, LengthUnknowable])
def test_results_that_cannot_be_looked_at_are_the_models_failure(make):
    """As if it had raised that itself: each input is tried."""
    outcomes, tried = drive("abc", returning(make()))
    assert len(tried) == 5
    errors = errors_of(outcomes)
    assert len(errors) == 3
    assert all(type(error) is ModelError for error in errors)
    assert {type(error.__cause__) for error in errors} == {PoisonError}


class Lazy(Sequence):
    """Results that are computed when they are looked at."""

    def __init__(self, inputs, poison):
        self.inputs, self.poison = inputs, poison

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        if self.inputs[index] in self.poison:
            raise PoisonError(self.inputs[index])
        return answer(self.inputs[index])


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_an_input_whose_result_cannot_be_looked_at_fails_alone(size):
    """The others are answered, with as many runs as if the model had raised."""
    poison = {size // 2}
    outcomes, tried = drive(list(range(size)), lambda inputs: Lazy(inputs, poison))
    (error,) = errors_of([outcomes.pop(size // 2)])
    assert error.__cause__.args == (size // 2,)
    assert error.batch_size == 1
    assert outcomes == [answer(item) for item in range(size) if item not in poison]
    assert len(tried) <= 1 + 2 * levels(size)


def test_a_wrong_kind_of_results_is_not_looked_for_in_the_inputs():
    """Their own `TypeError` is; ours says that the model is to blame, and nothing is run again."""
    for results, runs in (({}, 1), ("abc", 1), (None, 1)):
        assert len(drive("abc", returning(results))[1]) == runs

    class Raises(Lazy):
        def __getitem__(self, index):
            if self.inputs[index] == "b":
                raise TypeError("b")
            return self.inputs[index]

    outcomes, _ = drive("abcd", lambda inputs: Raises(inputs, ()))
    assert [type(each) is Failure for each in outcomes] == [False, True, False, False]


def test_a_length_that_cannot_be_had_is_not_needed():
    """The results are counted as they come: `__len__` has only to exist."""

    class LengthRaises:
        def __len__(self):
            raise PoisonError

        def __iter__(self):
            return iter((0, 1, 2))

    assert drive("abc", returning(LengthRaises()))[0] == [0, 1, 2]


async def async_generator():
    yield 0


@pytest.mark.parametrize(
    "results",
    [
        None,
        7,
        1.5,
        object(),
        (i for i in range(3)),
        iter([0, 1, 2]),
        map(str, "abc"),
        {"a": 0, "b": 1, "c": 2},
        {0, 1, 2},
        frozenset({0, 1, 2}),
        {"a": 0, "b": 1, "c": 2}.keys(),
        async_generator(),
    ],
    ids=lambda results: type(results).__name__,
)
def test_what_is_no_sequence_is_refused(results):
    """Without a length or an order nobody knows whose result is which; each caller is told."""
    outcomes, tried = drive("abc", returning(results))
    assert len(tried) == 1
    for error in errors_of(outcomes):
        assert type(error) is ModelError
        assert type(error.__cause__) is TypeError
        assert f"the model returned {a(results)}: it has to return a sequence" in str(error)
        assert str(error).startswith("the model's results cannot be used: TypeError: ")
    assert len(outcomes) == 3


def test_a_coroutine_is_refused_with_advice():
    """A plain function around an async one: the callers are told, no warning is left behind."""

    async def infer(inputs):
        return inputs

    for error in errors_of(drive("abc", infer)[0]):
        assert type(error) is ModelError
        assert type(error.__cause__) is TypeError
        assert "give open_batcher the async function itself" in str(error)


# The model returns exceptions


def test_a_returned_exception_is_its_callers_alone():
    """That very exception, in its place; the others have their results."""
    error = ValueError("not a word")
    outcomes, tried = drive("abc", returning([0, error, 2]))
    assert (outcomes[0], outcomes[2]) == (0, 2)
    assert type(outcomes[1]) is Failure
    assert outcomes[1].error is error
    assert error.__cause__ is None
    assert len(tried) == 1


def test_a_returned_exception_is_found_while_bisecting():
    """Also in a later run, and for an input that is run alone."""

    def model(inputs):
        if 0 in inputs:
            raise PoisonError
        return [ValueError(item) if item in (1, 7) else answer(item) for item in inputs]

    outcomes, _ = drive(list(range(8)), model)
    assert type(outcomes[0].error) is ModelError
    assert outcomes[1].error.args == (1,)
    assert outcomes[7].error.args == (7,)
    assert outcomes[2:7] == [answer(i) for i in range(2, 7)]


@pytest.mark.parametrize("number", [1, 2, 5])
def test_one_instance_returned_many_times_is_raised_once(number):
    """One singleton for all: each caller has an exception of its own, of that class, with it."""
    singleton = ValueError("too long", 512)
    singleton.limit = 512
    first, *others = errors_of(drive("x" * number, returning([singleton] * number))[0])
    assert first is singleton
    for error in others:
        assert type(error) is ValueError
        assert error.args == ("too long", 512)
        assert error.limit == 512
        assert error.__cause__ is singleton


def test_one_instance_returned_batch_after_batch_is_raised_once():
    """The first batch's caller has it, the second one's a copy."""
    singleton = ValueError("too long")
    errors = [errors_of(drive("a", returning([singleton]))[0])[0] for _ in range(3)]
    assert errors[0] is singleton
    assert len({id(error) for error in errors}) == 3
    assert all(error.__cause__ is singleton for error in errors[1:])


def test_a_copy_that_is_returned_again_is_copied_again():
    """A model that hands on what another batcher's callers got shares nothing either."""
    singleton = ValueError("too long")
    first, second = errors_of(drive("ab", returning([singleton, singleton]))[0])
    again = errors_of(drive("ab", returning([first, second]))[0])
    assert not {id(error) for error in again} & {id(first), id(second)}
    assert [error.__cause__ for error in again] == [first, second]


class NeedsMoreError(Exception):
    """Its constructor wants more than its `args`, so that copying fails."""

    def __init__(self, text, *, code):
        super().__init__(text)
        self.code = code


class SameError(Exception):
    """Its copy is itself."""

    def __copy__(self):
        return self


class PlainError(Exception):
    """Its copy is of another class."""

    def __copy__(self):
        return ValueError("a copy")


class NoneError(Exception):
    """Its copy is nothing at all."""

    def __copy__(self):
        return None


@pytest.mark.parametrize(
    "singleton",
    [NeedsMoreError("text", code=3), SameError("text"), PlainError("text"), NoneError("text")],
    ids=lambda error: type(error).__name__,
)
def test_an_instance_that_cannot_be_copied_is_shared_as_a_cause(singleton):
    """The others have a `ModelError` with it as the cause, and its words."""
    first, *others = errors_of(drive("abc", returning([singleton] * 3))[0])
    assert first is singleton
    for error in others:
        assert type(error) is ModelError
        assert error.__cause__ is singleton
        assert error.batch_size == 1
        assert str(error) == f"the model returned an exception: {type(singleton).__name__}: text"


def test_a_speechless_exception_may_be_returned_twice():
    """`__str__` raises: nothing here needs it to work."""
    singleton = SpeechlessError()
    first, second = errors_of(drive("ab", returning([singleton, singleton]))[0])
    assert first is singleton
    assert type(second) is SpeechlessError


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_would_end_a_task_is_told_to_its_caller_as_a_failure(error):
    """A returned `KeyboardInterrupt` is nobody's Ctrl-C; the others have their results."""
    outcomes, tried = drive("abc", returning([0, error, 2]))
    assert (outcomes[0], outcomes[2], len(tried)) == (0, 2, 1)
    assert type(outcomes[1].error) is ModelError
    assert outcomes[1].error.__cause__ is error
    assert outcomes[1].error.batch_size == 1


def test_a_result_that_cannot_be_asked_what_it_is_is_a_result():
    """Nothing of it is looked at: it would fail for its neighbours as well."""

    class Proxy:
        @property
        def __class__(self):
            raise PoisonError

    proxy = Proxy()
    outcomes, _ = drive("abc", returning([0, proxy, 2]))
    assert (outcomes[0], outcomes[2]) == (0, 2)
    assert outcomes[1] is proxy


def test_a_returned_group_keeps_no_frame_of_the_models():
    """Nor do the exceptions in it."""
    inside = ValueError("inside")
    group = ExceptionGroup("both", [inside, KeyError()])
    for error in (inside, group):
        with pytest.raises((ValueError, ExceptionGroup)):
            raise error
    (error,) = errors_of(drive("a", returning([group]))[0])
    assert error is group
    assert (group.__traceback__, inside.__traceback__) == (None, None)


def test_a_class_of_exceptions_is_no_result():
    """Its caller is told what to return; any other class is a value."""
    outcomes, _ = drive("abcd", returning([ValueError, int, SystemExit, array]))
    assert outcomes[1::2] == [int, array]
    for name, outcome in zip(["ValueError", "SystemExit"], outcomes[::2], strict=True):
        assert type(outcome.error) is ModelError
        story = f"the model returned the class {name} in this input's place: return an instance"
        assert str(outcome.error).startswith(story)


def test_a_returned_exception_keeps_no_frame_of_the_models():
    """Nor do those that it came of: frames hold the batch, and the exception."""
    inner = KeyError("inner")

    def model(inputs):
        results = []
        for item in inputs:
            try:
                try:
                    raise inner
                except KeyError as exc:
                    raise ValueError(item) from exc
            except ValueError as exc:
                results.append(exc)
        return results

    for error in errors_of(drive("ab", model)[0]):
        assert error.__traceback__ is None
        assert error.__cause__ is inner
        assert inner.__traceback__ is None


def test_an_instance_that_is_returned_again_keeps_no_frame_of_a_callers():
    """Whoever had it first may be done with it; its copies grow no list of notes together."""
    singleton = ValueError("too long")
    singleton.add_note("512 at most")
    first, second = errors_of(drive("ab", returning([singleton, singleton]))[0])
    with pytest.raises(ValueError, match="too long"):
        raise first
    assert singleton.__traceback__ is not None
    (third,) = errors_of(drive("a", returning([singleton]))[0])
    assert singleton.__traceback__ is None
    second.add_note("for the second")
    assert (singleton.__notes__, third.__notes__) == (["512 at most"], ["512 at most"])


class WordyError(Exception):
    """Its constructor makes its words of what it is given."""

    def __init__(self, limit):
        super().__init__(f"at most {limit}")
        self.limit = limit


def test_a_copy_says_the_same():
    """Whatever the constructor makes of its own words."""
    singleton = WordyError(512)
    _, second = errors_of(drive("ab", returning([singleton, singleton]))[0])
    assert (str(second), second.limit) == ("at most 512", 512)


def test_attempts_are_values():
    """Equal if what they hold is, and nobody can change them."""
    error = PoisonError()
    assert Returned([1]) == Returned([1]) != Raised(error) == copy.copy(Raised(error))
    with pytest.raises(AttributeError):
        Raised(error).error = None


def dying(times, poison=()):
    """A model whose process dies so many times, and whenever any of these is among its inputs."""
    left = [None] * times

    def model(inputs):
        if left or set(inputs) & set(poison):
            left[:1] = []
            raise ChildDied("killed", exit_code=-9)
        return [answer(item) for item in inputs]

    return model


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_process_that_was_killed_once_is_no_inputs_fault(size):
    """The batch is run again as it is, and that is all."""
    items = list(range(size))
    outcomes, tried = drive(items, dying(1))
    assert outcomes == [answer(item) for item in items]
    assert tried == [items, items]


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_an_input_that_kills_the_process_fails_alone(size):
    """Whole twice, then as any input that fails."""
    items = list(range(size))
    outcomes, tried = drive(items, dying(0, poison={0}))
    assert outcomes[1:] == [answer(item) for item in items[1:]]
    assert type(outcomes[0].error.__cause__) is ChildDied
    assert tried[:2] == [items, items]
    assert len(tried) == 2 + 2 * levels(size)


# Several segments at a time, callers that leave, devices that are lost


@given(batches(), st.randoms(use_true_random=False), st.data())
def test_in_whatever_order_parts_run_each_input_has_one_outcome(batch, random, data):
    """Any number of them run at a time, are put back, or are waited for by nobody."""
    size, poison = batch
    driven = Driven(list(range(size)))
    gone = {driven.requests[i] for i in data.draw(st.sets(st.integers(0, size - 1)))}
    error = data.draw(st.sampled_from([PoisonError, TimeoutError]))
    model, running, runs = poisoned(poison, error), [], 0
    driven.run(driven.whole, model)
    while running or driven.bisection.pending:
        assert driven.bisection.due(1.0) <= 0.0 or not driven.bisection.pending
        segment = driven.bisection.next(lambda request: request not in gone)
        if segment:
            assert not gone & {*segment} or not segment
            running.append(segment)
        if running and (segment is None or random.random() < 0.6):
            done = running.pop(random.randrange(len(running)))
            if random.random() < 0.2:
                driven.bisection.put_back(done)
            else:
                driven.run(done, model)
        runs += 1
        assert runs < 100 * size + 100, "it never ends"
    # Who is waited for has an outcome; it is the right one, or all that was tried has failed.
    for request in driven.requests:
        if request in driven.outcomes:
            outcome = driven.outcomes[request]
            if type(outcome) is not Failure:
                assert outcome == answer(request.item)
            elif outcome.error.batch_size == 1:
                assert request.item in poison
        else:
            assert request in gone
    assert driven.bisection.due(1.0) == float("inf")


def hanging(poison, runs=()):
    """A model whose runs hang if there is one of these among its inputs, or in these runs."""
    count = 0

    def model(inputs):
        nonlocal count
        count += 1
        if count - 1 in runs or poison.intersection(inputs):
            raise TimeoutError("no result")
        return [answer(item) for item in inputs]

    return model


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 32, 64, 100])
@given(data=st.data())
def test_an_input_that_hangs_is_found_with_few_runs_that_hang(size, data):
    """Each of them costs a whole timeout: eighths are run, not halves."""
    poison = data.draw(st.integers(0, size - 1))
    items = list(range(size))
    outcomes, tried = drive(items, hanging({poison}))
    assert type(outcomes.pop(poison).error.__cause__) is TimeoutError
    assert outcomes == [answer(item) for item in items if item != poison]
    hung = [inputs for inputs in tried if poison in inputs]
    assert len(hung) <= 1 + -(-levels(size) // 3)
    assert len(tried) <= 1 + 8 * -(-levels(size) // 3)


@pytest.mark.parametrize("size", [2, 3, 8, 9, 32, 100])
def test_a_model_that_always_hangs_costs_no_more_runs_than_one_that_always_raises(size):
    """The search ends when two parts and the probes have hung."""
    outcomes, tried = drive(range(size), hanging(set(range(size))))
    assert {type(error.__cause__) for error in errors_of(outcomes)} == {TimeoutError}
    assert len(tried) <= 1 + max(2, 2 * levels(size))


@given(
    size=st.integers(1, 40),
    poison=st.sets(st.integers(0, 39)),
    runs=st.sets(st.integers(0, 20), max_size=3),
)
def test_whatever_hangs_each_input_has_one_outcome(size, poison, runs):
    """An answer, or the hang; and an input that never hung by itself, or with all, is answered."""
    outcomes, tried = drive(list(range(size)), hanging(poison, runs))
    assert len(outcomes) == size
    for item, outcome in enumerate(outcomes):
        if type(outcome) is not Failure:
            assert outcome == answer(item)
            assert item not in poison
        elif outcome.error.batch_size == 1:
            assert [item] in tried


@pytest.mark.parametrize(
    "wrap", [lambda exc: exc, lambda exc: ExceptionGroup("of a nursery", [exc])]
)
def test_what_is_too_large_is_halved_and_fails_alone_only(wrap):
    """Also if it was said from a nursery: nobody else is to blame, and nothing is probed."""

    def model(inputs):
        if len(inputs) > 2 or 5 in inputs:
            raise wrap(BatchTooLarge("no memory"))
        return [answer(item) for item in inputs]

    outcomes, tried = drive(range(8), model)
    assert [outcomes[item] for item in (0, 1, 2, 3, 4, 6, 7)] == [
        answer(item) for item in (0, 1, 2, 3, 4, 6, 7)
    ]
    (error,) = errors_of([outcomes[5]])
    assert type(error) is ItemError
    assert len(tried) == 9


@pytest.mark.parametrize("leaving", [1, 2, 15, 16])
def test_for_an_input_that_nobody_waits_for_another_one_is_tried(leaving):
    """Whether the inputs are to blame at all is found out by those that are left."""

    def model(inputs):
        raise PoisonError

    driven = Driven(range(16))
    driven.run(driven.whole, model)
    for _ in range(2):
        driven.run(driven.bisection.next(lambda _: True), model)
    gone = {*driven.requests[:leaving]}
    while segment := driven.bisection.next(lambda request: request not in gone):
        assert not gone.intersection(segment)
        driven.run(segment, model)
    assert not driven.bisection.pending
    assert {*driven.outcomes} | gone == {*driven.requests}


def test_an_error_with_no_frame_of_the_model_has_none():
    """What was raised by nobody has no traceback to begin with."""
    error = PoisonError()
    _leave_us_out(error)
    assert error.__traceback__ is None
