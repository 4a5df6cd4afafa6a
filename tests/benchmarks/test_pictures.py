"""Which pictures rows allow, and how contestants look in them."""

import os

from benchmarks import pictures
from tests.benchmarks.made_rows import row


def test_pictures_are_those_that_the_rows_allow(tmp_path):
    rows = [row(who, cell=cell, case=case) for who in ("scan", "fused", "PyTorch") for cell in ("LSTM", "GRU")
            for case in ("H=64", "H=256", "B=4")]  # fmt: skip
    files = pictures.draw(rows, tmp_path / "new")
    # Of T there is the middle alone.
    assert [file.name for file in files] == [
        "gradient_against_H.png", "gradient_against_B.png", "bars_gradient.png", "limit.png",
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path / "new")) == sorted(file.name for file in files)
    assert all(file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5000 for file in files)


def test_pictures_without_a_sweep_or_a_second_contestant(tmp_path):
    assert pictures.draw([row(share_of_limit=None)], tmp_path) == []
    assert pictures.draw([row("scan", None), row("fused", None)], tmp_path) == []


def test_bars_of_a_sweep_where_there_is_nothing_else(tmp_path):
    rows = [row(who, cell=cell, case="H=64") for who in ("fused", "scan") for cell in ("LSTM", "GRU-before")]
    assert [file.name for file in pictures.draw(rows, tmp_path)] == ["bars_gradient.png", "limit.png"]


def test_pictures_of_a_step_and_of_another_dtype(tmp_path):
    steps = [row(who, 0.1, mode="step", case=case, T=1) for who in ("cell.step", "PyTorch")
             for case in ("H=64", "H=256", "B=4")]  # fmt: skip
    half = [row(who, dtype="bfloat16") for who in ("fused", "scan")]
    assert [file.name for file in pictures.draw(steps + half, tmp_path)] == [
        "step_against_H.png", "step_against_B.png", "bars_step.png", "limit.png",
        "bars_gradient_bfloat16.png", "limit_bfloat16.png",
    ]  # fmt: skip


def test_styles_are_all_different_and_ours_are_bold():
    names = ("fused", "native", "cell.step", "scan", "PyTorch", "Haiku")
    styles = pictures.styles_of([*map(row, names), row("fused", case="language")])
    assert [name for name in styles if styles[name].bold] == ["fused", "cell.step", "native"]
    assert len({style.color for style in styles.values()}) == len(names)
    assert all(styles[name] == pictures.styles_of([row(name)])[name] for name in ("PyTorch", "Haiku"))
