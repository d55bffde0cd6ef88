"""Search Python's standard library by meaning: a Quart-Trio application over one batcher."""
