"""Checks before the first step that every term can train, at a few points of it.

What is looked for is structure, not the value of a loss: a term that is solved already passes.
So most checks are made with the parameters moved a little at random, where nothing vanishes by
chance, and in float64, where nothing differs by rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dpinn.condition import Condition
from dpinn.dry_call import require_real
from dpinn.errors import DpinnError, DpinnWarning
from dpinn.explain import explained, line_of
from dpinn.graph import leaves
from dpinn.held import attributes_of, held
from dpinn.jet import DerivativePlan, Field, autograd_jet
from dpinn.jet.field import spell
from dpinn.nn import PINN
from dpinn.problem import Problem

POINTS = 128
"""Points of each condition that are looked at; what is structural shows at any of them."""

STEP = 0.1
"""How far each parameter is moved, relative to the root mean square of its tensor, and at least."""

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-2}
"""Difference, relative to the largest residual, above which two evaluations are not the same.

Far above rounding, which high derivatives amplify; a mean over points changes by more.
"""

Evaluation = tuple[dict[str, Tensor], dict[str, Field], Tensor | None]
"""Terms, fields, and perhaps the curvature of the network, at some points."""


def require_trainable(
    pinn: PINN, problem: Problem, points: Mapping[str, Tensor], device: torch.device
) -> None:
    """Check that each term has a gradient and is a function of its point alone.

    Args:
        pinn: with its start values, all of them on this rank.
        problem: with all that it holds in the precision and on the device of the training.
        points: of each condition, ``n x coordinates``; the same on all ranks, which then decide
            alike.
        device: on which they are.

    Raises:
        DpinnError: naming the method and term, or the network.
    """
    if not any(p.requires_grad for p in pinn.parameters()):
        raise DpinnError(
            f"no parameter of {type(pinn.network).__name__} requires a gradient, so there is "
            "nothing to train"
        )
    # Layers and residuals may draw numbers, which the training is not to miss.
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        for condition in problem.conditions:
            here = points[condition.name]
            some = here[torch.linspace(0, len(here) - 1, POINTS).round().long().unique().to(device)]
            _ConditionCheck(pinn, problem, condition, some).run()


def warn_of_slips(problem: Problem) -> None:
    """Tell what trains, but perhaps to something else than its declaration looks like."""
    _warn_of_fixed_modules(problem)
    _warn_of_crossing_faces(problem)


def _warn_of_fixed_modules(problem: Problem) -> None:
    """Say which modules that a problem holds have parameters that look as if they would train."""
    names = [
        name
        for attribute, value in attributes_of(problem, Problem).items()
        for name, item in held(value, f"self.{attribute}")
        if isinstance(item, nn.Module) and any(p.requires_grad for p in item.parameters())
    ]
    if names:
        warnings.warn(
            f"{type(problem).__name__}: the parameters of {', '.join(names)} are held fixed; only "
            "those of the network are trained",
            DpinnWarning,
            stacklevel=2,
        )


def _warn_of_crossing_faces(problem: Problem) -> None:
    """Say which conditions hold on whole faces where a corner may be meant."""
    for condition in problem.conditions:
        held = [item for place in condition.places for item in place.items()]
        if 1 < len(held) == len(condition.places) == len(dict(held)):
            faces = " and ".join(f"{name} = {value:.15g}" for name, value in held)
            point = ", ".join(f"{name}={value:.15g}" for name, value in held)
            warnings.warn(
                f"{type(problem).__name__}.{condition.name} holds on all of the faces {faces}; "
                f"for the points that they have in common alone write @at({point})",
                DpinnWarning,
                stacklevel=2,
            )


class _Residuals(nn.Module):
    """The terms of a condition and their fields, which can be had with other parameters."""

    def __init__(self, pinn: PINN, problem: Problem, condition: Condition):
        super().__init__()
        self.pinn = pinn
        self.problem = problem
        self.condition = condition

    def forward(self, points: Tensor) -> Evaluation:
        fields = self.pinn.fields(points, self.condition.plan)
        terms = self.problem.evaluate(self.condition, fields, points)
        # All rules for jets are of smooth functions.
        needed = not self.pinn.taylor and self.condition.plan.order >= 2
        return terms, fields, self._curvature(points) if needed else None

    def _curvature(self, points: Tensor) -> Tensor:
        """Second derivatives of the network along lines in the space of its own inputs.

        They tell that a network is piecewise linear even where the embedding of a periodic
        coordinate is not.
        """
        generator = torch.Generator().manual_seed(0)
        size = (2, len(points), self.pinn.embedding.outputs)
        start, direction = torch.randn(size, generator=generator).to(points)
        plan = DerivativePlan.build(("s",), [(2,)])
        along = torch.zeros_like(points[:, :1])
        line = autograd_jet(lambda s: self.pinn.network(start + s * direction), along, plan)
        return line.channels[plan.position[(2,)]]


class _ConditionCheck:
    """Looks at one condition at some of its points, ``n x coordinates``."""

    def __init__(self, pinn: PINN, problem: Problem, condition: Condition, points: Tensor):
        self.pinn = pinn
        self.problem = problem
        self.condition = condition
        self.points = points
        self.title = f"{type(problem).__name__}.{condition.name}"
        self.network = type(pinn.network).__name__
        self.method = getattr(problem, condition.name)

    def run(self) -> None:
        """Raise an error for the first mistake."""
        module = _Residuals(self.pinn, self.problem, self.condition)
        with explained(self.title, self.method, self.problem.domain.coordinates):
            terms, fields, _ = module(self.points)
        self._require_dependence(terms, fields)
        self._move_parameters()
        whole, fields, curvature = self._evaluate(self.points)
        again, fields_again, _ = self._evaluate(self.points)
        half, half_fields, _ = self._evaluate(self.points[::2])
        self._require_single_values(fields, fields_again, half_fields)
        self._require_derivatives(fields, curvature)
        for term, residual in whole.items():
            if not self._same(residual, again[term]):
                raise self._mistake(term, "changes from call to call; let it draw no numbers")
            if not self._same(residual[::2], half[term]):
                raise self._mistake(
                    term,
                    "depends at one point on the other points, as a mean over them does; "
                    "return what vanishes at each point alone",
                )
            self._require_gradient(term, residual, terms[term])

    def _mistake(self, term: str, what: str) -> DpinnError:
        return DpinnError(f"{self.title}: the term {term!r} {what} ({line_of(self.method)})")

    # --- at the start values, in the precision of the training ----------------------------

    def _require_dependence(self, terms: Mapping[str, Tensor], fields: Mapping[str, Field]) -> None:
        """Refuse terms without a trained parameter, or with a parameter that is not trained."""
        trained = {id(p) for p in self.pinn.parameters() if p.requires_grad}
        known = trained | {
            id(leaf)
            for f in fields.values()
            for tensor in (f.value, *f.derivatives.values())
            for leaf in leaves(tensor)
        }
        for term, value in terms.items():
            require_real(f"{self.title}: the term {term!r}", value, line_of(self.method))
            read = [id(leaf) for leaf in leaves(value)]
            if not known.issuperset(read):
                raise self._mistake(
                    term,
                    "reads a tensor that requires a gradient and that nothing would train; make it "
                    "a number, or call requires_grad_(False) on it",
                )
            if trained.isdisjoint(read):
                raise self._mistake(
                    term,
                    "has no gradient, as it depends on no trained parameter by operations that "
                    "can be differentiated",
                )

    # --- with moved parameters, in float64 where that works -------------------------------

    def _move_parameters(self) -> None:
        for dtype in (torch.float64, self.points.dtype):
            self.tolerance = TOLERANCES[dtype]
            self.state = _moved_state(self.pinn, dtype, self.points.device)
            self.moved = _Residuals(
                self.pinn, self.problem.to(dtype, self.points.device), self.condition
            )
            self.dtype = dtype
            try:
                self._evaluate(self.points)
                return
            except (RuntimeError, TypeError):
                # A network may hold tensors of its own that cannot be told to be float64.
                if dtype == self.points.dtype:
                    raise

    def _evaluate(self, points: Tensor) -> Evaluation:
        return functional_call(self.moved, self.state, (points.to(self.dtype),))

    def _same(self, a: Tensor, b: Tensor) -> bool:
        """Whether two evaluations agree, where they are finite."""
        a, b = a.detach(), b.detach()
        finite = a.isfinite() & b.isfinite()
        if not finite.any():
            return True
        a, b = a[finite], b[finite]
        return bool((a - b).abs().max() <= self.tolerance * torch.maximum(a, b).abs().max())

    def _require_single_values(
        self,
        fields: Mapping[str, Field],
        again: Mapping[str, Field],
        half: Mapping[str, Field],
    ) -> None:
        """Refuse a network whose value at a point is not a function of that point."""
        for name, field in fields.items():
            if not self._same(field.value, again[name].value):
                raise DpinnError(
                    f"{self.network} gives other values of {name} each time it is called, as with "
                    "dropout; leave such layers out"
                )
            if not self._same(field.value[::2], half[name].value):
                raise DpinnError(
                    f"{self.network} couples the points of a batch, so that {name} at one point "
                    "depends on the others, as with batch normalization; use LayerNorm or none"
                )

    def _require_derivatives(self, fields: Mapping[str, Field], curvature: Tensor | None) -> None:
        """Refuse a network of which a derivative of second or higher order is zero everywhere."""
        piecewise_linear = curvature is not None and not curvature.any()
        first = next(iter(fields.values()))
        slopes = [f.derivatives[k] for f in fields.values() for k in first.derivatives
                  if not isinstance(k, str) and sum(k) == 1]  # fmt: skip
        if not any(bool(slope.any()) for slope in slopes):
            return  # saturated everywhere, as where coordinates are large
        for key in first.derivatives:
            high = isinstance(key, str) or sum(key) >= 2
            vanishes = not any(bool(f.derivatives[key].any()) for f in fields.values())
            if high and (vanishes or piecewise_linear):
                name = spell(key, first.coordinates)
                raise DpinnError(
                    f"{self.title} reads {first.name}.{name}, but second or higher derivatives of "
                    f"{self.network} vanish at all points whatever its parameters, as those of "
                    "ReLU do, which is piecewise linear; use tanh, sin, silu or gelu"
                )

    def _require_gradient(self, term: str, residual: Tensor, start: Tensor) -> None:
        """Refuse a term that is not zero but that no parameter changes."""
        parameters = [p for p in self.state.values() if p.requires_grad]
        own = [p for p in self.pinn.parameters() if p.requires_grad]
        if bool(residual.any()) and not _moves(residual, parameters) and not _moves(start, own):
            raise self._mistake(
                term,
                "has no gradient: its derivative by every trained parameter is zero, as that of "
                "torch.sign, torch.round or a product with 0",
            )


def _moves(residual: Tensor, parameters: Sequence[Tensor]) -> bool:
    """Whether a residual has a derivative by some parameter that is not zero at all points."""
    if not residual.requires_grad:
        return False
    generator = torch.Generator().manual_seed(1)
    signs = 2 * torch.randint(2, residual.shape, generator=generator) - 1
    gradients = torch.autograd.grad(
        residual, parameters, signs.to(residual), retain_graph=True, allow_unused=True
    )
    return any(g is not None and bool(g.any()) for g in gradients)


def _moved_state(pinn: PINN, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Parameters and buffers of a `_Residuals` by name, the trained ones moved at random."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, buffer in pinn.named_buffers():
        state[f"pinn.{name}"] = buffer.to(dtype) if buffer.is_floating_point() else buffer.clone()
    for name, parameter in pinn.named_parameters():
        value = parameter.detach()
        if value.is_floating_point():
            value = value.to(dtype)
        if parameter.requires_grad and value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            scale = STEP * (1 + value.square().mean().sqrt())
            value = value + scale * noise.to(device, dtype)
        state[f"pinn.{name}"] = value.clone().requires_grad_(parameter.requires_grad)
    return state
