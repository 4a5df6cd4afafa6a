"""Random problems by the thousand: the kernel `native` is held to the float64 oracles, outputs and gradients.

    python -m tests.kernels.fuzz_native --shapes 2000 --seed 0

`--kernel fused` measures another kernel by the same bounds: where those of `native` come from.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import recurrent_jax as rj
import tests.conftest  # noqa: F401  the modes of JAX in which `cases` makes its arrays
from recurrent_jax.cells.base import accumulator
from recurrent_jax.kernels import by_name
from recurrent_jax.kernels.contract import Inputs, Options, Outputs
from recurrent_jax.kernels.native import library
from tests import cases, oracle_gradients, oracles

CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru_after", "peephole_lstm", "coupled_lstm")
DTYPES = ("float32", "float64", "bfloat16")
# Widths of vectors and of panels of them; heights of tiles, of a single step, of steps projected together, of passes.
WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128)
HEIGHTS = (1, 2, 3, 4, 6, 8, 9, 12, 16, 24, 48)


# Problems of one shape: to compile takes ten times as long as to run.
VARIANTS = 3


# What is allowed, in roundings (see `allowed`). `fused`, which sums in other orders, has at most 0.8 and 1.8 of them in
# 360 problems.
OF_OUTPUTS, OF_GRADIENTS = 2.5, 4.5


class Problem(NamedTuple):
    """One call: arrays of NumPy in the dtypes of the cell, time first.

    Attributes:
      carry: None where the call gives none.
      initial: what a reset restores, where it is not what the cell begins with.
      cotangent: of all that is returned.
      ways: how the arrays arrive within the compiled program, by number (see `arrived`).
      leaves_transposed: whether results leave it with axes the other way round.
    """

    case: cases.Case
    cell: Any
    params: Any
    xs: np.ndarray
    carry: Any
    initial: Any
    lengths: np.ndarray | None
    mask: np.ndarray | None
    resets: np.ndarray | None
    options: Options
    cotangent: Outputs
    ways: tuple[int, ...]
    leaves_transposed: bool

    @property
    def keep(self) -> np.ndarray:
        """The true steps, `[T, B]`."""
        steps, rows, _ = self.xs.shape
        if self.lengths is not None:
            return np.arange(steps)[:, None] < self.lengths
        return np.ones((steps, rows), bool) if self.mask is None else self.mask

    def __str__(self) -> str:
        steps, rows, features = self.xs.shape
        arrays = [name for name in ("carry", "initial", "lengths", "mask", "resets") if getattr(self, name) is not None]
        options = [name for name in ("reverse", "return_carries") if getattr(self.options, name)]
        return f"{self.cell!r} T={steps} B={rows} D={features} ({', '.join(arrays + options)})"


def draw(seed: int, variant: int = 0) -> Problem:
    """The problem of that seed. Seeds in a row have every cell in every dtype.

    A variant has other numbers and other flags in the same places, so that the same compiled program takes it.
    """
    case = next(case for case in cases.CASES if case.name == CELLS[seed % len(CELLS)])
    dtype = DTYPES[seed // len(CELLS) % len(DTYPES)]
    shape, rng = np.random.default_rng(seed), np.random.default_rng([seed, variant])
    chance = lambda share: bool(shape.random() < share)

    def size(marks: tuple[int, ...], most: int) -> int:
        """Mostly one at, below or above a mark."""
        near = int(shape.choice(marks)) + int(shape.integers(-1, 2))
        return min(max(near if chance(0.6) else int(shape.integers(1, most + 1)), 1), most)

    steps = 1 if chance(0.3) else int(shape.integers(1, 13))
    rows, units = size(HEIGHTS, 70), size(WIDTHS, 150)
    # Rarely so deep that a panel is read in blocks.
    features = int(shape.integers(500, 700)) if chance(0.02) else size(WIDTHS, 70)
    param_dtype = "float32" if dtype == "bfloat16" and chance(0.5) else dtype
    cell = dataclasses.replace(case.cell, hidden_size=units, param_dtype=param_dtype, dtype=dtype)
    normal = lambda like, scale=1.0: np.asarray(scale * rng.standard_normal(like.shape), like.dtype)
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), features))
    # Neither is a sum so large that all gates are shut, nor does a step enlarge what went wrong before it.
    scales = {"w_x": features**-0.5, "w_h": 0.7 * units**-0.5}
    drawn = {k: normal(a, scales.get(k, 0.5)) for k, a in shapes._asdict().items() if a is not None}
    # What the computation reads of a matrix is of its own dtype, also where parameters are of another.
    drawn |= {k: drawn[k].astype(cell.compute_dtype).astype(param_dtype) for k in scales}
    params = shapes._replace(**drawn)
    state = jax.eval_shape(lambda: cell.initial_carry(params, (rows,)))
    each = jax.tree.map(lambda a: jax.ShapeDtypeStruct((steps, *a.shape), a.dtype), state)
    draws = lambda tree: jax.tree.map(normal, tree)
    flags = lambda shares: rng.random((steps, rows)) < rng.choice(shares)

    padding = shape.choice(["none", "lengths", "gaps"])
    lengths = rng.integers(0, steps + 1, rows) if padding == "lengths" else None
    mask = flags([0.1, 0.5, 0.9]) if padding == "gaps" else None
    resets = flags([0.1, 0.5, 1.0]) if chance(0.4) else None
    carry = draws(state) if chance(0.7) else None
    initial = draws(state) if resets is not None and carry is not None and lengths is None and chance(0.7) else None
    options = Options(chance(0.4), chance(0.5))
    problem = Problem(
        case,
        cell,
        params,
        normal(jax.ShapeDtypeStruct((steps, rows, features), cell.compute_dtype)),
        carry,
        initial,
        lengths,
        mask,
        resets,
        options,
        Outputs(draws(state), normal(each.h), draws(each) if options.return_carries else None),
        tuple(int(way) for way in shape.integers(0, 4, 40)),
        chance(0.3),
    )
    if rng.random() < 0.5:
        problem.xs[~problem.keep] = np.nan
    return problem


def packed(array: np.ndarray, way: int) -> np.ndarray:
    """An array as it is, batch first, with axes the other way round, or within a larger one."""
    if way == 1 and array.ndim > 1:
        return np.ascontiguousarray(np.swapaxes(array, 0, 1))
    if way == 2:
        return np.ascontiguousarray(array.T)
    if way == 3:
        fill = np.nan if array.dtype != bool and array.dtype.kind not in "iu" else 1
        return np.pad(array, [(1, 2)] * array.ndim, constant_values=fill)
    return array


def arrived(array: jax.Array, way: int) -> jax.Array:
    """What `packed` was given."""
    if way == 1 and array.ndim > 1:
        return jnp.swapaxes(array, 0, 1)
    if way == 2:
        return array.T
    return array[(slice(1, -2),) * array.ndim] if way == 3 else array


def compiled(problem: Problem, kernel: str) -> Callable[[Problem], tuple[Outputs, Outputs, Any]]:
    """A function that has a kernel compute it or a variant: outputs without and with derivatives, and the gradients.

    All of it is one compiled program.
    """
    cell, options = problem.cell, problem.options
    if kernel != "native":
        problem = problem._replace(ways=(0,) * len(problem.ways), leaves_transposed=False)
    ways, leaves_transposed = problem.ways, problem.leaves_transposed
    fields = ("params", "xs", "carry", "initial", "lengths", "mask", "resets", "cotangent")
    data = lambda problem: [getattr(problem, field) for field in fields]
    structure = jax.tree.structure(data(problem))

    def program(leaves: list[jax.Array]) -> Any:
        """All arrays arrive as arguments."""
        each = [arrived(leaf, way) for leaf, way in zip(leaves, ways, strict=False)]
        *args, lengths, mask, resets, cotangent = jax.tree.unflatten(structure, each)

        def run(params: Any, xs: jax.Array, carry: Any, initial: Any) -> Outputs:
            """Only the kernel itself can be given an initial carry; padding is taken from the inputs before it."""
            if initial is None:
                flags = {"lengths": lengths, "mask": mask, "resets": resets}
                return Outputs(*rj.unroll(cell, params, xs, carry, **flags, **options._asdict(), implementation=kernel))
            if mask is not None:
                xs = jnp.where(mask[..., jnp.newaxis], xs, jnp.zeros_like(xs))
            return by_name(kernel).run(cell, Inputs(params, xs, carry, initial, mask, resets), options)

        out, back = jax.vjp(run, *args)
        results = run(*args), out, back(cotangent)
        return jax.tree.map(jnp.transpose, results) if leaves_transposed else results

    # XLA has the products of bfloat16 that other kernels ask for only where its optimiser has chosen the layouts.
    run = jax.jit(program, compiler_options=cases.FAST_TO_COMPILE if kernel == "native" else None)

    def call(problem: Problem) -> Any:
        given = [packed(np.asarray(a), way) for a, way in zip(jax.tree.leaves(data(problem)), ways, strict=False)]
        return jax.tree.map(lambda a: np.asarray(a).T if leaves_transposed else np.asarray(a), run(given))

    return call


def expected(problem: Problem, sides: np.ndarray) -> tuple[Outputs, Any]:
    """Outputs and gradients by the oracles.

    Args:
      sides: `[T, B, H]` where the outputs are positive. On which side of zero a sum comes to lie may hang on rounding,
        and half of relu's derivative with it: those of the kernel count. That its outputs are right is held elsewhere.
    """
    double = lambda tree: tuple(np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree))
    steps, keep = len(problem.xs), problem.keep[..., np.newaxis]
    params, (xs,) = double(problem.params), double(problem.xs)
    xs = np.where(keep, xs, 0.0)
    state = double(problem.cotangent.carry)
    zeros = tuple(np.zeros_like(leaf) for leaf in state)
    first = zeros if problem.carry is None else double(problem.carry)
    initial = zeros if problem.initial is None else double(problem.initial)
    reset = np.zeros_like(keep) if problem.resets is None else problem.resets[..., np.newaxis]
    last, ys, carries = oracles.unroll(
        problem.case.oracle,
        params,
        xs,
        first,
        initial,
        lengths=problem.lengths,
        mask=problem.mask,
        resets=problem.resets,
        reverse=problem.options.reverse,
    )

    backward: Callable[..., Any] = getattr(oracle_gradients, problem.case.name)
    d_params, d_xs, d_initial = tuple(np.zeros_like(leaf) for leaf in params), np.zeros_like(xs), zeros
    d_carry, (d_ys,) = state, double(problem.cotangent.ys)
    d_carries = double(problem.cotangent.carries) or tuple(np.zeros_like(leaf) for leaf in carries)
    order = range(steps)[:: -1 if problem.options.reverse else 1]
    for before, t in reversed(list(zip([None, *order], order, strict=False))):
        start = first if before is None else tuple(leaf[before] for leaf in carries)
        start = tuple(np.where(reset[t], i, a) for i, a in zip(initial, start, strict=True))
        d_carry = tuple(d + after[t] for d, after in zip(d_carry, d_carries, strict=True))
        d_new, d_y = tuple(np.where(keep[t], d, 0.0) for d in d_carry), np.where(keep[t], d_ys[t], 0.0)
        if problem.case.name == "rnn_relu":
            d_step, d_start, d_xs[t] = relu_backward(params, start, xs[t], d_new[0] + d_y, sides[t])
        else:
            d_step, d_start, d_xs[t] = backward(params, start, xs[t], d_new, d_y)
        d_params = tuple(map(np.add, d_params, d_step))
        d_initial = tuple(d + np.where(keep[t] & reset[t], s, 0.0) for d, s in zip(d_initial, d_start, strict=True))
        d_start = tuple(np.where(reset[t], 0.0, s) for s in d_start)
        d_carry = tuple(np.where(keep[t], s, d) for s, d in zip(d_start, d_carry, strict=True))
    like = lambda leaves, tree: jax.tree.unflatten(jax.tree.structure(tree), leaves)
    of_carry = lambda leaves: like(leaves, problem.cotangent.carry)
    out = Outputs(of_carry(last), ys, of_carry(carries) if problem.options.return_carries else None)
    gradients = (
        like(d_params, problem.params),
        d_xs,
        None if problem.carry is None else of_carry(d_carry),
        None if problem.initial is None else of_carry(d_initial),
    )
    return out, gradients


def relu_backward(params: Any, carry: Any, x: np.ndarray, d_h: np.ndarray, side: np.ndarray) -> Any:
    """The oracle's, with the condition given."""
    w, u, _ = params
    d_a = d_h * side
    return (x.T @ d_a, carry[0].T @ d_a, d_a.sum(0)), (d_a @ u.T,), d_a @ w.T


