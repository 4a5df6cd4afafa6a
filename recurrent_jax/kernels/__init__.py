"""Kernels: one way to run the recurrence a file. Here is the ordered registry, and the choice from it."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from recurrent_jax.kernels import cudnn, fused, mosaic_gpu, native, pallas_tpu, scan
from recurrent_jax.kernels.contract import Inputs, Kernel, Options

# The order of preference. `scan` refuses nothing, so the choice always ends there at the latest.
REGISTRY: tuple[Kernel, ...] = (native, mosaic_gpu, fused, pallas_tpu, cudnn, scan)
# Why a kernel that does not refuse a call is still not taken without being asked for by its name.
HESITATIONS: dict[str, Callable[[Any, Inputs, Options], str | None]] = {
    mosaic_gpu.NAME: mosaic_gpu.hesitates,
    pallas_tpu.NAME: lambda *_: "no TPU has run it yet",
    cudnn.NAME: lambda *_: "it is there to compare with",
}

Implementation = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, repr=False)
class Explanation:
    """Which kernel a call runs, and why not those before it.

    Attributes:
      chosen: name of the kernel.
      verdicts: for each kernel in order, its name and why it was passed over (None for the chosen).
    """

    chosen: str
    verdicts: tuple[tuple[str, str | None], ...]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.verdicts)
        lines = []
        for name, reason in self.verdicts:
            what = "runs" if name == self.chosen else f"refuses: {reason}" if reason else "not needed"
            lines.append(f"{name:<{width}}  {what}")
        return "\n".join(lines)

    __repr__ = __str__


def candidates(implementation: Implementation) -> tuple[Kernel, ...]:
    """The kernels that `implementation` allows, in order.

    Raises:
      ValueError: a name is unknown, or there is none.
    """
    if implementation is None:
        return REGISTRY
    names = (implementation,) if isinstance(implementation, str) else implementation
    known = {kernel.NAME: kernel for kernel in REGISTRY}
    if not isinstance(names, (tuple, list)) or not names or any(name not in list(known) for name in names):
        raise ValueError(
            f"implementation: expected None, one of {', '.join(map(repr, known))}, or a tuple of these, "
            f"got {implementation!r}"
        )
    return tuple(known[name] for name in names)


def explain(implementation: Implementation, cell: Any, inputs: Inputs, options: Options) -> Explanation:
    """What `choose` gives, and every verdict.

    Raises:
      NotImplementedError: every allowed kernel refuses.
    """
    verdicts = tuple(_verdicts(implementation, cell, inputs, options))
    return Explanation(_first(implementation, verdicts), verdicts)


def choose(implementation: Implementation, cell: Any, inputs: Inputs, options: Options) -> str:
    """The name of the first kernel of `candidates` that does not refuse; those behind it are not asked.

    Raises:
      NotImplementedError: every allowed kernel refuses.
    """
    return _first(implementation, _verdicts(implementation, cell, inputs, options))


def _first(implementation: Implementation, verdicts: Iterable[tuple[str, str | None]]) -> str:
    """The name of the first kernel that does not refuse."""
    reasons = []
    for name, reason in verdicts:
        if reason is None:
            return name
        reasons.append(f"{name} refuses: {reason}")
    raise NotImplementedError(
        f"implementation={implementation!r}: {'; '.join(reasons)}. Write implementation=None to let the library choose."
    )


def _verdicts(
    implementation: Implementation, cell: Any, inputs: Inputs, options: Options
) -> Iterator[tuple[str, str | None]]:
    """Each kernel's name and why it does not run the call, None where it would; asked as they are drawn."""
    for kernel in candidates(implementation):
        reason = kernel.refuses(cell, inputs, options)
        if reason is None and implementation is None and kernel.NAME in HESITATIONS:
            hesitation = HESITATIONS[kernel.NAME](cell, inputs, options)
            reason = hesitation and f"only where it is asked for by its name: {hesitation}"
        yield kernel.NAME, reason


def setting(name: str) -> Any:
    """What tests have set of the kernel of that name, on which what it compiles to depends."""
    return getattr(by_name(name), "setting", tuple)()


def by_name(name: str) -> Kernel:
    """The kernel of that name."""
    return candidates(name)[0]
