"""The folder of one run: its configuration, and its metrics as JSON lines and TensorBoard events."""

import contextlib
import dataclasses
import fcntl
import importlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from experiments.common.cli import UsageError, brief


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def check_run(workdir: pathlib.Path, config: Any) -> None:
    """Checks, before any work is done, that a folder is new, holds the same run, or one that saved no step.

    Raises:
      UsageError: the folder holds something else, or a run with another configuration.
    """
    path = workdir / "config.json"
    ours = _plain(config)
    if path.exists():
        theirs = _read(path, type(config))
        changed = [name for name in sorted(ours) if ours[name] != theirs[name]]
        if changed and has_step(workdir):
            raise UsageError(
                f"--workdir: {workdir} holds a run with another configuration:\n"
                + "\n".join(f"  {name}: there {theirs[name]!r}, now {ours[name]!r}" for name in changed)
                + "\nGo on with its own options, or name another folder."
            )
        return
    if workdir.exists() and not workdir.is_dir():
        raise UsageError(f"--workdir: expected a folder, {workdir} is a file")
    if workdir.exists() and any(file.name != ".lock" for file in workdir.iterdir()):
        raise UsageError(f"--workdir: expected an empty folder or one of a run, {workdir} holds other files")


def has_step(workdir: pathlib.Path) -> bool:
    """Whether the run in a folder ever saved a step, also one that was deleted; else nothing in it has to stay."""
    measured = any(row["split"] != "train" for row in read_metrics(workdir))
    return measured or _saved(workdir / "checkpoints") or _saved(workdir / "kept")


def _saved(folder: pathlib.Path) -> bool:
    """Whether a folder of checkpoints holds one, whole or damaged."""
    return any(path.name.isdigit() for path in folder.glob("*"))


def open_run(workdir: pathlib.Path, config: Any) -> None:
    """Makes the folder of a run, unless it is there.

    Raises:
      UsageError: as `check_run`, or another process is at it, or nothing can be written there.
    """
    check_run(workdir, config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _lock(workdir)
        check_run(workdir, config)  # Another process may have trained here since.
        if not has_step(workdir):
            write(workdir / "config.json", json.dumps(_plain(config), indent=2) + "\n")
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


# The way out where nothing else is.
ANEW = "begin another run in another folder"


@contextlib.contextmanager
def reading(path: pathlib.Path, way_out: str = ANEW) -> Iterator[None]:
    """Within it whatever is raised says that a file or folder of a run can't be read."""
    try:
        yield
    except Exception as error:  # JSON, orbax, tensorstore and sentencepiece have their own
        raise UsageError(f"--workdir: {path} can't be read: {brief(error)}; {way_out}") from error


def _read(path: pathlib.Path, kind: Any) -> dict[str, Any]:
    """The configuration in a file, which has to be of this kind."""
    with reading(path):
        stored = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(stored, dict):
        raise UsageError(f"--workdir: expected the configuration of a run in {path}, found a {type(stored).__name__}")
    odd = sorted(stored.keys() ^ _names(kind))
    if odd:
        other = _experiment(stored.keys())
        if other is not None:
            raise UsageError(f"--workdir: {path.parent} holds a run of experiments.{other}; name another folder")
        few = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
        raise UsageError(f"--workdir: {path} is of another experiment, or of another version of this one ({few})")
    return stored


def read_stored(path: pathlib.Path, *names: str, way_out: str = ANEW) -> list[Any]:
    """The values of some names in a JSON file of a run."""
    with reading(path, way_out):
        stored = json.loads(path.read_text(encoding="utf-8"))
        return [stored[name] for name in names]


def _names(kind: Any) -> set[str]:
    """The options in a configuration of this kind."""
    return {field.name for field in dataclasses.fields(kind)}


def _experiment(names: Iterable[str]) -> str | None:
    """The experiment whose configuration has these options, and no others."""
    for file in pathlib.Path(__file__).parents[1].glob("*/config.py"):
        module = importlib.import_module(f"experiments.{file.parent.name}.config")
        if hasattr(module, "Config") and _names(module.Config) == set(names):
            return file.parent.name
    return None


def read_config(workdir: pathlib.Path, kind: Any) -> Any:
    """The configuration of the run in a folder.

    Raises:
      UsageError: there is no run, or it has kept no parameters yet.
    """
    path = workdir / "config.json"
    if not path.exists():
        runs = sorted(folder.parent.name for folder in workdir.glob("*/config.json"))
        hint = f"; it holds runs: {', '.join(runs)}" if runs else ""
        raise UsageError(f"--workdir: expected the folder of a trained run, found no {path}{hint}")
    stored = _read(path, kind)
    if not _saved(workdir / "kept"):
        raise UsageError(f"--workdir: {workdir} holds no measured model yet; train it further")
    with reading(path):
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()})


def restore_kept(workdir: pathlib.Path, example: Any) -> Any:
    """The parameters that a run has kept, as `--keep` says."""
    from experiments.common.checkpoint import Checkpoints

    return Checkpoints(workdir / "kept").restore(params=example)["params"]


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
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)

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
    with reading(path):
        whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        rows = [json.loads(line) for line in whole]
        return [{**row, "step": int(row["step"]), "split": str(row["split"])} for row in rows]
