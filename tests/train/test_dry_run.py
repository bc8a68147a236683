"""Before the first step: each term has a gradient, and is a function of its point alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpinn import Box, DpinnError, DpinnWarning, Problem, at, on
from dpinn.nn import MLP, PINN, PirateNet, physics_informed_initialization
from dpinn.sampling import Collocation
from dpinn.train.dry_run import require_trainable, warn_of_slips

CPU = torch.device("cpu")
PRECISIONS = [torch.float32, torch.float64]
Network = Callable[[int, int], nn.Module]


class Heat(Problem):
    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    fields = ("u",)

    def residual(self, u, x):
        return {"pde": u.t - u.xx}

    def initial(self, u, x):
        return {"ic": u - torch.sin(torch.pi * x)}

    @on(x=(0, 1))
    def ends(self, u):
        return {"bc": u}


def small(inputs: int, outputs: int) -> nn.Module:
    return MLP(inputs, outputs, width=8, depth=2)


def pirate(inputs: int, outputs: int) -> nn.Module:
    return PirateNet(inputs, outputs, width=8, blocks=2)


def block(*layers: Callable[[], nn.Module]) -> Network:
    """Two layers of eight, each followed by these."""

    def make(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(inputs, 8), *(m() for m in layers),
            nn.Linear(8, 8), *(m() for m in layers), nn.Linear(8, outputs),
        )  # fmt: skip

    return make


def pinn_of(problem: Problem, network: Network, dtype: torch.dtype) -> PINN:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DpinnWarning)  # of nested autograd
        return PINN(problem, network).to(dtype)


def check(problem: Problem, network: Network = small, dtype: torch.dtype = torch.float32) -> None:
    look(problem, pinn_of(problem, network, dtype), dtype)


def look(problem: Problem, pinn: PINN, dtype: torch.dtype) -> None:
    held = problem.to(dtype, "cpu")
    points = Collocation(held, 64, seed=1).batch_at(0, dtype=dtype)
    require_trainable(pinn, held, points, CPU)


def with_residual(residual: Any, base: type = Heat, **members: Any) -> Problem:
    return type("Mine", (base,), {"residual": residual, **members})()


def refused(problem: Problem, network: Network = small, dtype: torch.dtype = torch.float32) -> str:
    with pytest.raises(DpinnError) as caught:
        check(problem, network, dtype)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what passes ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(
    "network",
    [small, pirate, block(nn.Tanh), block(nn.ELU), block(nn.Tanh, lambda: nn.LayerNorm(8)),
     block(nn.Softsign), block(nn.Mish)],
    ids=["mlp", "pirate", "tanh", "elu", "layernorm", "softsign", "mish"],
)  # fmt: skip
def test_a_problem_without_mistakes_passes(network: Network, dtype: torch.dtype) -> None:
    check(Heat(), network, dtype)


def test_the_networks_values_and_numbers_are_left_as_they_are() -> None:
    pinn = pinn_of(Heat(), small, torch.float32)
    before = {k: v.clone() for k, v in pinn.state_dict().items()}
    random = torch.get_rng_state()
    look(Heat(), pinn, torch.float32)
    assert torch.get_rng_state().equal(random)
    assert all(v.equal(before[k]) for k, v in pinn.state_dict().items())
    assert all(p.grad is None for p in pinn.parameters())


@pytest.mark.parametrize("network", [small, pirate])
def test_terms_that_are_solved_before_the_first_step_pass(network: Network) -> None:
    """Zero is in the network's reach, and then its second derivatives and all residuals vanish."""

    class Rest(Heat):
        def initial(self, u):
            return {"ic": u + 0}

    pinn = pinn_of(Rest(), network, torch.float32)
    physics_informed_initialization(pinn, Rest().to(torch.float64, "cpu"))
    assert pinn(torch.rand(9, 2)).abs().max() < 1e-7  # solved to roundoff
    look(Rest(), pinn, torch.float32)


def test_a_network_that_is_linear_at_first_passes() -> None:
    pinn = pinn_of(Heat(), block(nn.Tanh), torch.float32)
    with torch.no_grad():
        for parameter in pinn.parameters():
            parameter.zero_()
    look(Heat(), pinn, torch.float32)


def test_a_network_that_is_saturated_at_first_passes() -> None:
    """In seconds and metres, say; all derivatives underflow, but not for good."""

    class Large(Problem):
        domain = Box(t=(1e6, 2e6), x=(1e4, 2e4))
        fields = ("u",)
        residual = Heat.residual

    pinn = pinn_of(Large(), small, torch.float64)
    plan = Large().conditions[0].plan
    points = torch.tensor([[1.5e6, 1.5e4]], dtype=torch.float64)
    assert not pinn.fields(points, plan)["u"].xx.any()
    look(Large(), pinn, torch.float64)


