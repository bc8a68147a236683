"""New term weights that are not finite: the old ones stay, or the training stops."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dpinn.errors import DpinnError
from dpinn.loss import FixedTolerance, NTKWeights
from dpinn.train.objective import Objective


class Measured:
    """Kernels that overflow, and gradients that may."""

    def __init__(self, gradient: float):
        self.gradient = gradient

    def gradient_norms(self) -> Tensor:
        return torch.tensor([1.0, self.gradient])

    def ntk_means(self, probes: int | None) -> Tensor:
        return torch.tensor([1.0, math.inf])


@pytest.fixture
def objective() -> Objective:
    made = Objective(("pde", "ic"), NTKWeights({"ic": 100}), FixedTolerance(1.0))
    layout: Any = SimpleNamespace(names=("pde", "ic"))
    made.layout = layout
    return made


def test_weights_that_alone_are_not_finite_stop_the_training(objective: Objective) -> None:
    with pytest.raises(DpinnError, match=r"term weights are not finite at step 7: \{'pde': "):
        objective.update_weights(Measured(2.0), 7, keep=False)
    assert objective.term_weights.tolist() == [1.0, 100.0]


@pytest.mark.parametrize(("gradient", "keep"), [(math.nan, False), (math.inf, False), (2.0, True)])
def test_weights_stay_where_the_gradient_is_what_is_not_finite(
    objective: Objective, gradient: float, keep: bool
) -> None:
    """The step then names the term or parameter, or the optimizer skips it."""
    objective.update_weights(Measured(gradient), 7, keep=keep)
    assert objective.term_weights.tolist() == [1.0, 100.0]
