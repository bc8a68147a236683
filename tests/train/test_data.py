import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dpinn import Box, DpinnError, Problem
from dpinn.nn import MLP
from dpinn.problems import Wave
from dpinn.sampling import Collocation, Resampling, ResidualResampling
from dpinn.sampling.resampling import Residual
from dpinn.train import Collocations, PINNTraining, data


def collocations(
    step: int, inner_steps: int = 5, rank: int = 0, world_size: int = 1, **changes: Any
) -> Collocations:
    """The data of a training that stands at a step, the same network each time."""
    options = {"problem": Wave(), "batch": 64, "chunks": 4, "seed": 3} | changes
    made = Collocations(inner_steps=inner_steps, **options)
    torch.manual_seed(0)
    module = PINNTraining(options["problem"], lambda i, o: MLP(i, o, width=8, depth=2)).double()
    made.trainer = SimpleNamespace(
        global_step=step, global_rank=rank, world_size=world_size, lightning_module=module
    )
    return made


def test_batches_begin_where_the_trainer_stands() -> None:
    for step in (0, 40):
        first = itertools.islice(collocations(step).train_dataloader(), 3)
        assert [int(batch) for batch in first] == [step, step + 5, step + 10]


@pytest.mark.parametrize("resampling", [None, ResidualResampling(every=5)], ids=["none", "pool"])
def test_the_points_of_a_step_do_not_depend_on_the_inner_steps(
    resampling: Resampling | None,
) -> None:
    in_one = collocations(0, 5, resampling=resampling).on_after_batch_transfer(5, 0)
    assert in_one.first == 5
    one_by_one = collocations(0, 1, resampling=resampling)
    for k, points in enumerate(in_one.points):
        alone = one_by_one.on_after_batch_transfer(5 + k, 0).points[0]
        assert points.keys() == alone.keys() == {"residual", "initial", "ends"}
        for name in points:
            assert points[name].equal(alone[name])


def test_points_have_the_precision_of_the_parameters() -> None:
    points = collocations(0).on_after_batch_transfer(0, 0).points[0]
    assert {p.dtype for p in points.values()} == {torch.float64}


def test_no_inner_steps_are_refused() -> None:
    with pytest.raises(DpinnError, match="inner_steps 0"):
        Collocations(Wave(), batch=64, inner_steps=0)


# --- the pool ---------------------------------------------------------------------------------


