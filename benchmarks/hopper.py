"""What decides how `mosaic_gpu` is cut: how fast the blocks of a Hopper GPU reach each other, and every cut by itself.

    meeting     all blocks of a cluster wait for each other
    exchange    each block's part of h to global memory, the meeting, all of h back
    gather      as the kernel does forward: each block's part of h to global memory, and back to all in one copy
    post        as the kernel does backward: each block's part of all sums into the shared memory of who owns them
    neighbour   each block stores a tile in the shared memory of the next of its cluster, and waits for its own
    grid        all blocks of the GPU wait for each other by a semaphore in global memory

Each is a loop within one kernel: the time of many turns less that of few, by how many more they are.
"""

import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic.gpu.core import LoweringSemantics
from jax.experimental.pallas import mosaic_gpu

import recurrent_jax as rj
from benchmarks.machine import commit, device, versions
from recurrent_jax.kernels import mosaic_gpu as mosaic_kernel
from recurrent_jax.kernels.contract import Inputs, Options
from recurrent_jax.kernels.mosaic_gpu import fitting, mailbox, tiled, tiling
from recurrent_jax.kernels.mosaic_gpu.block import meet

plgpu: Any = mosaic_gpu  # whose types are other ones with each JAX
Kernel = Any  # from a number of turns to a function of an array
FEW, MANY, REPEATS = 1000, 11000, 7
# Rows of a cluster, the tile that goes to a neighbour, and how long an axis of a copy may be.
ROWS, TILE, COPY = 16, (64, 64), 256
# What the cuts are tried on: units and rows of the batch, in bfloat16.
STEPS, FEATURES = 512, 256
LAYERS = [(kind, units, rows) for kind in (rj.LSTM, rj.GRU) for units in (256, 512) for rows in (16, 64)]


def meeting(blocks: int) -> Kernel:
    """A cluster of so many blocks meets; what comes back counts the turns."""

    def body(turns: int, x: Any, out: Any, own: Any) -> None:
        def turn(_: Any, __: Any) -> None:
            plgpu.barrier_arrive(own["cluster"])
            plgpu.barrier_wait(own["cluster"])

        lax.fori_loop(0, turns, turn, None)
        out[...] = x[...] + turns

    return _kernel(body, (128,), jnp.float32, {"cluster": plgpu.ClusterBarrier(collective_axes=("blocks",))}, blocks)


