"""An async model: batches go to a model server over one connection, which it answers in order.

    python examples/remote_model.py

An async function runs in the event loop, not in a thread. Here it talks to a toy model server that
this file also starts: a line of JSON with texts in, a line of JSON with word counts out.
"""

from __future__ import annotations

import json
from functools import partial

import trio

from trio_batcher import open_batcher

TEXTS = (
    "structured concurrency",
    "a nursery waits for its children",
    "every deadline is a cancel scope",
    "go statement considered harmful",
    "one",
    "results may come in any order",
)


class Lines:
    """A stream of lines."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def send(self, line: bytes) -> None:
        """Send one line."""
        await self._stream.send_all(line + b"\n")

    async def receive(self) -> bytes:
        """Receive one line; an empty one at the end of the stream."""
        while b"\n" not in self._buffer:
            data = await self._stream.receive_some()
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return bytes(line)


async def model_server(stream: trio.SocketStream) -> None:
    """Answer each batch with the number of words in each of its texts."""
    lines = Lines(stream)
    while line := await lines.receive():
        await lines.send(json.dumps([len(text.split()) for text in json.loads(line)]).encode())


async def count_words(lines: Lines, texts: list[str]) -> list[int]:
    """The model: one round trip a batch. The batcher runs one batch after the other."""
    print(f"a batch of {len(texts)} goes out")
    await lines.send(json.dumps(texts).encode())
    counts: list[int] = json.loads(await lines.receive())
    return counts


async def main() -> None:
    """Ask about every text at once, each with 2 seconds to be answered."""
    async with trio.open_nursery() as background:
        serve = partial(trio.serve_tcp, model_server, 0, host="127.0.0.1")
        listeners = await background.start(serve)
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())

        async def ask(text: str) -> None:
            with trio.fail_after(2):
                print(f"{await batcher.infer(text)} words: {text}")

        model = partial(count_words, Lines(stream))
        async with stream, open_batcher(model) as batcher, trio.open_nursery() as callers:
            for text in TEXTS:
                callers.start_soon(ask, text)
        background.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
