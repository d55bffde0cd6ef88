"""Eight callers ask one by one; the model sees batches. Run it: python examples/minimal.py"""

import trio

from trio_batcher import open_batcher


def square(batch: list[int]) -> list[int]:
    print("a batch of", len(batch))
    return [number * number for number in batch]


async def main() -> None:
    async def ask(number: int) -> None:
        print(number, "squared is", await batcher.infer(number))

    async with open_batcher(square) as batcher, trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(ask, number)


trio.run(main)
