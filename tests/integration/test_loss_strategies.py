"""Kernel weights, tolerance schedules and pseudo-time in real trainings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

STRATEGIES: dict[str, Any] = {
    "problem": "dpinn.problems.Burgers",
    "model.weights": {"class_path": "dpinn.loss.NTKWeights", "init_args": {"every": 5}},
    "model.causal_tolerance": {
        "class_path": "dpinn.loss.RisingTolerance",
        "init_args": {"tolerances": [1.0e-4, 1.0e-3, 1.0], "threshold": 0.99},
    },
    "model.pseudo_time": {
        "class_path": "dpinn.loss.AdaptivePseudoTime",
        "init_args": {"tau": 0.5, "every": 4, "steps": 2},
    },
    "tracking.log_every": 5,
    "tracking.checkpoint_every": 5,
}

SGD = {
    "model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0e-4}},
    "trainer": {"max_steps": 20, "precision": "64-true", "accelerator": "cpu"},
    "data": {"batch": 63, "chunks": 3, "inner_steps": 5, "points": {"initial": 9, "ends": 5}},
}


FIVE_STEPS = ("--trainer.max_steps", 5)  # of which the first may update the weights


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt")["state_dict"]


@pytest.fixture(scope="module")
def whole(workplace: Any) -> Path:
    work = workplace()
    outcome = work("fit", "--config", work.config(STRATEGIES | SGD))
    assert outcome.returncode == 0, outcome.stderr
    return work.run_folder()


def test_the_strategies_act_and_are_logged(whole: Path) -> None:
    first, *_, last = rows_of(whole)
    assert last["weight/pde"] != first["weight/pde"]
    assert last["causal/tolerance"] in (1.0e-4, 1.0e-3, 1.0)
    assert last["causal/tolerance"] > 1.0e-4
    assert last["pseudo_time/pde"] > 0
    assert last["pseudo_time/pde"] != 0.5


@pytest.mark.parametrize("initialize", [True, False])
def test_weights_wait_only_where_the_start_is_fitted(initialize: bool, workplace: Any) -> None:
    work = workplace()
    network = {"class_path": "dpinn.nn.PirateNet", "init_args": {"width": 64, "blocks": 1}}
    fitted = {"model.network": network, "model.initialize": initialize}
    outcome = work("fit", "--config", work.config(STRATEGIES | SGD | fitted), *FIVE_STEPS)
    assert outcome.returncode == 0, outcome.stderr
    (row,) = rows_of(work.run_folder())
    assert (row["weight/pde"] == 1.0) is initialize


def test_a_resumed_run_goes_on_with_their_state_to_the_bit(whole: Path, workplace: Any) -> None:
    work = workplace()
    config = work.config(STRATEGIES | SGD)
    # In the middle of a level, so that the frozen network has to come from the checkpoint.
    assert work("fit", "--config", config, "--trainer.max_steps", 15).returncode == 0
    outcome = work("fit", "--resume", "--trainer.max_steps", 20)
    assert outcome.returncode == 0, outcome.stderr
    resumed = state_of(work.run_folder())
    assert any(name.startswith("pseudo_time.previous.") for name in resumed)
    for name, value in state_of(whole).items():
        assert resumed[name].equal(value), name


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks_follow_one(ranks: int, whole: Path, workplace: Any) -> None:
    work = workplace()
    config = work.config(STRATEGIES | SGD)
    for outcome in work.ranks(ranks, "fit", "--config", config, "--trainer.devices", ranks):
        assert outcome.returncode == 0, outcome.stderr
    for name, value in state_of(whole).items():
        several = state_of(work.run_folder())[name]
        torch.testing.assert_close(several, value, rtol=1e-9, atol=1e-10, msg=name)


OWN = """
from dpinn.loss import TermWeights

class Own(TermWeights):
    def due(self, step):
        return step == 0

    def update(self, weights, measures):
        return measures.gradient_norms() + measures.ntk_means(None).to(weights)
"""


def test_a_strategy_of_the_users_own_works_by_class_path(work: Any) -> None:
    work.file("own.py", OWN)
    outcome = work("fit", "--config", work.config({"model.weights": "own.Own"}))
    assert outcome.returncode == 0, outcome.stderr
    rows = rows_of(work.run_folder())
    assert rows[0]["weight/pde"] not in (0.0, 1.0)
    assert rows[-1]["weight/pde"] == rows[0]["weight/pde"]


def test_pseudo_time_says_where_the_term_of_a_field_must_be_named(work: Any) -> None:
    work.file(
        "two.py",
        "from dpinn import Box, Problem\n"
        "class Two(Problem):\n"
        "    domain = Box(t=(0, 1), x=(0, 1))\n"
        "    fields = ('u', 'v')\n"
        "    def residual(self, u, v):\n"
        "        return {'a': u.t - u.xx, 'b': v.t - v.xx}\n",
    )
    changes = {
        "problem": "two.Two",
        "model.pseudo_time": {"class_path": "dpinn.loss.FixedPseudoTime", "init_args": {"tau": 1}},
    }
    sentence = work("fit", "--config", work.config(changes)).sentence
    assert "name them, e.g. fields: {a: u, b: v}" in sentence


@pytest.mark.slow
def test_pseudo_time_is_refused_where_parameters_are_in_parts(work: Any) -> None:
    pytest.importorskip("deepspeed")
    changes = {
        "model.pseudo_time": STRATEGIES["model.pseudo_time"],
        "problem": "dpinn.problems.Burgers",
        "model.optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1.0e-3}},
        "trainer.strategy": "deepspeed_stage_1",
        "trainer.accelerator": "cpu",
    }
    (outcome,) = work.ranks(1, "fit", "--config", work.config(changes))
    assert "model.pseudo_time needs the whole gradient" in outcome.sentence


@pytest.mark.slow
def test_pseudo_time_ends_right_where_the_plain_training_ends_wrong(work: Any) -> None:
    config = Path(__file__).parents[2] / "configs/quick/reaction.yaml"
    errors = {}
    for name, options in (("plain", ["--model.pseudo_time", "null"]), ("marching", [])):
        outcome = work(
            *("fit", "--config", config, "--tracking.mlflow", "false", "--model.compile", "off"),
            *("--trainer.max_steps", 1000, "--tracking.output", name, *options),
        )
        assert outcome.returncode == 0, outcome.stderr
        (result,) = (work.folder / name).glob("*/evaluation.json")
        errors[name] = json.loads(result.read_text())["error/u"]
    assert errors["plain"] > 0.8
    assert errors["marching"] < 0.2
