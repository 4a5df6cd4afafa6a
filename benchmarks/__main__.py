"""`python -m benchmarks`: run suites, show and compare their rows, profile a case.

The command line is argparse's, and `run` needs nothing beyond JAX, optax and tqdm: it has to work
on a bare machine with an accelerator and no network.
"""

from experiments.common.interrupt import INTERRUPTED, exit_status, last_words, stop_at_once

if __name__ == "__main__":
    stop_at_once()

import argparse
import contextlib
import datetime
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def needs_packages() -> Iterator[None]:
    """Within it a package that is not there is named in a line, with what installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        print(f"error: {error}: pip install --editable '.[benchmarks]'", file=sys.stderr)
        sys.exit(2)


with needs_packages():
    from benchmarks.cases import CASES, find
    from benchmarks.cells import CELLS
    from benchmarks.contestants import PEERS
    from benchmarks.implementations import IMPLEMENTATIONS
    from benchmarks.problem import DTYPES, GRADIENT, MEANING, MODES
    from benchmarks.rows import read
    from benchmarks.suites import SUITES, entries


def one_of(names: Iterable[str]) -> "argparse._ActionType":
    """A parser of names that cares for neither case nor spaces, dots and dashes."""
    bare = lambda word: "".join(c for c in word.lower() if c.isalnum())
    known = {bare(name): name for name in names}

    def parse(word: str) -> str:
        if bare(word) not in known:
            raise argparse.ArgumentTypeError(f"expected one of {', '.join(known.values())}, got {word!r}")
        return known[bare(word)]

    return parse


def case(word: str) -> str:
    """A case's name, or a shape."""
    try:
        find(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return word


def existing(word: str) -> pathlib.Path:
    """A file that exists."""
    path = pathlib.Path(word)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"expected a file of rows, found no {word}")
    return path


def positive(word: str) -> float:
    """A number above 0."""
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {word!r}")
    return number


def count(word: str) -> int:
    """A whole number above 0."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {word!r}")
    return int(word)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Step throughput of recurrent cells, kernels and libraries."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="{run,report,list,profile,hopper}")

    run = commands.add_parser(
        "run", help="measure a suite, or a part of it", description="Checks every answer, then times all contestants."
    )
    run.add_argument("--suite", choices=SUITES, default="quick", help="what to run (default: quick)")
    take = lambda *names, **options: run.add_argument(*names, nargs="+", action="extend", metavar="NAME", **options)
    take("--cell", type=one_of(CELLS), help=f"only these cells: {', '.join(CELLS)}")
    take("--implementation", type=one_of(IMPLEMENTATIONS), help=f"only these of ours: {', '.join(IMPLEMENTATIONS)}")
    take("--case", type=case, help="these cases in place of the suite's: a name of `list`, or T=100,B=32,D=64,H=128")
    take("--dtype", type=one_of(DTYPES), help=f"these in place of the suite's: {', '.join(DTYPES)}")
    take("--mode", type=one_of(MODES), help=f"only these modes of the suite: {', '.join(MODES)}")
    take("--peer", type=one_of((*PEERS, "none")), help=f"these in place of the suite's: {', '.join(PEERS)}; none: none")
    run.add_argument("--seconds", type=positive, help="of timing for each contestant of a job; of five calls at least")
    run.add_argument("--minutes", type=positive, help="begin no job behind so many minutes, but for the first")
    run.add_argument(
        "--out", type=pathlib.Path, metavar="FILE.jsonl",
        help="rows are added at its end (default: runs/benchmarks/<date>-<suite>.jsonl)",
    )  # fmt: skip

    report = commands.add_parser(
        "report", help="tables and pictures of a file of rows", description="Shows the newest row of every measurement."
    )
    report.add_argument("file", type=existing, metavar="FILE.jsonl")
    report.add_argument("--against", type=existing, metavar="OTHER.jsonl", help="older rows: says what moved")
    report.add_argument("--pictures", type=pathlib.Path, metavar="FOLDER", help="default: FILE without .jsonl")
    report.add_argument(
        "--into", type=existing, metavar="README.md", help="renew the tables between the markers of this file"
    )

    commands.add_parser("list", help="suites, cases, cells, modes and contestants", description="What can be run.")

    profile = commands.add_parser(
        "profile", help="where the time of one case goes", description="Writes a trace; prints time by operation."
    )
    profile.add_argument("case", type=case, help="a name of `list`, or T=100,B=32,D=64,H=128")
    profile.add_argument("--cell", type=one_of(CELLS), default="LSTM", metavar="NAME", help="default: LSTM")
    profile.add_argument("--implementation", type=one_of(IMPLEMENTATIONS), metavar="NAME", help="default: fused")
    profile.add_argument("--dtype", type=one_of(DTYPES), default="float32", metavar="NAME", help="default: float32")
    profile.add_argument("--mode", type=one_of(MODES), default=GRADIENT, metavar="NAME", help="default: gradient")
    profile.add_argument("--calls", type=count, default=5, help="calls that are traced (default: 5)")
    profile.add_argument("--out", type=pathlib.Path, metavar="FOLDER", help="default: runs/profiles/<date>-<case>")

    hopper = commands.add_parser(
        "hopper", help="how fast the blocks of a Hopper GPU reach each other, and every cut of `mosaic_gpu`",
        description="Measures what decides how `mosaic_gpu` is cut. Without such a GPU it lowers all of it for one.",
    )  # fmt: skip
    hopper.add_argument("--minutes", type=positive, default=2.5, help="begin nothing behind so many (default: 2.5)")
    hopper.add_argument(
        "--out", type=pathlib.Path, metavar="FILE.json", help="default: runs/benchmarks/<date>-hopper.json"
    )
    return top


def stamp() -> str:
    """The time as part of a file's name."""
    return datetime.datetime.now().strftime("%Y%m%d-%H%M%S")


