"""An ASGI server and its client, for one request, played by a test."""

from __future__ import annotations

import json
from collections import deque

import anyio
from anyio.lowlevel import checkpoint


class Exchange:
    """What the client of one request sends, and what it is sent.

    `leaves` is the client's leaving. `announces_end` is for servers that, as hypercorn,
    announce the end of each request as its client's leaving, while they send the last piece.
    """

    def __init__(self, *pieces, headers=None, announces_end=False, method="GET", path="/"):
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode()) for name, value in (headers or {}).items()
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "extensions": {},
            "state": {},
        }
        self.pieces = deque(pieces or [b""])
        self.announces_end = announces_end
        self.received = 0
        self.leaves = anyio.Event()
        self.sent = []

    async def __call__(self, app):
        """Have the application answer; return this."""
        await app(self.scope, self.receive, self.send)
        return self

    async def receive(self):
        await checkpoint()
        if self.pieces:
            self.received += 1
            piece = self.pieces.popleft()
            return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await checkpoint()
        if self.announces_end and is_last(message):
            self.leaves.set()
            await anyio.wait_all_tasks_blocked()  # until all have heard
        self.sent.append(message)

    @property
    def status(self):
        assert [message["type"] for message in self.sent][:1] == ["http.response.start"]
        return self.sent[0]["status"]

    @property
    def headers(self):
        return {name.decode().lower(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self):
        return b"".join(bytes(message.get("body", b"")) for message in self.sent[1:])

    @property
    def complete(self):
        return bool(self.sent) and is_last(self.sent[-1])

    @property
    def problem(self):
        """The answer's status and reason, once it was checked to be a whole problem."""
        assert self.complete
        assert self.headers["content-type"] == "application/problem+json"
        assert int(self.headers["content-length"]) == len(self.body)
        document = json.loads(self.body)
        assert document["status"] == self.status
        assert document["type"] == "about:blank"
        return self.status, document["reason"]


def is_last(message):
    return message["type"] == "http.response.body" and not message.get("more_body")


async def start(send, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def body(send, piece=b"", *, more=False):
    await send({"type": "http.response.body", "body": piece, "more_body": more})


async def hello(scope, receive, send):
    """The least application."""
    await start(send)
    await body(send, b"hello")


async def text_of(receive):
    """The rest of a body."""
    text = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        text += message["body"]
        if not message["more_body"]:
            return text
