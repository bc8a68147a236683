"""What a problem holds follows the precision and device of the training."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpinn import Box, DpinnError, Problem


class Pair(NamedTuple):
    a: Tensor
    b: int


@dataclasses.dataclass(frozen=True)
class Material:
    stiffness: Tensor
    name: str = "steel"


class Holder(Problem):
    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    fields = ("u",)
    of_the_class = torch.ones(2, dtype=torch.float64)

    def __init__(self) -> None:
        self.table = torch.linspace(0, 1, 11)
        self.index = torch.arange(3)
        self.mask = torch.tensor([True, False])
        self.wave = torch.ones(2, dtype=torch.complex128)
        self.deep: Any = {"ks": [torch.ones(1), (torch.ones(1, dtype=torch.float64), "word")]}
        self.pair = Pair(torch.ones(1, dtype=torch.float64), 3)
        self.material = Material(torch.ones(1, dtype=torch.float64))
        self.number = np.float64(2.5)
        self.array = np.ones(3)
        self.closure = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4))
        self.again = self.table

    def residual(self, u):
        return {"pde": u.t - self.table[0] * u.xx}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_that_a_problem_holds_is_moved(dtype: torch.dtype) -> None:
    moved = Holder().to(dtype, "cpu")
    real = [moved.table, moved.of_the_class, moved.deep["ks"][0], moved.deep["ks"][1][0]]
    real += [moved.pair.a, moved.material.stiffness, *moved.closure.parameters()]
    real += [b for b in moved.closure.buffers() if b.is_floating_point()]
    assert {t.dtype for t in real} == {dtype}
    assert moved.wave.dtype == dtype.to_complex()
    assert (moved.index.dtype, moved.mask.dtype) == (torch.int64, torch.bool)
    assert (moved.pair.b, moved.material.name, moved.deep["ks"][1][1]) == (3, "steel", "word")
    assert type(moved.pair) is Pair
    assert type(moved.number) is float
    assert isinstance(moved.array, np.ndarray)
    assert moved.again is moved.table


def test_everything_comes_to_the_device() -> None:
    moved = Holder().to(torch.float32, "meta")
    tensors = [moved.table, moved.index, moved.mask, moved.of_the_class, moved.deep["ks"][0]]
    tensors += [*moved.closure.parameters(), *moved.closure.buffers()]
    assert {t.device.type for t in tensors} == {"meta"}


def test_the_users_problem_stays_as_it_was() -> None:
    mine = Holder()
    before = dict(vars(mine))
    moved = mine.to(torch.float64, "cpu")
    assert vars(mine) == before
    assert Holder.of_the_class.dtype == torch.float64
    assert all(p.requires_grad and p.dtype == torch.float32 for p in mine.closure.parameters())
    assert not any(p.requires_grad for p in moved.closure.parameters())
    assert mine.deep["ks"][0].dtype == torch.float32


def test_what_need_not_change_is_not_copied() -> None:
    """A curriculum changes its numbers in place, where a compiled loss reads them."""
    mine = Holder()
    moved = mine.to(torch.float32, "cpu")
    assert moved.table is mine.table
    assert moved.domain is mine.domain


class Loop(Holder):
    def __init__(self) -> None:
        super().__init__()
        self.deep = []
        self.deep += [self.deep, self]


def test_a_container_may_hold_itself() -> None:
    assert Loop().to(torch.float32, "cpu").deep is not None


# --- unknowns -------------------------------------------------------------------------------


def unknown(value: Any, **members: Any) -> Problem:
    def residual(self, u):
        return {"pde": u.t - u.xx}

    mine = type("Mine", (Holder,), {"residual": residual, **members})()
    if value is not None:
        mine.k = value
    return mine


@pytest.mark.parametrize(
    ("mine", "name"),
    [
        (unknown(nn.Parameter(torch.tensor(0.5))), "self.k is a tensor"),
        (unknown(torch.ones(1, requires_grad=True)), "self.k is a tensor"),
        (unknown([1.0, {"d": nn.Parameter(torch.ones(1))}]), r"self.k\[1\]\['d'\] is a tensor"),
        (unknown(Material(nn.Parameter(torch.ones(1)))), "self.k.stiffness is a tensor"),
        (unknown(nn.ParameterList([nn.Parameter(torch.ones(1))])), "self.k is torch parameters"),
        (unknown(None, k=nn.Parameter(torch.ones(1))), "self.k is a tensor"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_parameter_that_nothing_trains_is_refused(mine: Problem, name: str) -> None:
    with pytest.raises(DpinnError, match=f"^Mine: {name}.*, which nothing would train"):
        _ = mine.conditions


def test_a_parameter_without_gradient_is_a_constant() -> None:
    frozen = unknown(nn.Parameter(torch.tensor(0.5), requires_grad=False))
    assert frozen.terms == ("pde",)


def test_a_problem_that_is_a_module_is_refused() -> None:
    class Both(Problem, nn.Module):
        domain, fields = Holder.domain, ("u",)

        def residual(self, u):
            return {"pde": u.t}

    with pytest.raises(DpinnError, match=r"^Both is a torch\.nn\.Module as well, whose parameters"):
        _ = Both().conditions
