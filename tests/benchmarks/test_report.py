"""The report of a file: what it shows, what it writes, and what it says to a mistake."""

import json

import pytest

from benchmarks.report import load, of_one_device, show, tables
from benchmarks.words import left_out
from tests.benchmarks.made_rows import cells, row


def write(path, rows):
    """A file of rows."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


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


def test_show_replaces_its_own_report_and_nothing_else(tmp_path, capsys):
    file, folder = write(tmp_path / "rows.jsonl", [row()]), tmp_path / "folder"
    folder.mkdir()
    for _ in range(2):
        show(file, pictures_dir=folder)
    other = write(tmp_path / "others.jsonl", [row()])
    for text in (None, "my notes"):
        if text is not None:
            (folder / "report.md").write_text(text)
        before = (folder / "report.md").read_text()
        with pytest.raises(ValueError, match=r"--pictures: expected .* of a report of others\.jsonl, got "):
            show(other, pictures_dir=folder)
        assert (folder / "report.md").read_text() == before


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


def test_rows_that_killed_runs_left_unfinished_are_counted(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps(row()), '{"cell": "LST', json.dumps(row("scan", 20.0)), '{"cell"']
    file.write_text("\n".join(lines))
    assert len(load(file)) == 2
    expected = f"note: {file}: rows left out, unfinished since a run was killed: 2, in line 2, 4\n"
    assert capsys.readouterr().err == expected
    write(file, [row()])
    load(file)
    assert capsys.readouterr().err == ""
