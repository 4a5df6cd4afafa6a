"""The same run with several seeds, and how far their numbers spread."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

from experiments.common import workdir as run_folder
from experiments.common.cli import UsageError


def sweep(
    train: Callable[[Any, pathlib.Path], dict[str, float]], config: Any, workdir: pathlib.Path, seeds: int
) -> None:
    """Trains once, or with so many seeds in folders of their own, and then prints means and spreads.

    Args:
      train: trains the run of a folder; returns its numbers on the test split.
      config: the configuration; the seeds are its own and the ones that follow.
      workdir: the folder.
      seeds: how many.

    Raises:
      UsageError: `seeds` is not positive, or the folder holds a run.
    """
    if seeds < 1:
        raise UsageError(f"--seeds: expected a positive integer, got {seeds}")
    if seeds == 1:
        train(config, workdir)
        return
    if (workdir / "config.json").exists():
        raise UsageError(f"--workdir: expected a folder of its own for --seeds, {workdir} holds a run")
    numbers = {}
    for seed in range(config.seed, config.seed + seeds):
        print(f"\n=== seed {seed} ===", flush=True)
        numbers[seed] = train(dataclasses.replace(config, seed=seed), workdir / f"seed_{seed}")
    path = workdir / "seeds.json"
    others = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ours = {str(seed): row for seed, row in numbers.items()}
    run_folder.write(path, json.dumps({**others, **ours}, indent=2) + "\n")
    width = max(16, 2 + max(map(len, next(iter(numbers.values())))))
    print(f"\n{'test split':<{width}}{'mean':>9}{'std':>9}{'least':>9}{'most':>9}   over {seeds} seeds")
    for name in next(iter(numbers.values())):
        values = [row[name] for row in numbers.values()]
        mean, spread = statistics.mean(values), statistics.stdev(values)
        print(f"{name:<{width}}{mean:9.4f}{spread:9.4f}{min(values):9.4f}{max(values):9.4f}")
