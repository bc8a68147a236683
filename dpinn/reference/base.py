"""What a reference solution is: physical parameters, a solver, and an error estimate."""

import abc
import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dpinn.errors import DpinnError
from dpinn.reference.progress import Progress

Array = NDArray[np.float64]

ROUNDOFF = 1e-15
"""No error estimate is stated below this: a few units in the last place of float64."""


@dataclasses.dataclass(frozen=True)
class Reference(abc.ABC):
    """A converged solution of one PDE that a network's error is measured against.

    A subclass is a frozen dataclass whose fields are the physical parameters, numbers or strings:
    together with ``name``, ``version`` and ``quick`` they are the key of the cached solution.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Decay(Reference):
        ...     name, version = "decay", 1
        ...     rate: float = 1.0
        ...
        ...     def solve(self, quick=False, progress=True):
        ...         started = time.perf_counter()
        ...         t = np.linspace(0, 1, 11 if quick else 101)
        ...         u = np.exp(-self.rate * t)
        ...         return self.dataset(
        ...             {"t": t}, {"u": u}, error_estimate=ROUNDOFF, solver="closed form",
        ...             resolution="exact", started=started)
        >>> Decay().solve(quick=True).u.dims
        ('t',)
    """

    name: ClassVar[str]
    """Short, a file name's beginning."""
    version: ClassVar[int]
    """Raised whenever the solver changes what it returns, so that cached files are recomputed."""

    @abc.abstractmethod
    def solve(self, quick: bool = False, progress: Progress = True) -> xr.Dataset:
        """Compute the solution, usually through :meth:`dataset`.

        Args:
            quick: a coarse solution within seconds, with its own, larger, error estimate.
            progress: a bar on stderr, nothing, or a function of the steps done and their total.

        Returns:
            One float64 variable per field over the problem's coordinates, in their order; the
            coordinates are equispaced and hold both endpoints.
        """

    def parameters(self) -> dict[str, Any]:
        """Give the physical parameters by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def definition(self, quick: bool = False) -> dict[str, Any]:
        """Give all that decides the numbers of the solution; its hash is the key of the cache."""
        return {
            "name": self.name,
            "version": self.version,
            "parameters": self.parameters(),
            "quick": bool(quick),
        }

    def dataset(
        self,
        coordinates: Mapping[str, Array],
        fields: Mapping[str, Array],
        *,
        error_estimate: float,
        solver: str,
        resolution: str,
        started: float,
    ) -> xr.Dataset:
        """Put a solution beside what must be known about it.

        Args:
            coordinates: name to ``n_i`` values, in the order of the problem.
            fields: name to ``n_1 x n_2 x ...`` values.
            error_estimate: relative L2 error over the grid, the largest over the fields.
            solver: one sentence.
            resolution: what the solver used, readable.
            started: ``time.perf_counter()`` when the solver began.
        """
        bad = [name for name, values in fields.items() if not np.isfinite(values).all()]
        if bad:
            raise DpinnError(
                f"the reference {self.name} gave non-finite values in {', '.join(bad)} "
                f"for {self.parameters()}; its solver does not resolve these parameters"
            )
        return xr.Dataset(
            {name: (tuple(coordinates), np.asarray(v, float)) for name, v in fields.items()},
            {name: np.asarray(points, float) for name, points in coordinates.items()},
            {
                **self.parameters(),
                "error_estimate": max(float(error_estimate), ROUNDOFF),
                "solver": solver,
                "resolution": resolution,
                "seconds": time.perf_counter() - started,
                "dpinn_reference_version": self.version,
            },
        )


def require_positive(reference: Reference, *names: str) -> None:
    """Refuse parameters that are not positive numbers.

    Raises:
        DpinnError: naming the first such parameter.
    """
    for name in names:
        value = getattr(reference, name)
        if not 0 < value < float("inf"):
            raise DpinnError(f"{name} of the reference {reference.name} is {value}; it must be > 0")