def error(got: Any, reference: Any) -> tuple[float, str]:
    """The largest error of all leaves, by the leaf's largest value (or 1 where that is smaller), and of which leaf."""
    assert jax.tree.structure(got) == jax.tree.structure(reference)
    worst, name = 0.0, ""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(reference), strict=True):
        assert a.shape == b.shape, path
        off = np.abs(np.asarray(a, np.float64) - b).max(initial=0.0) / max(1.0, np.abs(b).max(initial=0.0))
        # A NaN is compared with nothing, and worse than any number.
        off = float(off) if np.isfinite(off) else np.inf
        if off >= worst:
            worst, name = off, jax.tree_util.keystr(path)
    return worst, name


def ratio(problem: Problem, results: tuple[Outputs, Outputs, Any]) -> tuple[float, str]:
    """The largest error of what was computed by what is allowed, and of which result."""
    primal, out, gradients = results
    expected_out, expected_gradients = expected(problem, np.asarray(out.ys, np.float64) > 0)
    steps, rows, features = problem.xs.shape
    dtype = problem.cell.compute_dtype

    def allowed(summands: int, limit: float) -> float:
        """What is kept is rounded once, and the roundings of a sum grow with the root of their number."""
        rounding, of_sums = (float(jnp.finfo(kind).eps) for kind in (dtype, accumulator(dtype)))
        return limit * (rounding + of_sums * summands**0.5)

    depth = features + problem.cell.hidden_size
    worst = (0.0, "")
    for kind, got, reference, tolerance in (
        ("output", primal, expected_out, allowed(depth, OF_OUTPUTS)),
        ("output, differentiated", out, expected_out, allowed(depth, OF_OUTPUTS)),
        ("gradient", gradients, expected_gradients, allowed(max(depth, steps * rows), OF_GRADIENTS)),
    ):
        off, leaf = error(got, reference)
        worst = max(worst, (off / tolerance, f"{kind} {leaf}"))
    return worst


