"""Physics-informed initialization: the last layer by least squares on the initial condition.

A PirateNet (arXiv 2402.00326, section 4) starts as a linear combination of Fourier features, so
the best combination for the data at hand can be solved for. The initial condition is spread
over all times, which starts training from u(t, x) = u0(x).

The features of other networks are nearly dependent at the start, and fit well only as a
difference of large numbers. Each step on the layers below then moves the output by far more than
that of a random network, and the derivatives of such a difference are noise, so that training
ends at a larger error than without the fit. Hence the coefficients are bounded, and a fit that
gains little within the bound is taken back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpinn.box import Box
from dpinn.jet import Field
from dpinn.jet.field import Key
from dpinn.jet.plan import LAPLACIAN, TIME
from dpinn.nn.pinn import PINN
from dpinn.problem import INITIAL, Problem

POINTS = 4096
"""Points of the least-squares problem, several per unknown of any usual last layer."""

RIDGES = [10 ** (k / 4) for k in range(-24, 1)]
"""Ridges as shares of the largest singular value, tried from the smallest: float32 features carry
no information in directions below the first, and the last leaves next to nothing of the fit."""

GROWTH = 2.0
"""Largest norm of the last layer, in those of a Glorot start: as sensitive to the layers below as
the network is meant to be, and enough for the Fourier features of a PirateNet."""

KEPT = 0.2
"""A fit is kept if it leaves less than this share of the misfit that the network came with."""


@dataclass(frozen=True)
class StartFit:
    """What fitting the last layer to the initial condition did.

    Attributes:
        before: root mean square of the fitted terms with the weights that the network came with,
            at points of the initial time other than those of the fit.
        after: the same with the fitted weights; infinite where none are within bounds.
    """

    before: float
    after: float

    @property
    def kept(self) -> bool:
        """Whether the network has the fitted weights, otherwise those that it came with."""
        return self.after < KEPT * self.before


def physics_informed_initialization(
    pinn: PINN, problem: Problem, interval: tuple[float, float] | None = None
) -> StartFit | None:
    """Fit the weight of ``pinn.network.last`` to the initial condition at all times, if that helps.

    Only terms of ``initial`` that are affine in the fields' values and read no derivative
    take part. What the network does with the output of ``last`` is part of the fit, to first
    order, and of the measurement whether it helps.

    Args:
        pinn: the network.
        problem: whose initial condition is fitted.
        interval: of time, over which the start is spread; None is the whole domain's.

    Returns:
        What was reached, or None where there is nothing to fit: no such term, or a network
        without ``features`` and a trainable linear layer ``last`` that it passes through once.
    """
    last = getattr(pinn.network, "last", None)
    features_of = getattr(pinn.network, "features", None)
    if not isinstance(last, nn.Linear) or not callable(features_of):
        return None
    points = _spread_points(problem, interval, seed=0)
    system = _affine_system(problem, points)
    if system is None:
        return None
    others = _at_start(problem, _spread_points(problem, interval, seed=1))
    unseen = _affine_system(problem, others)
    linear = _linearized(pinn, last, points)
    if unseen is None or linear is None:
        return None

    def misfit() -> float:
        with torch.no_grad():
            outputs = pinn(others.to(last.weight)).to(torch.float64).cpu()
        return float(_terms(unseen, outputs).square().mean().sqrt())

    before, after = misfit(), math.inf
    own = last.weight.detach().clone()
    fitted = _bounded_fit(system, linear, own.to(torch.float64).cpu())
    with torch.no_grad():
        if fitted is not None:
            last.weight.copy_(fitted)
            after = misfit()
        fit = StartFit(before, after)
        if not fit.kept:
            last.weight.copy_(own)
    return fit


@dataclass(frozen=True)
class _Linearized:
    """The network at ``N`` points to first order in the output ``z`` of its last layer."""

    features: Tensor  # N x width, what the last layer is given
    outputs: Tensor  # N x fields
    slopes: Tensor  # N x fields x len(z), of the outputs by z


def _linearized(pinn: PINN, last: nn.Linear, points: Tensor) -> _Linearized | None:
    """None where the network does not pass once through a trainable ``last``."""
    calls: list[tuple[Tensor, Tensor]] = []
    hook = last.register_forward_hook(lambda _, given, z: calls.append((given[0], z)))
    try:
        with torch.enable_grad():
            outputs = pinn(points.to(last.weight))
    finally:
        hook.remove()
    if len(calls) != 1 or not (last.weight.requires_grad and outputs.requires_grad):
        return None
    features, z = calls[0]
    if features.shape != (len(points), last.in_features):
        return None
    # A point's output depends on its own z alone, so that a sum over the points has all slopes.
    slopes = [
        torch.autograd.grad(column.sum(), z, retain_graph=True, materialize_grads=True)[0]
        for column in outputs.unbind(1)
    ]
    found = (features, outputs, torch.stack(slopes, dim=1))
    return _Linearized(*(part.detach().to(torch.float64).cpu() for part in found))


def _terms(system: tuple[Tensor, Tensor], outputs: Tensor) -> Tensor:
    """The affine terms, ``terms x N``, of outputs ``N x fields``."""
    coefficients, constants = system
    return torch.einsum("kfn,nf->kn", coefficients, outputs) + constants


def _bounded_fit(system: tuple[Tensor, Tensor], linear: _Linearized, own: Tensor) -> Tensor | None:
    """The least-squares weight with the smallest ridge that keeps it within bounds, or None."""
    features = linear.features
    by_z = torch.einsum("kfn,nfl->knl", system[0], linear.slopes)
    # Row (term, point), column (output of the last layer, feature).
    matrix = torch.einsum("knl,nw->knlw", by_z, features).reshape(-1, own.numel())
    target = matrix @ own.reshape(-1) - _terms(system, linear.outputs).reshape(-1)
    squares, directions = torch.linalg.eigh(matrix.T @ matrix)
    projected = directions.T @ (matrix.T @ target)
    outputs, inputs = own.shape
    glorot = math.sqrt(2 * inputs / (inputs + outputs))
    for ridge in RIDGES:
        weight = directions @ (projected / (squares.clamp_min(0) + ridge**2 * squares[-1]))
        weight = weight.reshape(own.shape)
        # Outputs that are larger than the order of one, which Glorot supposes, take as much more.
        size = (features @ weight.T).square().mean(0).sqrt().clamp_min(1.0)
        if bool((weight.norm(dim=1) <= GROWTH * glorot * size).all()):
            return weight
    return None


def _spread_points(problem: Problem, interval: tuple[float, float] | None, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    box = problem.domain
    if interval is not None:
        box = Box(**{**box.intervals, TIME: interval})
    unit = torch.rand((POINTS, len(box.coordinates)), generator=generator, dtype=torch.float64)
    low = torch.tensor(box.lower(), dtype=torch.float64)
    return low + unit * (torch.tensor(box.upper(), dtype=torch.float64) - low)


def _at_start(problem: Problem, points: Tensor) -> Tensor:
    moved = points.clone()
    moved[:, problem.domain.coordinates.index(TIME)] = problem.domain[TIME][0]
    return moved


def _affine_system(problem: Problem, points: Tensor) -> tuple[Tensor, Tensor] | None:
    """Coefficients ``terms x fields x N`` and constants ``terms x N`` of the affine terms."""
    initial = [c for c in problem.conditions if c.name == INITIAL]
    if not initial:
        return None
    condition, coordinates = initial[0], problem.domain.coordinates
    # A term that reads a derivative comes out as NaN, and is left out by that.
    unknown = torch.full_like(points[:, 0], torch.nan)
    derivatives: dict[Key, Tensor] = dict.fromkeys(
        [*condition.plan.partials[1:], LAPLACIAN], unknown
    )
    at_start = _at_start(problem, points)

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
