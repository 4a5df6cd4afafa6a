"""Tables and the ratios in them, from a few rows whose answers are worked out by hand."""

import pytest

from benchmarks.rows import newest, throughput
from benchmarks.speedups import geometric_mean, standings
from benchmarks.tables import against_each, comparison, headline, memory, overview
from benchmarks.words import left_out
from tests.benchmarks.made_rows import cells, row


def test_headline_derives_rates_from_the_time():
    # T=100, B=32 in 10 ms: 100 calls, 3,200 sequences, 320,000 time steps a second; 10^9 operations are 100 GFLOP/s.
    (line,) = cells(headline([row()]))
    assert line == [
        "LSTM", "fused", "10.0", "100", "3,200", "320,000", "100", "98,816", "100", "40", "6%", "1.00", "20", "3e-07",
    ]  # fmt: skip


def test_headline_is_fastest_first_and_keeps_to_its_cells():
    rows = [
        row("fused", 10.0),
        row("PyTorch", 5.0),
        row("scan", 20.0),
        row("fused", cell="GRU-before"),
        row(cell="RNN"),
    ]
    assert [line[:2] for line in cells(headline(rows))] == [
        ["RNN", "fused"], ["LSTM", "PyTorch"], ["LSTM", "fused"], ["LSTM", "scan"],
    ]  # fmt: skip


def test_headline_takes_the_case_of_most_contestants_then_the_middle():
    crowded = [row(), row("scan"), row(case="H=256")]
    assert "tagger: T=100" in headline(crowded)
    assert "H=256: T=128" in headline([row(), row(case="H=256")])


def test_headline_says_microseconds_of_a_step():
    table = headline([row("cell.step", 0.05, mode="step", case="stream", T=1)])
    assert "|   µs |" in table
    assert cells(table)[0][2:7] == ["50.0", "20,000", "20,000", "20,000", "50.0"]


def test_lines_of_a_table_are_equally_long():
    table = headline([row(), row("checkpoint_every=64", 1234.5), row("PyTorch", 0.3)])
    assert len({len(line) for line in table.splitlines() if line.startswith("|")}) == 1


def test_comparison_holds_ratios_of_the_fastest_of_ours():
    rows = [
        row("scan", 30.0), row("fused", 15.0), row("native", 10.0), row("PyTorch", 8.0),
        row("scan", 12.0, case="language"), row("fused", 20.0, case="language"),
        row("scan", 4.0, cell="GRU"), row("fused", 1.0, cell="GRU"),
    ]  # fmt: skip
    found = {(line[0], line[1]): line[4:] for line in cells(comparison(rows, "gradient"))}
    assert found == {
        ("LSTM", "tagger"): ["native", "10.0", "3.00", "0.80"],
        ("LSTM", "language"): ["fused", "20.0", "0.60", "-"],
        ("GRU", "tagger"): ["fused", "1.00", "4.00", "-"],
        # sqrt(3 * 0.6) and cbrt(3 * 0.6 * 4)
        ("LSTM", "geometric mean"): ["", "", "1.34", "0.80"],
        ("all", "geometric mean"): ["", "", "1.93", "0.80"],
    }
    assert comparison(rows, "train") == ""


def test_overview_holds_means_over_the_cases_of_each_mode_dtype_and_cell():
    rows = [
        row("scan", 20.0, temp_bytes=400), row("fused", 10.0, temp_bytes=100), row("PyTorch", 5.0), row("Haiku", 40.0),
        row("scan", 80.0, case="language", temp_bytes=100), row("fused", 10.0, case="language", temp_bytes=100),
        row("scan", 30.0, dtype="bfloat16"), row("fused", 10.0, dtype="bfloat16"), row("PyTorch", 1.0, mode="step"),
        row("cell.step", 4.0, mode="step"),
    ]  # fmt: skip
    # sqrt(2 * 8) = 4 and sqrt(1/4 * 1) = 0.5; without temp_bytes, or without scan, no memory.
    assert cells(overview(rows)) == [
        ["step", "float32", "LSTM", "1", "-", "-", "0.25", "0.25", "-"],
        ["gradient", "float32", "LSTM", "2", "4.00", "4.00 of 1", "0.50 of 1", "0.50 of 1", "0.50"],
        ["gradient", "bfloat16", "LSTM", "1", "3.00", "-", "-", "-", "-"],
    ]
    assert overview([row()]) == ""


