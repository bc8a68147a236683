"""Pseudo-time: against nested autograd and hand computations, over ranks, resumed, compiled."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from dpinn import Box, DpinnError, Problem
from dpinn.loss import ResidualSums, TermLayout
from dpinn.loss.pseudo_time import AdaptivePseudoTime, FixedPseudoTime, PseudoTimeLevel
from dpinn.nn import MLP, PINN, PirateNet
from dpinn.problems import AllenCahn
from dpinn.sampling import Collocation, rank_slice


class Decay(Problem):
    """u_t = -4 u: where u changes by the same everywhere, r changes by four times as much."""

    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    fields = ("u",)

    def residual(self, u):
        return {"pde": u.t + 4 * u}

    def initial(self, u):
        return {"ic": u - 1}


class Flow(Problem):
    """Two momenta and a constraint, whose field has no equation of its own."""

    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0), y=(0.0, 1.0))
    fields = ("u", "v", "p")

    def residual(self, u, v, p):
        return {
            "momentum_x": u.t + u * u.x + v * u.y + p.x - 0.1 * u.laplacian,
            "momentum_y": v.t + u * v.x + v * v.y + p.y - 0.1 * v.laplacian,
            "continuity": u.x + v.y,
        }

    def initial(self, u, y):
        return {"ic": u - y}


class Affine(torch.nn.Module):
    """A network whose value can be shifted by a constant."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.last = torch.nn.Linear(inputs, outputs)

    def forward(self, points):
        return self.last(points)


def flow_by_autograd(points, columns):
    u, v, p = columns

    def d(value, *axes):
        for axis in axes:
            (slope,) = torch.autograd.grad(value.sum(), points, create_graph=True)
            value = slope[:, axis]
        return value

    x = d(u, 0) + u * d(u, 1) + v * d(u, 2) + d(p, 1) - 0.1 * (d(u, 1, 1) + d(u, 2, 2))
    y = d(v, 0) + u * d(v, 1) + v * d(v, 2) + d(p, 2) - 0.1 * (d(v, 1, 1) + d(v, 2, 2))
    return {"momentum_x": x, "momentum_y": y, "continuity": d(u, 1) + d(v, 2)}


FLOW_FIELDS = {"momentum_y": "v", "momentum_x": "u"}


def training(problem, strategy, network=MLP, dtype=torch.float64, **options):
    """A network, its level, which lies behind, and 48 points in 6 chunks."""
    torch.manual_seed(0)
    options = {"width": 8} | options if network is MLP else options
    pinn = PINN(problem, lambda i, o: network(i, o, **options)).to(dtype)
    level = PseudoTimeLevel(strategy, pinn, problem)
    move(pinn)
    return pinn, level, Collocation(problem, batch=48, chunks=6)


def move(pinn):
    with torch.no_grad():
        for parameter in pinn.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


def gradient(sums, parameters):
    grads = torch.autograd.grad(
        sums.sum(), parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.reshape(-1) for g in grads])


