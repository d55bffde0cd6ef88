"""The documentation's build: `python -m sphinx -W --keep-going -b html docs docs/_build/html`.

Run it from the repository's root. It needs no network.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version as installed_version
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "trio_batcher"
author = "The trio_batcher developers"
project_copyright = author
try:
    release = installed_version(project)
except PackageNotFoundError:  # built from a checkout that is not installed
    release = ""

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
# A reference that leads nowhere is an error, like every other warning.
nitpicky = True
nitpick_ignore_regex = [("py:class", r"(trio_batcher\..*\.)?(T|R|RejectionReason)")]
# What a docstring has in single backticks is a name in Python.
default_role = "py:obj"
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"trio_batcher {release}".strip()
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

autodoc_class_signature = "separated"
autodoc_default_options = {"exclude-members": "__init__, __new__"}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
# A list like that of the parameters, under the name that it has in the docstring.
napoleon_custom_sections = [("Attributes", "params_style")]

# Names of other projects that docstrings and signatures have. No inventory is downloaded.
TRIO = "https://trio.readthedocs.io/en/stable/reference-{page}.html#trio.{name}"
ANYIO = "https://anyio.readthedocs.io/en/stable/api.html#anyio.{name}"
PYTHON = "https://docs.python.org/3/library/{page}.html#{name}"
TORCH = "https://docs.pytorch.org/docs/stable/{page}.html#{name}"
EXTERNAL = {
    "CapacityLimiter": TRIO.format(page="core", name="CapacityLimiter"),
    "Event": TRIO.format(page="core", name="Event"),
    "trio.CapacityLimiter": TRIO.format(page="core", name="CapacityLimiter"),
    "trio.Cancelled": TRIO.format(page="core", name="Cancelled"),
    "trio.TooSlowError": TRIO.format(page="core", name="TooSlowError"),
    "trio.current_effective_deadline": TRIO.format(page="core", name="current_effective_deadline"),
    "anyio.CapacityLimiter": ANYIO.format(name="CapacityLimiter"),
    "anyio.current_effective_deadline": ANYIO.format(name="current_effective_deadline"),
    "asyncio.Task.cancel": PYTHON.format(page="asyncio-task", name="asyncio.Task.cancel"),
    "AbstractAsyncContextManager": PYTHON.format(
        page="contextlib", name="contextlib.AbstractAsyncContextManager"
    ),
    "Iterable": PYTHON.format(page="collections.abc", name="collections.abc.Iterable"),
    "Mapping": PYTHON.format(page="collections.abc", name="collections.abc.Mapping"),
    "Sequence": PYTHON.format(page="collections.abc", name="collections.abc.Sequence"),
    "Exception": PYTHON.format(page="exceptions", name="Exception"),
    "RuntimeError": PYTHON.format(page="exceptions", name="RuntimeError"),
    "TimeoutError": PYTHON.format(page="exceptions", name="TimeoutError"),
    "TypeError": PYTHON.format(page="exceptions", name="TypeError"),
    "ValueError": PYTHON.format(page="exceptions", name="ValueError"),
    "torch.nn.Module": TORCH.format(page="generated/torch.nn.Module", name="torch.nn.Module"),
    "torch.Tensor": TORCH.format(page="tensors", name="torch.Tensor"),
    "torch.autocast": TORCH.format(page="amp", name="torch.autocast"),
    "torch.compile": TORCH.format(page="generated/torch.compile", name="torch.compile"),
    "MemoryError": PYTHON.format(page="exceptions", name="MemoryError"),
    "functools.partial": PYTHON.format(page="functools", name="functools.partial"),
    "math.inf": PYTHON.format(page="math", name="math.inf"),
}


def link_name_from_elsewhere(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.TextElement
) -> nodes.reference | None:
    """Link a name that is defined elsewhere: one of the package's own, or of those above."""
    name = node.get("reftarget", "")
    ours = env.domains.python_domain.objects.get(f"{project}.{name}")
    if ours is not None:  # from a module beside the package's own, such as `trio_batcher.asgi`
        return make_refnode(app.builder, node["refdoc"], ours.docname, ours.node_id, shown)
    if name not in EXTERNAL:
        return None
    return nodes.reference("", "", shown, internal=False, refuri=EXTERNAL[name])


def show_cancellation(*event: Any) -> None:
    """Make a field of the paragraph that says what a cancellation does.

    Docstrings have it as one paragraph, ``Cancellation: …``, before their ``Args:``; on the
    page it stands among the parameters and what is raised.
    """
    lines = event[-1]
    text = re.sub(
        r"^Cancellation: (.+(?:\n.+)*)",
        lambda found: ":Cancellation: " + found[1].replace("\n", "\n    "),
        "\n".join(lines),
        flags=re.MULTILINE,
    )
    lines[:] = text.split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the two functions above, and let `open_batcher` have a single signature."""
    # Its overloads differ in the type of ``model`` only, which the docstring explains; without
    # this, autodoc would list all of them in place of the signature that the page gives.
    analyzer = ModuleAnalyzer.for_module("trio_batcher._opening")
    analyzer.analyze()
    analyzer.overloads.clear()
    app.connect("missing-reference", link_name_from_elsewhere)
    # Before napoleon, which makes fields of the other sections.
    app.connect("autodoc-process-docstring", show_cancellation, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
