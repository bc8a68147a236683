"""Collocation points: a pure function of (seed, window, step, condition, i)."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from dpinn import Box, DpinnError, Problem, at, on
from dpinn.sampling import Collocation, rank_slice
from dpinn.sampling.counter import stream_key
from dpinn.sampling.sequences import unit_points


class Cavity(Problem):
    """Three coordinates, a start, and a condition on three faces."""

    domain = Box(t=(0.5, 2.5), x=(-1.0, 1.0), y=(0.0, 3.0))
    fields = ("u",)

    def residual(self, u):
        return {"pde": u.t - u.laplacian}

    def initial(self, u):
        return {"ic": u}

    @on(x=(-1, 1), y=0)
    def walls(self, u):
        return {"bc": u}


class Steady(Problem):
    domain = Box(x=(0.0, 1.0), y=(0.0, 1.0))
    fields = ("u",)

    def residual(self, u):
        return {"pde": u.laplacian}


PROBLEM = Cavity()
BATCH = 200
SEQUENCES = ["uniform", "sobol"]


def collocation(**changes) -> Collocation:
    options = {"batch": BATCH, "points": {"walls": 50}, "chunks": 8, "seed": 3} | changes
    return Collocation(PROBLEM, **options)


def unit(points: torch.Tensor) -> np.ndarray:
    low, high = (torch.tensor(b).double() for b in (PROBLEM.domain.lower(), PROBLEM.domain.upper()))
    return ((points - low) / (high - low)).numpy()


# --- invariant 2: any number of ranks ---------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("chunks", [1, 8])
def test_slices_of_the_ranks_are_bitwise_the_whole_batch(world_size, sequence, chunks):
    points = collocation(
        sequence=sequence, chunks=chunks, points={"walls": 50, "initial": 3}, window=2
    )
    whole = points.batch_at(17)
    slices = [points.batch_at(17, rank=r, world_size=world_size) for r in range(world_size)]
    for name in ("residual", "initial", "walls"):
        assert torch.equal(torch.cat([s[name] for s in slices]), whole[name])


@pytest.mark.parametrize("count", [0, 1, 3, 1000, 1001])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 512])
def test_slices_meet_and_differ_by_one_at_most(count, world_size):
    bounds = [rank_slice(count, r, world_size) for r in range(world_size)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == count
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_same_arguments_give_the_same_points(sequence):
    first = collocation(sequence=sequence).batch_at(5)
    collocation(sequence=sequence).batch_at(6)
    again = collocation(sequence=sequence).batch_at(5)
    assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize(
    "other",
    [
        lambda s: collocation(sequence=s).batch_at(6),
        lambda s: collocation(sequence=s, window=1).batch_at(5),
        lambda s: collocation(sequence=s, seed=4).batch_at(5),
    ],
    ids=["step", "window", "seed"],
)
def test_other_step_window_or_seed_gives_other_points(sequence, other):
    points, others = collocation(sequence=sequence).batch_at(5), other(sequence)
    for name in points:
        free = (points[name] != others[name]).any(0)
        # The held coordinate of the start is the same; all others moved.
        assert free.tolist() == [name != "initial", True, True]


def test_conditions_draw_from_streams_of_their_own():
    points = collocation(points={"initial": BATCH}, chunks=1).batch_at(0)
    assert not np.isclose(unit(points["residual"])[:, 1], unit(points["initial"])[:, 1]).any()


def test_points_of_one_condition_do_not_depend_on_the_others():
    a = collocation(points={"walls": 50}).batch_at(1)
    b = collocation(points={"walls": 50, "initial": 7}).batch_at(1)
    assert torch.equal(a["walls"], b["walls"])
    assert torch.equal(a["residual"], b["residual"])


GOLDEN = {
    "uniform": [
        0.5949545751966212,
        0.6434320602355201,
        1.7301944719515507,
        1.6814583660161375,
        -0.4312697843212423,
        2.037742419648584,
    ],
    "sobol": [
        0.5949545751966212,
        0.6434320602355201,
        1.7301944719515507,
        1.6359702001966212,
        -0.8721929397644799,
        2.5036319719515507,
    ],
}


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_points_are_the_ones_that_saved_runs_were_made_with(sequence):
    points = collocation(sequence=sequence, window=1).batch_at(2)["residual"][[0, 101]]
    np.testing.assert_array_equal(points.numpy(), np.reshape(GOLDEN[sequence], (2, 3)))


# --- where the points lie ---------------------------------------------------------------------


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("coordinate", [0, 1, 2])
@pytest.mark.parametrize("name", ["residual", "walls"])
def test_points_are_uniform_in_every_coordinate(sequence, coordinate, name):
    points = collocation(sequence=sequence, batch=8000, points={"walls": 6000}).batch_at(0)[name]
    if name == "walls":  # those whose coordinate is free
        free = {0: slice(None), 1: slice(4000, None), 2: slice(0, 4000)}[coordinate]
        points = points[free]
    assert stats.kstest(unit(points)[:, coordinate], "uniform").pvalue > 1e-3


def test_coordinates_of_a_point_are_independent():
    values = unit(collocation(batch=40_000).batch_at(0)["residual"])
    counts, *_ = np.histogram2d(values[:, 1], values[:, 2], 8, [(0, 1), (0, 1)])
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.02


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("chunks", [2, 5, 8])
def test_each_chunk_of_points_fills_its_own_interval_of_time(sequence, chunks):
    points = collocation(sequence=sequence, chunks=chunks, batch=800).batch_at(9)["residual"]
    time = unit(points)[:, 0].reshape(chunks, -1) * chunks
    assert (np.floor(time) == np.arange(chunks)[:, None]).all()
    assert (np.ptp(time, axis=1) > 0.9).all()


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_faces_hold_their_values_exactly_and_share_the_points_evenly(sequence):
    points = collocation(sequence=sequence, points={"walls": 50}).batch_at(0)
    assert (points["initial"][:, 0] == 0.5).all()
    walls = points["walls"]
    assert (walls[:17, 1] == -1).all()
    assert (walls[17:34, 1] == 1).all()
    assert (walls[34:, 2] == 0).all()
    assert int((walls[:34, 2] == 0).sum()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_points_have_the_type_and_stay_in_the_domain(dtype, sequence):
    points = collocation(sequence=sequence, batch=4000).batch_at(0, dtype=dtype)
    low, high = (
        torch.tensor(b, dtype=dtype) for b in (PROBLEM.domain.lower(), PROBLEM.domain.upper())
    )
    for values in points.values():
        assert values.dtype == dtype
        assert bool(((values >= low) & (values <= high)).all())


def test_types_round_the_same_points():
    single, double = (collocation().batch_at(0, dtype=d) for d in (torch.float32, torch.float64))
    assert torch.equal(single["residual"], double["residual"].float())


def test_sobol_points_are_balanced():
    """Of the first 2^k points each half, quarter, ... of a coordinate holds exactly its share."""
    points = collocation(sequence="sobol", batch=256, chunks=1).batch_at(3)["residual"]
    for column in unit(points).T:
        for parts in (2, 16, 256):
            assert (np.histogram(column, parts, (0, 1))[0] == 256 // parts).all()


def test_sobol_points_integrate_better_than_uniform_ones():
    def error(sequence):
        points = collocation(sequence=sequence, batch=1024, chunks=1)
        means = [
            np.prod(
                1 + 0.5 * np.cos(2 * np.pi * unit(points.batch_at(s)["residual"])), axis=1
            ).mean()
            for s in range(20)
        ]
        return math.sqrt(np.mean((np.array(means) - 1) ** 2))

    assert error("sobol") < error("uniform") / 5


def test_shifted_sobol_points_are_unbiased():
    means = [
        unit(collocation(sequence="sobol", batch=8, chunks=1).batch_at(s)["residual"]).mean(0)
        for s in range(400)
    ]
    # One mean of 8 stratified points has a standard deviation of about 1/8/sqrt(12).
    assert np.abs(np.mean(means, axis=0) - 0.5).max() < 4 * 0.036 / 20


# --- counts and mistakes ----------------------------------------------------------------------


def test_condition_has_an_eighth_of_the_batch_unless_told():
    points = collocation(points={"walls": 50})
    assert [points.count(c) for c in PROBLEM.conditions] == [200, 25, 50]
    assert [points.condition_chunks(c) for c in PROBLEM.conditions] == [8, 1, 1]
    small = Collocation(PROBLEM, batch=4)
    assert [small.count(c) for c in PROBLEM.conditions] == [4, 1, 3]


class Probes(Cavity):
    """A probe at all times, a line, and two points of which all coordinates are given."""

    @at(x=0.5, y=(1, 2))
    def probes(self, u):
        return {"probes": u}

    @at(y=1.5)
    def line(self, u):
        return {"line": u}

    @at(t=(0.5, 2), x=0, y=(0, 3))
    def pins(self, u):
        return {"pins": u}


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_coordinates_of_a_place_are_held_and_the_others_range_over_the_domain(sequence):
    made = Collocation(Probes(), 4096, sequence=sequence, points={"probes": 500})
    points = made.batch_at(7)
    t, x, y = points["probes"].unbind(1)
    assert len(t) == 500
    assert (x == 0.5).all()
    assert y.tolist() == [1.0] * 250 + [2.0] * 250
    for times in (t[:250], t[250:]):
        assert stats.kstest(times.numpy(), "uniform", (0.5, 2.0)).pvalue > 1e-3
    line = points["line"]
    assert (line[:, 2] == 1.5).all()
    assert line[:, :2].amin(0).allclose(torch.tensor([0.5, -1.0]).double(), atol=0.05)
    assert line[:, :2].amax(0).allclose(torch.tensor([2.5, 1.0]).double(), atol=0.05)


def test_condition_that_lists_its_points_has_those_and_no_others():
    made = Collocation(Probes(), BATCH)
    for step in (0, 9):
        assert made.batch_at(step)["pins"].tolist() == [[0.5, 0.0, 0.0], [2.0, 0.0, 3.0]]
    slices = [made.batch_at(0, rank=r, world_size=3)["pins"] for r in range(3)]
    assert torch.cat(slices).equal(made.batch_at(0)["pins"])


def test_conditions_at_places_leave_the_points_of_the_others_as_they_were():
    more, fewer = Collocation(Probes(), BATCH).batch_at(3), Collocation(PROBLEM, BATCH).batch_at(3)
    for name in ("residual", "initial", "walls"):
        assert more[name].equal(fewer[name])


def test_points_of_faces_are_those_of_the_sequence_with_one_coordinate_held():
    """As they were before a condition could hold at points."""
    plain = Collocation(Cavity(), BATCH, points={"walls": 50}, seed=3)
    walls = plain.batch_at(11)["walls"]
    key = stream_key(3, 0, 11, "walls")
    unit_cube = unit_points("uniform", key, 0, 50, 3, torch.device("cpu"))
    low, high = (torch.tensor(b).double() for b in (PROBLEM.domain.lower(), PROBLEM.domain.upper()))
    expected = low + unit_cube * (high - low)
    for i in range(50):
        axis, value = ((1, -1.0), (1, 1.0), (2, 0.0))[i * 3 // 50]
        expected[i, axis] = value
    assert walls.equal(expected)


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ({"pins": 5}, "points: pins lists its 2 points itself, not 5; leave it out"),
        ({"probes": 1}, "points: probes has 1 points for 2 places; set data.points.probes to 2"),
        ({"walls": 2}, "points: walls has 2 points for 3 places; set data.points.walls to 3"),
    ],
    ids=str,
)
def test_points_that_leave_a_place_without_any_are_refused(points, sentence):
    with pytest.raises(DpinnError, match=sentence):
        Collocation(Probes(), BATCH, points=points)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": 1000, "chunks": 16},
         "^batch 1000 does not divide into 16 causal chunks; use 992 or 1008$"),
        ({"batch": 3, "chunks": 16}, "^batch 3 does not divide into 16 causal chunks; use 16$"),
        ({"batch": 0}, "batch 0 and chunks 8 must both be at least 1"),
        ({"chunks": 0}, "batch 200 and chunks 0 must both be at least 1"),
        ({"points": {"wall": 5}},
         "points: 'wall' is no condition of the problem; use initial, walls"),
        ({"points": {"residual": 5}}, "points: 'residual' is no condition"),
        ({"points": {"walls": 0}}, "points: walls has 0 points; it needs at least 1"),
        ({"problem": Steady(), "points": {}}, "Steady has no coordinate t, .* use chunks: 1"),
        ({"problem": Steady(), "chunks": 1},
         "'walls' is no condition of the problem; use none: the problem has no conditions"),
    ],
    ids=lambda v: ", ".join(v) if isinstance(v, dict) else "",  # no addresses, which differ
)  # fmt: skip
def test_mistake_is_one_sentence(changes, sentence):
    with pytest.raises(DpinnError, match=sentence):
        dataclasses.replace(collocation(), **changes)


def test_steady_problem_is_sampled_too():
    points = Collocation(Steady(), batch=10).batch_at(0)
    assert {k: tuple(v.shape) for k, v in points.items()} == {"residual": (10, 2)}
