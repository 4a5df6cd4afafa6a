"""Whole runs through the command line: what they leave behind, and what is said of mistakes."""

import io
import json
import pathlib
from typing import Any

import pytest

from experiments.sentiment.__main__ import main
from tests.experiments.damaged import check_gives_way, check_is_named, damaged

OPTIONS = [
    "--preset",
    "tiny",
    "--max-examples",
    "160",
    "--max-length",
    "16",
    "--log-every",
    "5",
    "--vocabulary-size",
    "40",
]


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    """Texts in which one word decides."""
    return [(f"a {'fine' if i % 2 else 'dire'} film of {i % 7} hours", "good" if i % 2 else "bad") for i in range(220)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: Any, rows: Any) -> pathlib.Path:
    path: pathlib.Path = tmp_path_factory.mktemp("data") / "mine.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any, table: pathlib.Path) -> pathlib.Path:
    """A finished run."""
    workdir: pathlib.Path = tmp_path_factory.mktemp("runs") / "a"
    words = ["train", "--workdir", str(workdir), *OPTIONS, "--data", str(table), "--learning-rate", "0.03"]
    assert main([*words, "--epochs", "3", "--warmup", "5"]) == 0
    return workdir


def test_run_leaves_everything_a_reader_looks_for(run: pathlib.Path, table: pathlib.Path, capsys: Any) -> None:
    assert {path.name for path in run.iterdir()} == {
        ".lock",
        "config.json", "metrics.jsonl", "tensorboard", "checkpoints", "kept", "vocabulary.json", "baselines.json",
        "curves.png", "test.png", "words.html",
    }  # fmt: skip
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["split"] for row in found} == {"train", "valid", "test"}
    assert found[-1]["accuracy"] == 1.0, "one word decides"
    before = (run / "metrics.jsonl").read_text()
    words = ["train", "--workdir", str(run), *OPTIONS, "--data", str(table), "--learning-rate", "0.03"]
    assert main([*words, "--epochs", "3", "--warmup", "5"]) == 0, "a finished run is shown again"
    assert (run / "metrics.jsonl").read_text() == before
    out = capsys.readouterr().out
    for expected in ("Classes   bad 8", "bag of words", "majority class", "word by word", "100.00%"):
        assert expected in out, expected


