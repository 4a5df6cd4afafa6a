"""The cell contract, and the base class of every pointwise cell.

A cell is a frozen dataclass of pure methods. Parameters and carries are NamedTuples of arrays.

Letters: T time, B batch, D inputs, H units, G gates.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from recurrent_jax.cells.shapes import describe

Array = jax.Array
PyTree = Any
Initializer = Callable[..., Array]

# One object each, so that two cells built with the defaults compare equal and share a compilation.
INPUT_INIT: Initializer = jax.nn.initializers.lecun_normal()
RECURRENT_INIT: Initializer = jax.nn.initializers.orthogonal()

_FIELDS = "annotated fields, such as `alpha: float = 0.1`, below a decorator @dataclasses.dataclass(frozen=True)"
_COMPUTE_DTYPES = ("float16", "bfloat16", "float32", "float64")


def exportable(kind: Any) -> Any:
    """Lets `jax.export` serialise functions of this NamedTuple."""
    export.register_namedtuple_serialization(kind, serialized_name=f"recurrent_jax.{kind.__name__}")
    return kind


class Cell(Protocol):
    """What `unroll` needs of a cell. Inherit `PointwiseCell` wherever the cell allows it: it is faster."""

    def init(self, key: Array, in_size: int) -> Any:
        """Draws the parameters of a layer that reads inputs of `in_size` features."""

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
        """Returns the carry before the first step."""

    def step(self, params: Any, carry: Any, x: Array) -> tuple[Any, PyTree]:
        """Consumes one input `x [..., D]`; returns the next carry and the output."""


@exportable
class RNNParams(NamedTuple):
    """Parameters of one recurrent layer: `w_x [D, G*H]`, `w_h [H, G*H]`, `b [G*H]`."""

    w_x: Array
    w_h: Array
    b: Array


@exportable
class RNNCarry(NamedTuple):
    """The hidden state `h [..., H]`."""

    h: Array


def accumulator(dtype: np.dtype) -> np.dtype:
    """The dtype in which matmuls of `dtype` accumulate and gates are computed: at least float32."""
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def matmul(x: Array, w: Array) -> Array:
    """`x @ w` with at least float32 accumulation and result."""
    return jnp.matmul(x, w, preferred_element_type=accumulator(x.dtype))


def along_batch(vector: Array, like: Array) -> Array:
    """A vector `[n]` as `[1, ..., 1, n]`, to meet `like [..., n]` without implicit rank promotion."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def draw(init: Initializer, key: Array, shape: tuple[int, int], gates: int, dtype: np.dtype) -> Array:
    """Draws a `[rows, gates*units]` matrix, each gate's block on its own.

    Half precision is drawn in float32 and rounded: QR, which orthogonal blocks need, knows no less.
    """
    exact = accumulator(dtype)
    blocks = [init(k, shape, exact) for k in jax.random.split(key, gates)]
    return jnp.concatenate(blocks, axis=-1).astype(dtype)


