"""What a measurement was made on: the device, the versions, the commit."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

import jax

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "torch", "flax", "dm-haiku", "equinox", "keras")


def device() -> str:
    """The accelerator's name; for a CPU its model and the number of its processors that this process may use."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return str(first.device_kind)
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = [line.split(":", 1) for line in lines if ":" in line]
    names = [value.strip() for key, value in fields if key.strip() == "model name"]
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or 'CPU'}, {count} cores"


def versions() -> dict[str, str]:
    """Of Python and of every package that a contestant may use, where it is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the working tree; "+" follows where tracked files have changes."""
    root = pathlib.Path(__file__).parents[1]
    try:
        run = lambda *words: subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        return run("git", "rev-parse", "--short", "HEAD") + ("+" if run("git", "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Ticks(NamedTuple):
    """Ticks of the machine's clock since it started: in all, and of these not idle, and used by the given processes."""

    total: int
    busy: int
    own: int


def ticks(processes: Iterable[int]) -> Ticks | None:
    """Reads the clocks of the processors and of these processes; None where the system doesn't tell."""
    try:
        # user nice system idle iowait irq softirq steal, of which the last is what other virtual machines took.
        fields = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        # Behind the name in brackets, which may hold anything: user and system time are the 12th and 13th field.
        stats = [pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split() for one in processes]
    except OSError:
        return None
    total = sum(fields)
    return Ticks(total, total - fields[3] - fields[4], sum(int(stat[11]) + int(stat[12]) for stat in stats))


def used_by_others(before: Ticks | None, after: Ticks | None) -> float | None:
    """The share of the machine's processors that other processes, or other virtual machines, used meanwhile."""
    if before is None or after is None or after.total <= before.total:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return max(0.0, others / (after.total - before.total))
