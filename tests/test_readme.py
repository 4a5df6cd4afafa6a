"""The README's examples run as they stand."""

import pathlib
import re

import pytest

from benchmarks.report import fill, tables
from benchmarks.rows import read

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NATIVE = RESULTS / "amd-epyc--2-cores" / "native_avx512.jsonl"
# The rows that each README speaks of.
RECORDS = {
    "README.md": NATIVE,
    "recurrent_jax/kernels/native/README.md": NATIVE,
    "benchmarks/README.md": RESULTS / "intel-r--xeon-r--processor--2-cores" / "cpu.jsonl",
}


@pytest.fixture(scope="module")
def blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_examples_run_in_order(blocks, capsys):
    assert len(blocks) == 5
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert "fused       runs" in capsys.readouterr().out


def test_a_cell_of_ones_own_is_short_and_trains_through_fused(blocks):
    code = blocks[1].split("cell =")[0].strip().splitlines()
    assert len(code) <= 15


@pytest.mark.parametrize("name", RECORDS)
def test_tables_come_from_committed_rows(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "<!-- table " in text
    assert fill(text, tables(read(RECORDS[name]))) == text
