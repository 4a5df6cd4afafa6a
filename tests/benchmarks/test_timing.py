"""Programs made of invented seconds are timed by the rules: in turns, in blocks, until the medians are known."""

import gc
import itertools
import statistics
import types
from collections.abc import Iterable, Iterator

import pytest

from benchmarks import timing
from benchmarks.timing import BLOCK_SECONDS, LEAST_ROUNDS, REST_SECONDS, Failed, Measured, compare

# Blocks before the rounds: one call that doesn't count, three in two blocks for the size of a block, one block alone.
WARM_UP = 4
# Of invented seconds: some thousand rounds.
FAR = 60.0


class Clock:
    """Time that passes only while a program is called; rests are counted."""

    now = 0.0
    rests = 0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds == REST_SECONDS
        self.rests += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", types.SimpleNamespace(perf_counter=clock.perf_counter, sleep=clock.sleep))
    return clock


class Group:
    """Programs whose calls take the seconds that they are given; what is called when is kept."""

    def __init__(self, clock: Clock, **seconds: float | Iterable[float]) -> None:
        self.clock = clock
        self.log: list[tuple[str, list[float]]] = []
        self.programs = {name: Fake(self, name, taken) for name, taken in seconds.items()}

    def compare(self, seconds: float = FAR) -> dict[str, Measured]:
        return compare(self.programs, seconds)

    def warm_up(self) -> list[tuple[str, list[float]]]:
        return self.log[: WARM_UP * len(self.programs)]

    def rounds(self) -> list[list[tuple[str, list[float]]]]:
        size, log = len(self.programs), self.log[WARM_UP * len(self.programs) :]
        assert len(log) % size == 0
        return [log[start : start + size] for start in range(0, len(log), size)]

    def sizes(self, name: str) -> list[int]:
        return [len(taken) for who, taken in self.log if who == name]

    def samples(self, name: str) -> list[float]:
        """What the rounds took."""
        return [second for block in self.rounds() for who, taken in block if who == name for second in taken]


class Fake:
    """One program of a group."""

    compile_s = peak_bytes = temp_bytes = None

    def __init__(self, group: Group, name: str, seconds: float | Iterable[float]) -> None:
        self.group, self.name = group, name
        self.seconds: Iterator[float] = itertools.repeat(seconds) if isinstance(seconds, float) else iter(seconds)

    def answer(self) -> dict[str, object]:
        raise AssertionError("nobody asked for an answer")

    def time(self, calls: int) -> list[float]:
        taken = list(itertools.islice(self.seconds, calls))
        assert len(taken) == calls
        self.group.clock.now += sum(taken)
        self.group.log.append((self.name, taken))
        return taken


def unsteady(around: float) -> Iterator[float]:
    """Seconds whose median is never known well."""
    return itertools.cycle((around, 2 * around, 3 * around))


