"""The folder of a run belongs to one process at a time."""

import json
import pathlib
import subprocess
import sys

import pytest

from experiments.char_lm.config import Config
from experiments.common.cli import UsageError
from experiments.common.workdir import check_run, open_run
from experiments.sentiment import config as sentiment

ROOT = pathlib.Path(__file__).parents[2]
# Opens a run, says so, and ends when it is told to.
OTHER = """
import pathlib, sys
from experiments.char_lm.config import Config
from experiments.common.workdir import open_run
open_run(pathlib.Path(sys.argv[1]), Config())
print("open", flush=True)
sys.stdin.read()
"""


def test_a_run_that_another_process_is_at_is_refused_until_that_ends(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    words = [sys.executable, "-c", OTHER, str(run)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(UsageError, match=r"^--workdir: another process is training in .*run$"):
            open_run(run, Config())
        other.kill()
    for _ in range(2):  # the second time it is its own
        open_run(run, Config())


def test_run_without_a_step_gives_way_to_another_configuration(tmp_path: pathlib.Path) -> None:
    open_run(tmp_path, Config())
    (tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp").mkdir(parents=True)  # what a kill leaves
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "split": "train", "loss": 1.0}\n')
    (tmp_path / "notes.txt").write_text("mine")
    open_run(tmp_path, Config(seed=1))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("kept", ["checkpoints/20", "kept/20", "metrics.jsonl"])
def test_run_that_ever_saved_a_step_is_refused_to_another_configuration(tmp_path: pathlib.Path, kept: str) -> None:
    open_run(tmp_path, Config())
    before = (tmp_path / "config.json").read_text()
    if kept == "metrics.jsonl":  # its checkpoints were deleted, to have the space
        (tmp_path / kept).write_text('{"step": 20, "split": "valid", "loss": 1.0}\n')
    else:
        (tmp_path / kept).mkdir(parents=True)
    for refusing in (check_run, open_run):
        with pytest.raises(UsageError, match=r"holds a run with another configuration:\n  seed: there 0, now 1\n"):
            refusing(tmp_path, Config(seed=1))
    assert (tmp_path / "config.json").read_text() == before


def test_configuration_of_another_program_is_not_overwritten(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text('{"port": 80}')
    with pytest.raises(UsageError, match="is of another experiment, or of another version of this one"):
        open_run(tmp_path, Config())
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_folder_of_a_run_that_was_killed_as_it_began_is_a_new_one(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".lock").touch()
    open_run(tmp_path, Config())


def test_run_of_another_experiment_is_said_to_be_one(tmp_path: pathlib.Path) -> None:
    open_run(tmp_path, Config())
    with pytest.raises(UsageError, match=r"^--workdir: .* holds a run of experiments\.char_lm; name another folder$"):
        check_run(tmp_path, sentiment.Config())
