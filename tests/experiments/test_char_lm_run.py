"""Whole runs through the command line: killed, stopped, resumed, refused."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments.char_lm.__main__ import main
from experiments.char_lm.config import Config
from experiments.char_lm.model import CharLM
from experiments.common.checkpoint import Checkpoints
from tests.experiments.damaged import check_gives_way, check_is_named, crashed, damaged

ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = ["--preset", "tiny", "--epochs", "0.5", "--dropout", "0.2", "--layers", "2", "--log-every", "5"]
OPTIONS += ["--checkpoint-every", "10"]
STEPS = 52


def command(workdir, *options):
    return ["train", "--workdir", str(workdir), *OPTIONS, *options]


def begin(workdir):
    """The same command in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    words = [sys.executable, "-m", "experiments.char_lm", *command(workdir)]
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path, process, seconds=120):
    """Until a path appears, while the process lives."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def params(workdir):
    model = CharLM.of(Config(cell="lstm", hidden_size=32, layers=2), size(workdir))
    example = jax.eval_shape(model.init, jax.random.key(0))
    checkpoints = Checkpoints(workdir / "checkpoints")
    assert checkpoints.latest() == STEPS
    found = checkpoints.restore(params=example)["params"]
    checkpoints.close()
    return jax.tree.leaves(found)


def size(workdir):
    return len(json.loads((workdir / "vocabulary.json").read_text())["characters"])


def same_run(a, b):
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    for x, y in zip(params(a), params(b), strict=True):
        assert (np.asarray(x) == np.asarray(y)).all()
    names = sorted(path.name for path in (a / "samples").iterdir())
    assert names == sorted(path.name for path in (b / "samples").iterdir())
    assert all((a / "samples" / name).read_text() == (b / "samples" / name).read_text() for name in names)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    process = begin(workdir)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return workdir, out


def test_run_leaves_everything_a_reader_looks_for(uninterrupted):
    workdir, out = uninterrupted
    assert {path.name for path in workdir.iterdir()} == {
        ".lock",
        "config.json", "metrics.jsonl", "tensorboard", "checkpoints", "curves.png", "samples", "vocabulary.json",
        "baselines.json", "kept",
    }  # fmt: skip
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any("tfevents" in path.name for path in (workdir / "tensorboard").iterdir())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"train", "valid", "test"}
    assert all(isinstance(row["step"], int) and np.isfinite(row["loss"]) for row in rows)
    assert all("grad_norm" in row for row in rows if row["split"] == "train")
    assert all("loss_carried" in row for row in rows if row["split"] != "train")
    assert [row["step"] for row in rows if row["split"] == "valid"] == [26, STEPS]
    for words in ("train       54,000 characters", "5-gram", "bits/char", "Before training", "After training"):
        assert words in out, words


def test_killed_run_goes_on_to_the_same_end(uninterrupted, tmp_path):
    workdir = tmp_path / "killed"
    process = begin(workdir)
    wait_for(workdir / "checkpoints" / "20", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (workdir / "checkpoints" / str(STEPS)).exists(), "killed too late to show anything"
    # What a kill in the middle of a line would leave.
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 48, "split": "train", "loss": 1.0}\n{"step": 4')
    process = begin(workdir)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Going on from step" in out
    same_run(uninterrupted[0], workdir)


def test_interrupt_saves_and_says_how_to_go_on(uninterrupted, tmp_path):
    workdir = tmp_path / "stopped"
    process = begin(workdir)
    wait_for(workdir / "checkpoints" / "10", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Go on with the same command" in errors
    assert "Traceback" not in errors
    process = begin(workdir)
    process.communicate(timeout=300)
    same_run(uninterrupted[0], workdir)


def test_finished_run_is_shown_again_and_not_trained_again(uninterrupted, capsys):
    workdir, out = uninterrupted
    before = (workdir / "metrics.jsonl").read_text()
    assert main(command(workdir)) == 0
    assert (workdir / "metrics.jsonl").read_text() == before
    assert out.splitlines()[-3:] == capsys.readouterr().out.splitlines()[-3:]


def test_another_configuration_or_text_is_refused(uninterrupted, capsys, tmp_path):
    workdir, _ = uninterrupted
    before = (workdir / "config.json").read_text()
    assert main(command(workdir, "--learning-rate", "1")) == 2
    assert "learning_rate: there 0.003, now 1.0" in capsys.readouterr().err
    assert (workdir / "config.json").read_text() == before
    text = tmp_path / "text.txt"
    text.write_text("abcd " * 2000)
    assert main(command(tmp_path / "run", "--data", str(text), "--max-chars", "0", "--epochs", "0.1")) == 0
    text.write_text("abce " * 2000)
    assert main(command(tmp_path / "run", "--data", str(text), "--max-chars", "0", "--epochs", "0.1")) == 2
    assert "the text of this run has changed" in capsys.readouterr().err
    assert main(["evaluate", "--workdir", str(tmp_path / "run")]) == 2
    assert "the text of this run has changed" in capsys.readouterr().err


def test_diverged_run_keeps_its_good_checkpoints(tmp_path, capsys):
    workdir = tmp_path / "run"
    wild = ["--optimizer", "sgd", "--learning-rate", "1e38", "--clip-norm", "0", "--warmup", "20"]
    assert main(command(workdir, *wild)) == 2
    assert "the training has diverged" in capsys.readouterr().err
    names = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    assert all(name < STEPS for name in names)


def test_foreign_configuration_is_refused(tmp_path, capsys):
    for text, expected in (("[1]", "found a list"), ("{", "can't be read")):
        (tmp_path / "config.json").write_text(text)
        for words in (command(tmp_path), ["sample", "--workdir", str(tmp_path)]):
            assert main(words) == 2
            assert expected in capsys.readouterr().err


def test_folder_with_other_files_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(command(tmp_path)) == 2
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert main(command(tmp_path / "thesis.tex")) == 2
    assert "is a file" in capsys.readouterr().err


def test_evaluate_and_sample_read_the_run(uninterrupted, capsys):
    workdir, _ = uninterrupted
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert main(["evaluate", "--workdir", str(workdir), "--split", "test"]) == 0
    assert f"{rows[-1]['loss']:.4f}" in capsys.readouterr().out
    words = ["sample", "--workdir", str(workdir), "--prompt", "def ", "--length", "20", "--streams", "2"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert first.count("def ") == 2
    assert main(words) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--workdir", "x", "--preset", "big"], "--preset: expected one of"),
        (["train", "--workdir", "x", "--dropout", "2"], "--dropout: expected"),
        (["train", "--workdir", "x", "--data", "none/such"], "--data: expected a file or a folder"),
        (["evaluate", "--workdir", "none/such"], "--workdir: expected the folder of a trained run"),
        (["sample", "--workdir", "none/such", "--length", "0"], "--length: expected 1 or more"),
    ],
)
def test_mistakes_get_one_line_and_status_2(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert expected in errors
    assert not list(tmp_path.iterdir()), "nothing was made"


def test_misspelt_option_is_answered_with_the_right_one(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--workdir", "x", "--hiden-size", "3"])
    assert stop.value.code == 2
    assert "--hidden-size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("config.json", ["train", "evaluate", "sample"]),
        ("vocabulary.json", ["train", "evaluate", "sample"]),
        ("baselines.json", ["train"]),
        ("metrics.jsonl", ["train"]),
        (f"checkpoints/{STEPS}", ["train"]),
        (f"kept/{STEPS}", ["train", "evaluate", "sample"]),
    ],
)
def test_damaged_run_is_answered_with_what_is_damaged(uninterrupted, name, commands, tmp_path, capsys):
    workdir = damaged(uninterrupted[0], tmp_path, name)
    if name == "metrics.jsonl":  # half a line at its end is what a kill leaves
        (workdir / name).write_text("{\n")
    for word in commands:
        words = command(workdir) if word == "train" else [word, "--workdir", str(workdir)]
        check_is_named(main, words, workdir / name, capsys)


def test_lost_vocabulary_is_named(uninterrupted, tmp_path, capsys):
    workdir = damaged(uninterrupted[0], tmp_path, "vocabulary.json")
    (workdir / "vocabulary.json").unlink()
    for words in (command(workdir), ["sample", "--workdir", str(workdir)]):
        check_is_named(main, words, workdir / "vocabulary.json", capsys)


def test_damaged_checkpoint_can_be_deleted_to_go_on(uninterrupted, tmp_path):
    workdir = damaged(uninterrupted[0], tmp_path, f"checkpoints/{STEPS}")
    _, errors = begin(workdir).communicate(timeout=300)
    assert "if no other file of the run was changed, delete it to go on from step 50" in errors
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    process = begin(workdir)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Going on from step 50" in out
    same_run(uninterrupted[0], workdir)


@pytest.mark.parametrize(
    ("lost", "answer"),
    [
        ("checkpoints", "holds what a run has measured or kept, but no checkpoint to go on from"),
        ("kept", "expected a checkpoint in {}/kept, found none"),
    ],
)
def test_run_without_its_checkpoints_loses_nothing_more(uninterrupted, lost, answer, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted[0], workdir)
    shutil.rmtree(workdir / lost)
    stays = [workdir / "metrics.jsonl", *(workdir / "kept").rglob("*")]
    before = {path: path.read_bytes() for path in stays if path.is_file()}
    assert main(command(workdir)) == 2
    assert answer.format(workdir) in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_lost_baselines_are_computed_again(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted[0], workdir)
    (workdir / "baselines.json").unlink()
    assert main(command(workdir)) == 0
    assert (workdir / "baselines.json").read_bytes() == (uninterrupted[0] / "baselines.json").read_bytes()


@pytest.mark.parametrize(
    ("name", "text"),
    [("metrics.jsonl", "{}\n"), ("metrics.jsonl", "5\n"), ("baselines.json", '{"1-gram": "x"}'), ("config.json", None)],
)
def test_json_that_says_something_else_is_named(uninterrupted, name, text, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted[0], workdir)
    config = json.loads((workdir / "config.json").read_text())
    (workdir / name).write_text(json.dumps({**config, "hidden_size": "x"}) if text is None else text)
    words = ["sample", "--workdir", str(workdir)] if name == "config.json" else command(workdir)
    check_is_named(main, words, workdir / name, capsys)


def test_run_that_crashed_before_its_first_step_gives_way_to_another(tmp_path, monkeypatch, capsys):
    short = ["train", "--preset", "tiny", "--epochs", "0.1", "--hidden-size", "8", "--max-chars"]
    check_gives_way("char_lm", [*short, "50000", "--max-chars", "30000"], tmp_path, monkeypatch)
    assert main([*short, "50000", "--workdir", str(tmp_path / "again")]) == 2
    assert "max_chars: there 30000, now 50000" in capsys.readouterr().err


def test_run_that_crashed_before_its_first_step_has_no_model_yet(tmp_path, monkeypatch, capsys):
    crashed("char_lm", command(tmp_path), monkeypatch)
    assert main(["sample", "--workdir", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no measured model yet; train it further" in capsys.readouterr().err
