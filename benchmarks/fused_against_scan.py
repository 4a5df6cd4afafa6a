"""`python -m benchmarks.fused_against_scan`: speed and memory of `fused` and of checkpointing against `scan`.

`scan` is `jax.lax.scan` over the cell's step, differentiated by JAX: what one writes without this
library. Both sides run in one process, one call of each in turn; figures are ratios of medians.
Every row is appended to benchmarks/results/<device>/fused_against_scan.jsonl.
"""

import argparse
import datetime
import json
import math
import pathlib
import platform
import subprocess
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import recurrent_jax as rj
from benchmarks.cases import LONG, TRAINING, Case
from benchmarks.timing import Measured, WrongAnswer, compare

CELLS = {"LSTM": rj.LSTM, "GRU": rj.GRU, "RNN": rj.RNN}
FORWARD, TRAIN = "forward", "forward and backward"
# Float32 sums of some ten thousand terms in another order.
TOLERANCE = 1e-3


def problem(cell: Any, case: Case) -> tuple[Any, ...]:
    """Random parameters, inputs, initial carry, and weights of the outputs and the final carry in the loss."""
    draw = np.random.default_rng(0)
    random = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)
    params = cell.init(jax.random.key(0), case.D)
    carries = [jax.tree.map(lambda a: random(*a.shape), cell.initial_carry(params, (case.B,))) for _ in range(2)]
    return params, random(case.T, case.B, case.D), carries[0], random(case.T, case.B, case.H), carries[1]