def test_comparison_does_not_mix_dtypes():
    rows = [row("scan", 20.0), row(), row("scan", 80.0, dtype="bfloat16"), row(dtype="bfloat16")]
    means = [line for line in cells(comparison(rows, "gradient")) if line[1] == "geometric mean"]
    assert [(line[3], line[-1]) for line in means] == [("float32", "2.00"), ("bfloat16", "8.00")]
    assert [(line[1], line[5]) for line in cells(against_each(rows))] == [("float32", "2.00"), ("bfloat16", "8.00")]


def test_the_baseline_is_not_ours():
    (standing,) = standings([row("scan", 1.0), row("fused", 2.0)])
    assert standing.best["implementation"] == "fused"
    assert standing.over_fastest_peer() is None


def test_the_baseline_stands_in_where_no_other_kernel_can():
    (standing,) = standings([row("scan", 2.0), row("fused", None), row("PyTorch", 1.0)])
    assert standing.best["implementation"] == "scan"
    assert (standing.over("scan"), standing.over("PyTorch")) == (None, 0.5)
    assert standings([row("scan", 1.0)]) == []


def test_cases_of_one_shape_count_once():
    rows = [row("scan", 20.0), row(), row("scan", 80.0)]
    rows[2] |= {"case": "another name"}
    (standing,) = standings(rows)
    # The newer of the two.
    assert standing.over("scan") == 8.0


def test_geometric_mean():
    assert geometric_mean([2.0, None, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([None]) is None


def test_newest_row_wins():
    rows = [row("scan", 99.0), row("fused", 10.0), row("scan", 20.0)]
    assert cells(comparison(rows, "gradient"))[0][-1] == "2.00"
    assert [found["median_s"] for found in newest(rows)] == [0.02, 0.01]
    broken = [*rows, row("scan", None)]
    assert comparison(broken, "gradient") == ""
    assert "scan has no time" in left_out(broken)


def test_memory_over_that_of_the_baseline():
    rows = [
        row("scan", temp_bytes=2**22), row("fused", temp_bytes=2**20), row("checkpoint_every=64", temp_bytes=2**16),
        row("fused", cell="GRU", temp_bytes=2**20), row("native", cell="GRU"), row("PyTorch", temp_bytes=5),
        row("fused", mode="forward", temp_bytes=7),
    ]  # fmt: skip
    assert [[line[0], *line[4:]] for line in cells(memory(rows))] == [
        ["LSTM", "fused", "1.00", "4.00", "0.25"],
        ["LSTM", "checkpoint_every=64", "0.0625", "4.00", "0.016"],
        ["GRU", "fused", "1.00", "-", "-"],
    ]
    assert memory([row("PyTorch")]) == ""


def test_against_each_counts_the_jobs_of_both():
    rows = [
        row("scan", 20.0), row(), row("PyTorch", 5.0), row("Haiku", 40.0), row("scan", 80.0, cell="GRU"),
        row("fused", cell="GRU"), row("Haiku", 10.0, cell="GRU"), row("scan", 30.0, mode="forward"),
        row(mode="forward"),
    ]  # fmt: skip
    assert cells(against_each(rows)) == [
        ["forward", "float32", "scan", "1", "1", "3.00", "3.00", "3.00"],
        ["gradient", "float32", "scan", "2", "2", "4.00", "2.00", "8.00"],
        ["gradient", "float32", "Haiku", "2", "1", "2.00", "1.00", "4.00"],
        ["gradient", "float32", "PyTorch", "1", "0", "0.50", "0.50", "0.50"],
        # sqrt(1/2 * 1): PyTorch is the fastest at one job, Haiku at the other.
        ["gradient", "float32", "fastest peer", "2", "0", "0.71", "0.50", "1.00"],
    ]
    assert against_each([row()]) == ""


def test_throughput_of_a_step_counts_one_step():
    assert throughput(row("cell.step", 2.0, mode="step", T=1)) == pytest.approx(32 / 0.002)
    assert throughput(row(milliseconds=2.0)) == pytest.approx(3200 / 0.002)
