"""Pairs of texts: dates, a user's own files, tokens, batches, and what is said of mistakes."""

import datetime
import gzip
import pathlib
from typing import Any

import babel.dates
import numpy as np
import pytest

from experiments.common.cli import UsageError
from experiments.seq2seq import data
from experiments.seq2seq.config import Config, absolute
from experiments.seq2seq.dates import generate
from experiments.seq2seq.lines import Lines, read
from experiments.seq2seq.tokens import END_ID, SPECIAL, START_ID, UNKNOWN_ID, Pieces, restore

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
SENTENCES = [f"{a} {b} {c}" for a in ("a", "the", "one") for b in ("cat", "dog", "bird") for c in ("sits", "runs")]


def tsv(path: pathlib.Path, pairs: Any) -> str:
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return str(path)


def test_dates_can_be_read_back_in_their_language() -> None:
    pairs = generate(400, seed=3)
    assert len({source for source, _ in pairs}) == 400
    assert generate(400, seed=3) == pairs != generate(400, seed=4)
    for source, target in pairs:
        day = datetime.date.fromisoformat(target)
        assert str(day.year) in source
        # The text is what some locale writes for this day in a style of ours, and for no other day of the year.
        figures = [int(part) for part in "".join(c if c.isdigit() else " " for c in source).split()]
        assert day.day in figures
        assert len(figures) <= 3
        if len(figures) == 3:
            assert figures == [day.year, day.month, day.day]
    assert sum(not source.isascii() for source, _ in pairs) > 100, "many scripts"
    assert any(source == babel.dates.format_date(datetime.date.fromisoformat(t), "long", "de") for source, t in pairs)


def test_split_of_dates_has_no_pair_twice() -> None:
    corpus = data.load(Config())
    assert [len(pairs) for pairs in corpus[1:]] == [10_000, 1000, 1000]
    texts = [pairs[n][0] for pairs in corpus[1:] for n in range(len(pairs))]
    assert len(set(texts)) == 12_000
    assert data.load(Config(seed=5)).sha256() == corpus.sha256(), "another seed trains on the same split"


def test_another_pair_anywhere_is_another_corpus(tmp_path: pathlib.Path) -> None:
    pairs = [(f"source {n}", f"target {n}") for n in range(3000)]
    first = data.load(Config(data=(tsv(tmp_path / "a.tsv", pairs),))).sha256()
    changed = [*pairs[:-1], ("source 2999", "another")]
    moved = [*pairs[:-1], ("source", "2999 target 2999")]
    hashes = {data.load(Config(data=(tsv(tmp_path / "b.tsv", other),))).sha256() for other in (pairs, changed, moved)}
    assert first in hashes
    assert len(hashes) == 3


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_lines_are_found_by_number(tmp_path: pathlib.Path, ending: str, last: bool) -> None:
    texts = ["first", "", "caf\u00e9 \u4e2d", "last"]
    raw = b"\xef\xbb\xbf" + ending.join(texts).encode() + ending.encode() * last
    for name, content in (("t.txt", raw), ("t.txt.gz", gzip.compress(raw))):
        path = tmp_path / name
        path.write_bytes(content)
        lines = Lines("data", path)
        assert [lines[n] for n in range(len(lines))] == texts


