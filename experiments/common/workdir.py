"""The folder of one run: its configuration, and its metrics as JSON lines and TensorBoard events."""

import dataclasses
import fcntl
import json
import os
import pathlib
from typing import Any

from experiments.common.cli import UsageError


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def check_run(workdir: pathlib.Path, config: Any) -> None:
    """Checks, before any work is done, that a folder is new or holds the same run.

    Raises:
      UsageError: the folder holds something else, or a run with another configuration.
    """
    path = workdir / "config.json"
    ours = _plain(config)
    if path.exists():
        theirs = _read(path)
        changes = [
            f"  {name}: there {theirs.get(name, 'not set')!r}, now {ours.get(name, 'not set')!r}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]
        if changes:
            raise UsageError(
                f"--workdir: {workdir} holds a run with another configuration:\n"
                + "\n".join(changes)
                + "\nGo on with its own options, or name another folder."
            )
        return
    if workdir.exists() and not workdir.is_dir():
        raise UsageError(f"--workdir: expected a folder, {workdir} is a file")
    if workdir.exists() and any(workdir.iterdir()):
        raise UsageError(f"--workdir: expected an empty folder or one of a run, {workdir} holds other files")


def open_run(workdir: pathlib.Path, config: Any) -> None:
    """Makes the folder of a run, unless it is there.

    Raises:
      UsageError: as `check_run`, or another process is at it, or nothing can be written there.
    """
    check_run(workdir, config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "config.json").exists():
            write(workdir / "config.json", json.dumps(_plain(config), indent=2) + "\n")
        _lock(workdir)
    except BlockingIOError:
        raise UsageError(f"--workdir: another process is training in {workdir}") from None
    except OSError as error:
        raise UsageError(f"--workdir: {workdir} can't be written to: {error}") from error


# Open files that this process has locked, until it ends.
_locks: dict[pathlib.Path, int] = {}


def _lock(workdir: pathlib.Path) -> None:
    """Keeps other processes out of a run's folder; BlockingIOError where one is there."""
    path = workdir.resolve() / ".lock"
    if path in _locks:
        return
    file = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    _locks[path] = file


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The object in a configuration file."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--workdir: {path} can't be read: {error}") from error
    if not isinstance(stored, dict):
        raise UsageError(f"--workdir: expected the configuration of a run in {path}, found a {type(stored).__name__}")
    return stored


def read_config(workdir: pathlib.Path, kind: Any) -> Any:
    """The configuration of the run in a folder.

    Raises:
      UsageError: there is no run.
    """
    path = workdir / "config.json"
    if not path.exists():
        runs = sorted(folder.parent.name for folder in workdir.glob("*/config.json"))
        hint = f"; it holds runs: {', '.join(runs)}" if runs else ""
        raise UsageError(f"--workdir: expected the folder of a trained run, found no {path}{hint}")
    stored = _read(path)
    known = {field.name for field in dataclasses.fields(kind)}
    if stored.keys() != known:
        odd = sorted(stored.keys() ^ known)
        few = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
        raise UsageError(f"--workdir: {path} is of another experiment, or of another version of this one ({few})")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()})


def restore_kept(workdir: pathlib.Path, example: Any) -> Any:
    """The parameters that a run has kept, as `--keep` says.

    Raises:
      UsageError: there are none yet.
    """
    from experiments.common.checkpoint import Checkpoints

    if (workdir / "kept").is_dir():
        kept = Checkpoints(workdir / "kept")
        if kept.latest() is not None:
            return kept.restore(params=example)["params"]
    raise UsageError(f"--workdir: {workdir} holds no measured model yet; train it further")


def append_metrics(workdir: pathlib.Path, step: int, split: str, **values: float) -> None:
    """Appends one row to `metrics.jsonl`."""
    with (workdir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "split": split, **values}) + "\n")


def append_result(workdir: pathlib.Path, **values: float) -> int:
    """Appends the row of the test split, unless it is there; returns the last step of the training."""
    rows = read_metrics(workdir)
    step = max((int(row["step"]) for row in rows), default=0)
    if not any(row["split"] == "test" for row in rows):
        append_metrics(workdir, step, "test", **values)
    return step


class Metrics:
    """`metrics.jsonl` and TensorBoard events of a run that goes on behind step `start`.

    Rows of later steps, written after the last checkpoint, are dropped: they will come again, the same.
    """

    def __init__(self, workdir: pathlib.Path, start: int) -> None:
        from tensorboardX import SummaryWriter

        self._path = workdir / "metrics.jsonl"
        rows = [row for row in read_metrics(workdir) if row["step"] <= start]
        write(self._path, "".join(json.dumps(row) + "\n" for row in rows))
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1 if start else None)

    def add(self, step: int, split: str, **values: float) -> None:
        """Appends one row."""
        append_metrics(self._path.parent, step, split, **values)
        for name, value in values.items():
            self._events.add_scalar(f"{split}/{name}", value, step)

    def add_event(self, name: str, value: float, step: int) -> None:
        """Adds to TensorBoard alone what differs from run to run, such as speed."""
        self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes the events."""
        self._events.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`; a last line that was cut off by a kill is left out."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]
