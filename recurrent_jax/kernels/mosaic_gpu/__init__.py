"""`mosaic_gpu`: the loop over time inside one kernel on a GPU, for any pointwise cell, in Pallas's Mosaic GPU.

The recurrent weights stay in the shared memory of a cluster of thread blocks for all steps. kernels.py has the
two kernels, block.py what a block of them does, hidden.py, exchange.py and mailbox.py what blocks give each other,
tiling.py how units and rows are shared out, units.py `pointwise` by units, loops.py the arrays around them, portable.py
the same for other devices. The input projection before the kernel and the weights' gradients after it are matmuls of
XLA.

Pallas is imported when the kernel is first asked for: it takes time, and another JAX may name things otherwise.
"""

import contextlib
import functools
import importlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.export

from recurrent_jax.cells.base import PointwiseCell, accumulator
from recurrent_jax.cells.shapes import hashable
from recurrent_jax.kernels import pointwise
from recurrent_jax.kernels.contract import Inputs, Options, Outputs
from recurrent_jax.kernels.mosaic_gpu import tiling
from recurrent_jax.kernels.mosaic_gpu.tiling import Held, Tiling
from recurrent_jax.kernels.pointwise import Loops, Pass

NAME = "mosaic_gpu"

# The first JAX whose Mosaic GPU has clusters in its interpreter, and finds the layouts by itself.
SINCE = (0, 11)
# What tensor cores multiply here with a result of float32. They read float32 as TF32.
_DTYPES = ("bfloat16", "float16", "float32")
# JAX's names of precisions that ask for more than TF32 of a matmul of float32.
_EXACT = (
    *("highest", "float32", "F32_F32_F32", "F64_F64_F64", "TF32_TF32_F32_X3"),
    *("BF16_BF16_F32_X3", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9"),
)

# What `interpreted` and `tiled` set.
_interpret: Any = None
_tiling: tuple[int, int] | None = None


@contextlib.contextmanager
def interpreted(params: Any = None) -> Iterator[None]:
    """Runs the kernel in an interpreter on any device, slowly, in any dtype, and in one block of any size: for tests.

    Blocks wait for each other in threads of XLA's pool, which has one for each core: a process whose `tiled` asks for
    clusters of several, or whose batch takes several clusters, has to be started with more of them in its environment
    (`NPROC=8`), or it can wait for ever.

    Args:
      params: `plgpu.InterpretGPUParams`; None takes those that it has by default.

    Raises:
      NotImplementedError: JAX is older than 0.11.
    """
    global _interpret
    if jax.__version_info__ < SINCE:
        raise NotImplementedError(f"{NAME}: {_too_old()}")
    before, _interpret = _interpret, _block().InterpretParams() if params is None else params
    try:
        yield
    finally:
        _interpret = before


@contextlib.contextmanager
def tiled(blocks: int, rows: int) -> Iterator[None]:
    """Makes clusters of so many blocks own so many rows, where the choice would be another: for tests and tuning."""
    global _tiling
    before, _tiling = _tiling, (blocks, rows)
    jax.clear_caches()  # what is compiled does not know of it
    try:
        yield
    finally:
        _tiling = before
        jax.clear_caches()


def setting() -> Any:
    """What a compiled program depends on besides its arguments."""
    return _interpret, _tiling


def refuses(cell: Any, inputs: Inputs, options: Options) -> str | None:
    """Refuses other devices, float64, matmuls more exact than TF32, cells not pointwise, sizes beyond shared memory."""
    # First what no other device changes.
    reason = pointwise.refuses(cell, inputs)
    if reason is not None:
        return reason
    config: Any = jax.config
    dtype, precision = cell.compute_dtype, config.jax_default_matmul_precision
    if dtype.name not in _DTYPES and _interpret is None:
        return f"dtype {dtype}: it multiplies {', '.join(_DTYPES)}"
    reason = elsewhere() if _interpret is None else None
    if reason is not None:
        return reason
    if jax.__version_info__ < SINCE:
        return _too_old()
    try:
        _loops()
    except ImportError as error:
        return f"JAX {jax.__version__} has no Mosaic GPU that it knows: {error}"
    if dtype == "float32" and precision in _EXACT:
        return f"matmul precision {precision}: it rounds float32 to TF32"
    if any(jax.export.is_symbolic_dim(size) for size in inputs.xs.shape):
        return f"xs of shape {inputs.xs.shape}: it needs sizes that are known"
    if not inputs.xs.size:
        return None
    if inputs.carry.h.shape[-1] != cell.hidden_size or inputs.carry.h.dtype != cell.compute_dtype:
        return f"the carry's h is {inputs.carry.h.dtype}{list(inputs.carry.h.shape)}, not {cell.compute_dtype}"
    batch = inputs.xs.ndim - 2
    shapes = [list(leaf.shape) for leaf in jax.tree.leaves(inputs.carry) if leaf.ndim != batch + 1 or not leaf.size]
    if shapes:
        return f"the carry has leaves {shapes}, where it takes one axis of numbers behind those of the batch"
    reason = _facts(cell, inputs, options).refusal
    if reason is not None:
        return reason
    return None if _chosen(cell, inputs, options) is not None else _too_large(cell, inputs, options)


def hesitates(cell: Any, inputs: Inputs, options: Options) -> str | None:
    """Why it runs a call, that it does not refuse, only where it is asked for by its name."""
    if len(jax.devices()) > 1:
        return f"XLA can't spread it over the {len(jax.devices())} devices, as it does others"
    if inputs.xs.ndim == 2:
        return "xs has no batch axis, and where such a call is mapped each sequence takes a cluster of its own"
    if inputs.xs.shape[0] == 1:
        return "one step is no loop"
    if cell.compute_dtype == "float32":
        return "nobody has timed it in float32"
    chosen = _chosen(cell, inputs, options) if inputs.xs.size else None
    if chosen is None:
        return None
    blocks, units = tiling.TRIED
    if chosen.blocks not in blocks or chosen.block_units not in units:
        return f"no GPU has run it in clusters of {chosen.blocks} blocks of {chosen.block_units} units"
    if chosen.blocks > tiling.PORTABLE and processors() < tiling.PROCESSORS:
        return (
            f"clusters of {chosen.blocks} blocks have run on GPUs of {tiling.PROCESSORS} processors, and this one has "
            f"{processors()}"
        )
    waves = tiling.waves(chosen, math.prod(inputs.xs.shape[1:-1]), processors())
    if waves > 1:
        return f"the batch takes {waves} times as many clusters as run at a time, one after another"
    return None


def run(cell: PointwiseCell, inputs: Inputs, options: Options) -> Outputs:
    """Unrolls a pointwise cell."""
    loops, interpret = _loops(), _interpret
    chosen = _chosen(cell, inputs, options) if inputs.xs.size else None
    return pointwise.run(
        cell,
        inputs,
        options,
        Loops(
            lambda unrolled: loops.forward(unrolled, chosen, True, interpret),
            lambda *args: loops.backward(args[0], chosen, *args[1:], interpret),
            lambda unrolled: loops.forward(unrolled, chosen, False, interpret)[0],
        ),
    )


def _block() -> Any:
    return importlib.import_module("recurrent_jax.kernels.mosaic_gpu.block")


def _loops() -> Any:
    return importlib.import_module("recurrent_jax.kernels.mosaic_gpu.loops")


def _too_old() -> str:
    return f"JAX {jax.__version__}: it takes {'.'.join(map(str, SINCE))} or later"


def elsewhere() -> str | None:
    """Why it can't run on the default device."""
    config: Any = jax.config
    default = jax.default_backend() if config.jax_default_device is None else config.jax_default_device
    default = getattr(default, "platform", default)
    try:
        is_nvidia = default in ("gpu", "cuda") and jax.devices("cuda") == jax.devices()
    except RuntimeError:
        is_nvidia = False
    if not is_nvidia:
        return f"it runs on an NVIDIA GPU, and the default device is a {default}"
    device = jax.devices()[0]
    if device.compute_capability != "9.0":
        return f"it runs on Hopper (compute capability 9.0), and {device.device_kind} has {device.compute_capability}"
    return None


class _Facts(NamedTuple):
    """What tracing says of a call.

    Attributes:
      refusal: why `pointwise` can't be run by units.
      forward, backward: as in `Tiling.shared`.
    """

    refusal: str | None
    forward: Held = Held()
    backward: Held = Held()


def _facts(cell: PointwiseCell, inputs: Inputs, options: Options) -> _Facts:
    """Traces what depends on the cell and on shapes alone, once for each that can be told from others."""
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), inputs))
    trace = _trace if hashable(cell) else _trace.__wrapped__
    return trace(cell, structure, tuple(leaves), options)


