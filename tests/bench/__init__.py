"""Benchmarks: ratios within one run, never an assertion on the clock. See the Makefile."""