def test_an_inequality_that_holds_already_passes() -> None:
    check(with_residual(lambda self, u: {"pde": u.t - u.xx, "above": torch.relu(-u - 1e3)}))


def test_a_term_that_is_masked_at_most_points_passes() -> None:
    def residual(self: Problem, u: Any, x: Tensor) -> dict[str, Tensor]:
        return {"pde": u.t - u.xx, "late": torch.where(x > 0.99, u - 1, 0.0)}

    check(with_residual(residual))


def test_a_residual_that_is_not_finite_everywhere_passes() -> None:
    """That is told elsewhere, with the step."""
    check(with_residual(lambda self, u: {"pde": u.t - torch.log(u.xx)}))


def test_a_condition_of_a_single_point_passes() -> None:
    class Pinned(Heat):
        @at(t=0, x=0.5)
        def pin(self, u):
            return {"pin": u - 1}

    check(Pinned())


def test_a_network_that_cannot_be_told_to_be_float64_passes() -> None:
    class Stubborn(MLP):
        def __init__(self, inputs: int, outputs: int):
            super().__init__(inputs, outputs, width=8, depth=2)
            self.mix = [torch.eye(outputs)]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) @ self.mix[0]

    check(Heat(), Stubborn)
    assert "depends at one point" in refused(with_residual(coupled_by_the_mean), Stubborn)


# --- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "term",
    [lambda u: torch.sign(u), lambda u: torch.round(3 * u) - 0.5, lambda u: 0 * u + 1],
    ids=["sign", "round", "zero"],
)
def test_a_term_whose_gradient_is_always_zero_is_refused(term: Any) -> None:
    sentence = refused(with_residual(lambda self, u: {"pde": u.t - u.xx, "k": term(u)}))
    assert sentence.startswith("Mine.residual: the term 'k' has no gradient: its derivative")


def test_a_network_without_a_parameter_to_train_is_refused() -> None:
    def frozen(inputs: int, outputs: int) -> nn.Module:
        return small(inputs, outputs).requires_grad_(False)

    assert "no parameter of MLP requires a gradient" in refused(Heat(), frozen)


def test_a_field_of_no_trained_parameter_is_refused() -> None:
    class Half(nn.Module):
        """The second field is constant."""

        def __init__(self, inputs: int, outputs: int):
            super().__init__()
            self.net = small(inputs, 1)

        def forward(self, x: Tensor) -> Tensor:
            u = self.net(x)
            return torch.cat([u, 0 * u + 1], -1)

    class Two(Heat):
        fields = ("u", "v")

        def residual(self, u, v):
            return {"pde": u.t - u.xx, "second": v - 2}

    sentence = refused(Two(), Half)
    assert "the term 'second' has no gradient" in sentence


LOOSE = nn.Parameter(torch.tensor(0.5))


def test_a_parameter_from_outside_the_problem_is_refused() -> None:
    def residual(self: Problem, u: Any) -> dict[str, Tensor]:
        return {"pde": u.t - LOOSE * u.xx}

    for dtype in PRECISIONS:
        sentence = refused(with_residual(residual), dtype=dtype)
        assert "the term 'pde' reads a tensor that requires a gradient" in sentence
        assert "requires_grad_(False)" in sentence


# --- points ---------------------------------------------------------------------------------


def coupled_by_the_mean(self: Problem, u: Any) -> dict[str, Tensor]:
    return {"pde": u.t - u.xx, "mass": (torch.mean(u) - 1.0).expand(len(u))}


COUPLED = {
    "mean": coupled_by_the_mean,
    "softmax": lambda self, u: {"pde": u.t, "mass": torch.softmax(u.xx, 0)},
    "detached maximum": lambda self, u: {"pde": u.t, "mass": u.t / u.xx.detach().abs().max()},
    "neighbour": lambda self, u: {"pde": u.t, "mass": u.xx - torch.roll(u.value, 1)},
    "cumulated": lambda self, u: {"pde": u.t, "mass": torch.cumsum(u.value, 0)},
    "number of points": lambda self, u: {"pde": u.t, "mass": u / len(u)},
    "mean of a coordinate": lambda self, u, x: {"pde": u.t, "mass": u - x + x.mean()},
}


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("kind", COUPLED)
def test_a_term_that_couples_the_points_is_refused(kind: str, dtype: torch.dtype) -> None:
    sentence = refused(with_residual(COUPLED[kind]), dtype=dtype)
    assert sentence.startswith("Mine.residual: the term 'mass' depends at one point on the other")
    assert "test_dry_run.py, line " in sentence


