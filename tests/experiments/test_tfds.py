"""Data sets of tensorflow-datasets, offline: a real builder from its source file, others as they are once prepared."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import types

import pytest

from experiments.common.cli import UsageError
from experiments.common.datasets import prepared

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


@pytest.mark.parametrize("name", ["nonsense/x", "nonsense"])
def test_a_data_set_that_there_is_not_is_named_in_one_line(tmp_path, name):
    words = ["--workdir", tmp_path / "run", "--preset", "tiny", "--dataset", name, "--tfds-dir", tmp_path / "data"]
    result = subprocess.run(
        [sys.executable, "-m", "experiments.seq2seq", "train", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: --dataset: expected a data set of tensorflow-datasets, got {name!r}")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


# Data sets under the names, splits and features of real ones.
STORE = """
import sys
import tensorflow_datasets as tfds
from tensorflow_datasets import features
from tensorflow_datasets.core.dataset_builders.adhoc_builder import store_as_tfds_dataset

def store(name, config, kinds, **splits):
    version = str(tfds.builder(f"{name}/{config}", data_dir=sys.argv[1]).version)
    rows = {split: list(enumerate(examples)) for split, examples in splits.items()}
    store_as_tfds_dataset(
        name=name, version=version, config=config, data_dir=sys.argv[1], file_format="array_record",
        features=kinds, split_datasets=rows, disable_shuffling=True,
    )

kinds = features.FeaturesDict({"text": features.Text(), "label": features.ClassLabel(names=["neg", "pos"])})
reviews = [{"text": f"review <br />{n}", "label": n % 2} for n in range(26)]
store("imdb_reviews", "plain_text", kinds, train=reviews[:20], test=reviews[20:])
names = ["negative", "positive"]
kinds = features.FeaturesDict({"sentence": features.Text(), "label": features.ClassLabel(names=names)})
phrases = [{"sentence": f"phrase {n}", "label": n % 2} for n in range(26)]
store("glue", "sst2", kinds, train=phrases[:20], validation=phrases[20:])
pairs = [{"pt": f"fonte \\u00e3 {n}", "en": f"source {n}"} for n in range(29)]
kinds = features.Translation(languages=("pt", "en"))
store("ted_hrlr_translate", "pt_to_en", kinds, train=pairs[:20], validation=pairs[20:25], test=pairs[25:])
"""

LOAD = """
import json, sys
from experiments.sentiment import config, data
from experiments.seq2seq import config as pair_config, data as pair_data
loaded = [
    data.load(config.Config(dataset="imdb_reviews", tfds_dir=sys.argv[1])),
    data.load(config.Config(dataset="glue/sst2", tfds_dir=sys.argv[1])),
    pair_data.load(pair_config.Config(dataset="ted_hrlr_translate/pt_to_en", tfds_dir=sys.argv[1])),
]
for source, *parts in loaded:
    print(json.dumps([source, [[part[n] for n in range(len(part))] for part in parts]]))
print(json.dumps("tensorflow" in sys.modules))
"""


@pytest.mark.skipif(not has_tensorflow, reason="TensorFlow, which prepares the data sets, is not installed")
def test_reviews_phrases_and_translations_are_read_without_tensorflow(tmp_path):
    for program in (STORE, LOAD):
        words = [sys.executable, "-c", program, str(tmp_path)]
        result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
    imdb, sst2, ted, tensorflow = map(json.loads, result.stdout.splitlines())
    assert not tensorflow
    sources = [source for source, _ in (imdb, sst2, ted)]
    assert all(source.endswith(" of tensorflow-datasets") for source in sources)
    names = [source.rpartition("/")[0] for source in sources]
    assert names == ["imdb_reviews/plain_text", "glue/sst2", "ted_hrlr_translate/pt_to_en"]
    for (_, (train, valid, test)), text, classes in (
        (imdb, "review  {}", ("neg", "pos")),
        (sst2, "phrase {}", ("negative", "positive")),
    ):
        expected = [[text.format(n), classes[n % 2]] for n in range(26)]
        assert (len(train), len(valid)) == (18, 2)
        assert sorted([*train, *valid]) == sorted(expected[:20])
        assert test == expected[20:]
    expected = [[f"fonte \u00e3 {n}", f"source {n}"] for n in range(29)]
    assert ted[1] == [expected[:20], expected[20:25], expected[25:]]


def test_wait_for_a_download_is_announced_with_the_way_around_it(tmp_path, monkeypatch, capsys):
    said = []

    class Builder:
        url_infos = types.MappingProxyType({"https://a/texts.zip": types.SimpleNamespace(filename="texts.zip")})

        def __init__(self, ready):
            self.is_prepared = lambda: ready

        def download_and_prepare(self, download_config):
            said.append(capsys.readouterr().err)
            if not self.is_prepared():
                raise ConnectionError("no network\nat all")

    def stub(ready):
        download = types.SimpleNamespace(DownloadConfig=lambda manual_dir: manual_dir)
        return types.SimpleNamespace(builder=lambda *names, **options: Builder(ready), download=download)

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", stub(ready=False))
    with pytest.raises(UsageError) as error:
        prepared("texts", None, None)
    (line,) = said.pop().splitlines()
    way_out = "put its source (texts.zip) into a folder and name that with --tfds-manual-dir"
    assert line.startswith("note: preparing texts, once; without a network, ")
    assert line.endswith(way_out)
    assert str(error.value) == f"--dataset: texts can't be had: ConnectionError: no network at all; {way_out}"
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", stub(ready=True))
    prepared("texts", None, None)
    assert said == [""]
