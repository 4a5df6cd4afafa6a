"""The folder of a run belongs to one process at a time."""

import pathlib
import subprocess
import sys

import pytest

from experiments.char_lm.config import Config
from experiments.common.cli import UsageError
from experiments.common.workdir import open_run

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