def assert_close(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


# --- the loss -------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [FLOW_FIELDS, {"momentum_x": "u"}], ids=["both", "one"])
def test_sums_and_gradient_are_those_of_nested_autograd(fields):
    pinn, level, collocation = training(Flow(), FixedPseudoTime(0.3, fields=fields))
    points = collocation.batch_at(0)
    sums = ResidualSums(pinn, Flow(), collocation, pseudo_time=level)(points)

    inside = points["residual"].clone().requires_grad_(True)
    now, before = pinn(inside).unbind(1), level.previous(inside).detach().unbind(1)
    residuals = flow_by_autograd(inside, now)
    for term, column in (("momentum_x", 0), ("momentum_y", 1)):
        if term in fields:
            residuals[term] = residuals[term] + (now[column] - before[column]) / 0.3
    start = pinn(points["initial"])[:, 0] - points["initial"][:, 2]
    expected = torch.cat(
        [(r**2).reshape(6, -1).sum(1) for r in residuals.values()] + [(start**2).sum()[None]]
    )
    assert_close(sums, expected)
    parameters = list(pinn.parameters())
    assert_close(gradient(sums, parameters), gradient(expected, parameters))


def test_conditions_on_faces_are_left_as_they_are():
    pinn, level, collocation = training(AllenCahn(), FixedPseudoTime(0.1))
    layout, points = TermLayout.build(collocation), collocation.batch_at(0)
    with torch.no_grad():
        plain = layout.split(ResidualSums(pinn, AllenCahn(), collocation)(points))
        ours = layout.split(ResidualSums(pinn, AllenCahn(), collocation, 0, level)(points))
    assert torch.equal(ours[1], plain[1])
    assert not torch.allclose(ours[0], plain[0])


def test_a_level_of_one_step_changes_the_gradient_and_not_the_value():
    """The gradient of (r + (u - previous) / tau)² at u = previous is 2 r (∇r + ∇u / tau)."""
    pinn, level, collocation = training(Decay(), FixedPseudoTime(0.25))
    points, parameters = collocation.batch_at(0), list(pinn.parameters())
    level.begin(0, pinn, points["residual"])
    plain = ResidualSums(pinn, Decay(), collocation)(points)
    sums = ResidualSums(pinn, Decay(), collocation, pseudo_time=level)(points)
    assert_close(sums, plain)

    inside = points["residual"].clone().requires_grad_(True)
    u = pinn(inside)[:, 0]
    (slope,) = torch.autograd.grad(u.sum(), inside, create_graph=True)
    r = slope[:, 0] + 4 * u
    assert_close(
        gradient(sums, parameters),
        gradient(plain, parameters) + gradient(2 * r.detach() * u / 0.25, parameters),
    )


@pytest.mark.parametrize("steps", [1, 5])
def test_the_level_is_the_network_of_its_first_step(steps):
    pinn, level, collocation = training(Decay(), FixedPseudoTime(1.0, steps=steps))
    inside = collocation.batch_at(0)["residual"]
    for step in range(12):
        if level.due(step):
            level.begin(step, pinn, inside)
            at_start = [p.clone() for p in pinn.parameters()]
        assert all(map(torch.equal, level.previous.parameters(), at_start))
        move(pinn)
    assert [step for step in range(12) if level.due(step)] == list(range(0, 12, steps))


def test_the_march_leaves_an_unstable_state_and_stays_at_a_stable_one():
    """u' = u (1 - u): a small step is du/ds = -r, away from u = 0 and towards u = 1."""

    class Logistic(Problem):
        domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
        fields = ("u",)

        def residual(self, u):
            return {"pde": u.t - u * (1 - u)}

    for start, expected in ((0.1, 1), (0.9, 1), (1.2, -1)):
        pinn = PINN(Logistic(), Affine).double()
        torch.nn.init.zeros_(pinn.network.last.weight)
        torch.nn.init.constant_(pinn.network.last.bias, start)
        level = PseudoTimeLevel(FixedPseudoTime(0.01), pinn, Logistic())
        collocation = Collocation(Logistic(), 16)
        sums = ResidualSums(pinn, Logistic(), collocation, pseudo_time=level)
        sums(collocation.batch_at(0)).sum().backward()
        assert torch.sign(-pinn.network.last.bias.grad).item() == expected


# --- the adaptive step ----------------------------------------------------------------------


def shifted(strategy, by=0.7):
    """`Decay` with a network that lies by a constant above its level."""
    pinn, level, collocation = training(Decay(), strategy, Affine)
    level.begin(1, pinn, collocation.batch_at(0)["residual"])
    with torch.no_grad():
        pinn.network.last.bias += by
    return pinn, level, collocation.batch_at(0)["residual"]


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_adaptive_step_equals_the_hand_computation(factor):
    strategy = AdaptivePseudoTime(tau=3.0, factor=factor, every=10)
    pinn, level, inside = shifted(strategy)
    level.begin(5, pinn, inside)
    assert level.inverse_tau.tolist() == [1 / 3.0]
    pinn, level, inside = shifted(strategy)
    level.begin(10, pinn, inside)
    assert_close(level.inverse_tau, torch.tensor([0.9 / 3 + 0.1 * 4 / factor], dtype=torch.float64))


@pytest.mark.parametrize(("residual_change", "bound"), [(1e-12, 0.01), (1e12, 100.0)], ids=str)
def test_the_inverse_of_an_adaptive_step_stays_in_its_published_bounds(residual_change, bound):
    one = torch.ones(1).double()
    strategy = AdaptivePseudoTime(momentum=0.0)
    assert strategy.update(one, one, residual_change * one).tolist() == [bound]


@pytest.mark.parametrize("changes", [(0.0, 0.0), (0.0, 2.0), (2.0, 0.0)], ids=str)
def test_a_term_without_changes_keeps_its_step(changes):
    of_field, of_residual = torch.tensor([[changes[0], 1.0], [changes[1], 9.0]])
    old = torch.tensor([0.5, 0.5])
    new = AdaptivePseudoTime().update(old, of_field, of_residual)
    assert new.tolist() == pytest.approx([0.5, 0.9 * 0.5 + 0.1 * 3.0], rel=1e-6)


def test_at_the_first_step_there_is_no_level_to_compare_with():
    """The level then holds whatever the network was before its start values were set."""
    pinn, level, inside = shifted(AdaptivePseudoTime(tau=3.0))
    level.begin(0, pinn, inside)
    assert level.inverse_tau.tolist() == [1 / 3.0]
    assert all(map(torch.equal, level.previous.parameters(), pinn.parameters()))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_together_have_the_sums_and_steps_of_the_whole(world_size):
    strategy = AdaptivePseudoTime(every=1, fields=FLOW_FIELDS)
    pinn, level, collocation = training(Flow(), strategy)
    points = collocation.batch_at(0)
    start = {k: v.clone() for k, v in level.state_dict().items()}

    def sums(points, offset=0):
        with torch.no_grad():
            return ResidualSums(pinn, Flow(), collocation, offset, level)(points)

    whole = sums(points)
    total, parts = torch.zeros_like(whole), []
    for rank in range(world_size):
        slices = collocation.batch_at(0, rank=rank, world_size=world_size)
        total += sums(slices, rank_slice(48, rank, world_size)[0])
        level.load_state_dict(start)
        level.begin(1, pinn, slices["residual"], lambda part: parts.append(part) or part)
        level.load_state_dict(start)
    assert_close(total, whole)
    level.begin(1, pinn, points["residual"])
    expected = level.inverse_tau.clone()
    level.load_state_dict(start)
    level.begin(1, pinn, points["residual"][:0], lambda part: part + sum(parts))
    assert_close(level.inverse_tau, expected)


def test_a_step_that_is_not_finite_is_an_error_that_names_the_term():
    pinn, level, inside = shifted(AdaptivePseudoTime(every=10))
    state = {k: v.clone() for k, v in level.state_dict().items()}
    inside[3] = torch.nan
    with pytest.raises(
        DpinnError,
        match=r"^the pseudo-time step of 'pde' is not finite at step 20: since the last level "
        r"u changed by nan and pde by nan \(sums of squares\)$",
    ):
        level.begin(20, pinn, inside)
    assert all(torch.equal(state[k], v) for k, v in level.state_dict().items())


def test_a_step_that_is_not_finite_is_kept_where_that_is_wanted():
    pinn, level, inside = shifted(AdaptivePseudoTime(tau=3.0, every=10))
    inside[3] = torch.nan
    level.begin(20, pinn, inside, keep_nonfinite=True)
    assert level.inverse_tau.tolist() == [1 / 3.0]
    assert all(map(torch.equal, level.previous.parameters(), pinn.parameters()))


# --- state ----------------------------------------------------------------------------------


def test_a_resumed_march_is_bitwise_the_one_that_went_on():
    strategy = AdaptivePseudoTime(every=6, steps=3)

    def advance(pinn, level, collocation, steps):
        sums = ResidualSums(pinn, AllenCahn(), collocation, pseudo_time=level)
        for step in steps:
            points = collocation.batch_at(step, dtype=torch.float32)
            if level.due(step):
                level.begin(step, pinn, points["residual"])
            slopes = torch.autograd.grad(sums(points).sum(), list(pinn.parameters()))
            with torch.no_grad():
                for parameter, slope in zip(pinn.parameters(), slopes, strict=True):
                    parameter -= 1e-5 * slope

    pinn, level, collocation = training(AllenCahn(), strategy, dtype=torch.float32)
    advance(pinn, level, collocation, range(8))
    saved = [{k: v.clone() for k, v in m.state_dict().items()} for m in (pinn, level)]
    advance(pinn, level, collocation, range(8, 20))

    other, resumed, collocation = training(AllenCahn(), strategy, dtype=torch.float32)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    advance(other, resumed, collocation, range(8, 20))
    assert all(map(torch.equal, other.parameters(), pinn.parameters()))
    assert all(map(torch.equal, resumed.state_dict().values(), level.state_dict().values()))
    assert level.inverse_tau.item() != 1.0


def test_the_level_is_not_trained():
    pinn, level, _ = training(AllenCahn(), FixedPseudoTime(1.0))
    assert not any(p.requires_grad for p in level.parameters())
    assert all(p.requires_grad for p in pinn.parameters())


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "fields", "sentence"),
    [
        (Flow(), None, r"^pseudo-time cannot tell which field each of the terms momentum_x, "
         r"momentum_y, continuity evolves; name them, e.g. fields: \{momentum_x: u, momentum_y: v, "
         r"continuity: p\}$"),
        (Flow(), {"ic": "u"}, r"^fields: 'ic' is no term of the interior; use some of momentum_x, "
         r"momentum_y, continuity$"),
        (Flow(), {"continuity": "w"}, r"^fields: 'w', for continuity, is no field; use one of "
         r"u, v, p$"),
        (Flow(), {"momentum_x": "u", "momentum_y": "u"}, r"and each field once$"),
        (Decay(), {}, r"^fields: \{\} must name at least one term"),
    ],
    ids=["ambiguous", "term", "field", "twice", "none"],
)  # fmt: skip
def test_fields_that_do_not_fit_are_refused(problem, fields, sentence):
    with pytest.raises(DpinnError, match=sentence):
        training(problem, FixedPseudoTime(1.0, fields=fields))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tau": 0.0}, r"^tau 0.0 must be above 0 and finite$"),
        ({"tau": float("inf")}, r"^tau inf must be above 0 and finite$"),
        ({"steps": 0}, r"^steps 0 must be at least 1$"),
        ({"factor": -1.0}, r"^factor -1.0 must be above 0 and finite$"),
        ({"every": 25, "steps": 10},
         r"^every 25 must be a multiple of the 10 steps a level; use 20$"),
        ({"every": 2, "steps": 10}, r"use 10$"),
        ({"momentum": 1.0}, r"^momentum 1.0 must be at least 0 and below 1$"),
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(DpinnError, match=sentence):
        AdaptivePseudoTime(**options)


