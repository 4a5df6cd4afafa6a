"""Runs of which something is lost."""

import importlib
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest


def damaged(run: pathlib.Path, folder: pathlib.Path, name: str) -> pathlib.Path:
    """A copy of a run in which a file is cut in half, or a folder has lost its files."""
    copy = folder / "damaged"
    shutil.copytree(run, copy)
    path = copy / name
    for file in [file for file in path.rglob("*") if file.is_file()]:
        file.unlink()
    if path.is_file():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return copy


def check_is_named(main: Callable[[list[str]], int], words: list[str], path: pathlib.Path, capsys: Any) -> None:
    """A command says in one line that a file or folder can't be read."""
    capsys.readouterr()
    assert main(words) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --workdir: {path} can't be read: ")
    assert len(line) < 600


def crashed(experiment: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains up to where the first step would be."""

    def crash(*arguments: Any) -> None:
        raise RuntimeError("before the first step")

    main = importlib.import_module(f"experiments.{experiment}.__main__").main
    with monkeypatch.context() as broken:
        broken.setattr(f"experiments.{experiment}.train.run_training", crash)
        with pytest.raises(RuntimeError, match="before the first step"):
            main(words)


def check_gives_way(experiment: str, words: list[str], folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run crashed before its first step, another one leaves what it leaves in a new folder.

    The two options at the end of `words` are those that the other run has and the first has not.
    """
    main = importlib.import_module(f"experiments.{experiment}.__main__").main
    again, fresh = folder / "again", folder / "fresh"
    crashed(experiment, [*words[:-2], "--workdir", str(again)], monkeypatch)
    for workdir in (again, fresh):
        assert main([*words, "--workdir", str(workdir)]) == 0
    assert files(again) == files(fresh)
    assert (again / "metrics.jsonl").read_text() == (fresh / "metrics.jsonl").read_text()


def files(run: pathlib.Path) -> dict[str, bytes]:
    """The files in which a run keeps what it knows of its data."""
    names = ("vocabulary.json", "baselines.json", "corpus.json", "source.json", "target.json", "config.json")
    return {name: (run / name).read_bytes() for name in names if (run / name).exists()}
