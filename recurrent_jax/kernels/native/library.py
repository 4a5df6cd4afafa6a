"""The compiled half of `native`: finds the shared library beside this file and registers it with XLA."""

import ctypes
import functools
import os
import pathlib
import re
import sys
from typing import NamedTuple

import jax
import numpy as np

FILE = "librecurrent_jax_native.so"
DTYPES = ("float32", "float64", "bfloat16")
# What a call computes, the first three as numbered in src/problem.h.
DIRECTIONS = ("forward", "backward", "inputs", "gradient")


class Library(NamedTuple):
    """What could be loaded.

    Attributes:
      code: the shared library, or None.
      problem: why there is none, in words.
    """

    code: ctypes.CDLL | None
    problem: str | None

    @property
    def instruction_set(self) -> str:
        """The one that is used on this processor: "avx512", "avx2" or "baseline"."""
        assert self.code is not None
        return self.code.RecurrentJaxInstructionSet().decode()


def how_to_build() -> str:
    """What gives this package its compiled half, for a message; a clone hides what is installed beside it."""
    root = pathlib.Path(__file__).parents[3]
    if (root / "pyproject.toml").is_file():
        return f"these are the sources in {root}; with a C++17 compiler, pip install --no-deps --editable {root}"
    return "install a C++17 compiler, then this package as before, with pip install --force-reinstall --no-deps"


@functools.cache
def load() -> Library:
    """Loads the library and makes its functions known to XLA, once."""
    # Another build than the installed one: with sanitisers, say.
    other = os.environ.get("RECURRENT_JAX_NATIVE")
    # An editable install has the package in two folders: the sources in one, what was compiled in another.
    folders = sys.modules[__package__].__path__
    paths = [pathlib.Path(other)] if other else [pathlib.Path(folder) / FILE for folder in folders]
    found = [path for path in paths if path.exists()]
    if not found and other:
        return Library(None, f"RECURRENT_JAX_NATIVE: there is no file {other}")
    if not found:
        return Library(None, f"not built: {how_to_build()}")
    try:
        code = ctypes.cdll.LoadLibrary(str(found[0]))
        handlers = {
            (direction, dtype): jax.ffi.pycapsule(getattr(code, f"RecurrentJax_{direction}_{dtype}"))
            for direction in DIRECTIONS
            for dtype in DTYPES
        }
    except OSError as error:
        return Library(None, f"built, but it can't be loaded: {error}")
    except AttributeError as error:
        return Library(None, f"built from other sources: {error}; {how_to_build()}")
    code.RecurrentJaxApi.restype = ctypes.c_int64
    code.RecurrentJaxInstructionSet.restype = ctypes.c_char_p
    # XLA would refuse with the first computation, whatever it is, and the whole CPU with it.
    if code.RecurrentJaxApi() > _api_of_xla():
        return Library(None, f"built for a newer JAX than {jax.__version__}: {how_to_build()}")
    asked, used = os.environ.get("RECURRENT_JAX_INSTRUCTION_SET"), code.RecurrentJaxInstructionSet().decode()
    if asked and asked != used:
        return Library(None, f"RECURRENT_JAX_INSTRUCTION_SET={asked}: this processor, or this build, has no such set")
    for (direction, dtype), handler in handlers.items():
        jax.ffi.register_ffi_target(target(direction, dtype), handler, platform="cpu")
    code.RecurrentJaxPackedSize.restype = ctypes.c_int64
    code.RecurrentJaxPackedSize.argtypes = [ctypes.c_int64] * 7
    return Library(code, None)


def _api_of_xla() -> int:
    """The version of its interface that this XLA has, 1000 times the major and the minor one."""
    header = (pathlib.Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h").read_text()
    major, minor = (re.search(rf"define XLA_FFI_API_{part} (\d+)", header) for part in ("MAJOR", "MINOR"))
    return 1000 * int(major[1]) + int(minor[1]) if major and minor else 0


def target(direction: str, dtype: str) -> str:
    """The name by which XLA knows a function."""
    return f"recurrent_jax_{direction}_{dtype}"


def packed_size(cell: int, direction: str, dtype: np.dtype, shape: tuple[int, int, int, int]) -> int:
    """How many bytes the packed weights of a call take; its shape is T, B, D, H."""
    code = load().code
    assert code is not None
    return int(code.RecurrentJaxPackedSize(cell, 8 * dtype.itemsize, DIRECTIONS.index(direction), *shape))
