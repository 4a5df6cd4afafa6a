"""What a measurement was made on: the device, the versions, the commit."""

import importlib.metadata
import pathlib
import platform
import subprocess

import jax

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "torch", "flax", "dm-haiku", "equinox", "keras")


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


def folder(device: str) -> str:
    """The device's name as that of a folder."""
    return "".join(c if c.isalnum() else "-" for c in device.lower()).strip("-")


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
    """The commit of the working tree; "+" follows where it has changes."""
    root = pathlib.Path(__file__).parents[1]
    try:
        run = lambda *words: subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        return run("git", "rev-parse", "--short", "HEAD") + ("+" if run("git", "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
