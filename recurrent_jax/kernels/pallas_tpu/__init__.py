"""`pallas_tpu`: the loop over time inside one kernel on a TPU, for any pointwise cell.

    grid      (blocks of rows, chunks of steps), the second one in order
    resident  W_h, what `pointwise` reads, and the carry, in VMEM for all steps
    streamed  projected inputs, masks, resets, outputs and what is saved, a chunk at a time

`pointwise` is traced into the kernel, and into the backward kernel by `jax.vjp`, which writes the
gradients of the pre-activations over these. The input projection before it and the weights' gradients
after it are matmuls of XLA.

Pallas is imported when the kernel is first asked for: it takes time, and a later JAX may name things
otherwise.
"""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.export

from recurrent_jax.cells.base import PointwiseCell
from recurrent_jax.kernels import pointwise
from recurrent_jax.kernels.contract import Inputs, Options, Outputs
from recurrent_jax.kernels.pointwise import Loops, Pass

NAME = "pallas_tpu"

# What `interpreted` sets.
_interpret: Any = False


@contextlib.contextmanager
def interpreted(params: Any) -> Iterator[None]:
    """Runs the kernel in an interpreter on any device, slowly: for tests.

    Args:
      params: what `pl.pallas_call` calls `interpret`: `pltpu.InterpretParams`, which imitates a TPU, or True.
    """
    global _interpret
    before, _interpret = _interpret, params
    try:
        yield
    finally:
        _interpret = before


def setting() -> Any:
    """What a compiled program depends on besides its arguments."""
    return _interpret


def refuses(cell: Any, inputs: Inputs, options: Options) -> str | None:
    """Refuses other devices, float64, cells that are not pointwise, and sizes that do not fit into VMEM."""
    # First what no other device changes.
    reason = pointwise.refuses(cell, inputs)
    if reason is not None:
        return reason
    if cell.compute_dtype.itemsize > 4 and not _interpret:
        return f"dtype {cell.compute_dtype}: a TPU has no such matmul"
    constants = Pass(cell, inputs, options).constants
    if constants:
        shapes = ", ".join(str(list(shape)) for shape in constants)
        return f"`pointwise` closes over arrays of shapes {shapes}, which have to be parameters"
    if not _interpret and jax.default_backend() != "tpu":
        return f"it runs on a TPU, and the default device is a {jax.default_backend()}"
    try:
        loops, plan = _loops(), importlib.import_module("recurrent_jax.kernels.pallas_tpu.plan")
    except ImportError as error:
        return f"JAX {jax.__version__} has no Pallas that it knows: {error}"
    if any(jax.export.is_symbolic_dim(size) for size in inputs.xs.shape):
        return f"xs of shape {inputs.xs.shape}: it needs sizes that are known"
    if not inputs.xs.size:
        return None
    batch = inputs.xs.ndim - 2
    few = [list(leaf.shape) for leaf in jax.tree.leaves(inputs.carry) if leaf.ndim <= batch or not leaf.size]
    if few:
        return f"the carry has leaves {few}, where it takes numbers behind the axes of the batch"
    plans: list[Any] = []
    jax.eval_shape(lambda inputs: plans.extend(loops.plans(Pass(cell, inputs, options))), inputs)
    largest = min(plans, key=lambda plan: plan.chunk)
    if largest.chunk < 1:
        return (
            f"{cell.hidden_size} units of {cell.compute_dtype} and {largest.block} rows: what stays in VMEM takes "
            f"{largest.resident / 2**20:.1f} of its {plan.vmem() >> 20} MiB and leaves no room for a step"
        )
    return None


def run(cell: PointwiseCell, inputs: Inputs, options: Options) -> Outputs:
    """Unrolls a pointwise cell."""
    loops, interpret = _loops(), _interpret
    return pointwise.run(
        cell,
        inputs,
        options,
        Loops(
            lambda unrolled: loops.forward(unrolled, True, interpret),
            lambda *args: loops.backward(*args, interpret),
            lambda unrolled: loops.forward(unrolled, False, interpret)[0],
        ),
    )


def _loops() -> Any:
    return importlib.import_module("recurrent_jax.kernels.pallas_tpu.loops")
