"""dpinn: distributed second-order training of physics-informed neural networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpinn.box import Box
    from dpinn.errors import DpinnError, DpinnWarning
    from dpinn.problem import Problem, Terms, at, on, quantity
    from dpinn.solution import Solution, load

__all__ = [
    "Box",
    "DpinnError",
    "DpinnWarning",
    "Problem",
    "Solution",
    "Terms",
    "at",
    "load",
    "on",
    "quantity",
]

_HOMES = {
    "dpinn.errors": ("DpinnError", "DpinnWarning"),
    "dpinn.box": ("Box",),
    "dpinn.problem": ("Problem", "Terms", "at", "on", "quantity"),
    "dpinn.solution": ("Solution", "load"),
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``dpinn --help`` need not wait for torch."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'dpinn' has no attribute {name!r}")
