"""Interior points from a pool where the residual is large."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dpinn import Box, DpinnError, Problem
from dpinn.sampling import Collocation, ResidualResampling, rank_slice
from dpinn.sampling.counter import stream_key
from dpinn.sampling.resampling import draw


class Heat(Problem):
    domain = Box(t=(0.5, 2.5), x=(-1.0, 1.0))
    fields = ("u",)

    def residual(self, u):
        return {"pde": u.t - u.xx}

    def initial(self, u):
        return {"ic": u}


CHUNKS = 4
COLLOCATION = Collocation(Heat(), batch=120, chunks=CHUNKS, seed=3)


def resampling(**changes) -> ResidualResampling:
    return ResidualResampling(**({"pool": 50, "candidates": 400} | changes))


def ramp(points: Tensor) -> Tensor:
    """A residual that grows from 0 at x = -1 to 2 at x = 1, another scale in every chunk."""
    return (points[:, 1] + 1) * 10 ** (points[:, 0] * 2).floor()


def chunk_of(points: Tensor) -> Tensor:
    return ((points[..., 0] - 0.5) / 2 * CHUNKS).floor()


# --- the draw ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [1, stream_key("a")])
def test_one_entry_is_drawn_with_probability_proportional_to_its_weight(key):
    weights = torch.tensor([0.5, 3.0, 1.0, 0.01, 2.0], dtype=torch.float64)
    drawn = draw(weights.expand(20_000, 5), 1, key)
    counts = drawn.flatten().bincount(minlength=5)
    expected = weights / weights.sum() * 20_000
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_pairs_are_drawn_one_after_the_other_without_replacement():
    weights = torch.tensor([0.5, 3.0, 1.0, 2.0], dtype=torch.float64)
    drawn = draw(weights.expand(20_000, 4), 2, 1)
    p = (weights / weights.sum()).tolist()
    pairs = list(itertools.combinations(range(4), 2))
    expected = [p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) * 20_000 for i, j in pairs]
    counts = [int((drawn == torch.tensor(pair)).all(1).sum()) for pair in pairs]
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_rows_are_drawn_independently_and_ascend():
    drawn = draw(torch.ones(3, 1000, dtype=torch.float64), 100, 1)
    assert not drawn[0].equal(drawn[1])
    assert (drawn.diff(dim=1) > 0).all()


def test_entries_without_weight_come_last():
    weights = torch.full((1, 10), 1e-300, dtype=torch.float64)
    weights[0, [2, 5, 7]] = 1.0
    assert set(draw(weights, 4, 1)[0].tolist()) > {2, 5, 7}


# --- the weights ------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("floor", [0.0, 1.0, 2.5])
def test_weights_are_the_density_of_the_paper_chunk_by_chunk(power, floor):
    magnitudes = np.random.default_rng(0).exponential(size=(3, 400)) * [[1e-3], [1.0], [1e5]]
    powers = magnitudes**power
    density = powers / powers.mean(1, keepdims=True) + floor
    weights = resampling(power=power, floor=floor).weights(torch.from_numpy(magnitudes)).numpy()
    np.testing.assert_allclose(
        weights / weights.sum(1, keepdims=True), density / density.sum(1, keepdims=True), rtol=1e-12
    )


@pytest.mark.parametrize("floor", [0.0, 1.0])
def test_a_chunk_without_any_residual_is_uniform(floor):
    weights = resampling(floor=floor).weights(torch.zeros(2, 5, dtype=torch.float64))
    assert (weights > 0).all()
    assert (weights == weights[0, 0]).all()


def test_no_power_of_a_large_or_small_residual_overflows():
    magnitudes = torch.tensor([[1e-200, 1e200, 1.0], [1e-308, 0.0, 2e-308]], dtype=torch.float64)
    weights = resampling(power=3.0, floor=0.0).weights(magnitudes)
    assert weights.isfinite().all()
    assert weights.argmax(1).tolist() == [1, 2]


# --- the pool ---------------------------------------------------------------------------------


def test_pool_follows_the_residual():
    """Of 20 000 candidates 800 are so few that drawing without replacement changes nothing."""
    strategy = resampling(pool=800, candidates=20_000, power=1.0, floor=0.5)
    pool = strategy.fill(COLLOCATION, ramp, step=0)
    edges = np.linspace(0, 1, 9)  # of s = (x + 1) / 2, where the density is (2 s + 1/2) / (3/2)
    expected = np.diff(edges**2 + edges / 2) / 1.5 * 800
    for chunk in pool:
        counts, _ = np.histogram((chunk[:, 1] + 1) / 2, edges)
        assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_power_0_fills_a_uniform_pool():
    pool = resampling(pool=800, candidates=4000, power=0.0).fill(COLLOCATION, ramp, step=0)
    assert stats.kstest((pool[:, :, 1].flatten() + 1) / 2, "uniform").pvalue > 1e-3


def test_each_chunk_of_the_pool_lies_in_its_own_interval_of_time():
    pool = resampling().fill(COLLOCATION, ramp, step=5)
    assert pool.shape == (CHUNKS, 50, 2)
    assert pool.dtype == torch.float64
    assert (chunk_of(pool) == torch.arange(CHUNKS)[:, None]).all()


@pytest.mark.parametrize("chunks", [1, CHUNKS])
def test_pool_holds_candidates_each_once(chunks):
    seen = []

    def residual(points: Tensor) -> Tensor:
        seen.append(points)
        return ramp(points)

    collocation = dataclasses.replace(COLLOCATION, chunks=chunks)
    pool = resampling().fill(collocation, residual, step=5).flatten(0, 1).tolist()
    (candidates,) = seen
    assert candidates.shape == (400 * chunks, 2)
    assert len({tuple(p) for p in pool}) == 50 * chunks
    assert {tuple(p) for p in pool} < {tuple(p) for p in candidates.tolist()}


def test_pool_is_a_pure_function_of_seed_window_and_step():
    def fill(step: int = 5, **changes) -> Tensor:
        collocation = dataclasses.replace(COLLOCATION, **changes)
        return resampling().fill(collocation, ramp, step)

    assert fill().equal(fill())
    assert fill().equal(fill(batch=64, points={"initial": 3}, sequence="sobol"))
    for other in (fill(step=6), fill(window=1), fill(seed=4)):
        assert not torch.isin(other, fill()).any()


def test_candidates_are_no_points_of_the_batch():
    collocation = dataclasses.replace(COLLOCATION, batch=400 * CHUNKS)
    pool = resampling().fill(collocation, ramp, step=5)
    assert not torch.isin(pool, collocation.batch_at(5)["residual"]).any()


# --- the batch --------------------------------------------------------------------------------

POOL = resampling().fill(COLLOCATION, ramp, step=0)
ROWS = 15  # half of the 30 points of a chunk


def mixed(step: int, rank: int = 0, world_size: int = 1, **changes) -> Tensor:
    points = COLLOCATION.batch_at(step, rank=rank, world_size=world_size)["residual"]
    start, _ = rank_slice(COLLOCATION.batch, rank, world_size)
    size = COLLOCATION.chunk_size
    return resampling(**changes).mix(points, POOL, chunk_size=size, step=step, start=start)


def test_first_rows_of_a_chunk_come_from_the_pool_and_all_others_are_as_without_it():
    points = mixed(17).view(CHUNKS, 30, 2)
    without = COLLOCATION.batch_at(17)["residual"].view(CHUNKS, 30, 2)
    assert points[:, ROWS:].equal(without[:, ROWS:])
    for chunk in range(CHUNKS):
        taken = {tuple(p) for p in points[chunk, :ROWS].tolist()}
        assert len(taken) == ROWS
        assert taken < {tuple(p) for p in POOL[chunk].tolist()}


@pytest.mark.parametrize("step", [0, 17])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_slices_of_the_ranks_are_bitwise_the_whole_batch(step, world_size):
    slices = [mixed(step, rank, world_size) for rank in range(world_size)]
    assert torch.cat(slices).equal(mixed(step))


def test_no_point_of_the_pool_comes_twice_before_all_have_come_once():
    steps = range(7, 7 + 10)  # of 15 rows each, three times through the pool of 50
    taken = torch.cat([mixed(step).view(CHUNKS, 30, 2)[:, :ROWS] for step in steps], dim=1)
    for round_ in taken.split(50, dim=1):
        for chunk in range(CHUNKS):
            points = {tuple(p) for p in round_[chunk].tolist()}
            assert points == {tuple(p) for p in POOL[chunk].tolist()}


def test_a_share_of_1_with_a_pool_like_the_chunk_trains_on_the_whole_pool():
    pool = POOL[:, :30]
    for step in (0, 3):
        points = COLLOCATION.batch_at(step)["residual"]
        points = resampling(share=1.0).mix(points, pool, chunk_size=30, step=step)
        assert points.view(CHUNKS, 30, 2).equal(pool)


def test_the_smallest_share_is_one_point_a_chunk():
    changed = (mixed(3, share=1e-6) != COLLOCATION.batch_at(3)["residual"]).any(1)
    assert changed.nonzero().flatten().tolist() == [0, 30, 60, 90]


def test_points_keep_their_type():
    points = COLLOCATION.batch_at(2, dtype=torch.float32)["residual"]
    single = resampling().mix(points, POOL, chunk_size=30, step=2)
    assert single.equal(mixed(2).float())


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"share": 0.0}, "^data.resampling.share 0.0 must be above 0 and at most 1$"),
        ({"share": 1.5}, "share 1.5"),
        ({"every": 0}, "^data.resampling.every 0 must be at least 1$"),
        ({"pool": 0}, "^data.resampling.pool 0 must be at least 1 and at most its 400 candidates$"),
        ({"pool": 401}, "pool 401 must .* at most its 400 candidates"),
        ({"power": -1.0}, "power -1.0 and floor 1.0 must be finite and not negative"),
        ({"power": math.inf}, "power inf"),
        ({"floor": -0.1}, "floor -0.1"),
        ({"floor": math.nan}, "floor nan"),
    ],
    ids=str,
)
def test_mistake_is_one_sentence(changes, sentence):
    with pytest.raises(DpinnError, match=sentence):
        resampling(**changes)
