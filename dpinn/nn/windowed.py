"""Networks of successive time windows as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dpinn.box import SAME
from dpinn.jet import DerivativePlan, Field
from dpinn.jet.plan import TIME
from dpinn.nn.pinn import PINN


class WindowedPINN(nn.Module):
    """Several networks over successive intervals of time, used like a single one.

    A time at a seam belongs to the window that ends there. Beyond the first and the last interval
    the nearest window goes on.

    Args:
        pinns: one a window, in the order of time.
        seams: the times between them, one fewer.
    """

    def __init__(self, pinns: Sequence[PINN], seams: Sequence[float]):
        super().__init__()
        if len(seams) != len(pinns) - 1:
            raise ValueError(f"{len(pinns)} windows have {len(pinns) - 1} seams, not {len(seams)}")
        self.pinns = nn.ModuleList(pinns)
        self.seams = tuple(float(s) for s in seams)
        self.domain = pinns[0].domain
        self.coordinates = pinns[0].coordinates
        self.field_names = pinns[0].field_names

    def forward(self, points: Tensor) -> Tensor:
        """Map ``N x coordinates`` to ``N x fields``."""
        parts, back = self._parts(points)
        return torch.cat([pinn(points[here]) for pinn, here in parts])[back]

    def fields(self, points: Tensor, plan: DerivativePlan) -> dict[str, Field]:
        """The fields with the derivatives of a plan at ``N x coordinates`` points."""
        parts, back = self._parts(points)
        found = [pinn.fields(points[here], plan) for pinn, here in parts]
        joined = {}
        for name, first in found[0].items():
            value = torch.cat([fields[name].value for fields in found])[back]
            derivatives = {
                key: torch.cat([fields[name].derivatives[key] for fields in found])[back]
                for key in first.derivatives
            }
            joined[name] = Field(name, value, self.coordinates, derivatives)
        return joined

    def _parts(self, points: Tensor) -> tuple[list[tuple[PINN, Tensor]], Tensor]:
        """The windows that have points with the indices of these, and the way back from them."""
        t = points[:, self.coordinates.index(TIME)].contiguous()
        # A time that is a seam but for rounding is at it.
        seams = torch.tensor(self.seams, dtype=torch.float64) + SAME * self.domain.length(TIME)
        window = torch.bucketize(t, seams.to(t))
        chosen = [(window == k).nonzero()[:, 0] for k in range(len(self.pinns))]
        parts = [(p, here) for p, here in zip(self.pinns, chosen, strict=True) if len(here)]
        # Without points the first answers, with nothing in the right shape.
        parts = parts or [(self.pinns[0], chosen[0])]
        return parts, torch.cat(chosen).argsort()  # type: ignore[return-value]
