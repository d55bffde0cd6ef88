"""Benchmarks: ratios within one run, never an assertion on the clock. See the Makefile."""

import logging

# Requests that are turned away are logged as warnings. Here they are expected, and by the thousand;
# a test's own handlers still see them.
logging.getLogger("trio_batcher").addHandler(logging.NullHandler())
