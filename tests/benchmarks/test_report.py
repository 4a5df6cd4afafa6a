"""Tables, words and pictures, from a few rows whose answers are worked out by hand."""

import json
import os

import pytest

from benchmarks import pictures
from benchmarks.cases import CASES
from benchmarks.markdown import digits, fill, grid
from benchmarks.report import load, of_one_device, show, tables
from benchmarks.rows import newest, throughput
from benchmarks.speedups import geometric_mean, standings
from benchmarks.tables import against_each, comparison, headline, memory, overview
from benchmarks.words import left_out, stability, summary, turns


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


def test_errors_are_left_out_of_tables_and_named_once():
    rows = [
        row("scan", 20.0), row(), row("Haiku", None), row("Haiku", None, cell="GRU"),
        row("PyTorch", None, error="wrong answer:\noff by 0.3"),
    ]  # fmt: skip
    for name, table in tables(rows).items():
        assert ("Haiku" in table) == ("PyTorch" in table) == (name == "left out"), name
    assert left_out(rows).splitlines() == [
        "- Haiku has no time in 2 jobs (LSTM, GRU; gradient; tagger; float32): not installed",
        "- PyTorch has no time in LSTM gradient tagger float32: wrong answer: off by 0.3",
    ]


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


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (1.0, "1.00"), (9.876, "9.88"), (56.78, "56.8"), (1234.5, "1,234"), (0, "0"), (None, "-")],
)
def test_digits(value, text):
    assert digits(value) == text


def test_grid_sets_words_left_and_numbers_right():
    assert grid(("a", "b"), [("xyz", "1"), ("u", "1,234")], 1) == (
        "| a   |     b |\n|-----|------:|\n| xyz |     1 |\n| u   | 1,234 |"
    )


MARKED = "before\n<!-- table memory -->\nold\n<!-- end of table -->\nafter\n"


def test_fill_replaces_what_stands_between_the_marks_and_is_idempotent():
    once = fill(MARKED, {"memory": "| new |"})
    assert once == "before\n<!-- table memory -->\n\n| new |\n\n<!-- end of table -->\nafter\n"
    assert fill(once, {"memory": "| new |"}) == once
    assert fill("no marks\n", {}) == "no marks\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MARKED, "line 2: expected a table of speed, got memory"),
        ("<!-- table speed -->\nold\n", "after table speed, got the end of the text"),
        ("<!-- end of table -->\n", "line 1: found <!-- end of table --> without"),
        ("<!-- table speed -->\n<!-- table speed -->\n", "line 2: expected <!-- end of table --> after table speed"),
    ],
)
def test_fill_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        fill(text, {"speed": "x"})


def test_pictures_are_those_that_the_rows_allow(tmp_path):
    rows = [row(who, cell=cell, case=case) for who in ("scan", "fused", "PyTorch") for cell in ("LSTM", "GRU")
            for case in ("H=64", "H=256", "B=4")]  # fmt: skip
    files = pictures.draw(rows, tmp_path / "new")
    # Of T there is the middle alone.
    assert [file.name for file in files] == [
        "gradient_against_H.png", "gradient_against_B.png", "bars_gradient.png", "limit.png",
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path / "new")) == sorted(file.name for file in files)
    assert all(file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5000 for file in files)


def test_pictures_without_a_sweep_or_a_second_contestant(tmp_path):
    assert pictures.draw([row(share_of_limit=None)], tmp_path) == []
    assert pictures.draw([row("scan", None), row("fused", None)], tmp_path) == []


def test_bars_of_a_sweep_where_there_is_nothing_else(tmp_path):
    rows = [row(who, cell=cell, case="H=64") for who in ("fused", "scan") for cell in ("LSTM", "GRU-before")]
    assert [file.name for file in pictures.draw(rows, tmp_path)] == ["bars_gradient.png", "limit.png"]


def test_pictures_of_a_step_and_of_another_dtype(tmp_path):
    steps = [row(who, 0.1, mode="step", case=case, T=1) for who in ("cell.step", "PyTorch")
             for case in ("H=64", "H=256", "B=4")]  # fmt: skip
    half = [row(who, dtype="bfloat16") for who in ("fused", "scan")]
    assert [file.name for file in pictures.draw(steps + half, tmp_path)] == [
        "step_against_H.png", "step_against_B.png", "bars_step.png", "limit.png",
        "bars_gradient_bfloat16.png", "limit_bfloat16.png",
    ]  # fmt: skip


