"""The corpus: docstrings of the standard library's public functions, classes and methods.

Run as a program it prints the corpus as JSON. The server runs it that way, in a process of its
own: finding the docstrings means importing the whole standard library, whose side effects (module
state, deprecation warnings, a window toolkit) have no place in a server.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import inspect
import json
import pkgutil
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import ModuleType

# Importing these does something (opens a browser, prints a poem, sets up a terminal); or they need
# a display; or they hold programs, tests and data tables; or the names people use lead elsewhere
# (`os.path`).
SKIPPED = frozenset(
    {
        *("antigravity", "this", "readline", "rlcompleter"),
        *("tkinter", "turtle", "turtledemo", "idlelib"),
        *("distutils", "encodings", "ensurepip", "lib2to3", "pydoc_data", "test", "venv"),
        *("genericpath", "nt", "ntpath", "nturl2path", "posix", "posixpath"),
    }
)
MIN_LENGTH = 20
"""Docstrings with fewer characters say nothing that a search could find."""
MAX_LENGTH = 600
"""Characters of a docstring that are kept to be shown."""
EMBEDDED_LENGTH = 240
"""Characters of an entry that are embedded: its topic is in its beginning."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented name.

    Attributes:
        name: fully qualified, as one would write it after an import: ``json.JSONDecoder.decode``.
        kind: ``function``, ``class`` or ``method``.
        signature: the parameters in parentheses, or an empty string where Python knows none.
        doc: the beginning of the docstring, without its indentation.
    """

    name: str
    kind: str
    signature: str
    doc: str

    @property
    def text(self) -> str:
        """What is embedded: the name and the beginning of the docstring, on one line."""
        return f"{self.name}: {' '.join(self.doc.split())}"[:EMBEDDED_LENGTH]


class CorpusError(Exception):
    """The process that collects the corpus failed."""


async def load_corpus() -> list[Entry]:
    """Collect the corpus in a process of its own; takes a few seconds.

    Cancellation: the process is ended.

    Returns:
        Entries sorted by name; the same list on every run of the same Python.

    Raises:
        CorpusError: the process failed or printed something else.
    """
    command = [sys.executable, "-W", "ignore", "-m", f"{__package__}.corpus"]
    root = Path(__file__).parents[2]  # where `-m` finds this package
    process = await anyio.run_process(command, cwd=root, check=False)
    try:
        return [Entry(**fields) for fields in json.loads(process.stdout)]
    except (ValueError, TypeError) as error:
        log = process.stderr.decode(errors="replace")[-2000:]
        raise CorpusError(f"collecting the corpus failed: {error}\n{log}") from error


def spread(entries: Sequence[Entry], count: float) -> Sequence[Entry]:
    """So many of the entries, evenly spread; all of them if there are no more."""
    if count >= len(entries):
        return entries
    return [entries[int(i * len(entries) / count)] for i in range(int(count))]


def digest(entries: Iterable[Entry]) -> str:
    """A hash of the entries' embedded texts: equal digests, equal embeddings."""
    sha = hashlib.sha256()
    for entry in entries:
        sha.update(entry.text.encode("utf-8", "surrogatepass") + b"\0")
    return sha.hexdigest()


def collect() -> list[Entry]:
    """Import the standard library and list its docstrings; see `load_corpus` for the safe way.

    One object is listed once, under the first of its names, and so is a docstring that a method
    repeats from the method it overrides.
    """
    entries: dict[str, Entry] = {}
    objects: set[int] = set()
    docs: set[tuple[str, str]] = set()
    for module_name, module in _modules():
        for name, value in _public(module):
            if id(value) in objects:
                continue
            objects.add(id(value))
            for entry in _entries(f"{module_name}.{name}".removeprefix("builtins."), value):
                same = (entry.name.rpartition(".")[2], entry.doc)
                if same not in docs:
                    docs.add(same)
                    entries.setdefault(entry.name, entry)
    return [entries[name] for name in sorted(entries)]


def _modules() -> list[tuple[str, ModuleType]]:
    """Every public module that can be imported here, `builtins` first, then the shallowest.

    `json.JSONDecoder` is also `json.decoder.JSONDecoder`; as the first name seen is kept, the order
    puts the one people write first.
    """
    modules = []
    names = [*(sys.stdlib_module_names - SKIPPED), "os.path"]
    while names:
        name = names.pop()
        last = name.rpartition(".")[2]
        if last.startswith("_") or last in ("test", "tests"):
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:  # made for another system, or left out of this Python
            continue
        modules.append((name, module))
        search_path = getattr(module, "__path__", [])
        names += (f"{name}.{submodule.name}" for submodule in pkgutil.iter_modules(search_path))
    return sorted(modules, key=lambda item: (item[0] != "builtins", item[0].count("."), item[0]))


def _public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The functions and classes that a module calls its own."""
    exported = getattr(module, "__all__", None)
    for name in sorted(vars(module) if exported is None else exported):
        value = getattr(module, name, None)
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        home = getattr(value, "__module__", None) or module.__name__
        if exported is None and home != module.__name__ and module is not builtins:
            continue
        yield name, value


def _entries(name: str, value: object) -> Iterator[Entry]:
    """The entry of a function; those of a class and of its own public methods."""
    if not inspect.isclass(value):
        yield from _entry(name, "function", value, getattr(value, "__doc__", None))
        return
    yield from _entry(name, "class", value, vars(value).get("__doc__"))
    for attribute, member in sorted(vars(value).items()):
        if attribute.startswith("_"):
            continue
        method = getattr(member, "__func__", member)  # what a static or class method wraps
        if inspect.isroutine(method):
            doc = getattr(method, "__doc__", None)
            yield from _entry(f"{name}.{attribute}", "method", method, doc)


def _entry(name: str, kind: str, value: object, doc: object) -> Iterator[Entry]:
    """The entry for one docstring, unless it is generated or too short to say anything."""
    if not isinstance(doc, str):
        return
    text = inspect.cleandoc(doc).strip()
    short_name = name.rpartition(".")[2]
    generated = text.startswith(f"{short_name}(") and "\n" not in text  # a dataclass, a namedtuple
    if len(text) < MIN_LENGTH or generated:
        return
    if len(text) > MAX_LENGTH:
        text = text[:MAX_LENGTH].rpartition(" ")[0].rstrip() + " …"
    yield Entry(name, kind, _signature(value), text)


def _signature(value: object) -> str:
    """The parameters, or nothing where they are unknown or name a memory address."""
    try:
        signature = str(inspect.signature(value))  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return ""
    return "" if " at 0x" in signature else signature


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    json.dump([asdict(entry) for entry in collect()], sys.stdout)
