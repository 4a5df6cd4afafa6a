"""Whole runs through the command line: what they leave behind, and what is said of mistakes."""

import io
import json
import pathlib
from typing import Any

import pytest

from experiments.common.cli import UsageError
from experiments.seq2seq.__main__ import main
from experiments.seq2seq.tokens import restore
from tests.experiments.damaged import check_gives_way, check_is_named, damaged

OPTIONS = ["--preset", "tiny", "--tokens", "spaces", "--epochs", "40", "--learning-rate", "0.02", "--warmup", "5"]
OPTIONS += ["--max-length", "6", "--log-every", "5", "--hidden-size", "32", "--goal", "sequence_accuracy"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: Any) -> pathlib.Path:
    """Sequences of letters, and the same in capitals."""
    letters = "abcde"
    texts = [" ".join(letters[(i // 5**k) % 5] for k in range(1 + i % 3)) for i in range(240)]
    path: pathlib.Path = tmp_path_factory.mktemp("data") / "mine.tsv"
    path.write_text("".join(f"{text}\t{text.upper()}\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any, table: pathlib.Path) -> pathlib.Path:
    """A finished run."""
    workdir: pathlib.Path = tmp_path_factory.mktemp("runs") / "a"
    assert main(["train", "--workdir", str(workdir), *OPTIONS, "--data", str(table)]) == 0
    return workdir


def test_run_leaves_everything_a_reader_looks_for(run: pathlib.Path, table: pathlib.Path, capsys: Any) -> None:
    assert {path.name for path in run.iterdir()} == {
        ".lock",
        "config.json", "metrics.jsonl", "tensorboard", "checkpoints", "kept", "corpus.json", "source.json",
        "target.json", "curves.png", "attention.png", "test.tsv",
    }  # fmt: skip
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["split"] for row in found} == {"train", "valid", "test"}
    assert found[-1]["sequence_accuracy"] >= 0.9
    before = (run / "metrics.jsonl").read_text()
    assert main(["train", "--workdir", str(run), *OPTIONS, "--data", str(table)]) == 0, "a finished run is shown again"
    assert (run / "metrics.jsonl").read_text() == before
    out = capsys.readouterr().out
    for expected in ("greedy", "beam 2", "perplexity", "tok:none", "(right)"):
        assert expected in out, expected


def test_evaluate_reads_the_run(run: pathlib.Path, table: pathlib.Path, capsys: Any) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert main(["evaluate", "--workdir", str(run), "--beams", "1"]) == 0
    out = capsys.readouterr().out
    assert f"perplexity          {rows[-1]['perplexity']:10.4f}" in out
    assert f"sequence accuracy   {rows[-1]['sequence_accuracy']:10.4f}" in out
    assert main(["evaluate", "--workdir", str(run), "--data", str(table), "--coverage-penalty", "0.1"]) == 0
    assert "240 pairs, Search(beams=2, length_normalisation=0.6, coverage_penalty=0.1)" in capsys.readouterr().out


def test_translate_shows_output_and_attention(run: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    picture = tmp_path / "a.png"
    words = ["translate", "--workdir", str(run), "--text", "c a", "--attention", str(picture)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "C A"
    assert lines[2].split() == ["ca"]
    assert [line.split()[0] for line in lines[3:]] == ["C", "A", "<eos>"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err


def test_translate_reads_files_and_stdin(run: Any, tmp_path: pathlib.Path, capsys: Any, monkeypatch: Any) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(b"b d\n\na \xff\n" + b"a " * 10_000 + b"\n")
    assert main(["translate", "--workdir", str(run), "--file", str(path)]) == 0
    out, errors = capsys.readouterr()
    lines = out.split("\n")[:-1]
    assert len(lines) == 4
    assert lines[:2] == ["B D", ""]
    assert "only the first 6 tokens are read of 1 texts" in errors
    assert "1 texts are empty: so are their outputs" in errors
    monkeypatch.setattr("sys.stdin", io.StringIO(path.read_text(encoding="utf-8", errors="replace")))
    assert main(["translate", "--workdir", str(run)]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == lines


def test_n_best_outputs_come_with_their_scores(run: pathlib.Path, capsys: Any) -> None:
    words = ["translate", "--workdir", str(run), "--text", "c a b", "--beams", "3", "--n-best", "3"]
    assert main([*words, "--length-normalisation", "0"]) == 0
    rows = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()[:3]]
    scores = [float(score) for score, _ in rows]
    assert scores == sorted(scores, reverse=True)
    assert len({text for _, text in rows}) == 3
    assert main([*words[:-1], "4"]) == 2
    assert "--n-best: expected at most --beams, 3, got 4" in capsys.readouterr().err


def test_every_option_of_the_model_trains(table: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    words = ["train", "--workdir", str(tmp_path / "r"), *OPTIONS, "--data", str(table), "--epochs", "1"]
    words += [
        "--attention",
        "context",
        "--teacher-forcing-end",
        "0.5",
        "--cell",
        "gru",
        "--layers",
        "2",
        "--accumulate",
    ]
    assert main([*words, "2", "--ema", "0.9", "--no-bidirectional", "--tokens", "characters"]) == 0
    assert not (tmp_path / "r" / "attention.png").exists()
    shown = ["translate", "--workdir", str(tmp_path / "r"), "--text", "a"]
    assert main(shown) == 0
    for option in (["--replace-unknown"], ["--attention", "x.png"], ["--coverage-penalty", "1"]):
        assert main([*shown, *option]) == 2
        assert f"error: {option[0]}: expected" in capsys.readouterr().err


def test_pieces_train(table: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    words = ["train", "--workdir", str(tmp_path / "r"), *OPTIONS, "--data", str(table), "--epochs", "0.5"]
    assert main([*words, "--tokens", "pieces", "--vocabulary-size", "40", "--hidden-size", "8"]) == 0
    assert "tok:13a" in capsys.readouterr().out
    assert main(["translate", "--workdir", str(tmp_path / "r"), "--text", "a b"]) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--workdir", "x", "--preset", "big"], "--preset: expected one of"),
        (["train", "--workdir", "x", "--hidden-size", "3"], "--hidden-size: expected an even number"),
        (["train", "--workdir", "x", "--data", "none.tsv"], "--data: expected a file, found no"),
        (
            ["train", "--workdir", "x", "--preset", "scan"],
            "--data: expected SCAN's pairs (its file tasks_train_simple.txt)",
        ),
        (
            ["train", "--workdir", "x", "--preset", "multi30k"],
            "--data: expected Multi30k's pairs (its files",
        ),
        (["evaluate", "--workdir", "none/such"], "--workdir: expected the folder of a trained run"),
        (["evaluate", "--workdir", "none/such", "--beams", "0"], "--beams: expected a positive integer, got 0"),
        (["translate", "--workdir", "none/such", "--n-best", "0"], "--n-best: expected a positive integer, got 0"),
        (["translate", "--workdir", "none/such", "--text", "x", "--file", "y"], "--file: expected --text or --file"),
        (["translate", "--workdir", "x", "--attention", "none/a.png"], "--attention: expected a file in a folder"),
        (["translate", "--workdir", "none/such", "--file", "y"], "--file: expected a file, found no y"),
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


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("config.json", ["train", "evaluate", "translate"]),
        ("corpus.json", ["train", "evaluate"]),
        ("source.json", ["train", "evaluate", "translate"]),
    ],
)
def test_damaged_run_is_answered_with_what_is_damaged(
    run: pathlib.Path, table: pathlib.Path, name: str, commands: list[str], tmp_path: pathlib.Path, capsys: Any
) -> None:
    workdir = damaged(run, tmp_path, name)
    for word in commands:
        words = [word, "--workdir", str(workdir), *([*OPTIONS, "--data", str(table)] if word == "train" else [])]
        check_is_named(main, [*words, *(["--text", "a"] if word == "translate" else [])], workdir / name, capsys)


@pytest.mark.parametrize("model", [b"", b"no pieces"], ids=["empty", "other"])
def test_damaged_pieces_are_named(tmp_path: pathlib.Path, model: bytes) -> None:
    (tmp_path / "source.model").write_bytes(model)
    with pytest.raises(UsageError, match=r"^--workdir: .*source\.model can't be read: "):
        restore(tmp_path, "source", "pieces")


def test_run_that_crashed_before_its_first_step_gives_way_to_another(
    table: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: Any
) -> None:
    words = ["train", *OPTIONS, "--data", str(table), "--epochs", "0.5", "--tokens", "characters"]
    check_gives_way("seq2seq", words, tmp_path, monkeypatch)