# --- compiled -------------------------------------------------------------------------------


def assert_compiled_is_eager(backend, rank, **options):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    strategy = AdaptivePseudoTime(every=1, fields=options.pop("fields", None))
    problem = options.pop("problem")
    pinn, level, collocation = training(problem, strategy, **options)
    offset, _ = rank_slice(48, rank, 3)
    eager = ResidualSums(pinn, problem, collocation, offset, level)
    compiled = torch.compile(eager, fullgraph=True, dynamic=False, backend=counter)
    parameters = list(pinn.parameters())
    for step in range(3):
        points = collocation.batch_at(step, rank=rank, world_size=3)
        ours, theirs = compiled(points), eager(points)
        assert_close(ours, theirs)
        assert_close(gradient(ours, parameters), gradient(theirs, parameters))
        level.begin(step + 1, pinn, points["residual"])
        if step == 0:
            move(pinn)
    assert counter.frame_count == 1


def test_levels_and_steps_change_without_a_new_graph():
    assert_compiled_is_eager("aot_eager", 0, problem=Flow(), fields=FLOW_FIELDS, depth=1)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_compiled_loss_and_gradient_equal_the_eager_ones(rank):
    options = {"network": PirateNet, "width": 8, "blocks": 1, "alpha": 0.3}
    assert_compiled_is_eager("inductor", rank, problem=AllenCahn(), **options)
