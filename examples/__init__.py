"""Runnable examples; each file's docstring says how to run it."""