@dataclasses.dataclass(frozen=True)
class PointwiseCell:
    """Base of every cell that is one recurrent matmul and an elementwise function.

    Equations, with `r_t` the only place where units mix over time:

        z_t = x_t W_x + b          project
        r_t = h_{t-1} W_h          recurrent_kernel
        carry_t, y_t = pointwise(params, carry_{t-1}, z_t, r_t)

    A subclass sets `gates` and writes `pointwise`; every kernel, with its gradient, follows from
    that. A subclass with fields of its own is decorated with `@dataclasses.dataclass(frozen=True)`. One
    with a `recur` or a `step` of its own runs in the plain scan.
    `pointwise` must act on each row of the batch by itself. It sees its floating arguments in the
    accumulator's dtype (float32 under bfloat16 or float16 compute) and what it returns is rounded to
    the dtype of the carry. Override `init`, `initial_carry`, `project` or `recurrent_kernel` where
    the layer differs from the equations above, and `in_size` where the parameters have no `w_x`. The
    carry is a NamedTuple with a field `h`, the one that `W_h` multiplies. With masks, padding reaches
    `project` as zeros.

    Attributes:
      hidden_size: H, the number of units.
      param_dtype: dtype of the parameters.
      dtype: dtype of matmul operands and of `h`; None means `param_dtype`. Matmuls accumulate, and
        gates are computed, in at least float32.
      w_x_init: initialiser of each gate's `[D, H]` block, a `jax.nn.initializers` function.
      w_h_init: initialiser of each gate's `[H, H]` block; orthogonal by default.
      gates: class attribute G; `W_x` and `W_h` have G*H columns.

    Raises:
      ValueError: `hidden_size` is not a positive integer, a dtype is not a floating one, or an
        initialiser is not a function.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> class Leaky(rj.PointwiseCell):
      ...     def pointwise(self, params, carry, z, r):
      ...         h = 0.9 * carry.h + 0.1 * jnp.tanh(z + r)
      ...         return carry._replace(h=h), h
      >>> cell = Leaky(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), in_size=3)
      >>> carry, ys = rj.unroll(cell, params, jnp.ones((5, 2, 3)))
      >>> ys.shape
      (5, 2, 4)
    """

    hidden_size: int
    _: dataclasses.KW_ONLY
    param_dtype: Any = jnp.float32
    dtype: Any = None
    w_x_init: Initializer = dataclasses.field(default=INPUT_INIT, repr=False)
    w_h_init: Initializer = dataclasses.field(default=RECURRENT_INIT, repr=False)

    gates: ClassVar[int] = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuses what would make two different cells compare equal, so that one ran for the other."""
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            raise TypeError(f"{cls.__name__}: expected {_FIELDS}, got a method __init__")

    def __new__(cls, *args: Any, **kwargs: Any) -> "PointwiseCell":
        """Refuses fields that no dataclass decorator has seen, or that are not compared."""
        own = inspect.get_annotations(cls)
        fields = [name for name, kind in own.items() if "ClassVar" not in str(kind)]
        if fields and "__dataclass_fields__" not in cls.__dict__:
            raise TypeError(f"{cls.__name__}: expected {_FIELDS}; the decorator is missing")
        if fields and "__eq__" not in cls.__dict__:
            raise TypeError(f"{cls.__name__}: expected {_FIELDS}; with eq=False two different cells are equal")
        skipped = [field.name for field in dataclasses.fields(cls) if not field.compare]
        if skipped:
            raise TypeError(
                f"{cls.__name__}: expected fields that are compared, got compare=False of {', '.join(skipped)}"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        size = self.hidden_size
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(f"hidden_size: expected a positive integer, got {size!r}")
        object.__setattr__(self, "hidden_size", int(size))
        object.__setattr__(self, "param_dtype", floating("param_dtype", self.param_dtype))
        if self.dtype is not None:
            object.__setattr__(self, "dtype", floating("dtype", self.dtype))
        for name in ("w_x_init", "w_h_init"):
            if not callable(getattr(self, name)):
                raise ValueError(f"{name}: expected a function (key, shape, dtype), got {getattr(self, name)!r}")

    @property
    def compute_dtype(self) -> np.dtype:
        """dtype of matmul operands, of `h` and of the outputs."""
        return jnp.dtype(self.param_dtype if self.dtype is None else self.dtype)

    @property
    def is_pointwise(self) -> bool:
        """Whether `pointwise` and `recurrent_kernel` say all of the step, as the fused kernels need.

        They do not where a subclass has a `recur` or a `step` of its own.
        """
        kind = type(self)
        return kind.recur is PointwiseCell.recur and kind.step is PointwiseCell.step

    def init(self, key: Array, in_size: int) -> Any:
        """Draws `RNNParams`: scaled input blocks, orthogonal recurrent blocks, zero bias."""
        return RNNParams(*self.draw_weights(key, in_size), b=self.zeros(self.gates * self.hidden_size))

    def draw_weights(self, key: Array, in_size: int) -> tuple[Array, Array]:
        """Draws `w_x [D, G*H]` and `w_h [H, G*H]`."""
        if isinstance(in_size, bool) or not isinstance(in_size, (int, np.integer)) or in_size < 1:
            raise ValueError(f"in_size: expected a positive integer, got {in_size!r}")
        for name, dtype in (("param_dtype", jnp.dtype(self.param_dtype)), ("dtype", self.compute_dtype)):
            if jax.dtypes.canonicalize_dtype(dtype) != dtype:
                raise ValueError(
                    f"{name}: float64 needs jax.config.update('jax_enable_x64', True) before any array is made"
                )
        key_x, key_h = jax.random.split(key)
        size = self.hidden_size
        return (
            draw(self.w_x_init, key_x, (in_size, size), self.gates, jnp.dtype(self.param_dtype)),
            draw(self.w_h_init, key_h, (size, size), self.gates, jnp.dtype(self.param_dtype)),
        )

    def zeros(self, *shape: int) -> Array:
        """Zeros in the dtype of the parameters."""
        return jnp.zeros(shape, self.param_dtype)

    def in_size(self, params: Any) -> int:
        """D, the number of input features that `params` were made for."""
        return params.w_x.shape[0]

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
        """Returns `RNNCarry` of zeros, `h [*batch_shape, H]`."""
        del params
        return RNNCarry(h=jnp.zeros((*batch_shape, self.hidden_size), self.compute_dtype))

    def project(self, params: Any, x: Array) -> Array:
        """The half of a step that needs no memory, `z = x W_x + b`, of one step or of all steps at once."""
        z = matmul(x.astype(self.compute_dtype), params.w_x.astype(self.compute_dtype))
        return z + along_batch(params.b.astype(z.dtype), z)

    def recurrent_kernel(self, params: Any) -> Array:
        """Returns `W_h [H, G*H]` in the compute dtype."""
        return params.w_h.astype(self.compute_dtype)

    def pointwise(self, params: Any, carry: Any, z: Array, r: Array) -> tuple[Any, Array]:
        """The elementwise half: from `z` and `r [..., G*H]` to the next carry and the output."""
        raise NotImplementedError(f"{type(self).__name__} must define pointwise(params, carry, z, r) -> (carry, y)")

    def recur(self, params: Any, carry: Any, z: Array) -> tuple[Any, Array]:
        """The half of a step that needs memory; returns the next carry and the output."""
        r = matmul(carry.h, self.recurrent_kernel(params))
        return apply_pointwise(self, params, carry, z, r)

    def step(self, params: Any, carry: Any, x: Array) -> tuple[Any, Array]:
        """One whole step: `recur` after `project`."""
        return self.recur(params, carry, self.project(params, x))


def apply_pointwise(cell: PointwiseCell, params: Any, carry: Any, z: Array, r: Array) -> tuple[Any, Array]:
    """`cell.pointwise` computed in the accumulator's dtype and rounded to the carry's."""
    exact = accumulator(cell.compute_dtype)
    is_floating = lambda a: jnp.issubdtype(a.dtype, jnp.floating)
    up = lambda tree: jax.tree.map(lambda a: a.astype(exact) if is_floating(a) else a, tree)
    given = up(carry)
    out: Any = cell.pointwise(up(params), given, up(z), up(r))
    _check_pointwise(cell, given, out, z.shape[:-1])
    new, y = out
    new = jax.tree.map(lambda value, old: value.astype(old.dtype), new, carry)
    return new, jax.tree.map(lambda value: value.astype(cell.compute_dtype), y)


def _check_pointwise(cell: PointwiseCell, carry: Any, out: Any, batch_shape: tuple[int, ...]) -> None:
    """Raises TypeError unless `pointwise` returned a carry like the one that it was given, and an output."""
    structure: Any = jax.tree.structure(carry)
    fits = isinstance(out, tuple) and len(out) == 2 and structure == jax.tree.structure(out[0])
    fits = fits and all(isinstance(leaf, (Array, np.ndarray, np.generic)) for leaf in jax.tree.leaves(out))
    if fits:
        pairs = list(zip(jax.tree.leaves(out[0]), jax.tree.leaves(carry), strict=True))
        # A step of rows may begin with a carry of none, which is broadcast.
        has_rows = all(old.shape[: len(batch_shape)] == batch_shape for _, old in pairs)
        fits = all(new.shape == old.shape for new, old in pairs) or not has_rows
        # What is real takes no imaginary part.
        fits = fits and all(jnp.isrealobj(new) or jnp.iscomplexobj(old) for new, old in pairs)
        fits = fits and all(map(jnp.isrealobj, jax.tree.leaves(out[1])))
    if not fits:
        raise TypeError(
            f"{type(cell).__name__}.pointwise: expected (carry, y) with a {type(carry).__name__} as it was given, "
            f"got {describe(out)}, where the carry was {describe(carry)} and y is of real arrays"
        )


def floating(name: str, dtype: Any) -> str:
    """The name of the dtype, which prints and compares well, or an error that names the argument."""
    try:
        result = jnp.dtype(dtype).name if dtype is not None else None
    except TypeError:
        result = None
    if result not in _COMPUTE_DTYPES:
        raise ValueError(f"{name}: expected one of {', '.join(_COMPUTE_DTYPES)}, got {dtype!r}")
    return result