def test_evaluate_reads_the_run(run: pathlib.Path, table: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    assert main(["evaluate", "--workdir", str(run)]) == 0
    assert "accuracy               1.0000" in capsys.readouterr().out
    assert main(["evaluate", "--workdir", str(run), "--data", str(table)]) == 0
    assert "220 texts" in capsys.readouterr().out
    other = tmp_path / "other.csv"
    other.write_text("text,label\na film,meh\n")
    assert main(["evaluate", "--workdir", str(run), "--data", str(other)]) == 2
    assert "expected one of the classes 'bad', 'good', which were trained on, got 'meh'" in capsys.readouterr().err


def test_predict_shows_class_probability_and_picture(run: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    page = tmp_path / "page.html"
    words = ["predict", "--workdir", str(run), "--text", "a DIRE film of zebras", "--html", str(page)]
    assert main(words) == 0
    out, errors = capsys.readouterr()
    assert out.startswith("bad ")
    assert out.count("\n") == 3 + 5 - 1 + 1
    assert "never seen in training: zebras" in errors
    assert "dire" in page.read_text()
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err


def test_predict_reads_files_and_stdin(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: Any, monkeypatch: Any
) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(b"a fine film\n\na dire caf\xe9\n" + b"word " * 10_000 + b"\n")
    assert main(["predict", "--workdir", str(run), "--file", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert [line.split()[0] for line in (lines[0], lines[2])] == ["good", "bad"]
    assert lines[1].endswith("(an empty text)")
    monkeypatch.setattr("sys.stdin", io.StringIO(path.read_text(encoding="utf-8", errors="replace")))
    assert main(["predict", "--workdir", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_seeds_are_runs_of_their_own(table: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    words = ["train", "--workdir", str(tmp_path / "s"), *OPTIONS, "--data", str(table), "--seeds", "2"]
    assert main([*words, "--cell", "rnn", "--no-bidirectional", "--pooling", "mean"]) == 0
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"seed_0", "seed_1", "seeds.json"}
    numbers = json.loads((tmp_path / "s" / "seeds.json").read_text())
    mean = sum(row["loss"] for row in numbers.values()) / 2
    assert numbers["0"]["loss"] != numbers["1"]["loss"]
    assert f"loss            {mean:9.4f}" in capsys.readouterr().out
    assert main(["evaluate", "--workdir", str(tmp_path / "s")]) == 2
    assert "it holds runs: seed_0, seed_1" in capsys.readouterr().err
    (tmp_path / "s" / "config.json").write_text("{}")
    assert main(words) == 2
    assert "expected a folder of its own for --seeds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--workdir", "x", "--preset", "big"], "--preset: expected one of"),
        (["train", "--workdir", "x", "--dropout", "2"], "--dropout: expected"),
        (
            ["train", "--workdir", "x", "--cell", "gru_before", "--implementation", "fused"],
            "--implementation: exp",
        ),
        (["predict", "--workdir", "x", "--text", "x", "--html", "none/a.html"], "--html: expected a file in a folder"),
        (["train", "--workdir", "x", "--seeds", "0"], "--seeds: expected a positive integer, got 0"),
        (["train", "--workdir", "x", "--data", "none.csv"], "--data: expected a file, found no"),
        (["train", "--workdir", "x", "--vectors", "none.txt"], "--vectors: expected a file, found no"),
        (
            ["train", "--workdir", "x", "--preset", "imdb"],
            "--data: expected IMDB's reviews (its folder aclImdb",
        ),
        (
            ["train", "--workdir", "x", "--preset", "sst2"],
            "--data: expected SST-2's phrases (its file train.tsv",
        ),
        (["evaluate", "--workdir", "none/such"], "--workdir: expected the folder of a trained run"),
        (["predict", "--workdir", "none/such", "--text", "x", "--file", "y"], "--file: expected --text or --file"),
        (["predict", "--workdir", "none/such", "--file", "y"], "--file: expected a file, found no y"),
    ],
)
def test_mistakes_get_one_line_and_status_2(
    words: Any, expected: str, capsys: Any, tmp_path: pathlib.Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert expected in errors
    assert not list(tmp_path.iterdir()), "nothing was made"


def test_refused_command_leaves_no_folder(table: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    words = ["train", "--workdir", str(tmp_path / "w"), *OPTIONS, "--data", str(table), "--accumulate", "5000"]
    assert main(words) == 2
    assert "--accumulate: expected at most the " in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("config.json", ["train", "evaluate", "predict"]),
        ("vocabulary.json", ["train", "evaluate", "predict"]),
        ("baselines.json", ["train"]),
        ("kept", ["train", "evaluate", "predict"]),
    ],
)
def test_damaged_run_is_answered_with_what_is_damaged(
    run: pathlib.Path, table: pathlib.Path, name: str, commands: list[str], tmp_path: pathlib.Path, capsys: Any
) -> None:
    workdir = damaged(run, tmp_path, name)
    path = workdir / name
    if name == "kept":
        path /= str(max(int(folder.name) for folder in path.iterdir()))
    for word in commands:
        words = [word, "--workdir", str(workdir), *(["--text", "a film"] if word == "predict" else [])]
        if word == "train":
            words += [*OPTIONS, "--data", str(table), "--learning-rate", "0.03", "--epochs", "3", "--warmup", "5"]
        check_is_named(main, words, path, capsys)


def test_run_that_crashed_before_its_first_step_gives_way_to_another(
    table: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: Any
) -> None:
    words = ["train", *OPTIONS, "--data", str(table), "--epochs", "0.5", "--test-fraction", "0.3"]
    check_gives_way("sentiment", words, tmp_path, monkeypatch)


def test_run_of_another_experiment_is_named_in_a_line(run: pathlib.Path, capsys: Any) -> None:
    from experiments.char_lm.__main__ import main as char_lm

    for words in (["train", "--preset", "tiny"], ["sample"]):
        assert char_lm([*words, "--workdir", str(run)]) == 2
        expected = f"error: --workdir: {run} holds a run of experiments.sentiment; name another folder\n"
        assert capsys.readouterr().err == expected
