"""PyTorch's own layers: oneDNN on a CPU, cuDNN on an NVIDIA GPU."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.contestants.base import Program, Refused
from benchmarks.problem import (
    FORWARD,
    GRADIENT,
    LEARNING_RATE,
    PADDED,
    STEP,
    TRAIN,
    Answer,
    Job,
    Problem,
    gradients,
    lengths,
    outputs,
    trained,
)  # fmt: skip

LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "RNN": ("RNN", {}),
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {}),
    "RNN-relu": ("RNN", {"nonlinearity": "relu"}),
}


class PyTorch:
    """`torch.nn.RNN`, `LSTM`, `GRU` and, for a step, their cells; eager, as their users run them."""

    name = "PyTorch"
    includes = "a second bias vector; on a GPU no TF32 in the cells of mode step; in mode padded packing and unpacking"

    def build(self, job: Job, problems: Sequence[Problem]) -> Program:
        """Makes the module, with the problem's parameters."""
        if job.cell not in LAYERS:
            raise Refused(f"PyTorch has no {job.cell}")
        return TorchProgram(job, problems, device())


def device() -> torch.device:
    """The kind of device that the run is about, which its parent process names.

    Raises:
      Refused: PyTorch can't use it.
    """
    platform = os.environ.get("BENCHMARKS_PLATFORM", "cpu")
    if platform == "cpu":
        return torch.device("cpu")
    if platform == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    raise Refused(f"this PyTorch sees no {platform}")


