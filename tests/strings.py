"""The tests' end of the strings that puppets hang on."""

from __future__ import annotations

import multiprocessing
import signal
import socket

import trio

from trio_batcher import open_batcher

from .hosts import host
from .models import PATIENCE
from .puppets import Doubler


class Strings:
    """Where puppets come from."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE)
        self.port = self.listener.getsockname()[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    async def puppet(self):
        """Return the next one that is made."""
        return String(await host.in_thread(self.accept))

    def accept(self):
        return self.listener.accept()[0]


class String:
    """What leads one puppet."""

    def __init__(self, connection):
        connection.settimeout(PATIENCE)
        self.file = connection.makefile("rw")
        connection.close()
        self.pid = 0

    def read(self):
        try:
            step, _, pid = self.file.readline().strip().partition(" ")
        except ConnectionResetError:
            return ""
        self.pid = int(pid or 0)
        return step

    async def step(self):
        """Wait for what it wants to do next: an empty string once it is gone."""
        step = await host.in_thread(self.read)
        if not step:
            self.file.close()
        return step

    def say(self, answer="go"):
        print(answer, file=self.file, flush=True)

    async def follow(self, *steps):
        """Let it take these steps."""
        for step in steps:
            assert await self.step() == step
            self.say()


async def infer_until_told(batcher):
    """Ask for one result, and go on when there is that and a SIGTERM."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batcher.infer, 1)
            await anext(signals)


def answer_one(connection):
    """Ask a model in a process of its own, from this one, and send what comes of it."""

    async def main():
        async with open_batcher([Doubler, Doubler], run_in="process") as batcher:
            return await batcher.infer(21), multiprocessing.current_process().daemon

    connection.send(trio.run(main))
