"""Whether and how the loss is compiled; decided once, and stored with the run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from dpinn.compiler import compiler_problem
from dpinn.errors import DpinnWarning

CompileMode = Literal["auto", "on", "off"]

WORTHWHILE_STEPS = 1000
"""A compile takes 10 to 60 s and saves about half of a step, tens of milliseconds on a CPU."""

WORTHWHILE_STEPS_CUDA = 3000
"""On a GPU a step is a few milliseconds, so the compile pays later."""


def decide(mode: CompileMode, steps: int, device: torch.device, taylor: bool) -> bool:
    """Whether to compile a run of so many steps.

    Warns and decides against it where it cannot be done: a network without Taylor rules, or a
    machine without a working compiler.
    """
    if mode == "off":
        return False
    if not taylor:
        if mode == "on":
            warnings.warn(
                "nested autograd cannot be compiled: the loss runs eagerly", DpinnWarning, 2
            )
        return False
    worthwhile = WORTHWHILE_STEPS_CUDA if device.type == "cuda" else WORTHWHILE_STEPS
    if mode == "auto" and steps < worthwhile:
        return False
    problem = compiler_problem(device)
    if problem:
        warnings.warn(
            f"the loss runs eagerly, at about half the speed: {problem}; install a C++ compiler "
            "such as g++ (`dpinn doctor` says what is missing)",
            DpinnWarning,
            stacklevel=2,
        )
    return not problem


def compile_loss(
    sums: nn.Module, points: Mapping[str, Tensor]
) -> Callable[[Mapping[str, Tensor]], Tensor] | None:
    """Compile the whole loss as one graph of fixed shapes, by a first call on `points`.

    Buffers are not donated to the backward pass, so that the gradients of several terms can
    be taken from one forward pass.

    Returns:
        The compiled loss; None, after a warning, for a network or residual with an operation
        that the compiler cannot trace, or whose gradient it gets wrong.
    """
    import torch._functorch.config
    import torch._inductor.config

    # Else kernels on a GPU are chosen by timing them, and a resumed run may round otherwise.
    chosen: dict[str, Any] = {}
    if hasattr(torch._inductor.config, "deterministic"):
        chosen["deterministic"] = True
    compiled = torch.compile(sums, fullgraph=True, dynamic=False, options=chosen)

    def call(points: Mapping[str, Tensor]) -> Tensor:
        with torch._functorch.config.patch(donated_buffer=False):
            return compiled(points)

    rank_zero_only(print)(
        "compiling the loss, which takes up to a minute", file=sys.stderr, flush=True
    )
    try:
        difference = _gradient_difference(sums, call, points)
    except Exception as error:
        warnings.warn(
            f"the loss cannot be compiled and runs eagerly: {_first_line(error)}",
            DpinnWarning,
            stacklevel=2,
        )
        return None
    tolerance = 10 * torch.finfo(next(sums.parameters()).dtype).eps ** 0.5
    if not difference <= tolerance:
        warnings.warn(
            f"the compiled loss has another gradient than the eager one (by {difference:.0e}), a "
            "mistake of the compiler: the loss runs eagerly",
            DpinnWarning,
            stacklevel=2,
        )
        return None
    return call


def _gradient_difference(
    sums: nn.Module,
    compiled: Callable[[Mapping[str, Tensor]], Tensor],
    points: Mapping[str, Tensor],
) -> float:
    """How far the compiled loss' gradient is from the eager one, relative to its norm."""
    parameters = [p for p in sums.parameters() if p.requires_grad]
    flat = []
    for function in (sums, compiled):
        total = function(points).sum()
        # Retained, or the compiler would build, and cache, a backward pass that can be taken once.
        parts = torch.autograd.grad(
            total, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        flat.append(torch.cat([part.reshape(-1) for part in parts]))
    eager, other = flat
    return float((other - eager).norm() / eager.norm().clamp_min(torch.finfo(eager.dtype).tiny))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__
