"""What a fluid dynamicist asks of a predicted flow, beside what the reference answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from dpinn.analysis.errors import relative_l2
from dpinn.analysis.flow import energy_and_enstrophy_by_quadrature, flow_statistics
from dpinn.analysis.predictions import Array
from dpinn.jet.plan import TIME
from dpinn.problem import Problem

VELOCITY = ("u", "v")
VORTICITY = "vorticity"

FACTOR = 2.0
"""Within which the energy of a shell of the spectrum must lie to count as resolved."""

NOISE = 1e-12
"""Part of the energy below which a shell of the reference is nothing but roundoff."""


@dataclass(frozen=True)
class FlowHistory:
    """Statistics of one flow.

    Attributes:
        histories: ``energy``, ``enstrophy`` and perhaps ``dissipation``, ``n_t`` each.
        wavenumbers: of the shells, angular; empty in a box with walls.
        spectrum: energy in each shell at the last time.
    """

    histories: dict[str, Array]
    wavenumbers: Array
    spectrum: Array


@dataclass(frozen=True)
class FlowComparison:
    """A predicted flow in two dimensions and its reference.

    Attributes:
        times: ``n_t``.
        prediction: its statistics.
        reference: the same of the reference, on the same grid; None without one.
    """

    times: Array
    prediction: FlowHistory
    reference: FlowHistory | None

    def facts(self) -> dict[str, float]:
        """A few numbers: the relative L2 error of each history over time, and the spectrum's reach.

        ``resolved_wavenumber`` is the last one up to which each shell's energy at the last time is
        within a factor of 2 of the reference's.
        """
        if self.reference is None:
            return {}
        facts = {
            f"{name}_error": relative_l2(history, self.reference.histories[name])
            for name, history in self.prediction.histories.items()
        }
        if len(self.reference.spectrum):
            facts["resolved_wavenumber"] = self._resolved_wavenumber(self.reference)
        return facts

    def _resolved_wavenumber(self, reference: FlowHistory) -> float:
        shells = reference.spectrum > NOISE * reference.spectrum.sum()
        ours, exact = self.prediction.spectrum[shells], reference.spectrum[shells]
        good = (ours <= FACTOR * exact) & (ours >= exact / FACTOR)
        reach = len(good) if good.all() else int(np.argmin(good))
        return float(reference.wavenumbers[shells][reach - 1]) if reach else 0.0


def compare_flows(
    problem: Problem,
    axes: Mapping[str, Array],
    predictions: Mapping[str, Array],
    reference: xr.Dataset | None,
) -> FlowComparison | None:
    """Compare the statistics of a flow: fields u and v over t and two directions, and a vorticity.

    On a periodic box derivatives are spectral, of both flows alike, and there is a spectrum; the
    dissipation is for a problem with a ``viscosity``. Between walls the means are by quadrature.

    Returns:
        None where the problem is no such flow, or the grid does not hold both ends of its domain.
    """
    over = tuple(problem.domain.coordinates)
    if len(over) != 3 or over[0] != TIME or not {*VELOCITY, VORTICITY} <= set(predictions):
        return None
    space = {c: axes[c] for c in over[1:]}
    periodic = set(space) <= set(problem.periodic)
    for name, points in space.items():
        low, high = problem.domain[name]
        even = np.allclose(points, np.linspace(low, high, len(points)), atol=1e-9 * (high - low))
        if not (even if periodic else np.allclose(points[[0, -1]], (low, high))):
            return None

    def history(values: Mapping[str, Array]) -> FlowHistory:
        velocity = [values[name] for name in VELOCITY]
        if not periodic:
            energy, enstrophy = energy_and_enstrophy_by_quadrature(
                velocity, values[VORTICITY], list(space.values())
            )
            histories = {"energy": energy, "enstrophy": enstrophy}
            return FlowHistory(histories, np.empty(0), np.empty(0))
        viscosity = float(getattr(problem, "viscosity", math.nan))
        lengths = [problem.domain.length(c) for c in space]
        found = flow_statistics(axes[TIME], velocity, lengths, viscosity)
        histories = {"energy": found.energy, "enstrophy": found.enstrophy}
        if not math.isnan(viscosity):
            histories["dissipation"] = found.dissipation
        return FlowHistory(histories, found.wavenumbers, found.spectrum)

    exact = None
    if reference is not None and {*VELOCITY, VORTICITY} <= set(reference):
        exact = {n: reference[n].transpose(*over).values for n in (*VELOCITY, VORTICITY)}
    return FlowComparison(
        times=axes[TIME],
        prediction=history(predictions),
        reference=None if exact is None else history(exact),
    )
