"""What a reference solution is: physical parameters, a solver, and an error estimate."""

import abc
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dpinn.errors import DpinnError
from dpinn.reference.progress import Progress

Array = NDArray[np.float64]

ROUNDOFF = 1e-15
"""No error estimate is stated below this: a few units in the last place of float64."""


STUDY = "study"
"""The attribute of a dataset that holds its convergence study."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One solve of a convergence study: a row of its table."""

    refined: str
    """What is finer than in the trial before: ``space``, ``time``, ...; ``start`` in the first."""
    resolution: str
    """Readable."""
    change: float | None
    """Relative L2 change of the solution against the trial before, the largest over the fields."""
    seconds: float
    """Of this solve."""


def study_of(dataset: xr.Dataset) -> tuple[Trial, ...]:
    """Give the convergence study that a solution was made by; a closed form has none."""
    return tuple(Trial(**row) for row in json.loads(dataset.attrs.get(STUDY, "[]")))


def study_table(dataset: xr.Dataset) -> str:
    """Give the convergence study of a solution as a table."""
    trials = study_of(dataset)
    own = f"error estimate {dataset.attrs['error_estimate']:.1e}"
    if not trials:
        return (
            f"  {dataset.attrs.get('solver', 'from a file')}: nothing to refine, {own} by rounding"
        )
    width = max(len(trial.resolution) for trial in trials)
    lines = [f"  {'resolution':<{width}}  {'refined in':<10}  {'changed by':>10}  {'seconds':>8}"]
    for trial in trials:
        change = "" if trial.change is None else f"{trial.change:.2e}"
        refined = "" if trial.change is None else trial.refined
        lines.append(
            f"  {trial.resolution:<{width}}  {refined:<10}  {change:>10}  {trial.seconds:>8.1f}"
        )
    return "\n".join([*lines, f"  {own}"])


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
            One float64 variable per field and quantity of the problem over its coordinates, in
            their order; the coordinates are equispaced, and hold both endpoints wherever the
            solution is continuous there.
        """

    def parameters(self) -> dict[str, Any]:
        """Give the physical parameters by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def definition(self, quick: bool = False) -> dict[str, Any]:
        """Give all that decides the numbers of the solution; its hash is the key of the cache."""
        kind = type(self)
        # A subclass that inherits its name may solve otherwise all the same.
        own = {} if "name" in vars(kind) else {"class": f"{kind.__module__}.{kind.__qualname__}"}
        return own | {
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
        study: Sequence[Trial] = (),
    ) -> xr.Dataset:
        """Put a solution beside what must be known about it.

        Args:
            coordinates: name to ``n_i`` values, in the order of the problem.
            fields: name to ``n_1 x n_2 x ...`` values.
            error_estimate: relative L2 error over the grid, the largest over the fields.
            solver: one sentence.
            resolution: what the solver used, readable.
            started: ``time.perf_counter()`` when the solver began.
            study: the solves at growing resolution that the error estimate comes from.
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
                STUDY: json.dumps([dataclasses.asdict(trial) for trial in study]),
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
