"""Tables and word vectors of a user's own: what is read, and what is said of mistakes."""

import gzip
import pathlib

import numpy as np
import pytest

from experiments.common.cli import UsageError
from experiments.common.tables import read_columns
from experiments.common.vectors import read_vectors
from experiments.common.words import UNKNOWN, Vocabulary, tokenize

ROWS = [('a "good" one', "pos"), ("dire,\tdire", "neg")]
TEXTS = {
    "t.csv": 'label,text,n\npos,"a ""good"" one",1\nneg,"dire,\tdire",2\n',
    "t.jsonl": '{"text": "a \\"good\\" one", "label": "pos"}\n\n{"label": "neg", "text": "dire,\\tdire"}\n',
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("compressed", [False, True])
def test_columns_are_read_by_name(tmp_path: pathlib.Path, name: str, compressed: bool) -> None:
    path = tmp_path / (name + ".gz" * compressed)
    raw = TEXTS[name].encode()
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    assert [row for _, row in read_columns("data", path, ("text", "label"))] == ROWS


def test_a_quotation_mark_in_a_tsv_file_is_a_sign_like_others(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(b'\xef\xbb\xbftext\tlabel\r\n"so-called film\t0\r\nit \'s "fine"\t1\r\n')
    rows = list(read_columns("data", path, ("text", "label")))
    assert rows == [(2, ('"so-called film', "0")), (3, ('it \'s "fine"', "1"))]


def test_bytes_that_are_not_utf8_become_a_sign(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(b"text\tlabel\ncaf\xe9 \xff\t1\n")
    assert next(read_columns("data", path, ("text",)))[1] == ("caf\ufffd \ufffd",)


def test_a_field_may_be_very_long(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "word " * 100_000 + ",1\n")
    assert len(next(read_columns("data", path, ("text",)))[1][0].split()) == 100_000


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.tsv", "", "--data: expected rows, .*t.tsv has none"),
        ("t.tsv", "text\tlabel\n", "--data: expected rows, .*t.tsv has none"),
        (
            "t.tsv",
            "review\tlabel\nx\t1\n",
            "expected the column 'text' in line 2 of .*t.tsv, which has 'review', 'label'",
        ),
        ("t.csv", "text,label\nx,1\ny\n", "expected the column 'label' in line 3"),
        ("t.jsonl", '{"text": "x"}\n', "expected the column 'label' in line 1"),
        ("t.jsonl", "[1]\n", "expected an object in line 1, found a list"),
        ("t.jsonl", "{\n", "t.jsonl can't be read"),
        ("t.csv.gz", "not gzip", "t.csv.gz can't be read"),
        ("t.txt", "x", "expected a file of the kind .csv, .tsv, .jsonl .*, got t.txt"),
    ],
)
def test_mistakes_are_named(tmp_path: pathlib.Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        list(read_columns("data", path, ("text", "label")))
    with pytest.raises(UsageError, match="--data: expected a file, found no"):
        list(read_columns("data", tmp_path / "none.csv", ("text",)))


def test_vocabulary_holds_the_most_frequent_words() -> None:
    texts = [["b", "a", "a", "c"], ["b", "d", "a", UNKNOWN]]
    vocabulary = Vocabulary.of(texts, size=4, min_count=1, special=("<pad>", UNKNOWN))
    assert vocabulary.words == ("<pad>", UNKNOWN, "a", "b")
    assert vocabulary.encode(["b", "zebra", "a"]).tolist() == [3, 1, 2]
    assert vocabulary.encode(["<pad>", UNKNOWN]).tolist() == [1, 1]
    assert vocabulary.decode([3, 1]) == ["b", UNKNOWN]
    assert "a" in vocabulary
    assert "c" not in vocabulary
    assert Vocabulary.of(texts, 99, min_count=2, special=(UNKNOWN,)).words == (UNKNOWN, "a", "b")


def test_words_of_pretokenised_and_of_plain_text_are_the_same() -> None:
    assert tokenize("It 's not bad -- really !") == ["it", "'s", "not", "bad", "-", "-", "really", "!"]
    assert tokenize("'Twas “fine”, naïve 3.5") == ["'", "twas", "“", "fine", "”", ",", "naïve", "3", ".", "5"]
    assert tokenize("don't") == ["don't"]
    assert tokenize(" \n") == []
    hindi = "\u0939\u093f\u0928\u094d\u0926\u0940"
    assert tokenize(f"Cafe\u0301 {hindi}!") == ["caf\u00e9", hindi, "!"]


def test_vectors_of_known_words_are_read(tmp_path: pathlib.Path) -> None:
    vocabulary = Vocabulary(("<pad>", UNKNOWN, "film", "dull"))
    path = tmp_path / "glove.txt"
    path.write_text("the 1 2 3\nfilm 4 5 -6e-1\n. . . 7 8 9\n")
    rows, vectors = read_vectors("vectors", path, vocabulary, 3)
    assert rows.tolist() == [2]
    np.testing.assert_allclose(vectors, [[4, 5, -0.6]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("film 1 2\n", r"expected 3 numbers \(--embedding-size\) behind each word of .*, got 2 in line 1"),
        ("film 1 2 x\n", "can't be read"),
        ("moon 1 2 3\n", "expected vectors of words in the texts, .* has none"),
    ],
)
def test_mistakes_in_vectors_are_named(tmp_path: pathlib.Path, text: str, message: str) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_vectors("vectors", path, Vocabulary((UNKNOWN, "film")), 3)