def functions(cell: Any, mode: str, kernels: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """For each kernel the function to time: the outputs, or the gradients to params, xs and carry."""

    def forward(options: dict[str, Any]) -> Any:
        return lambda params, xs, carry, *_: rj.unroll(cell, params, xs, carry, **options)

    def gradients(options: dict[str, Any]) -> Any:
        def loss(params: Any, xs: Any, carry: Any, y_weights: Any, carry_weights: Any) -> Any:
            last, ys = rj.unroll(cell, params, xs, carry, **options)
            products = jax.tree.map(lambda a, b: jnp.sum(a * b), (ys, last), (y_weights, carry_weights))
            return sum(jax.tree.leaves(products))

        return jax.grad(loss, argnums=(0, 1, 2))

    make = forward if mode == FORWARD else gradients
    return {name: make(options) for name, options in kernels.items()}


def row(cell: str, kernel: str, case: Case, mode: str, measured: Measured) -> dict[str, Any]:
    """One measurement as a JSON object."""
    return {
        "cell": cell,
        "implementation": kernel,
        **case._asdict(),
        "dtype": "float32",
        "mode": mode,
        **measured._asdict(),
        "device": device(),
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
    }


def device() -> str:
    """The accelerator's name; for a CPU its model and the number of cores."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return str(first.device_kind)
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = [line.split(":", 1) for line in lines if ":" in line]
    names = [value.strip() for key, value in fields if key.strip() == "model name"]
    return f"{names[0] if names else platform.processor() or 'CPU'}, {len(names) or '?'} cores"


def commit() -> str:
    """The commit of the working tree; "+" follows where it has changes."""
    try:
        folder = pathlib.Path(__file__).parent
        run = lambda *words: subprocess.run(
            words, cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        return run("git", "rev-parse", "--short", "HEAD") + ("+" if run("git", "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def geometric_mean(ratios: list[float]) -> float:
    """The mean of ratios."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def pairs(rows: list[dict[str, Any]]) -> dict[tuple[str, str, Case], tuple[dict[str, Any], dict[str, Any]]]:
    """For each mode, cell and shape the newest measurement: the row of `scan` and the row beside it."""
    found = {}
    for scan, ours in zip(rows[::2], rows[1::2], strict=True):
        case = Case(*(ours[letter] for letter in Case._fields))
        mode = ours["mode"] if ours["implementation"] == "fused" else f"{ours['mode']}, {ours['implementation']}"
        found[mode, ours["cell"], case] = (scan, ours)
    return found


def line(mode: str, cell: str, case: Case, scan: dict[str, Any], ours: dict[str, Any]) -> str:
    """One line of the table, in Markdown that lines up."""
    speed, memory = scan["median_s"] / ours["median_s"], ours["temp_bytes"] / scan["temp_bytes"]
    return (
        f"| {mode:<41} | {cell:<4} | {case!s:<23} | {scan['median_s'] * 1e3:6.1f} | {ours['median_s'] * 1e3:6.1f} "
        f"| {speed:4.2f} | {ours['temp_bytes'] / 2**20:6.1f} | {memory:6.2f} |"
    )


HEADER = (
    f"| {'mode':<41} | cell | {'shape':<23} | scan ms| ours ms| speed| ours MB| memory |\n"
    f"|{'-' * 43}|{'-' * 6}|{'-' * 25}|{'-' * 7}:|{'-' * 7}:|{'-' * 5}:|{'-' * 7}:|{'-' * 7}:|"
)


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """For each mode the geometric mean and the range of the speed, and the largest ratio of memory."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    for (mode, _, _), (scan, ours) in pairs(rows).items():
        ratios = scan["median_s"] / ours["median_s"], ours["temp_bytes"] / scan["temp_bytes"]
        kinds.setdefault(mode, []).append(ratios)
    return [
        f"{mode}: {geometric_mean([s for s, _ in r]):.2f} times the speed of scan in geometric mean, "
        f"{min(s for s, _ in r):.2f} to {max(s for s, _ in r):.2f}; {max(m for _, m in r):.2f} of its memory at most"
        for mode, r in kinds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds of timing for each pair (default 6)")
    parser.add_argument("--out", type=pathlib.Path, help="file of rows, in place of the one in the results folder")
    parser.add_argument("--report", action="store_true", help="measure nothing, show the newest rows of the file")
    arguments = parser.parse_args()
    folder = "".join(c if c.isalnum() else "-" for c in device().lower()).strip("-")
    out = arguments.out or pathlib.Path(__file__).parent / "results" / folder / "fused_against_scan.jsonl"
    if arguments.report and not out.exists():
        parser.error(f"--report: found no {out}")
    if not arguments.report:
        print(f"{device()}, JAX {jax.__version__}, float32. Rows go to {out}\n")
        out.parent.mkdir(parents=True, exist_ok=True)
    print(HEADER)
    if arguments.report:
        rows = [json.loads(text) for text in out.read_text().splitlines()]
        for (mode, cell, case), (scan, ours) in pairs(rows).items():
            print(line(mode, cell, case, scan, ours))
    else:
        rows = measure(arguments.seconds, out)
    print("", *summary(rows), sep="\n")


def measure(seconds: float, out: pathlib.Path) -> list[dict[str, Any]]:
    """Times every pair, appends its rows to a file, and prints its line."""
    kernels: dict[str, dict[str, Any]] = {"scan": {"implementation": "scan"}, "fused": {"implementation": "fused"}}
    every = math.isqrt(LONG.T)
    long: dict[str, dict[str, Any]] = {
        "scan": kernels["scan"],
        f"checkpoint_every={every}": {"checkpoint_every": every},
    }
    jobs = [(cell, case, mode, kernels) for mode in (TRAIN, FORWARD) for cell in CELLS for case in TRAINING]
    jobs += [(cell, LONG, TRAIN, long) for cell in CELLS]
    rows: list[dict[str, Any]] = []
    with tqdm.tqdm(jobs, leave=False) as bar:
        for name, case, mode, pair in bar:
            bar.set_description(f"{name} {case}")
            cell = CELLS[name](case.H)
            try:
                measured = compare(functions(cell, mode, pair), problem(cell, case), seconds, TOLERANCE, bar.refresh)
            except WrongAnswer as error:
                tqdm.tqdm.write(f"| {mode}, {name}, {case}: no time, {error}")
                continue
            new = [row(name, kernel, case, mode, result) for kernel, result in measured.items()]
            with out.open("a") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in new)
            rows += new
            ((key, both),) = pairs(new).items()
            tqdm.tqdm.write(line(*key, *both))
    return rows


if __name__ == "__main__":
    main()
