"""The documentation is true: its programs run, its drawings and its reference are up to date."""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import math
import os
import re
import runpy
import subprocess
import sys
import types
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import trio
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser
from trio.testing import MockClock

import trio_batcher

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# What a comment right before a block can say of it.
ANY_ORDER = "<!-- in any order -->"
VIRTUAL_TIME = "<!-- virtual time -->"


class Page:
    """A page's programs, run from top to bottom in one namespace.

    A ``text`` block is what the Python block before it prints. Where a program's output
    depends on time, it runs on a virtual clock; it must not use threads then.
    """

    def __init__(self, path, capsys, monkeypatch):
        self.capsys = capsys
        self.monkeypatch = monkeypatch
        self.namespace = {"__name__": "__main__", "__builtins__": builtins}
        self.printed = ""
        sybil = Sybil(
            [CodeBlockParser("python", self.run), CodeBlockParser("text", self.compare)],
            path=str(ROOT),
        )
        self.document = sybil.parse(path)

    def examples(self):
        return list(self.document.examples())

    def run(self, example):
        """Run a block, in trio if it has an ``await`` or ``async with`` at its top level."""
        assert not self.printed, f"{example.path}:{example.line}: the output before is not shown"
        # As many lines before it as there are on the page: tracebacks then show the page's.
        source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
        code = compile(
            source,
            str(example.path),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        with self.monkeypatch.context() as patch:
            if told(example, VIRTUAL_TIME):
                clock = MockClock(autojump_threshold=0)
                patch.setattr(trio, "run", partial(trio.run, clock=clock))
            if code.co_flags & inspect.CO_COROUTINE:
                trio.run(types.FunctionType(code, self.namespace))
            else:
                exec(code, self.namespace)  # noqa: S102  the page's own program
        self.printed = self.capsys.readouterr().out

    def compare(self, example):
        shown, printed = example.parsed, self.printed
        self.printed = ""
        if told(example, ANY_ORDER):
            shown, printed = ("\n".join(sorted(s.splitlines())) for s in (shown, printed))
        assert printed.strip() == shown.strip(), f"{example.path}:{example.line}"


def told(example, comment):
    """Whether this comment stands right before the block."""
    return example.document.text[: example.region.start].rstrip().endswith(comment)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_program_runs_and_prints_what_the_page_shows(path, capsys, monkeypatch):
    """Copied from the page, it does what the page says."""
    for module in re.findall(r"<!-- needs (\w+) -->", path.read_text(encoding="utf-8")):
        pytest.importorskip(module, reason="a program on the page imports it")
    page = Page(path, capsys, monkeypatch)
    for example in page.examples():
        example.evaluate()
    assert not page.printed, "the last block's output is not shown"


def test_every_block_is_one_that_is_checked():
    """No block escapes the test above under another name."""
    known = {"python", "text", "console", "{toctree}", "{eval-rst}", "{raw} html"}
    known |= {f"{{literalinclude}} ../examples/{name}.py" for name in ("minimal", "in_a_process")}
    for path in PAGES:
        fences = re.findall(
            r"^ *(?:```|~~~|:::)(.*)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert set(fences[::2]) <= known, path
        assert set(fences[1::2]) <= {""}, path


def test_the_readme_starts_with_a_program_of_twelve_lines():
    """That is the promise of its first screen."""
    program = re.search(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len([line for line in program[1].splitlines() if line.strip()]) == 12


def test_the_included_example_prints_what_the_first_page_says(capsys):
    """One batch of eight, and eight answers."""
    runpy.run_path(str(ROOT / "examples" / "minimal.py"), run_name="__main__")
    first, *answers = capsys.readouterr().out.splitlines()
    assert first == "a batch of 8"
    assert sorted(answers) == [f"{n} squared is {n * n}" for n in range(8)]


def test_the_example_of_a_process_prints_what_its_page_says():
    """Run as a script: its child has to find the class in it."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "in_a_process.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    *answers, restarts = done.stdout.splitlines()
    crash, *others = sorted(answers)
    assert "on this input alone: ChildDied" in crash
    assert "exit code 1" in crash
    assert others == ["'hello' has 5 characters", "'structured concurrency' has 22 characters"]
    assert restarts.startswith("the process was started anew ")


def test_the_drawing_is_what_its_script_draws():
    """Whoever changes the one sees to the other: python docs/diagrams/request.py."""
    script = DOCS / "diagrams" / "request.py"
    drawn = runpy.run_path(str(script), run_name="request")["draw"]()
    assert script.with_suffix(".svg").read_text(encoding="utf-8") == drawn


@pytest.fixture(scope="module")
def plots():
    """The script's names, and the data that it draws."""
    script = DOCS / "diagrams" / "goodput.py"
    names = runpy.run_path(str(script), run_name="goodput")
    return names, json.loads(script.with_suffix(".json").read_text(encoding="utf-8"))


def test_the_plots_are_what_their_script_draws(plots):
    """Of the data beside it: python docs/diagrams/goodput.py."""
    names, data = plots
    drawn = names["draw"](data)
    assert sorted(drawn) == ["batches", "goodput", "latency"]
    for name, picture in drawn.items():
        assert (DOCS / "diagrams" / f"{name}.svg").read_text(encoding="utf-8") == picture
        root = ET.fromstring(picture)  # noqa: S314  our own
        assert root.get("role") == "img"
        title, description = (root.find(f"{{*}}{tag}") for tag in ("title", "desc"))
        assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"


def test_no_two_labels_of_a_plot_meet(plots):
    """Whatever the data: lines that end together have labels below each other, in order."""
    spread, gap = (plots[0][name] for name in ("spread", "GAP"))
    assert spread([50, 150], 0, 200) == [50, 150]
    assert spread([100, 100], 0, 200) == [100 - gap / 2, 100 + gap / 2]
    assert spread([0, 0, 0], 0, 200) == [0, gap, 2 * gap]
    assert spread([10, 199, 200], 0, 200) == [10, 200 - gap, 200]


def test_the_titles_of_the_plots_are_true(plots):
    """Each says in a sentence what its lines show; the data may be measured anew."""
    data = plots[1]
    policies = set(plots[0]["LOOKS"]) - {"library"}
    collapsed = {name for cell in data["cells"].values() for name in policies if cell[name] < 50}
    assert min(cell["library"] for cell in data["cells"].values()) > 95
    assert len(collapsed) > len(policies) / 2
    for start in ("10+1 ms x32 | 60 ms | poisson", "10+1 ms x32 | 100 ms | poisson"):
        sizes = [data["cells"][f"{start} | {load}"]["mean_batch"] for load in (0.6, 0.9, 1.2, 2.0)]
        assert sizes == sorted(sizes)
        assert sizes[-1] <= data["most"]
    latency = data["latency"]
    assert 0.95 < latency["on_time"]["library"][-1] / latency["optimum"] <= 1
    assert latency["on_time"]["greedy"][-1] < latency["late"]["greedy"]


def test_every_public_name_is_in_the_reference():
    """Once, and nothing else is."""
    reference = (DOCS / "reference.md").read_text(encoding="utf-8")
    names = re.findall(
        r"^\.\. auto(?:function|class|exception|data):: (\w+)", reference, re.MULTILINE
    )
    assert sorted(names) == sorted(trio_batcher.__all__)


def test_the_reference_has_every_public_member_of_the_classes():
    """A new method of `Batcher` or `InferenceModel` does not stay undocumented."""
    reference = (DOCS / "reference.md").read_text(encoding="utf-8")
    for cls in (trio_batcher.Batcher, trio_batcher.InferenceModel):
        section = reference.partition(f":: {cls.__name__}\n")[2].partition("```")[0]
        for name in vars(cls):
            assert name.startswith("_") or re.search(rf"\b{name}\b", section), name


def test_the_signature_in_the_reference_is_the_real_one():
    """It is written out there, since the overloads would fill a page."""
    reference = (DOCS / "reference.md").read_text(encoding="utf-8")
    written = re.search(r":: (open_batcher\(.*)", reference)[1]
    namespace = {"math": math}
    # Its types are names for readers: annotations, which are not looked up.
    source = f"from __future__ import annotations\ndef {written}: ..."
    exec(source, namespace)  # noqa: S102  one line of the reference
    shown = inspect.signature(namespace["open_batcher"]).parameters
    real = inspect.signature(trio_batcher.open_batcher).parameters
    assert [(p.name, p.kind, p.default) for p in shown.values()] == [
        (p.name, p.kind, p.default) for p in real.values()
    ]