def run(arguments: argparse.Namespace) -> int:
    """`run`."""
    # The contestants of a GPU share its memory, also those in another process.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    from benchmarks.run import Run

    suite = SUITES[arguments.suite]
    cases = arguments.case
    if cases is None and jax.default_backend() == "cpu" and suite.without_accelerator:
        cases = suite.without_accelerator
        print(f"no accelerator: suite {arguments.suite} runs on {jax.devices()[0]} with the cases {', '.join(cases)}")
    if "float64" in (arguments.dtype or ()):
        jax.config.update("jax_enable_x64", True)
    peers = arguments.peer and [name for name in arguments.peer if name != "none"]
    chosen = entries(
        suite, cells=arguments.cell, cases=cases, dtypes=arguments.dtype, modes=arguments.mode,
        implementations=arguments.implementation, peers=peers,
    )  # fmt: skip
    if not chosen:
        asked = " ".join((*(arguments.mode or ()), *(arguments.dtype or ()), *(arguments.implementation or ())))
        print(f"error: suite {arguments.suite} holds nothing of {asked}: see `list`", file=sys.stderr)
        return 2
    out = arguments.out or pathlib.Path("runs", "benchmarks", f"{stamp()}-{arguments.suite}.jsonl")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.open("a").close()
        read(out)  # to which rows are added
    except (OSError, ValueError) as error:
        print(f"error: --out: {error}", file=sys.stderr)
        return 2
    print(f"{len(chosen)} jobs; rows go to {out}")
    minutes = suite.minutes if arguments.minutes is None else arguments.minutes

    def stopped() -> str:
        kept = f"The rows of all finished jobs are in {out}" if out.stat().st_size else "No job was finished."
        return f"Stopped. {kept}"

    try:
        with last_words(stopped):
            outcome = Run(arguments.suite, chosen, arguments.seconds or suite.seconds, minutes).measure(out)
    except KeyboardInterrupt:
        print(f"\n{stopped()}", file=sys.stderr)
        return INTERRUPTED
    left = f", {outcome.left} jobs left out for want of time" if outcome.left else ""
    print(f"{outcome.written} rows, {outcome.errors} of them without a time{left}.")
    print(f"Tables and pictures: python -m benchmarks report {out}")
    if outcome.failed:
        print(f"error: {outcome.failed} times a kernel of ours raised or was wrong: see the rows", file=sys.stderr)
    return 1 if outcome.failed else 0


def report(arguments: argparse.Namespace) -> int:
    """`report`."""
    from benchmarks.report import show

    try:
        show(arguments.file, arguments.against, arguments.pictures, arguments.into)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def show_list() -> int:
    """`list`."""
    from benchmarks import contestants

    def section(title: str, lines: dict[str, str]) -> None:
        width = max(map(len, lines))
        print(title, *(f"  {name:<{width}}  {text}" for name, text in lines.items()), "", sep="\n")

    section("suites", {name: suite.purpose for name, suite in SUITES.items()})
    section("cases", {name: str(shape) for name, shape in CASES.items()})
    section("cells", {name: f"{cell.gates} gates, carry {', '.join(cell.carry)}" for name, cell in CELLS.items()})
    section("modes", MEANING)
    section("implementations", {name: one.meaning for name, one in IMPLEMENTATIONS.items()})
    section("peers", {name: contestants.missing(name) or "installed" for name in PEERS})
    return 0


def profile(arguments: argparse.Namespace) -> int:
    """`profile`."""
    import jax

    from benchmarks.problem import Job
    from benchmarks.profile import trace

    jax.config.update("jax_enable_x64", arguments.dtype == "float64")
    out = arguments.out or pathlib.Path("runs", "profiles", f"{stamp()}-{arguments.case.replace(',', '-')}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        print(f"error: --out: expected a new or an empty folder, got {out}", file=sys.stderr)
        return 2
    name = arguments.implementation or ("cell.step" if arguments.mode == "step" else "fused")
    job = Job(arguments.cell, arguments.case, find(arguments.case), arguments.dtype, arguments.mode)
    return trace(job, name, arguments.calls, out)


def hopper(arguments: argparse.Namespace) -> int:
    """`hopper`."""
    out = arguments.out or pathlib.Path("runs", "benchmarks", f"{stamp()}-hopper.json")
    if out.exists():
        print(f"error: --out: expected a new file, got {out}", file=sys.stderr)
        return 2
    from recurrent_jax.kernels.mosaic_gpu import elsewhere

    try:
        from benchmarks.hopper import measure, rehearse
    except (ImportError, AttributeError) as error:
        print(f"hopper: this JAX has no Mosaic GPU that it knows: {error}")
        return 0
    if elsewhere() is not None:
        print(f"nothing is measured, and nothing written: {elsewhere()}")
        return 1 if rehearse() else 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
    except OSError as error:
        print(f"error: --out: {error}", file=sys.stderr)
        return 2
    failed = measure(out, arguments.minutes)
    print(f"All of it is in {out}" + (f"; {failed} failed" if failed else ""))
    return 1 if failed else 0


def main() -> int:
    """Parses the command line and runs the command."""
    commands = {"run": run, "report": report, "list": lambda _: show_list(), "profile": profile, "hopper": hopper}

    def command() -> int:
        arguments = parser().parse_args()
        with needs_packages():
            return commands[arguments.command](arguments)

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
