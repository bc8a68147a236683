"""Runs whose interior points come in part from a pool: it is state, and alike on all ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

RESAMPLING = {
    "class_path": "dpinn.sampling.ResidualResampling",
    "init_args": {"every": 15, "pool": 24, "candidates": 101},
}
"""Filled before the steps 0, 15, 30 and 45: never where a checkpoint is written."""

SOAP: dict[str, Any] = {
    "data.resampling": RESAMPLING,
    "trainer": {"max_steps": 40},
    "tracking.checkpoint_every": 20,
    "tracking.evaluate_every": 20,
}

SGD = SOAP | {
    "model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0e-3}},
    "trainer": {"max_steps": 40, "precision": "64-true", "accelerator": "cpu"},
    # Neither the batch nor the candidates divide into two ranks.
    "data.batch": 63,
    "data.chunks": 3,
}

SCHEDULE_FREE = {
    "model.optimizer": {
        "class_path": "dpinn.optim.ScheduleFree",
        "init_args": {"base": {"class_path": "dpinn.optim.SOAP", "init_args": {"lr": 1.0e-3}}},
    },
    "trainer": {"max_steps": 40, "precision": "64-true"},
}
"""Its pool comes from the averaged parameters."""

OWN = """
import os
import torch
from dpinn.sampling import Resampling

class Own(Resampling):
    \"\"\"A user's strategy on processors that do not compute the same.\"\"\"

    def fill(self, collocation, residual, step):
        torch.manual_seed(step + 1000 * int(os.environ.get("RANK", 0)))
        t = (torch.arange(3)[:, None] + torch.rand(3, 8)) / 3
        assert residual(torch.rand(5, 2).double()).shape == (5,)
        return torch.stack([t, torch.rand(3, 8)], dim=2)
"""


def fit(work: Any, *arguments: Any, ranks: int = 1) -> Path:
    """Train, and return the folder of the run."""
    if ranks == 1:
        outcomes = [work("fit", *arguments)]
    else:
        outcomes = work.ranks(ranks, "fit", *arguments, "--trainer.devices", ranks)
    for outcome in outcomes:
        assert outcome.returncode == 0, outcome.stderr
    return work.run_folder()


def checkpoint_of(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def pool_of(run: Path) -> torch.Tensor:
    return checkpoint_of(run)["Collocations"]["pool"]


def values_of(run: Path) -> list[dict[str, float]]:
    """All metrics but those of the clock and the machine."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.startswith(("time/", "memory/"))} for r in rows]


def assert_bitwise(a: Path, b: Path) -> None:
    assert pool_of(a).equal(pool_of(b))
    one, other = checkpoint_of(a)["state_dict"], checkpoint_of(b)["state_dict"]
    assert one.keys() == other.keys()
    assert [name for name in one if not one[name].equal(other[name])] == []
    assert values_of(a) == values_of(b)


@pytest.mark.parametrize("changes", [{}, SCHEDULE_FREE], ids=["soap", "schedule-free in float64"])
def test_a_run_resumed_between_two_fillings_is_bitwise_the_run_in_one_go(
    changes: dict[str, Any], workplace: Any
) -> None:
    whole, stopped = workplace(), workplace()
    config = SOAP | changes
    in_one = fit(whole, "-c", whole.config(config))
    run = fit(stopped, "-c", stopped.config(config), "--trainer.max_steps", 20)
    assert pool_of(run).shape == (4, 24, 2)
    assert pool_of(run).dtype == torch.float64
    fit(stopped, "--resume", run, "--trainer.max_steps", 40)
    assert_bitwise(in_one, run)


def test_a_run_trains_on_points_of_larger_residual(workplace: Any) -> None:
    sharp = {"share": 1.0, "every": 5, "pool": 24, "candidates": 500, "power": 4.0, "floor": 0.0}
    losses = []
    for resampling in (RESAMPLING | {"init_args": sharp}, None):
        work = workplace()
        run = fit(work, "-c", work.config(SOAP | {"data.resampling": resampling}))
        losses.append([row["loss/pde"] for row in values_of(run)])
        assert ("Collocations" in checkpoint_of(run)) == (resampling is not None)
    assert all(a > 1.2 * b for a, b in zip(*losses, strict=True))


@pytest.mark.slow
def test_two_ranks_fill_the_pool_of_one(workplace: Any) -> None:
    runs = []
    for ranks in (1, 2):
        work = workplace()
        runs.append(fit(work, "-c", work.config(SGD), ranks=ranks))
    one, two = runs
    torch.testing.assert_close(pool_of(two), pool_of(one), rtol=1e-10, atol=1e-10)
    for a, b in zip(values_of(one), values_of(two), strict=True):
        assert b == pytest.approx(a, rel=1e-10, abs=1e-10)


@pytest.mark.slow
def test_a_pool_is_what_was_saved_on_another_number_of_ranks(workplace: Any) -> None:
    work = workplace()
    run = fit(work, "-c", work.config(SGD), "--trainer.max_steps", 20, ranks=2)
    saved = pool_of(run)
    fit(work, "--resume", run, "--trainer.max_steps", 30, "--trainer.devices", 1)
    assert pool_of(run).equal(saved)
    fit(work, "--resume", run, "--trainer.max_steps", 35, ranks=2)
    assert not pool_of(run).equal(saved)


@pytest.mark.slow
def test_ranks_share_the_first_ones_pool_whatever_a_users_strategy_does(workplace: Any) -> None:
    own = {"class_path": "mine.Own", "init_args": {"every": 15}}
    runs = []
    for ranks in (1, 2):
        work = workplace()
        work.file("mine.py", OWN)
        runs.append(fit(work, "-c", work.config(SGD | {"data.resampling": own}), ranks=ranks))
    one, two = runs
    assert pool_of(one).equal(pool_of(two))
    for a, b in zip(values_of(one), values_of(two), strict=True):
        assert b == pytest.approx(a, rel=1e-10, abs=1e-10)


def test_a_resumed_run_may_begin_and_end_to_resample(work: Any) -> None:
    run = fit(work, "-c", work.config(SOAP | {"data.resampling": None}))
    new = work.file("pool.yaml", "data:\n  resampling: dpinn.sampling.ResidualResampling\n")
    more = ("--trainer.max_steps", 60, "--data.resampling.every", 15)
    fit(work, "--resume", run, "-c", new, *more)
    assert pool_of(run).shape == (4, 2048, 2)
    fit(work, "--resume", run, "--data.resampling", "null", "--trainer.max_steps", 80)
    assert "Collocations" not in checkpoint_of(run)


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"every": 7}, ["data.resampling.every is 7", "multiple of data.inner_steps, 5"]),
        ({"share": "half"}, ["data.resampling", "share", "float", "half"]),
        ({"pools": 20}, ["data.resampling", "pools"]),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_a_mistake_is_one_sentence(
    options: dict[str, Any], fragments: list[str], work: Any
) -> None:
    resampling = RESAMPLING | {"init_args": {**RESAMPLING["init_args"], **options}}
    sentence = work("fit", "-c", work.config({"data.resampling": resampling})).sentence
    assert [f for f in fragments if f not in sentence] == [], sentence
    assert work.left == set()
