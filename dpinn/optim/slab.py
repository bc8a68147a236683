"""A slab: same-shape units that stand at the same step, stacked, and one SOAP step on them.

All of SOAP's mathematics on moments and factors is here, and nothing of parameter groups or
processes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpinn.optim.eigenbasis import REFRESH_METHODS, initial_basis
from dpinn.optim.state import StateError, require_same_keys
from dpinn.optim.units import Unit


@dataclass(eq=False)
class Slab:
    """``B`` units' parameters with their stacked state, and the one step count they share.

    ``state`` maps a name to ``[B, rows, columns]`` (``first_moment``, ``second_moment``, both in
    the eigenbasis), ``[B, rows, rows]`` (``left_factor``, ``left_basis``) and
    ``[B, columns, columns]`` (``right_factor``, ``right_basis``); a dimension that is not rotated
    has no factor and no basis.
    """

    units: list[Unit]
    parameters: list[Tensor]
    step: int
    state: dict[str, Tensor]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What units must share to be in one slab."""
        return kind_of(self.units[0], self.step, self.state)

    def unit_state(self, index: int) -> dict[str, Any]:
        """One unit's step and tensors; the tensors are views of the slab."""
        return {"step": self.step, **{name: slab[index] for name, slab in self.state.items()}}

    def select(self, indices: Sequence[int]) -> "Slab":
        """A new slab of some of the units; their state is copied."""
        chosen = list(indices)
        return Slab(
            [self.units[i] for i in chosen],
            [self.parameters[i] for i in chosen],
            self.step,
            {name: slab[chosen] for name, slab in self.state.items()},
        )

    def stack(self, matrices: Iterable[Tensor]) -> Tensor:
        """Tensors of the parameters' shapes as ``[B, rows, columns]`` in the moments' dtype."""
        shape = (self.units[0].rows, self.units[0].columns)
        stacked = torch.stack([matrix.reshape(shape) for matrix in matrices])
        return stacked.to(self.state["first_moment"].dtype)

    def update_moments(self, gradient: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
        """Take ``gradient`` ``[B, rows, columns]`` into the moments; return the step direction.

        The direction is bias-corrected and rotated back; ``W -= lr * direction`` is the step.
        """
        beta1, beta2 = betas
        first, second = self.state["first_moment"], self.state["second_moment"]
        self.step += 1
        rotated = self._rotate(gradient)
        first.lerp_(rotated, 1 - beta1)
        second.mul_(beta2).addcmul_(rotated, rotated, value=1 - beta2)
        correction = math.sqrt(1 - beta2**self.step) / (1 - beta1**self.step)
        direction = first.div(second.sqrt().add_(eps)).mul_(correction)
        return self._rotate_back(direction)

    def precondition(self, gradient: Tensor, beta2: float, eps: float) -> Tensor:
        """The step direction with ``gradient`` in the place of the first moment."""
        if self.step == 0:
            return gradient
        denominator = self.state["second_moment"].sqrt().add_(eps)
        correction = math.sqrt(1 - beta2**self.step)
        return self._rotate_back(self._rotate(gradient).div_(denominator).mul_(correction))

    def update_factors(self, gradient: Tensor, beta: float) -> None:
        """``L <- beta L + (1 - beta) G G'``, and ``R`` likewise with ``G' G``."""
        for side, matrix in (("left", gradient), ("right", gradient.mT)):
            factor = self.state.get(f"{side}_factor")
            if factor is not None:
                matrix = matrix.to(factor.dtype)
                factor.baddbmm_(matrix, matrix.mT, beta=beta, alpha=1 - beta)

    def refresh(self, method: str) -> None:
        """Move the bases toward the factors' eigenvectors and carry the moments along.

        The first moment is a vector and is expressed in the new basis; the second, a variance per
        column, follows its column through the sort.
        """
        first, second = self.state["first_moment"], self.state["second_moment"]
        if (left := self._refresh_side("left", method)) is not None:
            carry, permutation = left
            first = carry @ first
            second = torch.take_along_dim(second, permutation.unsqueeze(-1), dim=-2)
        if (right := self._refresh_side("right", method)) is not None:
            carry, permutation = right
            first = first @ carry.mT
            second = torch.take_along_dim(second, permutation.unsqueeze(-2), dim=-1)
        self.state["first_moment"], self.state["second_moment"] = first, second

    def _refresh_side(self, side: str, method: str) -> tuple[Tensor, Tensor] | None:
        """``Q_new' Q_old`` and the sort of the old columns."""
        old = self.state.get(f"{side}_basis")
        if old is None:
            return None
        factor = self.state[f"{side}_factor"]
        basis, permutation = REFRESH_METHODS[method](factor, old.to(factor.dtype))
        new = basis.to(old.dtype)
        self.state[f"{side}_basis"] = new
        return new.mT @ old, permutation

    def _rotate(self, matrix: Tensor) -> Tensor:
        """``Q_L' X Q_R``."""
        if "left_basis" in self.state:
            matrix = self.state["left_basis"].mT @ matrix
        if "right_basis" in self.state:
            matrix = matrix @ self.state["right_basis"]
        return matrix

    def _rotate_back(self, matrix: Tensor) -> Tensor:
        """``Q_L X Q_R'``."""
        if "left_basis" in self.state:
            matrix = self.state["left_basis"] @ matrix
        if "right_basis" in self.state:
            matrix = matrix @ self.state["right_basis"].mT
        return matrix


def kind_of(unit: Unit, step: int, state: dict[str, Tensor]) -> tuple[Any, ...]:
    """Form, step and dtypes: units that agree in them can be computed in one slab."""
    form = (unit.rows, unit.columns, unit.rotates_rows, unit.rotates_columns, unit.device)
    return (*form, step, *(state[name].dtype for name in sorted(state)))


def start_slab(units: list[Unit], parameters: list[Tensor], beta: float) -> Slab:
    """A slab at step 0 from its parameters' first gradients, which only set factors and bases."""
    first = units[0]
    slab = Slab(
        units,
        parameters,
        step=0,
        state={
            name: torch.zeros(len(units), *shape, dtype=first.dtype, device=first.device)
            for name, shape in first.state_shapes().items()
        },
    )
    slab.update_factors(slab.stack(gradients_of(parameters)), beta)
    for side in ("left", "right"):
        if f"{side}_factor" in slab.state:
            slab.state[f"{side}_basis"] = initial_basis(slab.state[f"{side}_factor"])
    return slab


def load_unit(parameter: Tensor, unit: Unit, entry: Mapping[str, Any]) -> Slab:
    """A saved unit as a slab, after checking that it is this parameter's."""
    shapes = unit.state_shapes()
    require_same_keys(f"state of parameter {unit.key!r}", entry, ["step", *shapes])
    for name, shape in shapes.items():
        if tuple(entry[name].shape) != shape:
            raise StateError(
                f"the optimizer state's {name} of parameter {unit.key!r} has shape "
                f"{tuple(entry[name].shape)} and here it must be {shape}; "
                "load it into the model that it was saved from"
            )
    moments = {entry[name].dtype for name in shapes if not name.endswith("_factor")}
    if len(moments) > 1:
        raise StateError(
            f"the optimizer state of parameter {unit.key!r} mixes {moments} in moments and bases; "
            "only its factors may have a dtype of their own"
        )
    tensors = {name: entry[name].to(unit.device).unsqueeze(0) for name in shapes}
    # Copied: this state must not share memory with what was loaded.
    copies = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return Slab([unit], [parameter], int(entry["step"]), copies)


def merge(slabs: Sequence[Slab]) -> list[Slab]:
    """The same units with those of equal kind in one slab, in the order of their positions.

    Matrix kernels may give other bits for another batch, so the slabs must be a function of the
    units' state alone: then a run and its resumed copy compute in the same slabs.
    """
    kinds: dict[tuple[Any, ...], list[Slab]] = {}
    for slab in slabs:
        kinds.setdefault(slab.kind, []).append(slab)
    if len(kinds) == len(slabs):
        return list(slabs)
    return [_concatenate(same) if len(same) > 1 else same[0] for same in kinds.values()]


def _concatenate(slabs: Sequence[Slab]) -> Slab:
    joined = Slab(
        [unit for slab in slabs for unit in slab.units],
        [parameter for slab in slabs for parameter in slab.parameters],
        slabs[0].step,
        {name: torch.cat([slab.state[name] for slab in slabs]) for name in slabs[0].state},
    )
    order = sorted(range(len(joined.units)), key=lambda i: joined.units[i].position)
    return joined if order == list(range(len(order))) else joined.select(order)


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients, all of which must be there."""
    gradients = [parameter.grad for parameter in parameters]
    return [gradient for gradient in gradients if gradient is not None]
