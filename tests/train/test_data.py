import itertools
from types import SimpleNamespace

import pytest
import torch

from dpinn import DpinnError
from dpinn.problems import Wave
from dpinn.train import Collocations


def collocations(step: int, inner_steps: int = 5) -> Collocations:
    data = Collocations(Wave(), batch=64, chunks=4, inner_steps=inner_steps, seed=3)
    module = torch.nn.Linear(1, 1).double()
    module.device = torch.device("cpu")
    data.trainer = SimpleNamespace(
        global_step=step, global_rank=0, world_size=1, lightning_module=module
    )
    return data


def test_batches_begin_where_the_trainer_stands() -> None:
    for step in (0, 40):
        first = itertools.islice(collocations(step).train_dataloader(), 3)
        assert [int(batch) for batch in first] == [step, step + 5, step + 10]


def test_the_points_of_a_step_do_not_depend_on_the_inner_steps() -> None:
    in_one = collocations(0, inner_steps=5).on_after_batch_transfer(5, 0)
    assert in_one.first == 5
    for k, points in enumerate(in_one.points):
        alone = collocations(0, inner_steps=1).on_after_batch_transfer(5 + k, 0).points[0]
        assert points.keys() == alone.keys() == {"residual", "initial", "ends"}
        for name in points:
            assert points[name].equal(alone[name])


def test_points_have_the_precision_of_the_parameters() -> None:
    points = collocations(0).on_after_batch_transfer(0, 0).points[0]
    assert {p.dtype for p in points.values()} == {torch.float64}


def test_no_inner_steps_are_refused() -> None:
    with pytest.raises(DpinnError, match="inner_steps 0"):
        Collocations(Wave(), batch=64, inner_steps=0)
