"""Physics-informed initialization: the last layer by least squares on the initial condition.

PirateNet (arXiv 2402.00326, section 4) starts as a linear combination of its features, so
the best combination for the data at hand can be solved for. The initial condition is spread
over all times, which starts training from u(t, x) = u0(x).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpinn.jet import Field
from dpinn.jet.field import Key
from dpinn.jet.plan import LAPLACIAN
from dpinn.nn.pinn import PINN
from dpinn.problem import Problem

POINTS = 4096
"""Points of the least-squares problem, several per unknown of any usual last layer."""

RCOND = 1e-6
"""Directions of the features below this share of the largest are left out: float32 features
carry no information there, and coefficients along them would be large."""


def physics_informed_initialization(pinn: PINN, problem: Problem) -> float | None:
    """Set the weight of ``pinn.network.last`` to fit the initial condition at all times.

    Only terms of ``initial`` that are affine in the fields' values and read no derivative
    take part.

    Returns:
        The relative residual of the fit, or None where there is nothing to fit: no such
        term, or a network without a ``last`` linear layer and ``features``.
    """
    last = getattr(pinn.network, "last", None)
    features_of = getattr(pinn.network, "features", None)
    if not isinstance(last, nn.Linear) or not callable(features_of):
        return None
    points = _spread_points(problem)
    system = _affine_system(problem, points)
    if system is None:
        return None
    coefficients, constants = system
    with torch.no_grad():
        moved = points.to(last.weight)
        features = features_of(pinn.embedding(moved)).to(torch.float64).cpu()
        if last.bias is not None:
            last.bias.zero_()
        # Row (term, point), column (field, feature): coefficient times feature.
        matrix = torch.einsum("kfn,nw->knfw", coefficients, features).reshape(
            constants.numel(), coefficients.shape[1] * features.shape[1]
        )
        solution = torch.linalg.lstsq(
            matrix, -constants.reshape(-1, 1), rcond=RCOND, driver="gelsd"
        ).solution
        residual = matrix @ solution + constants.reshape(-1, 1)
        last.weight.copy_(solution.reshape(last.weight.shape))
    return float(residual.norm() / constants.norm().clamp_min(torch.finfo(torch.float64).tiny))


def _spread_points(problem: Problem) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    box = problem.domain
    unit = torch.rand((POINTS, len(box.coordinates)), generator=generator, dtype=torch.float64)
    low = torch.tensor(box.lower(), dtype=torch.float64)
    return low + unit * (torch.tensor(box.upper(), dtype=torch.float64) - low)


def _affine_system(problem: Problem, points: Tensor) -> tuple[Tensor, Tensor] | None:
    """Coefficients ``terms x fields x N`` and constants ``terms x N`` of the affine terms."""
    initial = [c for c in problem.conditions if c.name == "initial"]
    if not initial:
        return None
    condition, coordinates = initial[0], problem.domain.coordinates
    # A term that reads a derivative comes out as NaN, and is left out by that.
    unknown = torch.full_like(points[:, 0], torch.nan)
    derivatives: dict[Key, Tensor] = dict.fromkeys(
        [*condition.plan.partials[1:], LAPLACIAN], unknown
    )
    at_start = points.clone()
    at_start[:, coordinates.index("t")] = problem.domain["t"][0]

    def all_terms(values: list[float]) -> Tensor:
        fields = {
            name: Field(name, torch.full_like(points[:, 0], v), coordinates, derivatives)
            for name, v in zip(problem.fields, values, strict=True)
        }
        return torch.stack(list(problem.evaluate(condition, fields, at_start).values()))

    count = len(problem.fields)
    known = torch.isfinite(all_terms([0.0] * count)).all(1)
    if not bool(known.any()):
        return None

    def terms(values: list[float]) -> Tensor:
        return all_terms(values)[known]

    constants = terms([0.0] * count)
    units = [[float(j == k) for j in range(count)] for k in range(count)]
    coefficients = torch.stack([terms(unit) - constants for unit in units], dim=1)
    probe = [1.5 - 0.7 * k for k in range(count)]
    expected = constants + torch.einsum("kfn,f->kn", coefficients, torch.tensor(probe).to(points))
    if not torch.allclose(terms(probe), expected):
        return None
    return coefficients, constants
