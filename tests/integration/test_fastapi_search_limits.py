"""What `examples/fastapi_search.py` turns away before it comes near the model."""

from __future__ import annotations

import json

import pytest

for needed in ("numpy", "fastapi", "httpx2"):
    pytest.importorskip(needed, reason="the example, or its client, needs it")

import numpy as np  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402

from examples import fastapi_search as example  # noqa: E402
from examples.semantic_search.encoder import Embedding, Run, cost_of  # noqa: E402
from trio_batcher.fastapi import get_batcher  # noqa: E402


class Batcher:
    """Notes what is asked of it."""

    def __init__(self):
        self.asked = []

    async def infer(self, text):
        self.asked.append(text)
        return Embedding(np.ones(3, np.float32), Run(1, 0.0))

    async def infer_many(self, texts):
        return [await self.infer(text) for text in texts]


class NoIndex:
    def search(self, vector):
        return []


@pytest.fixture
def batcher(monkeypatch):
    batcher = Batcher()
    overrides = {get_batcher: lambda: batcher, example.get_index: NoIndex}
    monkeypatch.setattr(example.app, "dependency_overrides", overrides)
    return batcher


@pytest.fixture
def client(batcher):
    return TestClient(example.app)


def refused(response, status):
    """The detail of a problem document."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    return document["detail"]


LONG = "a" * (example.CHARACTERS + 1)


@pytest.mark.parametrize(
    ("body", "part", "words"),
    [
        (json.dumps(["good", LONG]), "body[1]", "at most 2000 characters"),
        (json.dumps(["a"] * (example.TEXTS + 1)), "body", "at most 64 items"),
        ("[]", "body", "at least 1 item"),
        (r'["\ud800"]', "body[0]", "unicode"),
        (r'["good", "good", "half \udfff of it"]', "body[2]", "unicode"),
        ("[NaN]", "body[0]", "string"),
        ("[1e999]", "body[0]", "string"),
        ("[null]", "body[0]", "string"),
        ('[["a"]]', "body[0]", "string"),
        ('[""]', "body[0]", "at least 1 character"),
        (r'[" \t\n\u00a0 "]', "body[0]", "blank"),
        ('{"texts": ["a"]}', "body", "list"),
        ("", "body", "required"),
        ("[", "body", "JSON"),
    ],
)
def test_a_wrong_text_is_refused_with_its_place(client, batcher, body, part, words):
    """By 422 and a problem document, which repeats nothing of it."""
    response = client.post("/embed", content=body, headers={"content-type": "application/json"})
    detail = refused(response, 422)
    assert detail.startswith(f"{part}: ")
    assert words in detail
    assert LONG not in response.text
    assert not batcher.asked


@pytest.mark.parametrize("query", ["", "%20", LONG])
def test_so_is_a_wrong_query(client, batcher, query):
    """Likewise."""
    assert refused(client.get(f"/search?q={query}"), 422).startswith("query.q: ")
    assert refused(client.get("/search"), 422).startswith("query.q: ")
    assert not batcher.asked


@pytest.mark.parametrize("body", [b"\xff\xfe[", b"[" * 30_000, b"[" + b"1" * 10_000 + b"]"])
def test_so_is_what_cannot_be_read(client, batcher, body):
    """Whatever the reader of it raises."""
    response = client.post("/embed", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    refused(response, response.status_code)
    assert not batcher.asked


def test_a_long_body_is_not_read_to_its_end(client, batcher):
    """413, whether or not it says how long it is."""
    whole = b" " * (example.BODY + 1)
    assert "at most 65536 bytes" in refused(client.post("/embed", content=whole), 413)
    assert refused(client.post("/nowhere", content=whole), 404) == "Not Found"
    assert not batcher.asked


def test_what_is_within_the_limits_is_answered(client, batcher):
    """To the last character."""
    texts = ["a" * example.CHARACTERS, "\x00", "\U0001f600 \u00fc"] + ["b"] * (example.TEXTS - 3)
    response = client.post("/embed", json=texts)
    assert response.status_code == 200
    assert len(response.json()) == example.TEXTS
    assert client.get("/search", params={"q": texts[0]}).json() == []
    assert batcher.asked == [*texts, texts[0]]


def test_whatever_may_be_asked_for_fits_into_a_batch():
    """No text costs nothing, or more than all of a batch."""
    for length in (0, 1, example.CHARACTERS, 10**7):
        assert 1 <= cost_of("a" * length) <= example.BATCH_COST
