"""Where the time of one program goes: a trace for TensorBoard or Perfetto, and a table by operation."""

import collections
import pathlib
import re
import sys
import warnings
from typing import Any

import jax

from benchmarks.contestants import ours
from benchmarks.contestants.base import Refused
from benchmarks.contestants.jax_program import JaxProgram
from benchmarks.problem import Job, draw

LINES = 20
# They last as long as what runs within them.
CONTAINERS = ("while", "call", "conditional")


def trace(job: Job, implementation: str, calls: int, out: pathlib.Path) -> int:
    """Traces calls of one of our implementations.

    Args:
      out: a new folder, for the trace.

    Returns:
      The exit status.
    """
    try:
        program = ours.CONTESTANTS[implementation].build(job, draw(job, 3))
    except Refused as reason:
        print(f"error: {implementation}: {reason}", file=sys.stderr)
        return 2
    assert isinstance(program, JaxProgram)
    out.mkdir(parents=True, exist_ok=True)
    program.time(3)
    with jax.profiler.trace(str(out), create_perfetto_trace=True):
        seconds = program.time(calls)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    recorded = next((path for path in files if path.name.endswith(".xplane.pb")), None)
    if recorded is None:
        print(f"error: JAX's profiler wrote no trace into {out}", file=sys.stderr)
        return 1
    spent, times = by_operation(recorded)
    sources = origins(program.compiled.as_text() or "")
    # A device that runs whole graphs names no operation: then there is the trace alone.
    total = sum(spent.values()) or 1
    print(
        f"{job}, {implementation}, {job.shape}: {1e3 * sorted(seconds)[len(seconds) // 2]:.3g} ms a call while traced"
    )
    print(f"{calls} calls; time of all threads or streams together, by operation of the compiled program:\n")
    print(f"{'ms a call':>9}  {'share':>6}  {'times':>7}  {'operation':<42}  from")
    for name, nanoseconds in spent.most_common(LINES):
        share = f"{nanoseconds / total:.1%}"
        print(
            f"{nanoseconds / 1e6 / calls:9.3f}  {share:>6}  {times[name] / calls:7.0f}  {name:<42}  "
            f"{sources.get(name, '')}"
        )
    rest = sum(n for _, n in spent.most_common()[LINES:])
    print(f"{rest / 1e6 / calls:9.3f}  {rest / total:>6.1%}  {'':7}  {max(0, len(spent) - LINES)} more\n")
    print(f"TensorBoard (with tensorboard-plugin-profile): tensorboard --logdir {out}")
    print("Perfetto: open at https://ui.perfetto.dev:", next(p for p in files if p.name.startswith("perfetto_trace")))
    return 0


def by_operation(recorded: pathlib.Path) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """For each operation of the compiled program its nanoseconds in all threads, and how often it ran."""
    spent: collections.Counter[str] = collections.Counter()
    times: collections.Counter[str] = collections.Counter()
    with warnings.catch_warnings():
        # The type behind `stats` is missing an attribute in some versions of jaxlib.
        warnings.simplefilter("ignore", DeprecationWarning)
        data: Any = jax.profiler.ProfileData.from_file(str(recorded))
        for plane in data.planes:
            for line in plane.lines:
                for event in line.events:
                    name = dict(event.stats).get("hlo_op")
                    if name is not None and not str(name).startswith(CONTAINERS):
                        spent[str(name)] += event.duration_ns
                        times[str(name)] += 1
    return spent, times


def origins(text: str) -> dict[str, str]:
    """For each operation of a compiled program's text the end of the path of JAX functions that it came from."""
    found = re.findall(r'%?([\w.\-]+) = .*?op_name="([^"]*)"', text)
    return {name: "/".join(path.split("/")[-3:]) for name, path in found}
