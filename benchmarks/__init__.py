"""Benchmarks: each claim as a ratio to a named rival, measured in the same run, with the error reached beside it."""
