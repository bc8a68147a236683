"""A plan of stages is a value: it is made, and refused, before anything is trained."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from dpinn import Box, DpinnError, Problem, at, on
from dpinn.problems import AllenCahn, Burgers, Wave
from dpinn.sampling import Collocation
from dpinn.train import Curriculum, Stage, Stages, TimeWindows
from dpinn.train.stages import adjust, plan_stages


def plan(stages, problem=None, max_steps=1200, inner_steps=10):
    return plan_stages(stages, problem or Burgers(), max_steps, inner_steps)


def test_without_stages_there_is_one_of_the_whole_domain():
    (stage,) = plan(None)
    assert (stage.index, stage.first, stage.end, stage.interval) == (0, 0, 1200, None)


def test_windows_divide_time_and_steps_without_gap():
    stages = plan(TimeWindows(count=3))
    assert [s.index for s in stages] == [0, 1, 2]
    assert [(s.first, s.end) for s in stages] == [(0, 400), (400, 800), (800, 1200)]
    assert stages[0].interval[0] == 0
    assert stages[-1].interval[1] == 1
    for before, after in itertools.pairwise(stages):
        assert before.interval[1] == after.interval[0]
        assert before.interval[1] - before.interval[0] == pytest.approx(1 / 3)


def test_a_curriculum_has_a_value_and_a_budget_for_each_stage():
    stages = plan(Curriculum("reaction", [1, 3, 5], [100, 200, 900]), AllenCahn())
    assert [(s.first, s.end) for s in stages] == [(0, 100), (100, 300), (300, 1200)]
    assert [dict(s.parameters) for s in stages] == [{"reaction": v} for v in (1.0, 3.0, 5.0)]
    assert str(stages[1]) == "stage 2: reaction = 3, 200 steps"


class Terminal(Burgers):
    """A condition at the end of time."""

    @on(t=1)
    def end(self, u):
        return {"end": u}


class Derived(AllenCahn):
    """Computes what it needs from its parameter too early."""

    def __init__(self, rate: float = 5.0):
        super().__init__()
        self.rate = rate
        self.reaction = 1.0 * rate


class Pinned(Burgers):
    """Held at a point for all times."""

    @at(x=0.5)
    def middle(self, u):
        return {"middle": u}


class PinnedOnce(Burgers):
    @at(t=0.5, x=0.5)
    def once(self, u):
        return {"once": u}


class Steady(Problem):
    """Without time."""

    domain = Box(x=(0.0, 1.0))
    fields = ("u",)

    def residual(self, u):
        return {"pde": u.xx - 1}


@pytest.mark.parametrize(
    ("make", "problem", "sentence"),
    [
        (lambda: TimeWindows(0), None, "count 0 must be at least 1"),
        (
            lambda: TimeWindows(7),
            None,
            "1200 does not divide into 7 time windows; use 1204 or 1197",
        ),
        (lambda: TimeWindows(16), None, "begins at step 75, which is no multiple of data.inner"),
        (lambda: TimeWindows(2), Steady(), "Steady has no initial condition"),
        (lambda: TimeWindows(2), Terminal(), "Terminal.end holds at one time"),
        (
            lambda: Curriculum("viscosity", [1], [1, 2]),
            None,
            "as many steps as values, not 2 for 1",
        ),
        (lambda: Curriculum("viscosity", [], []), None, "as many steps as values"),
        (lambda: Curriculum("speed", [1], [1200]), None, "Burgers has no number 'speed'"),
        (
            lambda: Curriculum("viscosity", [1], [1200]),
            None,
            "ends at viscosity = 1.0, but that of",
        ),
        (lambda: Curriculum("reaction", [5], [100]), AllenCahn(), "has 100 steps, but .* is 1200"),
        (lambda: Curriculum("reaction", [1, 5], [0, 1200]), AllenCahn(), "must all be at least 1"),
        (
            lambda: Curriculum("rate", [1, 5], [600, 600]),
            Derived(),
            "no condition of Derived reads",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_sentence(make, problem, sentence):
    with pytest.raises(DpinnError, match=sentence):
        plan(make(), problem)


class Unphysical(Burgers):
    """A start that both signs of u fulfil."""

    def initial(self, u, x):
        return {"ic": u**2 - torch.sin(torch.pi * x) ** 2}


class Followed(AllenCahn):
    """A parameter that follows from another."""

    @property
    def rate(self):
        return 5.0


class Own(Stages):
    """A plan of a user's own."""

    def __init__(self, *stages: Stage):
        self.stages = stages

    def plan(self, problem, max_steps):
        return self.stages


