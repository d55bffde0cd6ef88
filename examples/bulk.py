"""Embed a file of lines, however long, with one line of bulk work and a progress bar.

    python -m examples.bulk texts.txt --output vectors.jsonl
    zcat texts.gz | python -m examples.bulk --model letters > vectors.jsonl

Each line becomes a line of JSON, in the same order. Lines that cannot be embedded are written
aside, to ``--errors``, with the reason, and the rest goes on. Of the input no more is in memory
than is under way. Ctrl-C stops at once; what was written by then is whole.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections import deque
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any

import trio
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trio_batcher import InferenceModel, open_batcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    Vector = list[float]

LONGEST = 100_000
"""Characters that a line may have."""


def checked(text: str) -> ValueError | None:
    """Return what is wrong with a text, if anything is."""
    if not text.strip():
        return ValueError("an empty line")
    if len(text) > LONGEST:
        return ValueError(f"{len(text):,} characters, more than {LONGEST:,}")
    return None


class Letters(InferenceModel[str, "Vector | ValueError"]):
    """A small model that needs nothing: how often each letter occurs."""

    def infer(self, inputs: list[str]) -> Sequence[Vector | ValueError]:
        """Return a vector for each text, or what is wrong with it."""
        return [checked(text) or self._vector(text.lower()) for text in inputs]

    def _vector(self, text: str) -> Vector:
        return [text.count(letter) / len(text) for letter in "abcdefghijklmnopqrstuvwxyz"]


class MiniLM(InferenceModel[str, "Vector | ValueError"]):
    """The encoder of the search application, all-MiniLM-L6-v2."""

    def __init__(self) -> None:
        from examples.semantic_search.encoder import Encoder  # noqa: PLC0415  imports torch

        self._encoder = Encoder()

    def infer(self, inputs: list[str]) -> Sequence[Vector | ValueError]:
        """Return a vector for each text, or what is wrong with it."""
        errors = [checked(text) for text in inputs]
        good = [text for text, error in zip(inputs, errors, strict=True) if error is None]
        embeddings = iter(self._encoder.infer(good) if good else ())
        return [error or [round(float(x), 6) for x in next(embeddings).vector] for error in errors]


MODELS = {"letters": Letters, "minilm": MiniLM}


async def lines_of(file: int) -> AsyncIterator[bytes]:
    """Yield the lines of a file, a pipe or a terminal, without their ends.

    It is read in a thread, so that the event loop does not stand still meanwhile, and one that
    is not waited for on Ctrl-C. A plain ``for line in sys.stdin`` would do neither.
    """
    buffer = b""
    while chunk := await trio.to_thread.run_sync(os.read, file, 1 << 16, abandon_on_cancel=True):
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            yield line
    if buffer:
        yield buffer


class Job:
    """Lines in, vectors and errors out.

    Attributes:
        done: lines that have an outcome.
        failed: those of them that have an error.
    """

    def __init__(self, file: int, output: IO[str], errors: IO[str], progress: Progress) -> None:
        self._file, self._output, self._errors = file, output, errors
        self._progress = progress
        self.done = self.failed = 0
        # Those that `map` has taken and not given back: it keeps their order.
        self._under_way: deque[bytes] = deque()

    async def _texts(self) -> AsyncIterator[str]:
        async for line in lines_of(self._file):
            self._under_way.append(line)
            yield line.decode(errors="replace").rstrip("\r")

    async def run(self, model: type[InferenceModel[str, Vector | ValueError]], batch: int) -> None:
        """Embed them all."""
        status = os.fstat(self._file)
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        bar = self._progress.add_task("loading the model", total=size, rows="", start=False)
        async with open_batcher(model, max_batch_size=batch) as batcher:
            self._progress.start_task(bar)
            self._progress.update(bar, description="embedding")
            started = trio.current_time()
            async with batcher.map(self._texts(), errors="return") as results:
                async for result in results:
                    line = self._under_way.popleft()
                    self._write(line, result)
                    rate = self.done / max(1e-9, trio.current_time() - started)
                    rows = f"{self.done:,} lines, {rate:,.0f}/s, {self.failed:,} errors"
                    self._progress.update(bar, advance=len(line) + 1, rows=rows)

    def _write(self, line: bytes, result: Vector | Exception) -> None:
        self.done += 1
        row: dict[str, Any] = {"line": self.done}
        if isinstance(result, Exception):
            self.failed += 1
            row |= {"error": str(result), "text": line.decode(errors="replace")[:1000]}
            self._errors.write(json.dumps(row) + "\n")
        else:
            self._output.write(json.dumps(row | {"vector": result}) + "\n")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", nargs="?", default="-", help="a file of lines; - is stdin")
    parser.add_argument("--output", default="-", help="where vectors go; - is stdout")
    parser.add_argument("--errors", default="errors.jsonl", help="where failed lines go")
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--batch", type=int, default=32, help="lines in a batch at most")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit status."""
    options = parse_arguments(arguments)
    console = Console(stderr=True)
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with ExitStack() as stack:

        def opened(name: str, mode: str, standard: IO[Any]) -> IO[Any]:
            return standard if name == "-" else stack.enter_context(open(name, mode))  # noqa: PTH123

        source = opened(options.input, "rb", sys.stdin)
        output = opened(options.output, "w", sys.stdout)
        errors = opened(options.errors, "w", sys.stderr)
        progress = stack.enter_context(Progress(*columns, console=console))
        job = Job(source.fileno(), output, errors, progress)
        try:
            trio.run(job.run, MODELS[options.model], options.batch)
        except KeyboardInterrupt:
            progress.stop()
            console.print(f"interrupted after {job.done:,} lines")
            return 130
    if job.failed:
        console.print(f"{job.failed:,} of {job.done:,} lines failed: see {options.errors}")
    return 1 if job.failed else 0


if __name__ == "__main__":
    sys.exit(main())
