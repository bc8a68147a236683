"""Whether and how the loss is compiled; decided once, and stored with the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

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
    problem = _compiler_problem(device)
    if problem:
        warnings.warn(
            f"the loss runs eagerly, at about half the speed: {problem}", DpinnWarning, stacklevel=2
        )
    return not problem


def compile_loss(sums: nn.Module) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Compile the whole loss as one graph of fixed shapes.

    Buffers are not donated to the backward pass, so that the gradients of several terms can
    be taken from one forward pass.
    """
    import torch._functorch.config

    with torch._functorch.config.patch(donated_buffer=False):
        compiled = torch.compile(sums, fullgraph=True, dynamic=False)

    def call(points: Mapping[str, Tensor]) -> Tensor:
        # Compilation happens in the first call, which must see the setting.
        with torch._functorch.config.patch(donated_buffer=False):
            return compiled(points)

    return call


def _compiler_problem(device: torch.device) -> str | None:
    """Compile a trifle; returns what is missing, or None."""

    def trifle(x: Tensor) -> Tensor:
        return torch.sin(x) + x

    try:
        # A number of entries that nothing else compiles, so that the trifle is really built.
        torch.compile(trifle, fullgraph=True)(torch.ones(13, device=device))
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        return f"torch.compile does not work here ({reason[:160]}); install a C++ compiler (g++)"
    return None
