"""The real builder of tensorflow-datasets, offline, from its source file."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = ROOT.parent / "shared" / "data" / "tiny_shakespeare" / "input.txt"

PROGRAM = """
import sys
from experiments.char_lm.config import Config
from experiments.char_lm.data import load
text = load(Config(dataset="tiny_shakespeare", tfds_dir=sys.argv[1], tfds_manual_dir=sys.argv[2]))
print(text.source, *map(len, text.split), text.split.train[:14], sep="|")
print("tensorflow" in sys.modules)
"""


def program(tmp_path):
    """Loads the data set in a process of its own, since TensorFlow and JAX share one badly."""
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "data"), str(tmp_path / "manual")]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)


needs_source = pytest.mark.skipif(not SOURCE.exists(), reason="the corpus is not here")
has_tensorflow = importlib.util.find_spec("tensorflow") is not None


@needs_source
@pytest.mark.skipif(not has_tensorflow, reason="TensorFlow, which prepares the data set, is not installed")
def test_tiny_shakespeare_is_prepared_offline_and_read_without_tensorflow(tmp_path):
    (tmp_path / "manual").mkdir()
    shutil.copy(SOURCE, tmp_path / "manual" / "input.txt")
    expected = "tiny_shakespeare/1.0.0 of tensorflow-datasets|1003854|55770|55770|First Citizen:\n"
    first = program(tmp_path)
    assert expected + "True" in first.stdout, first.stderr
    again = program(tmp_path)
    assert expected + "False" in again.stdout, again.stderr


@needs_source
@pytest.mark.skipif(has_tensorflow, reason="TensorFlow is installed")
def test_without_tensorflow_the_error_says_what_to_install(tmp_path):
    (tmp_path / "manual").mkdir()
    shutil.copy(SOURCE, tmp_path / "manual" / "input.txt")
    result = program(tmp_path)
    assert result.returncode != 0
    assert "UsageError: --dataset: tensorflow-datasets needs TensorFlow, once" in result.stderr
    assert "pip install tensorflow-cpu" in result.stderr
