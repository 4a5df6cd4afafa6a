"""Where compiled code can go, and what goes everywhere else.

JAX exports no compiled code but its own, and what is compiled here runs on CPUs. So that a program with such a call can
be exported, and lowered for any device, the call is a primitive that decides when it is lowered.
`lax.platform_dependent` knows the device, but not that a program is exported.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import mlir

_call = Primitive("compiled_or_portable")
_call.multiple_results = True
_run = jax.jit(_call.bind, static_argnames=("compiled", "portable", "structure"))


def compiled_or_portable(compiled: Callable[..., Any], portable: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is `compiled` on this machine's CPU and `portable` elsewhere.

    Args:
      compiled: a function of pytrees of arrays that calls compiled code.
      portable: a function of JAX of the same arguments and results. It is traced only where it is needed.
    """

    def function(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        jaxpr, out = jax.make_jaxpr(compiled, return_shape=True)(*args)
        results = _call.bind(*leaves, compiled=jaxpr, portable=portable, structure=structure)
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return function


@_call.def_impl
def _impl(*leaves: Any, **fixed: Any) -> Any:
    # Without jit this would call itself. JAX's own primitives are compiled then, too.
    with jax.disable_jit(False):
        return _run(*leaves, **fixed)


@_call.def_abstract_eval
def _abstract_eval(*_: Any, compiled: Any, **__: Any) -> Any:
    return compiled.out_avals


def _lower(ctx: Any, *leaves: Any, compiled: Any, portable: Callable[..., Any], structure: Any) -> Any:
    # What JAX says of a lowering has no documentation: it is read here and nowhere else.
    module = ctx.module_context
    only_here = tuple(ctx.platforms or module.platforms) == ("cpu",) and not module.lowering_parameters.for_export
    everywhere = lambda *leaves: jax.tree.leaves(portable(*jax.tree.unflatten(structure, leaves)))
    return mlir.lower_fun(jaxpr_as_fun(compiled) if only_here else everywhere)(ctx, *leaves)


mlir.register_lowering(_call, _lower)
