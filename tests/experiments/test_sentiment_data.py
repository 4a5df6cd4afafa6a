"""Texts and classes: the synthetic ones, a user's own, and what is said of mistakes."""

import io
import json
import pathlib
import re
import tarfile
from typing import Any

import numpy as np
import pytest

from experiments.common.cli import UsageError
from experiments.sentiment import data
from experiments.sentiment.baseline import bag_of_words, majority
from experiments.sentiment.config import Config
from experiments.sentiment.reviews import _BAD, _GOOD, _NEGATIONS, generate
from experiments.sentiment.train import Run

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"


def table(path: pathlib.Path, rows: Any, header: str = "text\tlabel") -> str:
    path.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n")
    return str(path)


def reading(review: str) -> str:
    """The class of a synthetic review, by a reader who knows what its forms mean and nothing of the generator."""
    clauses = [c for c in re.split(r" \. | , |, | \.$|^although ", review) if re.search(r"the (?!theatre)\w+ was", c)]
    if "even though" in review:
        clauses = [c for c in clauses if not c.startswith("even though")]
    main = clauses[-1]
    words = main.split()
    good = any(word in _GOOD for word in words)
    assert good != any(word in _BAD for word in words)
    turns = main.startswith(("nobody", "but nobody", "in the end nobody")) + any(f" {n} " in main for n in _NEGATIONS)
    return "positive" if good == (turns % 2 == 0) else "negative"


def test_class_of_a_synthetic_review_follows_from_its_words() -> None:
    reviews = generate(2000, seed=1)
    assert len({text for text, _ in reviews}) == 2000
    assert sum(label == "positive" for _, label in reviews) == 1000
    assert all(reading(text) == label for text, label in reviews)
    assert generate(2000, seed=1) == reviews != generate(2000, seed=2)


def test_counting_words_tells_little_of_a_synthetic_review() -> None:
    run = Run(Config())
    splits = [run.splits[name] for name in ("train", "valid", "test")]
    assert bag_of_words(*splits, len(run.vocabulary)) < 0.6
    assert majority(splits[0], splits[2]) < 0.55


def test_counting_words_is_enough_where_it_is(tmp_path: pathlib.Path) -> None:
    # The baseline can do what it should: here one word decides.
    rows = [(f"a {'fine' if i % 2 else 'dire'} film number {i}", str(i % 2)) for i in range(300)]
    run = Run(Config(data=table(tmp_path / "t.tsv", rows)))
    assert bag_of_words(run.splits["train"], run.splits["valid"], run.splits["test"], len(run.vocabulary)) == 1.0


def test_split_is_that_of_the_fractions_and_no_text_is_in_two_parts() -> None:
    corpus = data.load(Config())
    sizes = [len(part) for part in corpus[1:]]
    assert sizes == [8100, 900, 1000]
    assert len({example.text for part in corpus[1:] for example in part}) == 10_000
    assert data.load(Config(seed=7)).sha256() == corpus.sha256(), "another seed trains on the same split"


def test_table_of_ones_own_with_any_classes(tmp_path: pathlib.Path) -> None:
    rows = [(f"text {i} {'x' * (i % 3)}", f"class {i % 3}") for i in range(60)]
    path = table(tmp_path / "mine.tsv", rows, header="review\tkind")
    run = Run(Config(data=path, text_column="review", label_column="kind", balance=True))
    assert run.classes == ("class 0", "class 1", "class 2")
    assert sum(len(split.texts) for split in run.splits.values()) == 60
    assert float(run.weights @ run.counts) == pytest.approx(run.counts.sum())
    assert run.weights @ run.counts / run.counts.sum() == pytest.approx(1)


def test_test_data_of_ones_own_is_kept_apart(tmp_path: pathlib.Path) -> None:
    train = table(tmp_path / "a.tsv", [(f"train {i}", str(i % 2)) for i in range(40)])
    test = table(tmp_path / "b.tsv", [(f"test {i}", str(i % 2)) for i in range(7)])
    corpus = data.load(Config(data=train, test_data=test))
    assert [example.text for example in corpus.test] == [f"test {i}" for i in range(7)]
    assert len(corpus.train) == 36
    assert all("train" in example.text for example in (*corpus.train, *corpus.valid))


def test_folder_and_archive_of_texts_are_read(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "aclImdb"
    for split, count in (("train", 30), ("test", 4)):
        for i in range(count):
            path = folder / split / ("pos" if i % 2 else "neg") / f"{i}_9.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{split} {i}<br /><br />caf\xe9".encode("latin-1"))
        # What the archive of the data set holds besides.
        (folder / split / "urls_neg.txt").write_text("http://a.film\n")
        (folder / f"{split}/unsup").mkdir()
        (folder / split / "unsup" / "0_0.txt").write_text("no class")
    (folder / "README.txt").write_text("about")
    archive = tmp_path / "aclImdb.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "aclImdb")
    for path in (folder, archive):
        corpus = data.load(Config(data=str(path)))
        assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (27, 3, 4)
        assert set(corpus.test) == {data.Example(f"test {i}  caf\ufffd", "pos" if i % 2 else "neg") for i in range(4)}


