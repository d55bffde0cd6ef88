"""The same as `served`, as a Quart-Trio application with the extension."""

from __future__ import annotations

import trio
from quart import jsonify, request
from quart_trio import QuartTrio

from tests.integration.served import model, say
from trio_batcher import _scheduler
from trio_batcher.quart import QuartBatcher

batcher = QuartBatcher(model, max_batch_size=2, max_queue_size=2)
app = QuartTrio(__name__)
batcher.init_app(app, default_timeout=60)


@app.get("/")
async def infer():
    item = request.args["item"]
    say("asked", item)
    try:
        return jsonify(await batcher.infer(item))
    except trio.Cancelled:
        say("gone", item)
        raise


@app.get("/crash")
async def crash():
    _scheduler.decide = None  # the next decision of the batcher's own task raises
    return ""