def test_lines_of_a_large_file_are_not_held_in_memory(tmp_path: pathlib.Path) -> None:
    import tracemalloc

    path = tmp_path / "t.txt"
    path.write_text(("word " * 100 + "\n") * 20_000)
    tracemalloc.start()
    lines = Lines("data", path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(lines) == 20_000
    assert most < path.stat().st_size / 10


def test_pairs_of_two_columns_two_files_and_scan(tmp_path: pathlib.Path) -> None:
    expected = [("ein Hund", "a dog"), ("zwei \ufffd", "two")]
    (tmp_path / "t.tsv").write_bytes(b"ein Hund\ta dog\nzwei \xff\ttwo\n")
    (tmp_path / "t.de").write_bytes(b"ein Hund\nzwei \xff\n")
    (tmp_path / "t.en").write_text("a dog\ntwo\n")
    (tmp_path / "scan.txt").write_bytes(b"IN: ein Hund OUT: a dog\nIN: zwei \xff OUT: two\n")
    for names in (["t.tsv"], ["t.de", "t.en"], ["scan.txt"]):
        pairs = read("data", tuple(str(tmp_path / name) for name in names))
        assert [pairs[n] for n in range(len(pairs))] == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"t.tsv": None}, "--data: expected a file, found no"),
        ({"t.tsv": ""}, "--data: expected lines, .*t.tsv has none"),
        (
            {"t.tsv": "a\tb\n" * 30 + "no tab\n"},
            "expected two columns, SOURCE<tab>TARGET, in line 31 of .*t.tsv, got 1",
        ),
        ({"t.tsv": "a\tb\tc\n" * 30}, "expected two columns, SOURCE<tab>TARGET, in line 1 of .*t.tsv, got 3"),
        ({"t.tsv": "a\tb\n"}, "--data: expected pairs for training, valid and test split, got 1, 0 and 0"),
        ({"a": "x\n", "b": "x\ny\n"}, "--data: expected as many lines in both files, got 1 in .* and 2 in"),
        ({"t.gz": "x"}, "t.gz can't be read"),
        ({"t.tsv": "\n \t \n\n"}, "--data: expected pairs, .*t.tsv has only blank lines"),
    ],
    ids=str,
)
def test_mistakes_in_files_are_named(tmp_path: pathlib.Path, files: Any, message: str) -> None:
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    config = Config(data=tuple(str(tmp_path / name) for name in files))
    with pytest.raises(UsageError, match=message):
        data.survey(config, data.load(config).train)


def test_folder_is_no_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="--data: expected a file, found a folder at"):
        read("data", (str(tmp_path),))


