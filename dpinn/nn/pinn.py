"""The PINN: a network applied to the embedded coordinates of a problem."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dpinn.errors import DpinnError, DpinnWarning
from dpinn.jet import DerivativePlan, Field, Jet, NoJetRuleError, autograd_jet, fields_of
from dpinn.jet.plan import TIME
from dpinn.nn.embeddings import CoordinateScaling, Inputs, PeriodicEmbedding
from dpinn.problem import Problem

NetworkFactory = Callable[[int, int], nn.Module]
"""Builds a network from the numbers of inputs and outputs; any class path in a YAML is one."""


class PINN(nn.Module):
    """Coordinates to fields: scaling and periodic embedding of the problem, then the network.

    Args:
        problem: names the coordinates and fields.
        network: called with the numbers of embedded coordinates and of fields.
        inputs: what the network sees of each coordinate that is not periodic: ``raw``, as it is;
            ``domain``, scaled from its interval to [0, 1]; ``window``, the same with time scaled
            from its present window.

    Attributes:
        taylor: whether derivatives come from jets; False after the network turned out to use
            an operation without a rule, when nested autograd takes over.
    """

    def __init__(self, problem: Problem, network: NetworkFactory, inputs: Inputs = "raw"):
        super().__init__()
        self.inputs = inputs
        self.domain = problem.domain
        self.coordinates = problem.domain.coordinates
        self.field_names = tuple(problem.fields)
        periodic = tuple(problem.periodic)
        self.scaling = (
            nn.Identity() if inputs == "raw" else CoordinateScaling(problem.domain, periodic)
        )
        self.embedding = PeriodicEmbedding(problem.domain, periodic)
        self.network = network(self.embedding.outputs, len(problem.fields))
        self.taylor = True
        self._check(problem)

    def forward(self, points: Tensor) -> Tensor:
        """Map ``N x coordinates`` to ``N x fields``."""
        return self.network(self.embedding(self.scaling(points)))

    def enter_window(self, interval: tuple[float, float]) -> None:
        """Train a window of time; its interval is scaled to [0, 1] where `inputs` say so."""
        if self.inputs == "window" and isinstance(self.scaling, CoordinateScaling):
            self.scaling.scale(TIME, interval)

    def fields(self, points: Tensor, plan: DerivativePlan) -> dict[str, Field]:
        """The fields with the derivatives of a plan at ``N x coordinates`` points."""
        jet = self(Jet.seed(points, plan)) if self.taylor else autograd_jet(self, points, plan)
        return fields_of(jet, self.field_names)

    def _same_gradient(self, value: Tensor, expected: Tensor) -> bool:
        """Whether a jet's value has the parameters' gradient of a plain call.

        A ``torch.autograd.Function`` takes a jet for no tensor, and drops what lies before it.
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        found = []
        for output in (value, expected):
            if not output.requires_grad:
                return not expected.requires_grad
            parts = torch.autograd.grad(
                output.sum(), parameters, allow_unused=True, materialize_grads=True
            )
            found.append(torch.cat([part.reshape(-1) for part in parts]))
        ours, plain = found
        return bool((ours - plain).norm() <= torch.finfo(plain.dtype).eps ** 0.5 * plain.norm())

    def _check(self, problem: Problem) -> None:
        """One call on a few points, as a tensor and as jets of every plan in use."""
        parameter = next(self.parameters(), None)
        if parameter is None:
            raise DpinnError(f"{type(self.network).__name__} has no parameters to train")
        low, high = (torch.tensor(b) for b in (problem.domain.lower(), problem.domain.upper()))
        points = (low + torch.linspace(0.05, 0.95, 7)[:, None] * (high - low)).to(parameter)
        with torch.no_grad():
            shape = tuple(self(points).shape)
        expected = (7, len(self.field_names))
        if shape != expected:
            raise DpinnError(
                f"{type(self.network).__name__} maps 7 points to shape {shape}; it must be "
                f"{expected}, one column per field"
            )
        try:
            for condition in problem.conditions:
                jet = self(Jet.seed(points, condition.plan))
            if not self._same_gradient(jet.channels[0], self(points)):
                raise NoJetRuleError("an operation that does not pass a jet's gradient on")
        except (NoJetRuleError, TypeError, AttributeError) as error:
            # With a tensor the same call went through, so it is the jet that does not fit.
            operation = getattr(error, "operation", f"an operation ({error})")
            self.taylor = False
            warnings.warn(
                f"{type(self.network).__name__} uses {operation}, which has no Taylor rule: "
                "derivatives come from nested autograd, which is slower and is not compiled",
                DpinnWarning,
                stacklevel=2,
            )