class TorchProgram:
    """A module and its data on the device. Nothing is compiled ahead, and its memory isn't known beforehand."""

    compile_s = None
    peak_bytes = None
    temp_bytes = None

    def __init__(self, job: Job, problems: Sequence[Problem], device: torch.device) -> None:
        self.job, self.problems, self.device, self.calls = job, problems, device, 0
        self.module, self.lengths = self._module(), torch.tensor(lengths(job))
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=LEARNING_RATE)
        self.arguments = [self._arguments(problem) for problem in problems]
        runs: dict[str, Callable[..., Any]] = {
            STEP: self._step, FORWARD: self._forward, GRADIENT: self._gradient, PADDED: self._gradient,
            TRAIN: self._train,
        }  # fmt: skip
        self.run = runs[job.mode]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        """On the device, in the job's dtype. NumPy's bfloat16 is none that PyTorch knows."""
        return torch.tensor(np.asarray(array, np.float64)).to(self.device, getattr(torch, self.job.dtype))

    def _module(self) -> torch.nn.Module:
        """The layer, or the cell for a step; weights are transposed, and all biases but the inner one in the first."""
        kind, options = LAYERS[self.job.cell]
        kind += "Cell" if self.job.mode == STEP else ""
        dtype = getattr(torch, self.job.dtype)
        module = getattr(torch.nn, kind)(self.job.case.D, self.job.case.H, **options, dtype=dtype, device=self.device)
        w_x, w_h, b, *inner = (self._tensor(leaf) for leaf in self.problems[0].params)
        recurrent = torch.zeros_like(b)
        if inner:
            recurrent[-len(inner[0]) :] = inner[0]
        with torch.no_grad():
            for weight, value in zip(module.parameters(), (w_x.T, w_h.T, b, recurrent), strict=True):
                weight.copy_(value)
        return module

    def _arguments(self, problem: Problem) -> tuple[Any, ...]:
        """Inputs, state, and the weights of the loss."""
        layers = () if self.job.mode == STEP else (None,)
        state = tuple(self._tensor(leaf)[layers] for leaf in problem.carry)
        weights = tuple(self._tensor(leaf)[layers] for leaf in problem.carry_weights)
        xs = self._tensor(problem.xs[0] if self.job.mode == STEP else problem.xs)
        if self.job.mode in (GRADIENT, PADDED):
            for leaf in (xs, *state):
                leaf.requires_grad_()
        return xs, state, self._tensor(problem.y_weights), weights

    def _call(self, xs: Any, state: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """Outputs and final state."""
        given = state if len(state) == 2 else state[0]
        if self.job.mode == PADDED:
            # Its lengths have to be on the CPU.
            packed = torch.nn.utils.rnn.pack_padded_sequence(xs, self.lengths, enforce_sorted=False)
            out, final = self.module(packed, given)
            ys, _ = torch.nn.utils.rnn.pad_packed_sequence(out, total_length=len(xs))
            return ys, final if isinstance(final, tuple) else (final,)
        result = self.module(xs, given)
        if self.job.mode == STEP:
            last = result if isinstance(result, tuple) else (result,)
            return last[0], last
        ys, final = result
        return ys, final if isinstance(final, tuple) else (final,)

    def _step(self, xs: Any, state: Any, *_: Any) -> Any:
        with torch.inference_mode():
            return self._call(xs, state)

    _forward = _step

    def _gradient(self, xs: Any, state: Any, y_weights: Any, weights: Any) -> Any:
        ys, last = self._call(xs, state)
        # The sums of the loss are not computed, as XLA drops them too: their gradients are the weights.
        return torch.autograd.grad((ys, *last), (*self.module.parameters(), xs, *state), (y_weights, *weights))

    def _train(self, xs: Any, state: Any, targets: Any, _: Any) -> Any:
        self.optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(self._call(xs, state)[0], targets)
        loss.backward()
        self.optimizer.step()
        return loss

    def _wait(self) -> None:
        """Until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def answer(self) -> Answer:
        """The answer to the first problem; weights transposed back."""
        numbers = lambda leaf: leaf.detach().double().cpu().numpy()
        before = [parameter.detach().clone() for parameter in self.module.parameters()]
        result = self.run(*self.arguments[0])
        self._wait()
        if self.job.mode in (STEP, FORWARD):
            ys, last = result
            if self.job.mode == STEP:
                return outputs(self.job, numbers(ys)[None], tuple(map(numbers, last)))
            return outputs(self.job, numbers(ys), tuple(numbers(leaf)[0] for leaf in last))
        parameters = list(self.module.parameters())
        if self.job.mode == TRAIN:
            grads = [self.optimizer.state[parameter]["exp_avg"] / (1 - 0.9) for parameter in parameters]
            moved = [(numbers(a) - numbers(b)).ravel() for a, b in zip(parameters, before, strict=True)]
            return trained(self.job, numbers(result), self._common(grads, numbers), np.abs(np.concatenate(moved)))
        xs, *state = map(numbers, result[4:])
        return gradients(self.job, self._common(result[:4], numbers), xs, tuple(leaf[0] for leaf in state))

    def _common(self, grads: Any, numbers: Callable[[Any], np.ndarray]) -> tuple[np.ndarray, ...]:
        """Gradients in the order and shapes of the problem's parameters."""
        w_x, w_h, b, recurrent = map(numbers, grads)
        inner = (recurrent[-self.job.case.H :],) if len(self.problems[0].params) == 4 else ()
        return w_x.T, w_h.T, b, *inner

    def time(self, calls: int) -> list[float]:
        """Seconds of each call."""
        seconds = []
        for _ in range(calls):
            arguments = self.arguments[self.calls % len(self.arguments)]
            self.calls += 1
            start = time.perf_counter()
            self.run(*arguments)
            self._wait()
            seconds.append(time.perf_counter() - start)
        return seconds


CONTESTANT = PyTorch()


def matmul_seconds(least: float, dtype: str, size: int) -> float:
    """The least seconds of one product of two square matrices, tried for `least` seconds: PyTorch's limit."""
    where = device()
    a, b = (torch.randn(size, size, device=where).to(getattr(torch, dtype)) for _ in range(2))
    wait = torch.cuda.synchronize if where.type == "cuda" else lambda: None
    for _ in range(2):  # they prepare
        a @ b
        wait()
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < least:
        start = time.perf_counter()
        a @ b
        wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
