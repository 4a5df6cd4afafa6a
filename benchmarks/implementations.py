"""What takes part of ours: kernels by name, ways of calling them, and what XLA can do around them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

# How a step by itself is called: by its definition, and by the fastest kernel.
STEPS = ("cell.step", "rj.step")
# Of XLA, what goes into a CUDA graph, which is launched as a whole: loops do not by default.
_GRAPHS = "xla_gpu_enable_command_buffer"
_WITH_LOOPS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,WHILE,CONDITIONAL"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Implementation(NamedTuple):
    """One of ours.

    Attributes:
      meaning: one line for `list`.
      options: of `rj.unroll`.
      gpu_options: of XLA's compiler for GPUs; with some of them it runs nowhere else.
    """

    meaning: str
    options: Mapping[str, Any] = _NOTHING
    gpu_options: Mapping[str, Any] = _NOTHING


def _kernel(name: str, meaning: str, **gpu_options: str) -> Implementation:
    """A kernel that is asked for by its name."""
    return Implementation(meaning, {"implementation": name}, gpu_options)


IMPLEMENTATIONS = {
    "cell.step": Implementation("one step of the cell"),
    "rj.step": Implementation("one step by the fastest kernel"),
    "scan": _kernel("scan", "jax.lax.scan over the step: what one writes without this library"),
    "native": _kernel("native", "compiled code for CPUs"),
    "fused": _kernel("fused", "the scan with its own backward pass"),
    "mosaic_gpu": _kernel("mosaic_gpu", "the loop in one kernel on a GPU"),
    "pallas_tpu": _kernel("pallas_tpu", "the loop in one kernel on a TPU"),
    "cudnn": _kernel("cudnn", "jax.experimental.rnn behind our contract"),
    "checkpoint_every=64": Implementation(
        "carries stored every 64 steps, the rest computed again", {"checkpoint_every": 64}
    ),
    "fused:graphs": _kernel("fused", "fused, its loops in CUDA graphs", **{_GRAPHS: _WITH_LOOPS}),
    "mosaic_gpu:no_graphs": _kernel("mosaic_gpu", "mosaic_gpu, and nothing in CUDA graphs", **{_GRAPHS: ""}),
}
