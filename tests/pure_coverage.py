"""Each pure room is covered whole, branches included, by its own test file alone.

python -m tests.pure_coverage
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOMS = [
    "curve",
    "index",
    "lane",
    "queue",
    "fitting",
    "delivery",
    "latency",
    "residuals",
    "selection",
    "shapes",
    "packing",
    "policy",
    "arguments",
    "bisection",
    "deadline_headers",
    "errors",
    "memory",
    "padding",
    "planning",
    "reruns",
    "results",
    "statistics",
]
# What is run again is also tested with the outcomes that it leads to.
TESTS = {"reruns": ["bisection", "reruns"]}


def main() -> int:
    """Run each room's tests under coverage and report; return the exit status."""
    root = Path(__file__).parents[1]
    status = 0
    with TemporaryDirectory() as scratch:
        for room in ROOMS:
            tests = [f"tests/test_{each}.py" for each in TESTS.get(room, [room])]
            data = f"--data-file={scratch}/{room}"
            commands = [
                ["run", data, "-m", "pytest", "-q", "-q", *tests],
                ["report", data, f"--include=trio_batcher/_{room}.py", "--fail-under=100"],
            ]
            for command in commands:
                done = subprocess.run(
                    [sys.executable, "-m", "coverage", *command], cwd=root, check=False
                )
                status = status or done.returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
