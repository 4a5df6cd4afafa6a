"""Benchmarks: both sides timed in one run, interleaved, medians."""
