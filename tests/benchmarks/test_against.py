"""What moved between two files of rows, by hand."""

import pytest

from benchmarks.against import compare, render
from benchmarks.cases import CASES

PEERS = ("PyTorch", "Haiku")


def row(contestant, milliseconds, width=0.02, *, case="tagger", **changes):
    """A row with what a comparison reads; its quartiles lie `width` below and above the median."""
    seconds = None if milliseconds is None else milliseconds / 1e3
    times = lambda factor: None if seconds is None else seconds * factor
    peer = contestant in PEERS
    return {
        "cell": "GRU", "implementation": None if peer else contestant, "peer": contestant if peer else None,
        "case": case, **CASES[case]._asdict(), "dtype": "float32", "mode": "gradient", "median_s": seconds,
        "q25_s": times(1 - width), "q75_s": times(1 + width), "error": None if seconds else "not installed",
        "device": "a CPU", "versions": {"jax": "0.10.2"},
    } | changes  # fmt: skip


def verdicts(old, new):
    """The verdict on each contestant."""
    return {c.row["implementation"] or c.row["peer"]: c.verdict for c in compare(old, new).changes}


def test_moved_only_where_quartiles_lie_apart():
    old = [row("fused", 10.0), row("native", 10.0), row("scan", 10.0), row("wide", 10.0, 0.3), row("edge", 10.0, 0.25)]
    new = [row("fused", 10.5), row("native", 9.5), row("scan", 10.3), row("wide", 15.0, 0.3), row("edge", 5.0, 0.5)]
    # fused 9.8..10.2 to 10.29..10.71; scan to 10.09..10.51; wide 7..13 to 10.5..19.5; edge 7.5..12.5 to 2.5..7.5.
    assert verdicts(old, new) == {
        "fused": "slower", "native": "faster", "scan": "same", "wide": "same", "edge": "same",
    }  # fmt: skip
    assert {c.row["implementation"]: c.ratio for c in compare(old, new).changes}["fused"] == pytest.approx(1.05)


def test_verdicts_without_two_times():
    old = [row("fused", None), row("native", 10.0), row("scan", None), row("left", 10.0)]
    new = [row("fused", 10.0), row("native", None), row("scan", None), row("came", 10.0)]
    assert verdicts(old, new) == {
        "fused": "fixed", "native": "broken", "scan": "no time in both", "left": "gone", "came": "new",
    }  # fmt: skip
    text = render(compare(old, new))
    assert "broken: native GRU gradient tagger float32: not installed" in text
    assert "fixed: fused GRU gradient tagger float32: 10.0 ms" in text
    assert text.endswith("all: 1 broken, 1 fixed, 1 no time in both, 1 new (came), 1 gone (left)")


def test_newest_rows_are_compared():
    assert verdicts([row("fused", 99.0), row("fused", 10.0)], [row("fused", 50.0), row("fused", 10.0)]) == {
        "fused": "same"
    }


def test_drift_is_that_of_the_peers():
    cases = ("tagger", "language", "translator", "speech")
    old = [row("PyTorch", 10.0, case=case) for case in cases] + [row("fused", 10.0), row("fused", 10.0, case="long")]
    new = [row("PyTorch", 10.0 * f, case=case) for case, f in zip(cases, (2.2, 1.0, 1.4, 1.8), strict=True)]
    new += [row("fused", 22.0), row("fused", 16.0, case="long")]
    found = compare(old, new)
    # Of 1, 1.4, 1.8 and 2.2 the median is 1.6, and the quartiles are 3/4 of the way to 1.4 and 1/4 of that to 2.2.
    assert found.drift == pytest.approx((1.3, 1.6, 1.9))
    ours = {change.row["case"]: change for change in found.changes if not change.row["peer"]}
    # The peer of the same job tells; where there is none, the median of all.
    assert ours["tagger"].machine == pytest.approx(2.2)
    assert ours["long"].machine == pytest.approx(1.6)
    for change in ours.values():
        assert change.corrected == pytest.approx(1.0)
        assert (change.verdict, change.alone) == ("slower", "same")
    assert all(change.corrected is None for change in found.changes if change.row["peer"])
    assert "peers moved by a median factor of 1.60 (1.30 to 1.90 quartiles): that much is the machine" in render(found)


def test_what_the_machine_hid_is_shown():
    found = compare([row("PyTorch", 10.0), row("fused", 10.0)], [row("PyTorch", 5.0), row("fused", 10.0)])
    (ours,) = [change for change in found.changes if change.row["implementation"]]
    assert (ours.verdict, ours.alone, ours.corrected) == ("same", "slower", pytest.approx(2.0))
    assert "| fused      | same    | slower " in render(found)
    assert render(found).endswith("ours and scan without the machine's part: 1 slower")


def test_drift_of_a_job_is_the_median_of_its_peers():
    old = [row(who, 10.0) for who in ("PyTorch", "Haiku", "fused")]
    new = [row("PyTorch", 11.0), row("Haiku", 13.0), row("fused", 12.0)]
    assert compare(old, new).changes[-1].machine == pytest.approx(1.2)


def test_without_peers_the_drift_is_unknown():
    found = compare([row("fused", 10.0)], [row("fused", 20.0)])
    assert found.drift is None
    assert found.changes[0].corrected is None
    assert "how much the machine itself moved is unknown" in render(found)


def test_moved_rows_come_first_the_biggest_first():
    old = [row(who, 10.0) for who in ("steady", "little", "halved", "doubled_and_more")]
    new = [row("steady", 10.0), row("little", 11.0), row("halved", 5.0), row("doubled_and_more", 21.0)]
    table = [line.split("|")[5].strip() for line in render(compare(old, new)).splitlines() if line.startswith("|")]
    assert table[2:] == ["doubled_and_more", "halved", "little"]


def test_another_device_is_not_compared():
    found = compare([row("fused", 10.0), row("fused", 1.0, device="a GPU")], [row("fused", 10.0)])
    assert [change.verdict for change in found.changes] == ["same"]
    assert "only one of the files knows the device: 1 measurements of a GPU" in render(found)
    nothing = compare([row("fused", 1.0, device="a GPU")], [row("fused", 10.0)])
    assert nothing.changes == []
    assert nothing.elsewhere == {"a GPU": 1, "a CPU": 1}


def test_other_versions_are_named():
    old = row("PyTorch", 10.0, versions={"jax": "0.10.1", "numpy": "2.4", "torch": "2.13"})
    found = compare([old], [row("PyTorch", 10.0, versions={"jax": "0.10.2", "numpy": "2.4", "keras": "3"})])
    assert found.upgraded == {"jax": ("0.10.1", "0.10.2")}
    assert "not all of that is the machine: jax 0.10.1 to 0.10.2" in render(found)
