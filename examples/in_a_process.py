"""A model in a process of its own, and what happens when that dies.

python examples/in_a_process.py
"""

from __future__ import annotations

import os

import trio

from trio_batcher import Batcher, InferenceModel, ModelError, open_batcher


class Lengths(InferenceModel[str, int]):
    """The child imports this module to find it: so it is at the top level."""

    def infer(self, texts: list[str]) -> list[int]:
        if "crash" in texts:
            os._exit(1)  # as a segmentation fault in a library would
        return [len(text) for text in texts]


async def ask(batcher: Batcher[str, int], text: str) -> None:
    try:
        print(f"{text!r} has {await batcher.infer(text)} characters")
    except ModelError as error:
        print(f"{text!r}: {error}")


async def main() -> None:
    async with open_batcher(Lengths, run_in="process") as batcher:
        async with trio.open_nursery() as nursery:
            for text in ("hello", "crash", "structured concurrency"):
                nursery.start_soon(ask, batcher, text)
        print(f"the process was started anew {batcher.statistics().restarts} times")


if __name__ == "__main__":  # the child imports the main module as well, and must not run it
    trio.run(main)