class Corners(Resampling):
    """A user's own strategy: the ends of each chunk; notes when it was asked, and what it saw."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.filled: list[int] = []
        self.seen: list[Tensor] = []

    def fill(self, collocation: Collocation, residual: Residual, step: int) -> Tensor:
        self.filled.append(step)
        self.seen.append(residual(POINTS))
        times = torch.arange(5, dtype=torch.float64) / 4
        corner = torch.stack([times[:-1], torch.full((4,), float(step))], dim=1)
        return corner[:, None]


POINTS = torch.rand((40, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_without_resampling_there_is_neither_a_pool_nor_a_state() -> None:
    made = collocations(0)
    points = made.on_after_batch_transfer(0, 0).points[3]
    assert made.state_dict() == {}
    for name, there in made.collocation.batch_at(3).items():
        assert points[name].equal(there)


def test_pool_is_filled_before_the_first_step_and_when_it_is_time() -> None:
    strategy = Corners(every=10)
    made = collocations(0, resampling=strategy)
    batches = [made.on_after_batch_transfer(step, 0) for step in range(0, 30, 5)]
    assert strategy.filled == [0, 10, 20]
    for batch in batches:
        filled = batch.first // 10 * 10
        for points in batch.points:
            assert (points["residual"].view(4, 16, 2)[:, :8, 1] == filled).all()


def test_only_the_share_of_the_interior_is_drawn_from_the_pool() -> None:
    made = collocations(0, resampling=ResidualResampling(share=0.25, pool=8, candidates=64))
    points = made.on_after_batch_transfer(0, 0).points[2]
    without = made.collocation.batch_at(2)
    assert points["initial"].equal(without["initial"])
    assert points["ends"].equal(without["ends"])
    changed = (points["residual"] != without["residual"]).any(1).view(4, 16)
    assert changed.equal((torch.arange(16) < 4).expand(4, 16))


@pytest.mark.parametrize("at_once", [4096, 7])
def test_residual_is_that_of_nested_differentiation(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "POINTS_AT_ONCE", at_once)
    strategy = Corners()
    made = collocations(0, resampling=strategy)
    made.on_after_batch_transfer(0, 0)
    pinn, problem = made.trainer.lightning_module.pinn, Wave()

    def u(t: Tensor, x: Tensor) -> Tensor:
        return pinn(torch.stack([t, x])[None])[0, 0]

    t, x = POINTS.unbind(1)
    u_tt, u_xx = (
        torch.vmap(torch.func.grad(torch.func.grad(u, argnums=a), argnums=a))(t, x) for a in (0, 1)
    )
    expected = (u_tt - problem.speed**2 * u_xx).abs()
    torch.testing.assert_close(strategy.seen[0], expected.detach(), rtol=1e-12, atol=1e-12)
    assert not strategy.seen[0].requires_grad


def test_residual_of_several_terms_is_the_root_of_their_sum_of_squares() -> None:
    class Both(Problem):
        domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
        fields = ("u",)

        def residual(self, u, t, x):
            return {"a": 3 * x + 0 * u.t, "b": 4 * x + 0 * u}

    strategy = Corners()
    collocations(0, problem=Both(), resampling=strategy).on_after_batch_transfer(0, 0)
    torch.testing.assert_close(strategy.seen[0], 5 * POINTS[:, 1])


@pytest.mark.parametrize("world_size", [2, 3, 64])
def test_each_rank_evaluates_its_slice(world_size: int) -> None:
    """Their sum, which the ranks take, is the whole."""
    seen = []
    for rank in range(world_size):
        strategy = Corners()
        made = collocations(0, rank=rank, world_size=world_size, resampling=strategy)
        made.on_after_batch_transfer(0, 0)
        seen.append(strategy.seen[0])
    whole = Corners()
    collocations(0, resampling=whole).on_after_batch_transfer(0, 0)
    assert (torch.stack(seen).count_nonzero(0) == 1).all()
    torch.testing.assert_close(sum(seen), whole.seen[0], rtol=1e-12, atol=1e-12)


def test_ranks_take_their_slices_of_one_batch() -> None:
    pool = {"pool": torch.rand((4, 8, 2), dtype=torch.float64)}

    def points(rank: int, world_size: int) -> Tensor:
        made = collocations(5, rank=rank, world_size=world_size, resampling=ResidualResampling())
        made.load_state_dict(pool)
        return made.on_after_batch_transfer(5, 0).points[1]["residual"]

    for world_size in (2, 3, 4):
        slices = [points(rank, world_size) for rank in range(world_size)]
        assert torch.cat(slices).equal(points(0, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_residual_that_is_not_finite_names_step_and_point(value: float) -> None:
    class Broken(Problem):
        domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
        fields = ("u",)

        def residual(self, u, t, x):
            return {"pde": torch.where(x > 0.9, value, u.t)}

    made = collocations(10, problem=Broken(), resampling=ResidualResampling(every=10))
    sentence = rf"^the residual is {value} at step 10 at t = 0\.\d+, x = 0\.9\d+, a candidate"
    with pytest.raises(DpinnError, match=sentence):
        made.on_after_batch_transfer(10, 0)
    assert made.pool is None


def test_a_saved_pool_gives_the_points_that_would_have_come() -> None:
    strategy = ResidualResampling(every=20, pool=40, candidates=80)
    through = collocations(0, resampling=strategy)
    through.on_after_batch_transfer(0, 0)
    resumed = collocations(5, resampling=strategy)
    resumed.load_state_dict(through.state_dict())
    a, b = (made.on_after_batch_transfer(5, 0).points[4] for made in (through, resumed))
    assert a["residual"].equal(b["residual"])
    assert resumed.pool is not None
    assert resumed.pool.shape == (4, 40, 2)


def test_a_saved_pool_of_other_chunks_is_filled_anew() -> None:
    strategy = Corners(every=10)
    made = collocations(5, resampling=strategy)
    made.load_state_dict({"pool": torch.zeros(3, 8, 2, dtype=torch.float64)})
    made.on_after_batch_transfer(5, 0)
    assert strategy.filled == [5]


def test_a_saved_pool_is_forgotten_where_there_is_no_resampling() -> None:
    made = collocations(5)
    made.load_state_dict({"pool": torch.zeros(4, 8, 2, dtype=torch.float64)})
    assert made.state_dict() == {}


def test_filling_between_inner_steps_is_refused() -> None:
    sentence = "data.resampling.every is 7; it must be a positive multiple of data.inner_steps, 5"
    with pytest.raises(DpinnError, match=sentence):
        collocations(0, resampling=ResidualResampling(every=7))


def test_a_pool_of_another_shape_is_refused() -> None:
    made = collocations(0, chunks=2, resampling=Corners())
    sentence = r"Corners.fill returned a pool of shape \(4, 1, 2\); it must be \(2, points, 2\)"
    with pytest.raises(DpinnError, match=sentence):
        made.on_after_batch_transfer(0, 0)
