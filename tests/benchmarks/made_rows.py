"""Rows as `run` writes them, with round numbers, and the way back from a table to its words."""

from benchmarks.cases import CASES


def row(contestant="fused", milliseconds=10.0, *, cell="LSTM", case="tagger", mode="gradient", **changes):
    """A row as `run` writes it; `milliseconds` None makes it one with an error."""
    seconds = None if milliseconds is None else milliseconds / 1e3
    times = lambda factor: None if seconds is None else seconds * factor
    peer = contestant in ("PyTorch", "Haiku")
    made = {
        "cell": cell, "implementation": None if peer else contestant, "peer": contestant if peer else None,
        "case": case, **CASES[case]._asdict(), "dtype": "float32", "mode": mode,
        "median_s": seconds, "q25_s": times(0.98), "q75_s": times(1.04), "n": 40, "alone_s": seconds,
        "used_by_others": 0.01, "compile_s": 1.0, "peak_bytes": None, "temp_bytes": None, "parameters": 98816,
        "flops": 10**9, "bytes": 10**6, "floor_s": 0.002,
        "share_of_limit": None if seconds is None else 0.002 / seconds, "matmul_flops_per_s": 5e11,
        "bytes_per_s": 2e10, "max_err": None if seconds is None else 3e-7,
        "includes": "", "process": "shared", "error": "not installed" if seconds is None else None,
        "suite": "quick", "run": "first", "device": "a CPU", "versions": {"jax": "0.10.2"},
        "date": "2026-11-21T01:02:03+00:00", "commit": "abc1234",
    }  # fmt: skip
    assert set(changes) <= set(made)
    return made | changes


def cells(table):
    """A table's lines as lists of words, without header and rule."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