def test_styles_are_all_different_and_ours_are_bold():
    names = ("fused", "native", "cell.step", "scan", "PyTorch", "Haiku")
    styles = pictures.styles_of([*map(row, names), row("fused", case="language")])
    assert [name for name in styles if styles[name].bold] == ["fused", "cell.step", "native"]
    assert len({style.color for style in styles.values()}) == len(names)
    assert all(styles[name] == pictures.styles_of([row(name)])[name] for name in ("PyTorch", "Haiku"))


def write(path, rows):
    """A file of rows."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_show_prints_and_writes_the_same(tmp_path, capsys):
    file = write(
        tmp_path / "rows.jsonl", [row("scan", 20.0), row(), row("fused", 1.0, device="a GPU"), row("scan", 20.0)]
    )
    older = write(tmp_path / "older.jsonl", [row("scan", 20.0), row("fused", 15.0)])
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table comparison gradient -->\n<!-- end of table -->\n")
    show(file, older, tmp_path / "pictures", readme)
    printed = capsys.readouterr().out
    written = (tmp_path / "pictures" / "report.md").read_text()
    body = printed.split("\nwritten:\n")[0].rstrip()
    assert body in written
    assert "Of a CPU alone; the file holds rows of a GPU too." in body
    assert "not compared, since only one of the files knows the device: 1 measurements of a GPU" in body
    assert [line for line in body.splitlines() if line.startswith("## ")] == [
        "## against older.jsonl", "## summary", "## overview", "## against each", "## headline",
        "## comparison gradient",
    ]  # fmt: skip
    assert "![bars_gradient](bars_gradient.png)" in written
    for name in ("bars_gradient.png", "report.md"):
        assert str(tmp_path / "pictures" / name) in printed
    assert cells(readme.read_text())[0][-1] == "2.00"


def test_rows_of_the_device_measured_last_are_shown():
    cpu, gpu, broken = row(), row(device="a GPU"), row(milliseconds=None, device="a TPU")
    assert of_one_device([cpu, gpu, broken]) == ([gpu], "Of a GPU alone; the file holds rows of a CPU, a TPU too.")
    assert of_one_device([gpu, cpu, row("scan")]) == (
        [cpu, row("scan")],
        "Of a CPU alone; the file holds rows of a GPU too.",
    )
    assert of_one_device([cpu]) == ([cpu], "")


def test_show_has_a_folder_of_its_own(tmp_path, capsys):
    show(write(tmp_path / "rows.jsonl", [row()]))
    show(write(tmp_path / "without_ending", [row()]))
    assert (tmp_path / "rows" / "report.md").is_file()
    assert (tmp_path / "without_ending-report" / "report.md").is_file()


def test_show_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file of rows, found no .*absent"):
        show(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match=r"none of its 0 rows holds a time$"):
        load(write(tmp_path / "empty.jsonl", []))
    with pytest.raises(ValueError, match="none of its 1 rows holds a time; the last one says: not installed"):
        load(write(tmp_path / "errors.jsonl", [row(milliseconds=None)]))
    with pytest.raises(ValueError, match="found one without T"):
        load(write(tmp_path / "others.jsonl", [{key: value for key, value in row().items() if key != "T"}]))
    with pytest.raises(ValueError, match="found one without cell"):
        load(write(tmp_path / "numbers.jsonl", [3]))
    file = write(tmp_path / "rows.jsonl", [row()])
    with pytest.raises(ValueError, match="can't write the report"):
        show(file, pictures_dir=file)
    with pytest.raises(ValueError, match="expected a Markdown file, found no"):
        show(file, into=tmp_path / "absent.md")
    with pytest.raises(ValueError, match=r"rows\.jsonl: expected marks such as .*, found none"):
        show(file, into=file)
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match=r"binary\.jsonl: expected a file of rows, got one that is not text"):
        load(binary)
    with pytest.raises(ValueError, match=r"--into: .*binary\.jsonl: "):
        show(file, into=binary)
    with pytest.raises(ValueError, match=r"expected mode to be one of step, .*, got 'backward'"):
        load(write(tmp_path / "modes.jsonl", [row(mode="backward")]))


def test_what_is_wrong_is_found_before_anything_is_shown(tmp_path, capsys):
    file = write(tmp_path / "rows.jsonl", [row()])
    for wrong in ({"pictures_dir": file}, {"into": file}):
        with pytest.raises(ValueError, match="rows"):
            show(file, **wrong)
    assert capsys.readouterr().out == ""