def test_initial_conditions_that_are_not_affine_cannot_start_a_window():
    with pytest.raises(DpinnError, match="term 'ic' is not affine in the fields"):
        plan(TimeWindows(2), Unphysical())
    plan(TimeWindows(2), Wave())  # which reads a derivative


class Curved(Burgers):
    """A start that is told by its curvature."""

    def initial(self, u, x):
        return {"ic": u.laplacian - torch.pi**2 * torch.sin(torch.pi * x)}


def test_an_initial_condition_may_read_the_laplacian_where_all_its_parts_are_known():
    plan(TimeWindows(2), Curved())


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (Unphysical(), "term 'ic' is not affine"),
        (Terminal(), r"Terminal\.end holds at one time"),
        (PinnedOnce(), r"PinnedOnce\.once holds at one time"),
    ],
)
def test_windows_of_ones_own_plan_are_held_to_the_same(problem, sentence):
    own = Own(Stage(0, 0, 600, (0.0, 0.5)), Stage(1, 600, 1200, (0.5, 1.0)))
    with pytest.raises(DpinnError, match=sentence):
        plan(own, problem)


def test_windows_may_have_a_condition_at_a_point_for_all_times():
    plan(TimeWindows(2), Pinned())
    window = Collocation(Pinned(), 64, window=1, interval=(0.5, 1.0)).batch_at(600)["middle"]
    assert (window[:, 1] == 0.5).all()
    assert ((window[:, 0] >= 0.5) & (window[:, 0] <= 1.0)).all()


def test_a_property_cannot_be_changed_by_a_curriculum():
    with pytest.raises(DpinnError, match=r"Followed\.rate is a property"):
        plan(Curriculum("rate", [1, 5], [600, 600]), Followed())


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ((), "must follow one another from step 0 to 1200"),
        ((Stage(0, 0, 500), Stage(1, 600, 1200)), "must follow one another"),
        ((Stage(0, 100, 1200),), "must follow one another"),
        ((Stage(0, 0, 600),), "must follow one another"),
        ((Stage(1, 0, 1200),), "must number its stages"),
        ((Stage(0, 0, 600, (0.0, 0.5)), Stage(1, 600, 1200)), "all stages need one or none"),
        ((Stage(0, 0, 600, (0.0, 0.5)), Stage(1, 600, 1200, (0.6, 1.0))), "must begin where"),
        ((Stage(0, 0, 600, (0.0, 0.5)), Stage(1, 600, 1200, (0.5, 0.9))), "from 0 to 1"),
        ((Stage(0, 0, 0), Stage(1, 0, 1200)), "each with at least one"),
        (
            (Stage(0, 0, 600, parameters={"viscosity": 1.0}), Stage(1, 600, 1200)),
            "a value of every parameter",
        ),
    ],
)
def test_a_plan_of_ones_own_with_gaps_is_refused(stages, sentence):
    with pytest.raises(DpinnError, match=sentence):
        plan(Own(*stages))


def test_adjusting_changes_the_residual_in_place_and_leaves_the_users_problem_alone():
    problem = AllenCahn()
    mine = copy.copy(problem)
    first, second = plan(Curriculum("reaction", [1, 5], [600, 600]), problem)
    adjust(mine, first, torch.zeros(1))
    tensor = mine.reaction
    adjust(mine, second, torch.zeros(1))
    assert mine.reaction is tensor
    assert float(tensor) == 5
    assert problem.reaction == 5.0
    assert isinstance(problem.reaction, float)
    assert tensor.dtype == torch.float32
