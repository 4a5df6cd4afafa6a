"""The README's examples run as they stand."""

import json
import pathlib
import re

import pytest

from benchmarks.fused_against_scan import line, pairs

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_examples_run_in_order(blocks, capsys):
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("fused  runs")


def test_a_cell_of_ones_own_is_short_and_trains_through_fused(blocks):
    code = blocks[1].split("cell =")[0].strip().splitlines()
    assert len(code) <= 15


def test_speed_table_comes_from_committed_rows() -> None:
    readme = (ROOT / "README.md").read_text().splitlines()
    (file,) = (ROOT / "benchmarks" / "results").glob("*/fused_against_scan.jsonl")
    rows = [json.loads(text) for text in file.read_text().splitlines()]
    expected = [line(*key, *both) for key, both in pairs(rows).items() if key[0] != "forward"]
    assert [text for text in readme if text.startswith("| forward")] == expected
