"""Checkpoints of a training state, by orbax."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints in one folder, the newest few of them kept.

    A checkpoint appears under its final name only when it is whole, so a run that was killed while
    it saved goes on from the one before.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, **items: Any) -> None:
        """Saves named pytrees of arrays, unless this step is saved already."""
        if step != self.latest():
            self._manager.save(step, args=ocp.args.Composite(**{n: ocp.args.StandardSave(i) for n, i in items.items()}))

    def restore(self, **examples: Any) -> dict[str, Any]:
        """Items of the newest checkpoint, each with the structure, shapes and dtypes of its example."""
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), examples)
        wanted = {name: ocp.args.StandardRestore(example) for name, example in abstract.items()}
        return dict(self._manager.restore(self.latest(), args=ocp.args.Composite(**wanted)).items())

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()