@functools.lru_cache(maxsize=256)
def _trace(cell: PointwiseCell, structure: Any, leaves: tuple[Any, ...], options: Options) -> _Facts:
    loops, unrolled = _loops(), Pass(cell, jax.tree.unflatten(structure, leaves), options)
    if any(leaf.ndim != 1 for leaf in unrolled.own):
        shapes = ", ".join(str(list(leaf.shape)) for leaf in unrolled.own)
        return _Facts(f"`pointwise` reads parameters of shapes {shapes}, where it takes vectors")
    functions = loops.Functions(unrolled)
    return _Facts(functions.refusal, *loops.sizes(unrolled, functions))


def _cuts(cell: PointwiseCell, inputs: Inputs, options: Options) -> list[tuple[Tiling, int]]:
    """All ways to cut it, and the shared memory that each takes."""
    facts, rows = _facts(cell, inputs, options), math.prod(inputs.xs.shape[1:-1])
    itemsize, exact = cell.compute_dtype.itemsize, accumulator(cell.compute_dtype).itemsize
    cuts = tiling.candidates(cell.gates, cell.hidden_size, rows, _by_rows(cell.compute_dtype))
    if _interpret is not None:
        cuts = [cut._replace(direct=False) for cut in cuts]  # Pallas's interpreter knows of no stores into other blocks
    return [cut.fitted(facts.forward, facts.backward, itemsize, exact) for cut in cuts]