def exchange(blocks: int, units: int, fenced: bool) -> Kernel:
    """A cluster exchanges `[units, 16]` of bfloat16; at each turn every block adds 1 to its part of what came back."""
    part = units // blocks
    scratch = {
        "cluster": plgpu.ClusterBarrier(collective_axes=("blocks",)),
        "part": plgpu.SMEM((part, ROWS), jnp.bfloat16),
        "all": plgpu.SMEM((units, ROWS), jnp.bfloat16),
        "arrived": plgpu.Barrier(num_arrivals=-(-units // COPY)),
    }

    def body(turns: int, x: Any, out: Any, own: Any) -> None:
        mine = pl.ds(lax.axis_index("blocks") * part, part)

        def fetch(source: Any) -> None:
            for start in range(0, units, COPY):
                rows = pl.ds(start, min(COPY, units - start))
                plgpu.copy_gmem_to_smem(source.at[rows], own["all"].at[rows], own["arrived"])
            plgpu.barrier_wait(own["arrived"])

        fetch(x)

        def turn(number: Any, _: Any) -> None:
            own["part"][...] = own["all"][mine] + jnp.bfloat16(1)
            plgpu.commit_smem()
            place = out.at[pl.ds(number % 2 * units, units)]
            plgpu.copy_smem_to_gmem(own["part"], place.at[mine])
            plgpu.wait_smem_to_gmem(0, wait_read_only=False)
            meet(own["cluster"], fenced)
            fetch(place)

        lax.fori_loop(0, turns, turn, None)

    return _kernel(body, (units, ROWS), jnp.bfloat16, scratch, blocks, out_shape=(2 * units, ROWS))


def gather(blocks: int, units: int) -> Kernel:
    """As `exchange`, where each block fetches what it has written itself, for all."""
    part = units // blocks
    scratch = {
        "part": plgpu.SMEM((part, ROWS), jnp.bfloat16),
        "all": plgpu.SMEM((2, units, ROWS), jnp.bfloat16),
        "arrived": plgpu.Barrier(num_barriers=2),
    }

    def body(turns: int, x: Any, out: Any, own: Any) -> None:
        mine = pl.ds(lax.axis_index("blocks") * part, part)

        def fetch(source: Any, slot: Any) -> None:
            all_of_it, arrived = own["all"].at[slot], own["arrived"].at[slot]
            plgpu.copy_gmem_to_smem(source, all_of_it, arrived, collective_axes=("blocks",))
            plgpu.barrier_wait(arrived)

        fetch(x, 1)

        def turn(number: Any, _: Any) -> None:
            slot = number % 2
            own["part"][...] = own["all"][1 - slot, mine] + jnp.bfloat16(1)
            plgpu.commit_smem()
            place = out.at[pl.ds(slot * units, units)]
            plgpu.copy_smem_to_gmem(own["part"], place.at[mine])
            plgpu.wait_smem_to_gmem(0, wait_read_only=False)
            fetch(place, slot)

        lax.fori_loop(0, turns, turn, None)

    return _kernel(body, (units, ROWS), jnp.bfloat16, scratch, blocks, out_shape=(2 * units, ROWS))


def posting(blocks: int) -> Kernel:
    """Each block stores `[32, 16]` of float32 in the mailbox of each; those of 16 blocks are stored half by half."""
    cut = tiling.Tiling(1, blocks * tiling.UNITS, blocks, tiling.UNITS, ROWS, by_rows=False, direct=True)
    some = min(cut.sums_at_a_time, cut.all_units)
    scratch = {
        "cluster": plgpu.ClusterBarrier(collective_axes=("blocks",)),
        "parts": plgpu.SMEM((some, ROWS), jnp.float32, transforms=mailbox.transforms(cut)),
        "mailbox": plgpu.SMEM((cut.all_units, ROWS), jnp.float32, transforms=mailbox.transforms(cut)),
        "posted": plgpu.SMEM((2,), jnp.int32),
    }

    def body(turns: int, x: Any, out: Any, own: Any) -> None:
        mailbox.open_mailbox(own["posted"])

        def turn(number: Any, _: Any) -> None:
            plgpu.commit_smem()
            plgpu.barrier_arrive(own["cluster"])
            plgpu.barrier_wait(own["cluster"])
            for start in range(0, cut.all_units, some):
                units = pl.ds(start, min(some, cut.all_units - start))
                mailbox.post(own["parts"], own["mailbox"], own["posted"], units, cut)
            mailbox.await_posted(own["posted"], number % 2)

        lax.fori_loop(0, turns, turn, None)
        out[...] = x[...] + turns

    return _kernel(body, (128,), jnp.float32, scratch, blocks)


def neighbour(blocks: int) -> Kernel:
    """Each block of a cluster stores a tile of float32 in the next one."""
    scratch = {
        "cluster": plgpu.ClusterBarrier(collective_axes=("blocks",)),
        "tile": plgpu.SMEM((2, *TILE), jnp.float32),
        "arrived": plgpu.Barrier(num_barriers=2),
    }

    def body(turns: int, x: Any, out: Any, own: Any) -> None:
        block = lax.axis_index("blocks")
        own["tile"][0] = plgpu.layout_cast(jnp.zeros(TILE, jnp.float32), plgpu.Layout.WGMMA)

        def turn(number: Any, _: Any) -> None:
            slot = number % 2
            plgpu.async_store_smem(
                plgpu.layout_cast(jnp.full(TILE, 1.0, jnp.float32), plgpu.Layout.WGMMA),
                own["tile"].at[slot],
                own["arrived"].at[slot],
                cluster_idx=lax.rem(block + 1, blocks),
                cluster_dim="blocks",
                optimized=False,
            )
            plgpu.barrier_wait(own["arrived"].at[slot])
            plgpu.barrier_arrive(own["cluster"])
            plgpu.barrier_wait(own["cluster"])

        lax.fori_loop(0, turns, turn, None)
        out[...] = x[...] + turns

    return _kernel(body, (128,), jnp.float32, scratch, blocks)


def grid(blocks: int) -> Kernel:
    """So many blocks, one on each processor, signal and wait."""

    def body(turns: int, x: Any, out: Any, own: Any) -> None:
        met = pl.get_global(plgpu.SemaphoreType.REGULAR)  # one of all blocks, where scratch would be one of each

        def turn(number: Any, _: Any) -> None:
            pl.semaphore_signal(met)
            pl.semaphore_wait(met, (number + 1) * blocks, decrement=False)

        lax.fori_loop(0, turns, turn, None)
        out[...] = x[...] + turns

    return _kernel(body, (128,), jnp.float32, {}, 1, blocks)


def _kernel(
    body: Callable[..., None],
    shape: tuple[int, ...],
    dtype: Any,
    scratch: dict[str, Any],
    blocks: int,
    clusters: int = 1,
    out_shape: tuple[int, ...] | None = None,
) -> Kernel:
    """From a number of turns to a function of an array of this shape."""

    def of(turns: int, interpret: Any = None) -> Callable[[jax.Array], jax.Array]:
        return plgpu.kernel(
            lambda x, out, **own: body(turns, x, out, own),
            out_type=jax.ShapeDtypeStruct(out_shape or shape, dtype),
            scratch_types=scratch,
            grid=(clusters,),
            grid_names=("clusters",),
            cluster=(blocks,),
            cluster_names=("blocks",),
            compiler_params=plgpu.CompilerParams(lowering_semantics=LoweringSemantics.Warpgroup),
            **({} if interpret is None else {"interpret": interpret}),
        )

    of.given = jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[attr-defined]
    return of


def constants(processors: int) -> dict[str, Kernel]:
    """What is measured, by name."""
    return {
        **{f"meeting of {blocks}": meeting(blocks) for blocks in (2, 4, 8, 16)},
        **{f"exchange of {32 * b} units by {b}": exchange(b, 32 * b, True) for b in (2, 8, 16)},
        "exchange of 512 units by 16, without fences": exchange(16, 512, False),
        **{f"gather of {32 * b} units by {b}": gather(b, 32 * b) for b in (2, 8, 16)},
        **{f"post of {blocks}": posting(blocks) for blocks in (2, 8, 16)},
        **{f"neighbour of {blocks}": neighbour(blocks) for blocks in (2, 16)},
        f"grid of {processors}": grid(processors),
    }


def seconds_of_a_turn(kernel: Any, run: Mapping[int, Future[Any]]) -> float:
    """By the difference between many turns and few, each compiled."""
    given = jnp.zeros(kernel.given.shape, kernel.given.dtype)
    many, few = (_seconds(functools.partial(run[turns].result(), given)) for turns in (MANY, FEW))
    return (many - few) / (MANY - FEW)


def _seconds(call: Callable[[], Any]) -> float:
    """The median of some calls behind a first one."""
    found = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def layer(kind: Any, units: int, rows: int) -> tuple[Any, Inputs]:
    """A cell in bfloat16, and what it unrolls."""
    cell = kind(units, param_dtype=jnp.bfloat16)
    random = np.random.default_rng(0)
    params = cell.init(jax.random.key(0), FEATURES)
    xs = jnp.asarray(random.standard_normal((STEPS, rows, FEATURES)), jnp.bfloat16)
    return cell, Inputs(params, xs, cell.initial_carry(params, (rows,)))


def expected_cycles(cut: tiling.Tiling, rows: int) -> float:
    """Of a step, on this GPU or on one of the usual size."""
    return tiling.cycles(cut, rows, mosaic_kernel.processors())


def fastest(cell: Any, inputs: Inputs) -> list[tiling.Tiling]:
    """The cuts that are expected to be fast, the fastest first."""
    return sorted(fitting(cell, inputs, Options()), key=lambda cut: expected_cycles(cut, inputs.xs.shape[1]))[:3]


def gradient(cell: Any, inputs: Inputs) -> Any:
    """Of a loss by parameters and inputs, to be lowered."""
    # Not by `unroll`, which would take what it compiled for the first cut.
    run = lambda params, xs: mosaic_kernel.run(cell, inputs._replace(params=params, xs=xs), Options())
    return jax.jit(jax.grad(lambda params, xs: jnp.sum(run(params, xs).ys.astype(jnp.float32)), (0, 1)))


class Cut(NamedTuple):
    """A layer cut in one way, and its gradient, compiled."""

    row: dict[str, Any]
    arguments: tuple[Any, ...]
    compiled: Future[Any]

    def time(self) -> dict[str, Any]:
        """The time of a step."""
        return {"step_s": _seconds(functools.partial(self.compiled.result(), *self.arguments)) / STEPS}


def _compiled(pool: Executor, function: Any, *given: Any) -> Future[Any]:
    """What is made of a function in another thread; what can't be lowered raises there too."""
    try:
        return pool.submit(function.lower(*given).compile)
    except Exception as error:
        failed = Future[Any]()
        failed.set_exception(error)
        return failed


def cuts(cell: Any, inputs: Inputs, pool: Executor) -> Iterator[Cut]:
    """The cuts of a layer; their code is made in other threads."""
    rows, arguments = inputs.xs.shape[1], (inputs.params, inputs.xs)
    for cut in fastest(cell, inputs):
        row = {"cell": str(cell), "B": rows, "blocks": cut.blocks, "rows": cut.rows, "direct": cut.direct}
        with tiled(cut.blocks, cut.rows):
            compiled = _compiled(pool, gradient(cell, inputs), *arguments)
        yield Cut(row | {"expected_cycles": expected_cycles(cut, rows)}, arguments, compiled)


def measure(out: pathlib.Path, minutes: float) -> int:
    """Measures everything, prints a line for each and writes all of it; how many failed."""
    end = time.monotonic() + 60 * minutes
    found: dict[str, Any] = {
        "device": device(),
        "versions": versions(),
        "commit": commit(),
        "constants": [],
        "cuts": [],
    }

    def keep(part: str, row: dict[str, Any]) -> None:
        found[part].append(row)
        print(
            "  ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()), flush=True
        )
        out.write_text(json.dumps(found, indent=1) + "\n")

    def attempt(part: str, row: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """One row; what can't be measured says why."""
        try:
            keep(part, row | measure())
        except Exception as error:
            keep(part, row | {"error": f"{type(error).__name__}: {error}"[:500]})

    def turn(name: str) -> dict[str, Any]:
        return {"turn_s": seconds_of_a_turn(known[name], compiled[name])}

    known = constants(mosaic_kernel.processors())
    # What hangs or ends the process if anything does comes last.
    last = [name for name in known if name.startswith(("post", "neighbour", "grid"))]
    with ThreadPoolExecutor() as pool:
        compiled = {
            name: {turns: _compiled(pool, jax.jit(kernel(turns)), kernel.given) for turns in (FEW, MANY)}
            for name, kernel in known.items()
        }
    for name in known:
        if name not in last:
            attempt("constants", {"name": name}, functools.partial(turn, name))
    with ThreadPoolExecutor() as pool:
        layers = (layer(*each) for each in LAYERS)
        to_time = [cut for each in layers if time.monotonic() < end for cut in cuts(*each, pool)]
    for cut in to_time:
        if time.monotonic() < end:
            attempt("cuts", cut.row, cut.time)
    for name in last:
        attempt("constants", {"name": name}, functools.partial(turn, name))
    if time.monotonic() > end:
        print("the time is over")
    return sum("error" in row for part in ("constants", "cuts") for row in found[part])


def rehearse() -> int:
    """Lowers what would be measured, where there is no such GPU; how much of it can't be. Nothing is written."""
    print("no Hopper GPU here: nothing runs, all is lowered for one")
    failed = 0

    def lower(name: str, function: Any, *given: Any) -> None:
        nonlocal failed
        try:
            function.trace(*given).lower(lowering_platforms=("cuda",))
            print(f"{name}: lowered", flush=True)
        except Exception as error:
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}", flush=True)

    for name, kernel in constants(tiling.PROCESSORS).items():
        lower(name, jax.jit(kernel(FEW)), kernel.given)
    if jax.__version_info__ < mosaic_kernel.SINCE:
        print(f"cuts: not lowered, since {mosaic_kernel.NAME} takes a later JAX than {jax.__version__}")
        return failed
    for kind, units, rows in LAYERS:
        cell, inputs = layer(kind, units, rows)
        for cut in fastest(cell, inputs):
            with tiled(cut.blocks, cut.rows):
                name = f"{kind.__name__} of {units} units, {rows} rows, in {cut.blocks} blocks of {cut.rows} rows"
                lower(name, gradient(cell, inputs), inputs.params, inputs.xs)
    return failed
