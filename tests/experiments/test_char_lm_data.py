"""Text, split, vocabulary and streams."""

import gzip

import numpy as np
import pytest

from experiments.char_lm.config import Config
from experiments.char_lm.data import Streams, Vocabulary, load, standard_library, unseen
from experiments.common.cli import UsageError

SMALL = {"batch_size": 2, "chunk_length": 3}


def test_split_is_contiguous_and_whole(tmp_path):
    text = "".join(chr(97 + i % 26) for i in range(1000))
    (tmp_path / "a.txt").write_text(text)
    split = load(Config(data=str(tmp_path / "a.txt"), valid_fraction=0.05, test_fraction=0.1, **SMALL)).split
    assert "".join(split) == text
    assert [len(part) for part in split] == [850, 50, 100]


def test_folder_joins_text_files_in_order_and_leaves_others(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_text("two" * 20)
    (tmp_path / "1.txt").write_text("one" * 20)
    (tmp_path / "3.bin").write_bytes(b"\0\1\2")
    (tmp_path / ".hidden").write_text("no")
    text = load(Config(data=str(tmp_path), **SMALL))
    assert "".join(text.split) == "one" * 20 + "two" * 20
    assert "2 files (1 others are not text)" in text.source


def test_a_folder_below_a_hidden_one_is_read(tmp_path):
    (tmp_path / ".home").mkdir()
    (tmp_path / ".home" / "a.txt").write_text("abc" * 30)
    assert "".join(load(Config(data=str(tmp_path / ".home"), **SMALL)).split) == "abc" * 30


def test_gzip_and_line_ends_and_bad_bytes_are_kept(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a\r\nb\xff" * 30))
    assert "".join(load(Config(data=str(tmp_path / "a.txt.gz"), **SMALL)).split) == "a\r\nb\ufffd" * 30


def test_embedded_text_is_this_interpreters_library():
    source, text = standard_library()
    assert "standard library of Python 3" in source
    assert "class JSONDecodeError" not in text, "packages are left out"
    assert "def namedtuple" not in text
    assert "class Fraction" in text


def test_errors_name_the_option(tmp_path):
    with pytest.raises(UsageError, match=r"--data: expected a file or a folder, found no .*nothing"):
        load(Config(data=str(tmp_path / "nothing")))
    with pytest.raises(UsageError, match=r"expected text files in .* found none"):
        load(Config(data=str(tmp_path)))
    (tmp_path / "broken.gz").write_bytes(gzip.compress(b"text" * 99)[:-20])
    with pytest.raises(UsageError, match=r"broken.gz can't be read"):
        load(Config(data=str(tmp_path / "broken.gz")))
    (tmp_path / "binary").write_bytes(b"text\0" * 99)
    with pytest.raises(UsageError, match=r"expected text, .* holds binary data"):
        load(Config(data=str(tmp_path / "binary")))
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(UsageError, match=r"at least 8 characters to train on .* got 5, 0 and 0"):
        load(Config(data=str(tmp_path / "short.txt"), **SMALL))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dropout", 1.0),
        ("hidden_size", 0),
        ("test_fraction", 0.97),
        ("epochs", 0.0),
        ("decay", 1.5),
        ("momentum", -1.0),
        ("seed", -1),
    ],
)
def test_configuration_refuses_what_makes_no_sense(name, value):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}: expected .* got {value}"):
        Config(**{name: value})


def test_vocabulary_round_trip_and_unknown():
    vocabulary = Vocabulary.of("hello, wörld \U0001f600")
    text = "hold \U0001f600"
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.encode("hXe").tolist()[1] == 0
    assert unseen("hello", vocabulary) == "none unseen in training"
    assert unseen("hXXe", vocabulary) == "2 (50.00%) unseen in training, 1 kinds: 'X'"
    assert Vocabulary.of("").encode("ab").tolist() == [0, 0]


def test_streams_pass_over_the_text_in_order_each_epoch():
    indices = np.arange(1000)
    streams = Streams(indices, batch_size=4, chunk_length=7, seed=3, epochs=6.0)
    part = 999 // 4
    assert len(streams) == 6 * streams.steps_per_epoch
    offsets = set()
    for epoch in range(6):
        steps = range(epoch * streams.steps_per_epoch, (epoch + 1) * streams.steps_per_epoch)
        batches = [streams[step] for step in steps]
        assert [fresh for _, _, fresh in batches] == [True] + [False] * (len(batches) - 1)
        inputs = np.concatenate([inputs for inputs, _, _ in batches])
        targets = np.concatenate([targets for _, targets, _ in batches])
        offset = inputs[0, 0]
        offsets.add(offset)
        assert (inputs == np.arange(len(inputs))[:, None] + offset + part * np.arange(4)).all()
        assert (targets == inputs + 1).all()
        assert len(inputs) > part - 7, "no more than a chunk of each stream is left out"
    assert len(offsets) > 1, "epochs begin at different places"