def worst_of(seed: int, kernel: str = "native") -> tuple[float, str]:
    """The largest error of the variants of a problem by what is allowed, and what it is of, in words."""
    first = draw(seed)
    asked = os.environ.get("RECURRENT_JAX_INSTRUCTION_SET")
    command = f"python -m tests.kernels.fuzz_native --shapes 1 --seed {seed}"
    alone = f"RECURRENT_JAX_INSTRUCTION_SET={asked} {command}" if asked else command
    try:
        run = compiled(first, kernel)
        each = [(*ratio(problem, run(problem)), problem) for problem in (draw(seed, v) for v in range(VARIANTS))]
    except Exception as failure:
        failure.add_note(f"{first}\n  {alone}")
        raise
    off, what, problem = max(each, key=lambda found: found[0])
    return off, f"{what}: {off:.3g} times what is allowed in {problem}\n  {alone}"


def main() -> int:
    """Runs the problems; 1 where one of them is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=2000, help=f"how many programs, of {VARIANTS} problems each")
    parser.add_argument("--seed", type=int, default=0, help="of the first one; each further one has the next seed")
    parser.add_argument("--kernel", default="native", help="another kernel, by the same bounds")
    args = parser.parse_args()
    worst: dict[tuple[str, str], tuple[float, int]] = {}
    wrong = 0
    with tqdm.trange(args.shapes, unit=" shapes") as bar:
        for index in bar:
            seed = args.seed + index
            off, words = worst_of(seed, args.kernel)
            problem = draw(seed)
            key = problem.case.name, problem.cell.compute_dtype.name
            worst[key] = max(worst.get(key, (0.0, 0)), (off, seed))
            if off > 1:
                wrong += 1
                bar.write(words)
            if index % 100 == 99:
                jax.clear_caches()  # programs that no other problem has a use for
    used = f" on {library.load().instruction_set}" if args.kernel == "native" else ""
    run = f"{VARIANTS * args.shapes} problems of {args.shapes} shapes from seed {args.seed} on"
    print(f"{args.kernel}{used}: {run}, {wrong} shapes wrong")
    print("largest error by what is allowed, and its seed:")
    for (name, dtype), (off, seed) in sorted(worst.items()):
        print(f"  {name:14} {dtype:9} {off:6.3f}  {seed}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