def _by_rows(dtype: Any) -> bool:
    """Whether the right operand of a matmul has to lie by rows."""
    return dtype == "float32"


def fitting(cell: PointwiseCell, inputs: Inputs, options: Options) -> list[Tiling]:
    """All ways to cut it that fit into shared memory."""
    return [cut for cut, size in _cuts(cell, inputs, options) if size <= tiling.SHARED or _interpret is not None]


def _chosen(cell: PointwiseCell, inputs: Inputs, options: Options) -> Tiling | None:
    """The way to cut it that is expected to be the fastest of those that fit."""
    fit = fitting(cell, inputs, options)
    if _tiling is not None:
        fit = [cut for cut in fit if (cut.blocks, cut.rows) == _tiling]
    elif _interpret is not None:
        fit = [cut for cut in fit if cut.blocks == 1]
    time = lambda cut: (tiling.cycles(cut, math.prod(inputs.xs.shape[1:-1]), processors()), cut.all_units)
    return min(fit, key=time, default=None)


def processors() -> int:
    """Those of the default device, or of a usual one where it does not say."""
    return getattr(jax.devices()[0], "core_count", tiling.PROCESSORS)


def _too_large(cell: PointwiseCell, inputs: Inputs, options: Options) -> str:
    """That no way to cut it fits."""
    if _tiling is not None:
        rows = math.prod(inputs.xs.shape[1:-1])
        return f"{cell.hidden_size} units and {rows} rows can't be cut into {_tiling[0]} blocks of {_tiling[1]} rows"
    cut, least = min(_cuts(cell, inputs, options), key=lambda cut: cut[1])
    return (
        f"{cell.gates} x {cell.hidden_size} x {cell.hidden_size} weights of {cell.compute_dtype}: each of {cut.blocks} "
        f"blocks would take {least / 1024:.0f} of its {tiling.SHARED // 1024} KiB of shared memory"
    )
