"""The domain of a PDE: a product of intervals."""

from __future__ import annotations

import math

from dpinn.errors import DpinnError
from dpinn.jet.plan import RESERVED

SAME = 1e-9
"""Part of an interval within which two coordinates are the same, such as times at a seam."""


class Box:
    """A product of intervals, one per coordinate, in the order in which they are given.

    Example:
        >>> Box(t=(0.0, 1.0), x=(-1.0, 1.0)).coordinates
        ('t', 'x')
    """

    def __init__(self, **intervals: tuple[float, float]):
        if not intervals:
            raise DpinnError("a Box needs at least one coordinate, e.g. Box(t=(0, 1), x=(-1, 1))")
        self.intervals: dict[str, tuple[float, float]] = {}
        for name, interval in intervals.items():
            if name in RESERVED:
                raise DpinnError(f"a coordinate cannot be called {name!r}; choose another name")
            try:
                low, high = (float(v) for v in interval)
            except (TypeError, ValueError):
                raise DpinnError(
                    f"{name}={interval!r} is no interval; write {name}=(low, high)"
                ) from None
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise DpinnError(f"{name}=({low:g}, {high:g}) is empty; low must be below high")
            self.intervals[name] = (low, high)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return tuple(self.intervals)

    def __getitem__(self, name: str) -> tuple[float, float]:
        return self.intervals[name]

    def length(self, name: str) -> float:
        """Length of the interval of one coordinate."""
        low, high = self.intervals[name]
        return high - low

    def lower(self) -> list[float]:
        """Lower bounds in the order of the coordinates."""
        return [low for low, _ in self.intervals.values()]

    def upper(self) -> list[float]:
        """Upper bounds in the order of the coordinates."""
        return [high for _, high in self.intervals.values()]

    def __repr__(self) -> str:
        return (
            "Box(" + ", ".join(f"{n}=({a:g}, {b:g})" for n, (a, b) in self.intervals.items()) + ")"
        )
