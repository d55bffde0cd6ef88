"""Which room may know of which: read off the sources, nothing is run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

import trio_batcher

PACKAGE = Path(trio_batcher.__file__).parent

# From the top to the bottom: a room imports from lower floors only, never from its own.
# A package's modules, such as the hosts, are one room.
FLOORS = [
    {"trio_batcher"},
    {"fastapi", "quart", "serving", "torch"},
    {"_opening"},
    {"_batcher", "asgi"},
    {"_bulk", "_session"},
    {"_engine", "_lifecycle"},
    {"_attendants", "_bursts"},
    {"_job", "_overlap", "_watch"},
    {"_gate", "_options", "_outcomes", "_scheduler"},
    {"_assignments", "_fleet"},
    {"_device", "_process"},
    {"_reruns", "_runner"},
    {"_answers", "_bisection", "_hosts", "_interpreter", "_model", "_policy", "_spawned"}
    | {"_beside", "_deadline_headers", "_exit_status", "_entry", "_inbox", "_outbox"}
    | {"_problems", "_statistics", "_torch_devices"},
    {"_child", "_collate", "_nesting", "_packing", "_popen"},
    {"_selection", "_told"},
    {"_items", "_latency", "_memory", "_queue"},
    {"_index"},
    {"_lane", "_residuals"},
    {"_shapes"},
    {"_arguments", "_shared"},
    {"_block", "_curve", "_delivery", "_errors", "_fitting", "_padding", "_planning", "_results"}
    | {"_timings"},
]
FLOOR_OF = {room: depth for depth, rooms in enumerate(FLOORS) for room in rooms}

PURE = {
    "_arguments",
    "_bisection",
    "_curve",
    "_deadline_headers",
    "_delivery",
    "_errors",
    "_lane",
    "_latency",
    "_packing",
    "_fitting",
    "_index",
    "_memory",
    "_padding",
    "_planning",
    "_policy",
    "_queue",
    "_residuals",
    "_reruns",
    "_results",
    "_selection",
    "_shapes",
    "_statistics",
}
# What a pure room may import: nothing that knows the time, waits, or touches the world.
HARMLESS = {
    "__future__",
    "bisect",
    "collections",
    "collections.abc",
    "contextlib",
    "copy",
    "dataclasses",
    "functools",
    "heapq",
    "inspect",
    "itertools",
    "math",
    "numbers",
    "operator",
    "re",
    "statistics",
    "typing",
    "weakref",
}

LONGEST = 500


class Import(NamedTuple):
    """One imported module, and the names taken from it, if any."""

    module: str
    names: tuple[str, ...]
    line: int


SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room_of(module: str) -> str:
    """The room a module of the package belongs to, given its path inside the package."""
    first = module.partition(".")[0]
    return "trio_batcher" if first == "__init__" else first


def imports_of(module: str) -> list[Import]:
    """Every import in a module's source, wherever it stands; our own by absolute name."""
    found = []
    here = ["trio_batcher", *module.split(".")]
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, (), node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found.append(Import(source, tuple(alias.name for alias in node.names), node.lineno))
    return found


def rooms_imported_by(module: str) -> set[str]:
    rooms = set()
    for source, names, _ in imports_of(module):
        top, _, rest = source.partition(".")
        if top == "trio_batcher":
            # `from . import x` may name a module as well as something in `__init__`.
            inside = [rest] if rest else [name if name in SOURCES else "" for name in names]
            rooms |= {room_of(name or "__init__") for name in inside}
    return rooms - {room_of(module)}


modules = pytest.mark.parametrize("module", SOURCES)
pure_modules = pytest.mark.parametrize("module", sorted(PURE))


@modules
def test_every_room_has_its_floor(module):
    """A new room is given its place among the others before it imports anything."""
    assert room_of(module) in FLOOR_OF, f"put {room_of(module)} on a floor of FLOORS"


def test_no_floor_is_left_behind():
    """The map above names no room that has gone."""
    assert set(FLOOR_OF) == {room_of(module) for module in SOURCES}
    assert set(FLOOR_OF) >= PURE


@modules
def test_arrows_go_downward_only(module):
    """A room knows the rooms below it, none above and none beside it."""
    here = FLOOR_OF[room_of(module)]
    wrong = {room for room in rooms_imported_by(module) if FLOOR_OF[room] <= here}
    assert not wrong


@pure_modules
def test_a_pure_room_imports_nothing_that_knows_the_time(module):
    """No event loop, no clock, no thread, no input or output: only what computes."""
    outside = {
        source for source, _, _ in imports_of(module) if not source.startswith("trio_batcher")
    }
    assert outside <= HARMLESS


@pure_modules
def test_a_pure_room_imports_pure_rooms_only(module):
    """What a pure room uses of ours is as pure as itself."""
    assert rooms_imported_by(module) <= PURE


@pure_modules
def test_a_pure_room_has_no_back_door(module):
    """Nothing is imported, read or evaluated by way of a builtin."""
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"__import__", "compile", "eval", "exec", "input", "open", "print"}


def test_a_batcher_needs_no_torch():
    """Only `trio_batcher.torch`, and what it alone is made of, imports it."""
    users = {
        module
        for module in SOURCES
        if {"torch", "numpy"} & {source.partition(".")[0] for source, _, _ in imports_of(module)}
    }
    users -= {"_shared"}  # it makes tensors of what has been one elsewhere, and only then
    assert users == {"torch", "_torch_devices", "_collate", "_items"}
    for module in set(SOURCES) - users:
        assert not rooms_imported_by(module) & users


@modules
def test_no_private_name_crosses_a_wall(module):
    """What a room keeps to itself by an underscore no other room imports."""
    private = [
        f"{source}.{name} in line {line}"
        for source, names, line in imports_of(module)
        for name in names
        if name.startswith("_") and name not in SOURCES and source != "__future__"
    ]
    assert not private


@modules
def test_what_crosses_a_wall_is_declared(module):
    """Each name that one room imports from another is in the other's `__all__`."""
    for source, names, line in imports_of(module):
        top, _, inside = source.partition(".")
        if top != "trio_batcher":
            continue
        # Of a package this is its `__init__`, which may also be asked for its modules.
        key = next(k for k in (inside, f"{inside}.__init__", "__init__") if k in SOURCES)
        declared = set(all_of(key)) | {name for name in names if name in SOURCES}
        assert set(names) <= declared, f"line {line}"


def all_of(module: str) -> list[str]:
    for node in ast.parse(SOURCES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return []


@modules
def test_every_module_says_what_it_exports(module):
    """Each has an `__all__`, without doubles, of names that are public."""
    names = all_of(module)
    assert names
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.startswith("_")]


@modules
def test_no_room_is_too_long(module):
    """A room is read in one sitting."""
    assert len(SOURCES[module].read_text(encoding="utf-8").splitlines()) <= LONGEST
