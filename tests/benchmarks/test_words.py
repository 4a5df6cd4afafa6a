"""A run in words, from a few rows whose answers are worked out by hand."""

from benchmarks.words import left_out, stability, summary, turns
from tests.benchmarks.made_rows import row


def test_remarks():
    rows = [
        row(alone_s=0.006), row("scan", alone_s=0.007, run="second"), row("native", alone_s=None),
        row("Haiku", used_by_others=0.26), row("Equinox", used_by_others=None), row("Keras 3", used_by_others=0.09),
        row("PyTorch", process="own", includes="batch first"), row(case="language"), row("PyTorch", case="language"),
    ]  # fmt: skip
    assert left_out(rows).splitlines() == [
        "- PyTorch's time includes: batch first",
        "- timed in a process of its own: PyTorch",
        "- slowed by its neighbours, up to 1.7 times: fused in LSTM gradient tagger float32",
        "- disturbed: other work used up to 26% of the processors during LSTM gradient tagger float32; PyTorch's "
        "threads suffer most from that: measure again on a quiet machine before believing these ratios",
        "- measured in more than one run, so that ratios hold what the machine changed meanwhile: "
        "LSTM gradient tagger float32",
    ]


def test_stability():
    rows = [row(cell=cell, q25_s=0.010, q75_s=0.010 * (1 + width)) for cell, width in (("RNN", 0.0), ("LSTM", 0.1))]
    # Halfway and nine tenths of the way from 0 to 10 %; and of that 1.82 over the root of 40 calls.
    assert "5.0 % of the median typically, over 9.0 % at the 90th percentile of 2" in stability(rows)
    assert "reaches 1.4 % to either side typically, 2.6 % at the 90th percentile." in stability(rows)


def test_turns():
    rows = [row(alone_s=0.008), row(cell="GRU", alone_s=0.005), row("PyTorch"), row("scan", alone_s=None)]
    # sqrt(10/8 * 10/5)
    assert turns(rows).endswith("in geometric mean: fused 1.58, PyTorch 1.00.")


def test_summary_says_where_and_how():
    rows = [row(), row(cell="GRU", bytes_per_s=4e10, versions={"jax": "0.10.2", "torch": "2.13.0"}), row("scan", None)]
    rows[0] |= {"date": "2026-11-20T23:02:03+00:00", "commit": "older"}
    assert summary(rows).splitlines()[:2] == [
        "- a CPU; jax 0.10.2, torch 2.13.0. Commit abc1234, 2026-11-21, 2 measurements.",
        "- The device's own limits: 500 GFLOP/s of float32 matmuls, 20.0 to 40.0 GB/s of memory, by the size of the "
        "job.",
    ]
