"""Problems as users write them, from the command line to the loaded solution."""

import json
from typing import Any

import pytest
import torch

import dpinn

CORNER = """
from dpinn import Box, Problem, at

class Corner(Problem):
    '''grad p = (1, 1) with p pinned at a corner: p = x + y.'''
    domain = Box(x=(0.0, 1.0), y=(0.0, 1.0))
    fields = ("p",)

    def residual(self, p):
        return {"px": p.x - 1, "py": p.y - 1}

    @at(x=0, y=0)
    def corner(self, p):
        return {"pin": p}
"""

HOLDER = """
import numpy as np
import torch
from dpinn import Box, Problem, quantity

class Holder(Problem):
    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    fields = ("u",)
    scale = np.sqrt(2.0)
    matrix = torch.eye(2, dtype=torch.float64)

    def __init__(self):
        self.table = torch.linspace(0, 1, 11)
        self.closure = torch.nn.Linear(1, 1)

    def residual(self, u, x):
        k = 1 + self.table[torch.searchsorted(self.table, x).clamp(0, 10)]
        flux = torch.stack([u.t, u.x], dim=1) @ self.matrix
        return {"pde": flux[:, 0] - k * u.xx - self.closure(u.value[:, None])[:, 0]}

    def initial(self, u, x):
        return {"ic": self.scale * u - x}

    @quantity
    def rotated(self, u):
        return (torch.stack([u.t, u.x], dim=1) @ self.matrix)[:, 1]

    def reference(self):
        return None
"""


def test_a_field_is_pinned_at_a_corner(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    work.file("corner.py", CORNER)
    changes = {
        "problem": "corner.Corner",
        "model.network": {"class_path": "dpinn.nn.MLP", "init_args": {"width": 16, "depth": 2}},
        "data": {"batch": 64, "inner_steps": 5},
        "trainer.max_steps": 200,
        "model.optimizer.init_args.lr": 1.0e-2,
    }
    outcome = work("fit", "--config", work.config(changes))
    assert outcome.returncode == 0, outcome.stderr
    monkeypatch.chdir(work.folder)
    solution = dpinn.load(work.run_folder())
    x, y = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(solution(x=x, y=y)["p"].value, x + y, rtol=0, atol=0.02)
    assert float(solution(x=0.0, y=1.0)["p"].value) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_what_a_problem_holds_trains_and_is_evaluated(precision: str, work: Any) -> None:
    work.file("holder.py", HOLDER)
    changes = {"problem": "holder.Holder", "trainer.precision": precision}
    outcome = work("fit", "--config", work.config(changes))
    assert outcome.returncode == 0, outcome.stderr
    warned = [line for line in outcome.stderr.splitlines() if "held fixed" in line]
    assert len(warned) == 1, outcome.stderr
    assert "Holder: the parameters of self.closure are held fixed" in warned[0]
    evaluated = work("evaluate", work.run_folder(), "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert {"residual/pde", "residual/ic"} <= json.loads(evaluated.stdout).keys()
