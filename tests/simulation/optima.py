"""The optimum of each cell and seed, kept in a file as two classes take seconds to compute.

    python -m tests.simulation.optima [--check N | --all]

computes what the file lacks, compares N of its numbers with computed ones, or computes all of
them anew. Without numba two classes take minutes each.
"""

# ruff: noqa: T201  what it prints is what it is for

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tests.simulation.workloads import CELLS, Cell

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["computed", "heavy_alone", "key", "optimum"]

FILE = Path(__file__).with_suffix(".json")


def key(cell: Cell, seed: int, what: str = "best") -> str:
    """Return what a number is filed under: its cell, its seed, and a hash of the trace itself.

    So a number is not used for a trace that is drawn differently one day.
    """
    # Nanoseconds, as another machine's logarithm may differ in the last bit.
    requests = [f"{each.time:.9f} {each.allowance:.9f} {each.weight}" for each in cell.trace(seed)]
    digest = hashlib.sha256("\n".join(requests).encode()).hexdigest()[:8]
    return f"{cell.name} | {cell.count} requests | seed {seed} {digest} | {what}"


def optimum(cell: Cell, seed: int) -> int:
    """Return the largest weight that could be on time, from the file if it is there."""
    return _filed(cell, seed, "best")


def heavy_alone(cell: Cell, seed: int) -> int:
    """Return how many of the heaviest class could be on time if there were no others."""
    return _filed(cell, seed, "heavy alone")


def _filed(cell: Cell, seed: int, what: str) -> int:
    found = _file().get(key(cell, seed, what))
    return computed(cell, seed, what) if found is None else found


@cache
def _file() -> dict[str, int]:
    return json.loads(FILE.read_text(encoding="ascii")) if FILE.exists() else {}


def computed(cell: Cell, seed: int, what: str = "best") -> int:
    """Return the number itself."""
    # Only here: who reads the file needs no numpy.
    from tests.simulation.optimum import Class, equal_deadlines, two_classes  # noqa: PLC0415

    classes = cell.classes if what == "best" else (cell.heaviest,)
    arrived = {
        (each.allowance, each.weight): Class([], each.allowance, each.weight) for each in classes
    }
    for each in cell.trace(seed):
        if (each.allowance, each.weight) in arrived:
            arrived[each.allowance, each.weight].arrivals.append(each.time)
    first, *rest = arrived.values()
    table = cell.service.table
    if rest:
        return two_classes(first, *rest, table)
    if not find_spec("numba"):
        return equal_deadlines(first.arrivals, first.allowance, table)
    # The same as equal_deadlines, and some fifty times quicker.
    return two_classes(Class(first.arrivals, first.allowance), Class([], first.allowance), table)


def _wanted() -> dict[str, tuple[Cell, int, str]]:
    return {
        key(cell, seed, what): (cell, seed, what)
        for cell, seeds in CELLS
        for seed in seeds
        for what in (("best", "heavy alone") if cell.heaviest else ("best",))
    }


def _computed_all(tasks: Iterable[tuple[Cell, int, str]]) -> list[int]:
    # Two at a time, each of a fresh interpreter. Few tasks are not worth that.
    listed = list(tasks)
    if len(listed) < 20:
        return [computed(*task) for task in listed]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(computed, *zip(*listed, strict=True), chunksize=4))


def main() -> None:
    """Fill the file, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", type=int, metavar="N")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    wanted, filed = _wanted(), _file()
    if options.check:
        chosen = random.sample(sorted(filed.keys() & wanted.keys()), options.check)
        found = _computed_all(wanted[each] for each in chosen)
        wrong = [each for each, number in zip(chosen, found, strict=True) if filed[each] != number]
        print(*(f"{each}: not {filed[each]}" for each in wrong), sep="\n")
        print(f"{len(chosen)} of {len(filed)} compared, {len(wrong)} differ")
        sys.exit(bool(wrong))
    kept = {} if options.all else {each: filed[each] for each in wanted if each in filed}
    missing = [each for each in wanted if each not in kept]
    found = _computed_all(wanted[each] for each in missing)
    numbers = kept | dict(zip(missing, found, strict=True))
    if options.all and filed:
        print(sum(filed.get(each) != numbers[each] for each in numbers), "differ from the file's")
    FILE.write_text(json.dumps(numbers, indent=0, sort_keys=True) + "\n", encoding="ascii")
    print(f"{len(missing)} computed, {len(numbers)} in {FILE.name}")


if __name__ == "__main__":
    main()