def test_compare_warms_up_each_program_alone_before_the_rounds(clock: Clock) -> None:
    group = Group(clock, a=0.01, b=0.01)
    group.compare()
    assert [(name, len(taken)) for name, taken in group.warm_up()] == [
        ("a", 1), ("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 1), ("b", 2), ("b", 3),
    ]  # fmt: skip


def test_compare_takes_turns_in_changing_orders(clock: Clock) -> None:
    group = Group(clock, a=unsteady(0.01), b=0.02, c=0.005)
    group.compare(seconds=2.0)
    orders = ["".join(name for name, _ in block) for block in group.rounds()]
    assert len(orders) >= 20
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    # Nobody always follows the same neighbour.
    assert {pair for order in orders for pair in (order[:2], order[1:])} == {"ab", "ac", "ba", "bc", "ca", "cb"}


@pytest.mark.parametrize(
    ("seconds", "calls"),
    [(BLOCK_SECONDS / 30, 30), (BLOCK_SECONDS / 4.4, 4), (BLOCK_SECONDS, 1), (BLOCK_SECONDS * 100, 1)],
)
def test_block_lasts_about_block_seconds(clock: Clock, seconds: float, calls: int) -> None:
    group = Group(clock, a=seconds, other=0.01)
    group.compare()
    # What runs alone has at least three calls, so that it has a median.
    assert group.sizes("a")[:WARM_UP] == [1, 1, 2, max(3, calls)]
    assert set(group.sizes("a")[WARM_UP:]) == {calls}


def test_block_size_follows_from_the_median_of_three_calls_behind_the_first(clock: Clock) -> None:
    short = BLOCK_SECONDS / 8
    # The first call compiles, one of the three is disturbed.
    group = Group(clock, a=itertools.chain([70.0, short, 5.0, short], itertools.repeat(BLOCK_SECONDS)))
    group.compare()
    assert set(group.sizes("a")[3:]) == {8}


def test_measured_is_of_exactly_the_rounds(clock: Clock) -> None:
    warm_up = [1000.0, 0.01, 0.01, 0.01, 2000.0, 3000.0, 4000.0]
    group = Group(
        clock,
        a=itertools.chain(warm_up, itertools.cycle((0.011, 0.017, 0.012, 0.031))),
        b=itertools.chain(warm_up, itertools.cycle((0.2, 0.1, 0.4, 0.7, 0.3))),
    )
    found = group.compare(seconds=2.0)
    assert list(found) == ["a", "b"]
    for name, measured in found.items():
        taken = group.samples(name)
        low, middle, high = statistics.quantiles(taken, method="inclusive")
        assert measured.n == len(taken) == 3 * len(group.rounds())
        assert (measured.q25_s, measured.median_s, measured.q75_s) == pytest.approx((low, middle, high), rel=1e-12)
        assert max(taken) < 1.0


@pytest.mark.parametrize(("seconds", "slow"), [(1.1, False), (0.9, True)])
def test_program_that_is_slow_runs_alone_but_once(clock: Clock, seconds: float, slow: bool) -> None:
    group = Group(clock, a=itertools.chain([9.0, 0.2], itertools.repeat(0.3)), b=0.01)
    found = group.compare(seconds)
    # The first call, which doesn't count, and another.
    alone = [1, 1] if slow else [1, 1, 2, 3]
    assert group.sizes("a") == [*alone, *[1] * found["a"].n]
    assert found["a"].n >= LEAST_ROUNDS
    assert found["a"].alone_s == (0.2 if slow else 0.3)


def test_alone_is_the_median_of_the_block_before_the_rounds(clock: Clock) -> None:
    warm_up = [1000.0, 0.01, 0.01, 0.01, 0.02, 0.05, 0.03]
    found = Group(clock, a=itertools.chain(warm_up, itertools.repeat(0.04)), b=0.01).compare()
    assert found["a"].alone_s == 0.03
    assert found["a"].median_s == 0.04
    assert found["b"].alone_s == 0.01


def test_compare_stops_early_once_the_medians_are_known(clock: Clock) -> None:
    group = Group(clock, a=BLOCK_SECONDS / 10, b=BLOCK_SECONDS / 4)
    group.compare()
    # 20 samples are few enough to be there after the least number of rounds.
    assert len(group.rounds()) == LEAST_ROUNDS


def test_compare_does_not_trust_fewer_than_twenty_samples(clock: Clock) -> None:
    group = Group(clock, a=BLOCK_SECONDS, b=BLOCK_SECONDS / 10)
    group.compare()
    assert len(group.rounds()) == 20


def test_compare_goes_on_while_one_median_is_unknown(clock: Clock) -> None:
    # Steady from the 40th round on, two calls each: long after `a` is known.
    late = itertools.chain(
        [BLOCK_SECONDS / 2] * 4, itertools.islice(unsteady(BLOCK_SECONDS / 4), 80), itertools.repeat(BLOCK_SECONDS / 2)
    )
    group = Group(clock, a=BLOCK_SECONDS / 10, b=late)
    found = group.compare()
    assert 40 < len(group.rounds()) < 1000
    half_width = 1.82 * (found["b"].q75_s - found["b"].q25_s) / found["b"].n ** 0.5
    assert half_width <= timing.PRECISION * found["b"].median_s


def test_compare_never_stops_before_the_least_rounds(clock: Clock) -> None:
    group = Group(clock, a=unsteady(BLOCK_SECONDS), b=unsteady(BLOCK_SECONDS))
    found = group.compare(seconds=1e-6)
    assert found["a"].n == found["b"].n == LEAST_ROUNDS


def test_compare_stops_when_the_seconds_of_all_programs_are_over(clock: Clock) -> None:
    # Each round takes 3 s, in two blocks of one call, and never becomes steady.
    group = Group(clock, a=itertools.cycle((1.0, 2.0)), b=itertools.cycle((2.0, 1.0)))
    found = group.compare(seconds=30.0)
    assert found["a"].n == len(group.rounds()) == 20
    # Warm-up is not counted: it took 7 calls of each.
    assert clock.now == pytest.approx(2 * 30.0 + sum(sum(taken) for _, taken in group.warm_up()))


def test_compare_calls_back_after_every_round(clock: Clock) -> None:
    group = Group(clock, a=0.01, b=0.01)
    lengths: list[int] = []
    compare(group.programs, FAR, lambda: lengths.append(len(group.log)))
    warm_up = len(group.warm_up())
    assert lengths == [warm_up + 2 * number for number in range(1, len(group.rounds()) + 1)]


def test_compare_of_nothing_is_nothing(clock: Clock) -> None:
    assert compare({}, 1.0) == {}


class Breaking(Fake):
    """A program that raises at the `last` request."""

    def __init__(self, group: Group, last: int, error: BaseException) -> None:
        super().__init__(group, "broken", 0.01)
        self.left, self.error = last, error

    def time(self, calls: int) -> list[float]:
        self.left -= 1
        if not self.left:
            raise self.error
        return super().time(calls)


@pytest.mark.parametrize("last", range(1, WARM_UP + LEAST_ROUNDS + 1))
def test_program_that_raises_is_named_with_its_cause(clock: Clock, last: int) -> None:
    group, error = Group(clock, a=0.01, b=0.01), RuntimeError("out of memory")
    group.programs = {"a": group.programs["a"], "broken": Breaking(group, last, error), "b": group.programs["b"]}
    with pytest.raises(Failed, match=r"^broken$") as caught:
        group.compare()
    assert caught.value.name == "broken"
    assert caught.value.__cause__ is error
    assert gc.isenabled()


def test_interrupt_is_not_the_programs_failure(clock: Clock) -> None:
    group = Group(clock, a=0.01)
    group.programs["broken"] = Breaking(group, WARM_UP + 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        group.compare()
    assert gc.isenabled()


class Watching(Fake):
    """A program that notes whether garbage is collected while it runs."""

    def __init__(self, group: Group) -> None:
        super().__init__(group, "a", 0.01)
        self.seen: list[bool] = []

    def time(self, calls: int) -> list[float]:
        self.seen.append(gc.isenabled())
        return super().time(calls)


def test_garbage_is_not_collected_during_rounds_and_is_again_behind_them(clock: Clock) -> None:
    group = Group(clock)
    watching = Watching(group)
    compare({"a": watching}, FAR)
    assert not any(watching.seen[WARM_UP:])
    assert len(watching.seen) >= WARM_UP + LEAST_ROUNDS
    assert gc.isenabled()


def test_garbage_collection_stays_off_where_it_was_off(clock: Clock) -> None:
    gc.disable()
    try:
        Group(clock, a=0.01).compare()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_every_block_begins_after_a_rest(clock: Clock) -> None:
    group = Group(clock, a=0.01, b=0.02)
    group.compare()
    assert clock.rests == len(group.log)