def test_blank_lines_are_no_pairs(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("a\tb\n\n \t\nc\t\n\td\n\n")
    pairs = read("data", (str(path),))
    assert [pairs[n] for n in range(len(pairs))] == [("a", "b"), ("c", ""), ("", "d")]


def test_three_files_are_no_pairs() -> None:
    with pytest.raises(UsageError, match="--data: expected one or two files, got 3"):
        read("data", ("a", "b", "c"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 7}, "--hidden-size: expected an even number, for two directions, got 7"),
        ({"data": ("a", "b", "c")}, "--data: expected one or two files, got"),
        ({"test_data": ("a",)}, "--test-data: expected none without --data"),
        ({"vocabulary_size": 4}, "--vocabulary-size: expected 5 or more, got 4"),
        ({"teacher_forcing": 1.5}, "--teacher-forcing: expected from 0 to 1, got 1.5"),
        ({"attention": "none", "coverage_penalty": 0.2}, "--coverage-penalty: expected 0 without attention, got 0.2"),
        ({"data": ("a",), "dataset": "x/y"}, "--dataset: expected --data or --dataset, not both"),
    ],
)
def test_configuration_names_what_is_wrong(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Config(**options)


def test_paths_hold_from_any_folder(tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    config = absolute(Config(data=("a.de", "a.en"), tfds_dir="d"))
    assert config.data == (str(tmp_path / "a.de"), str(tmp_path / "a.en"))
    assert config.tfds_dir == str(tmp_path / "d")


@pytest.mark.parametrize(
    ("kind", "text", "tokens", "joined"),
    [
        ("words", "The Cat, sits!", ["the", "cat", ",", "sits", "!"], "the cat , sits !"),
        ("spaces", "The  Cat,\tsits!", ["The", "Cat,", "sits!"], "The Cat, sits!"),
        ("characters", "a cat", list("a cat"), "a cat"),
    ],
)
def test_words_are_cut_and_joined(tmp_path: pathlib.Path, kind: Any, text: str, tokens: Any, joined: str) -> None:
    tokenizer = data.survey(Config(tokens=kind, min_count=2), [(text, ""), (text, "")])[0]
    assert tokenizer.cut(text) == tokens
    numbers = tokenizer.encode(text)
    assert numbers.min() >= len(SPECIAL)
    assert tokenizer.join(tokenizer.names(numbers)) == joined
    assert tokenizer.encode("\u00df").tolist() == [UNKNOWN_ID]
    tokenizer.save(tmp_path, "source")
    again = restore(tmp_path, "source", kind)
    assert again.encode(text).tolist() == numbers.tolist()
    assert len(again) == len(tokenizer)


def test_pieces_give_back_any_text(tmp_path: pathlib.Path) -> None:
    tokenizer = Pieces.of(SENTENCES * 5, size=60)
    assert tokenizer.names(range(4)) == list(SPECIAL)
    numbers = tokenizer.encode("the bird runs")
    assert tokenizer.join(tokenizer.names(numbers)) == "the bird runs"
    assert tokenizer.encode("").tolist() == []
    tokenizer.save(tmp_path, "target")
    again = restore(tmp_path, "target", "pieces")
    assert again.encode("the bird runs").tolist() == numbers.tolist()
    assert len(again) == len(tokenizer)


def test_too_few_pieces_are_refused() -> None:
    with pytest.raises(UsageError, match="--tokens: sentencepiece made no pieces with --vocabulary-size 6: "):
        Pieces.of(SENTENCES, size=6)


def encoded(pairs: Any, max_length: int = 5, widths: int = 2) -> data.Encoded:
    source, target, lengths = data.survey(Config(tokens="spaces", min_count=1), pairs)
    assert (lengths == data.measure(pairs, source, target)).all()
    return data.Encoded(pairs, source, target, max_length, widths, lengths)


def test_targets_begin_and_end_and_sources_are_cut() -> None:
    pairs = encoded([("a b c d e f g", "x y"), ("b", ""), ("", "x")])
    batch = pairs.batch(np.array([0, 1, 2]), rows=4)
    x, y = pairs.batch(np.array([0]), 1).target[1:3, 0]
    assert batch.source_lengths.tolist() == [5, 1, 0, 0]
    assert batch.target_lengths.tolist() == [4, 2, 3, 0]
    assert batch.target.T.tolist() == [
        [START_ID, x, y, END_ID], [START_ID, END_ID, 0, 0], [START_ID, x, END_ID, 0], [0, 0, 0, 0],
    ]  # fmt: skip


def test_line_of_ten_thousand_words_makes_no_long_batch() -> None:
    pairs = encoded([("a b", "x y"), ("a " * 10_000, "x " * 10_000), ("a", "x " * 6)])
    batch = pairs.batch(np.arange(3), rows=3)
    assert pairs.too_long() == 2
    assert batch.source_lengths.tolist() == [2, 5, 1]
    assert batch.target_lengths.tolist() == [4, 7, 7]
    assert batch.target[:, 0].tolist()[3:] == [END_ID, 0, 0, 0]
    assert END_ID not in batch.target[:, 1:], "where it is cut, a target does not end"


def test_pairs_that_are_empty_or_too_long_are_not_trained_on() -> None:
    pairs = [("a", "x"), ("", "x"), ("a", ""), ("a", "x " * 6), ("a " * 5, "x " * 5), ("a " * 6, "x")]
    left = encoded(pairs).trainable()
    assert [left.pairs[n] for n in range(len(left))] == [pairs[0], pairs[4]]
    assert left.lengths.tolist() == [[1, 1], [5, 5]]


def test_batches_are_of_few_widths() -> None:
    rng = np.random.default_rng(0)
    pairs = [("a " * rng.integers(1, 40), "x " * rng.integers(1, 40)) for _ in range(300)]
    some = encoded(pairs, max_length=40, widths=3)
    plan = some.plan(Config(batch_size=16, epochs=2.0))
    batches = [some.training_batches(plan)[step] for step in range(len(plan))]
    assert len(plan) == 2 * (300 // 16)
    assert len({(batch.source.shape, batch.target.shape) for batch in batches}) <= 3
    assert all(batch.source.shape[1] == 16 for batch in batches)


@pytest.mark.skipif(not (SHARED / "scan").is_dir(), reason="the corpus is not here")
def test_scan_is_read() -> None:
    path = str(SHARED / "scan" / "simple_split" / "tasks_test_simple.txt.gz")
    pairs = read("data", (path,))
    assert len(pairs) == 4182
    source, target = pairs[0]
    assert "IN" not in source.split()
    assert set(target.split()) <= {"I_JUMP", "I_LOOK", "I_RUN", "I_WALK", "I_TURN_LEFT", "I_TURN_RIGHT"}


@pytest.mark.skipif(not (SHARED / "multi30k").is_dir(), reason="the corpus is not here")
def test_multi30k_is_read() -> None:
    folder = SHARED / "multi30k" / "tok"
    pairs = read("data", tuple(str(folder / f"val.lc.norm.tok.{side}.gz") for side in ("de", "en")))
    assert len(pairs) == 1014
    assert pairs[0][1] == "a group of men are loading cotton onto a truck"
