"""Search Python's standard library by meaning.

    python -m examples.semantic_search --port 8000

from the repository's root; ``--help`` lists the options.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import trio


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.semantic_search",
        description="Search Python's standard library by meaning.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--max-batch-size", type=_at_least_one, default=32)
    parser.add_argument("--max-queue-size", type=_at_least_one, default=1024)
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=7.0,
        help="seconds that accepted requests have when the server stops",
    )
    parser.add_argument(
        "--entries",
        type=_at_least_one,
        default=math.inf,
        help="search only so many, for a quick start",
    )
    parser.add_argument("--cache", type=Path, help="directory of the index's cache file")
    return parser.parse_args(arguments)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more seconds, not {text}")
    return seconds


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    arguments = parse_arguments(sys.argv[1:])
    # The search's dot products run beside the model: more threads would only take its cores away.
    # numpy reads this once, when it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from .index import default_cache_directory  # noqa: PLC0415  see above
        from .server import Settings, bind, main as serve  # noqa: PLC0415
    except ImportError as error:
        sys.exit(f"{error}. What this example needs: pip install 'trio_batcher[examples]'")
    settings = Settings(
        cache=arguments.cache or default_cache_directory(),
        max_batch_size=arguments.max_batch_size,
        max_queue_size=arguments.max_queue_size,
        max_entries=arguments.entries,
        grace=arguments.grace,
    )
    try:
        listener = bind(arguments.host, arguments.port)
    except (OSError, OverflowError) as error:
        sys.exit(f"Cannot serve on {arguments.host}:{arguments.port}: {error}")
    trio.run(serve, listener, settings)


if __name__ == "__main__":
    main()
