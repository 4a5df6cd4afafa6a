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
from benchmarks.timing import Measured, compare

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
        run = lambda *words: subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        return run("git", "rev-parse", "--short", "HEAD") + ("+" if run("git", "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def geometric_mean(ratios: list[float]) -> float:
    """The mean of ratios."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds of timing for each pair (default 6)")
    parser.add_argument("--out", type=pathlib.Path, help="file to append rows to, in place of the results folder")
    arguments = parser.parse_args()
    folder = "".join(c if c.isalnum() else "-" for c in device().lower()).strip("-")
    out = arguments.out or pathlib.Path(__file__).parent / "results" / folder / "fused_against_scan.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)

    pair: dict[str, dict[str, Any]] = {"scan": {"implementation": "scan"}, "fused": {"implementation": "fused"}}
    every = math.isqrt(LONG.T)
    long: dict[str, dict[str, Any]] = {"scan": pair["scan"], f"checkpoint_every={every}": {"checkpoint_every": every}}
    jobs = [(cell, case, mode, pair) for mode in (TRAIN, FORWARD) for cell in CELLS for case in TRAINING]
    jobs += [(cell, LONG, TRAIN, long) for cell in CELLS]
    print(f"{device()}, JAX {jax.__version__}, float32. Rows go to {out}\n")
    header = (
        f"{'mode':<21}{'cell':<5} {'shape':<24}{'against scan':<21}"
        f"{'scan':>9}{'ours':>10}{'speed':>8}{'memory':>9}{'ratio':>7}"
    )
    print(header + "\n" + "-" * len(header))
    speeds: dict[str, list[float]] = {}
    with tqdm.tqdm(jobs, leave=False) as bar:
        for name, case, mode, kernels in bar:
            bar.set_description(f"{name} {case}")
            cell = CELLS[name](case.H)
            measured = compare(
                functions(cell, mode, kernels), problem(cell, case), arguments.seconds, TOLERANCE, bar.refresh
            )
            with out.open("a") as file:
                for kernel, result in measured.items():
                    file.write(json.dumps(row(name, kernel, case, mode, result)) + "\n")
            (_, scan), (ours_name, ours) = measured.items()
            speed = scan.median_s / ours.median_s
            speeds.setdefault(f"{mode}, {ours_name}", []).append(speed)
            tqdm.tqdm.write(
                f"{mode:<21}{name:<5} {case!s:<24}{ours_name:<21}{scan.median_s * 1e3:>7.1f}ms"
                f"{ours.median_s * 1e3:>8.1f}ms{speed:>7.2f}x{ours.temp_bytes / 2**20:>7.1f}MB"
                f"{ours.temp_bytes / scan.temp_bytes:>7.2f}"
            )
    print("-" * len(header))
    for kind, ratios in speeds.items():
        print(f"{kind}: {geometric_mean(ratios):.2f}x in geometric mean, from {min(ratios):.2f}x to {max(ratios):.2f}x")


if __name__ == "__main__":
    main()