def test_a_term_that_draws_numbers_is_refused() -> None:
    sentence = refused(with_residual(lambda self, u: {"pde": u.t + 0.1 * torch.randn(len(u))}))
    assert "the term 'pde' changes from call to call" in sentence


def test_batch_normalization_is_refused() -> None:
    sentence = refused(Heat(), block(nn.Tanh, lambda: nn.BatchNorm1d(8)))
    assert sentence.startswith("Sequential couples the points of a batch")


def test_dropout_is_refused() -> None:
    sentence = refused(Heat(), block(nn.Tanh, lambda: nn.Dropout(0.2)))
    assert sentence.startswith("Sequential gives other values of u each time it is called")


# --- derivatives ----------------------------------------------------------------------------

KINKED = {"relu": nn.ReLU, "leaky": nn.LeakyReLU, "prelu": nn.PReLU, "hardtanh": nn.Hardtanh}


@pytest.mark.parametrize("kind", KINKED)
@pytest.mark.parametrize("periodic", [(), ("x",)], ids=["plain", "periodic"])
def test_a_piecewise_linear_network_has_no_second_derivatives(kind: str, periodic: Any) -> None:
    """With the cosine of a periodic coordinate u.xx is not zero, but lacks the kinks."""
    problem = with_residual(Heat.residual, periodic=periodic)
    sentence = refused(problem, block(KINKED[kind]))
    assert sentence.startswith("Mine.residual reads u.xx, but second or higher derivatives")
    assert "ReLU" in sentence
    assert "tanh" in sentence


def test_a_laplacian_that_vanishes_is_named() -> None:
    plane = with_residual(
        lambda self, u: {"pde": u.t - u.laplacian},
        domain=Box(t=(0, 1), x=(0, 1), y=(0, 1)),
    )
    assert "reads u.laplacian, but" in refused(plane, block(nn.ReLU))


def test_a_piecewise_linear_network_may_solve_a_problem_of_first_order() -> None:
    check(with_residual(lambda self, u: {"pde": u.t + u.x}), block(nn.ReLU))


def test_a_polynomial_of_too_low_a_degree_is_refused() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**2

    check(Heat(), lambda i, o: nn.Sequential(nn.Linear(i, 8), Square(), nn.Linear(8, o)))
    sentence = refused(
        with_residual(lambda self, u: {"pde": u.t + u.xxxx}),
        lambda i, o: nn.Sequential(nn.Linear(i, 8), Square(), nn.Linear(8, o)),
    )
    assert "second or higher derivatives of Sequential vanish" in sentence


# --- modules that a problem holds -----------------------------------------------------------


class Closure(Heat):
    def __init__(self, trains: bool = True):
        torch.manual_seed(3)
        self.closures = [nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))]
        self.closures[0].requires_grad_(trains)

    def residual(self, u):
        return {"pde": u.t - u.xx - self.closures[0](u.value[:, None])[:, 0]}


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_module_that_a_problem_holds_is_used_as_it_is(dtype: torch.dtype) -> None:
    check(Closure(), dtype=dtype)


def test_parameters_of_a_module_that_are_held_fixed_are_told() -> None:
    with pytest.warns(
        DpinnWarning, match=r"Closure: the parameters of self\.closures\[0\] are held"
    ):
        warn_of_slips(Closure())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_slips(Closure(trains=False))
        warn_of_slips(Heat())


class Pinned(Problem):
    """grad p = (1, 1)."""

    domain = Box(x=(0.0, 1.0), y=(0.0, 1.0))
    fields = ("p",)

    def residual(self, p: Any) -> Any:
        return {"px": p.x - 1, "py": p.y - 1}


class OnTwoFaces(Pinned):
    @on(x=0, y=0)
    def corner(self, p: Any) -> Any:
        return {"pin": p}


class AtTheCorner(Pinned):
    @at(x=0, y=0)
    def corner(self, p: Any) -> Any:
        return {"pin": p}

    @on(x=1, y=(0, 1))
    def walls(self, p: Any) -> Any:
        return {"flux": p.x - 1}


def test_two_faces_that_may_be_meant_as_a_corner_are_told() -> None:
    with pytest.warns(
        DpinnWarning,
        match=r"OnTwoFaces\.corner holds on all of the faces x = 0 and y = 0; for the points that "
        r"they have in common alone write @at\(x=0, y=0\)",
    ):
        warn_of_slips(OnTwoFaces())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_slips(AtTheCorner())
