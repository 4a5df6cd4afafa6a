"""Checkpoints of a training state, by orbax."""

import pathlib
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from experiments.common.cli import UsageError
from experiments.common.workdir import ANEW, reading

# The newest, and one before it: a run that was killed may have to drop the newest.
_KEPT = 2


class Checkpoints:
    """The checkpoints in one folder, the newest two of them kept.

    A checkpoint appears under its final name only when it is whole, so a run that was killed while
    it saved goes on from the one before.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, enable_async_checkpointing=False)
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, position: grain.DatasetIterator | None = None, **items: Any) -> None:
        """Saves named pytrees of arrays, and the place that reading has come to, unless this step is saved already."""
        if step != self.latest():
            arguments: dict[str, Any] = {name: ocp.args.StandardSave(item) for name, item in items.items()}
            if position is not None:
                arguments["position"] = grain.checkpoint.CheckpointSave(position)
            self._manager.save(step, args=ocp.args.Composite(**arguments))

    def restore(self, position: grain.DatasetIterator | None = None, **examples: Any) -> dict[str, Any]:
        """Items of the newest checkpoint, each with the structure, shapes and dtypes of its example.

        `position` is brought to where reading was.

        Raises:
          UsageError: there is none, or it can't be read.
        """
        latest = self.latest()
        if latest is None:
            raise UsageError(f"--workdir: expected a checkpoint in {self._folder}, found none; {ANEW}")
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), examples)
        wanted: dict[str, Any] = {name: ocp.args.StandardRestore(example) for name, example in abstract.items()}
        if position is not None:
            wanted["position"] = grain.checkpoint.CheckpointRestore(position)
        way_out = ANEW
        before = max((step for step in self._manager.all_steps() if step < latest), default=None)
        if position is not None and before is not None:
            way_out = f"if no other file of the run was changed, delete it to go on from step {before:,}; else {ANEW}"
        with reading(self._folder / str(latest), way_out):
            return dict(self._manager.restore(latest, args=ocp.args.Composite(**wanted)).items())

    def drop_behind(self, step: int) -> None:
        """Deletes the checkpoints of later steps."""
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()
