"""dpinn: distributed second-order training of physics-informed neural networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpinn.errors import DpinnError, DpinnWarning
    from dpinn.problem import Box, Problem, Terms, on
    from dpinn.solution import Solution, load

__all__ = ["Box", "DpinnError", "DpinnWarning", "Problem", "Solution", "Terms", "load", "on"]

_HOMES = {
    "dpinn.errors": ("DpinnError", "DpinnWarning"),
    "dpinn.problem": ("Box", "Problem", "Terms", "on"),
    "dpinn.solution": ("Solution", "load"),
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``dpinn --help`` need not wait for torch."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'dpinn' has no attribute {name!r}")