def test_only_the_last_words_are_read(tmp_path: pathlib.Path) -> None:
    rows = [("word " * 10_000 + f"end{i % 2}", str(i % 2)) for i in range(40)]
    run = Run(Config(data=table(tmp_path / "t.tsv", rows), max_length=3))
    assert {len(text) for text in run.splits["train"].texts} == {3}
    assert all(run.vocabulary.words[text[-1]].startswith("end") for text in run.splits["train"].texts)


def test_empty_text_is_a_text_of_no_words(tmp_path: pathlib.Path) -> None:
    rows = [("" if i % 5 == 0 else f"some words {i}", str(i % 2)) for i in range(40)]
    run = Run(Config(data=table(tmp_path / "t.tsv", rows)))
    batch = run.splits["train"].batch(np.arange(len(run.splits["train"].texts)), 64)
    assert 0 in batch.lengths[: len(run.splits["train"].texts)]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {"data": "none.tsv"}, "--data: expected a file, found no"),
        ({}, {"data": "none.doc"}, "--data: expected a folder, a .tar.gz or a file of the kind .*, which is not there"),
        ({"t.tsv": ""}, {"data": "t.tsv"}, "--data: expected rows, .*t.tsv has none"),
        (
            {"t.tsv": "text\tlabel\na\t0\nb\t1\n"},
            {"data": "t.tsv"},
            "expected examples for training, valid and",
        ),
        ({"t.tsv": "sentence\tlabel\na\t0\n"}, {"data": "t.tsv"}, "--data: expected the column 'text' in line 2"),
        (
            {"t.tsv": "text\tlabel\n" + "a\t1\n" * 50},
            {"data": "t.tsv"},
            "expected two classes or more",
        ),
        (
            {"t.tsv": "text\tlabel\n" + "a\t1\nb\t0\n" * 50, "u.tsv": "text\tlabel\nc\tmeh\n"},
            {"data": "t.tsv", "test_data": "u.tsv"},
            "--test-data: expected one of the classes '0', '1', which were trained on, got 'meh' in the test split",
        ),
        ({"d/x.md": "x"}, {"data": "d"}, "expected files train/LABEL/NAME.txt in"),
        ({"t.tar.gz": "x"}, {"data": "t.tar.gz"}, "t.tar.gz can't be read"),
    ],
    ids=str,
)
def test_mistakes_are_named(tmp_path: pathlib.Path, files: Any, options: Any, message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        data.load(Config(**{name: str(tmp_path / value) for name, value in options.items()}))


def test_only_examples_of_a_class_are_trained_on(tmp_path: pathlib.Path) -> None:
    rare = [(f"rare {n}", f"class {n}") for n in range(20)]
    rows = [(f"text {n}", "ab"[n % 2]) for n in range(80)]
    path = tmp_path / "t.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows + rare))
    corpus = data.load(Config(data=str(path)))
    assert sorted(corpus.train + corpus.valid + corpus.test) == sorted(rows + rare)
    assert {*rare} <= {*corpus.train}
    assert min(len(corpus.valid), len(corpus.test)) > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary_size": 2}, "--vocabulary-size: expected 3 or more, got 2"),
        ({"hidden_size": 0}, "--hidden-size: expected a positive integer, got 0"),
        ({"word_dropout": 1.0}, "--word-dropout: expected 0 or more and less than 1"),
        ({"data": "x", "dataset": "glue/sst2"}, "--dataset: expected --data or --dataset, not both"),
        ({"test_data": "x"}, "--test-data: expected none without --data"),
    ],
)
def test_configuration_names_what_is_wrong(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Config(**options)


@pytest.mark.skipif(not (SHARED / "imdb").is_dir(), reason="the corpus is not here")
def test_imdb_is_read_from_its_archive() -> None:
    # The first members only: the whole takes long.
    with tarfile.open(SHARED / "imdb" / "aclImdb_labelled.tar.gz") as archive:
        member = archive.next()
        assert member is not None
        assert member.name.startswith("aclImdb/test/neg/")
        assert isinstance(archive.extractfile(member), io.BufferedReader)


@pytest.mark.skipif(not (SHARED / "sst2").is_dir(), reason="the corpus is not here")
def test_sst2_is_read_from_its_tables() -> None:
    train, dev = (str(SHARED / "sst2" / f"glue_{name}.tsv.gz") for name in ("train", "dev"))
    corpus = data.load(Config(data=train, test_data=dev, text_column="sentence", valid_fraction=0.02))
    assert len(corpus.train) + len(corpus.valid) == 67_349
    assert len(corpus.test) == 872
    assert corpus.test[0] == data.Example("it 's a charming and often affecting journey . ", "1")
    assert json.dumps(corpus.source)
