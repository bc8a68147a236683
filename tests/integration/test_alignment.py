"""Gradient alignment in real trainings: what it costs, that it changes nothing, many ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

COUNTING = '''
import json
import torch
from torch import autograd
from dpinn.loss import GradientNormWeights
from dpinn.optim import SOAP

passes = 0
run_backward = autograd._engine_run_backward


def counted(*arguments, **options):
    global passes
    passes += 1
    return run_backward(*arguments, **options)


autograd._engine_run_backward = counted


class CountingSOAP(SOAP):
    """Notes how many backward passes each step took."""

    def step(self, closure=None):
        global passes
        passes = 0
        result = super().step(closure)
        with open("passes.jsonl", "a") as file:
            file.write(json.dumps(passes) + "\\n")
        return result
'''

GRADIENT_NORMS = {"class_path": "dpinn.loss.GradientNormWeights", "init_args": {"every": 10}}
TERMS = 4
"""Of the wave equation: pde, two of the start, the walls."""

DOUBLE = {"trainer.precision": "64-true", "trainer.accelerator": "cpu"}


def alignment_of(run: Path) -> dict[int, dict[str, Any]]:
    """What was measured, by step; not when."""
    rows = [json.loads(line) for line in (run / "alignment.jsonl").read_text().splitlines()]
    assert all(row.pop("time/unix_s") > 1e9 for row in rows)
    return {row.pop("step"): row for row in rows}


def solution_of(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt")["solution"]


def test_a_step_that_measures_costs_one_backward_pass_a_term_and_one_more(work: Any) -> None:
    work.file("counting.py", COUNTING)
    changes = {
        "model.optimizer.class_path": "counting.CountingSOAP",
        "model.weights": GRADIENT_NORMS,
        "model.alignment": {"every": 5},
    }
    outcome = work("fit", "--config", work.config(changes))
    assert outcome.returncode == 0, outcome.stderr
    terms = len([k for k in alignment_terms(work.run_folder())])
    assert terms == TERMS
    passes = [json.loads(line) for line in (work.folder / "passes.jsonl").read_text().splitlines()]
    # Step 10 measures for the weights as well, and pays no more for it.
    assert passes == [terms + 1 if step % 5 == 0 else 1 for step in range(20)]


def alignment_terms(run: Path) -> list[str]:
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    return [k for k in row if k.startswith("loss/") and k != "loss/total"]


def test_measuring_leaves_the_training_as_it_is_to_the_bit(workplace: Any) -> None:
    solutions = []
    for alignment in ({"every": 5, "compare": ["torch.optim.Adam"]}, None):
        work = workplace()
        changes = {"model.weights": GRADIENT_NORMS, "model.alignment": alignment}
        outcome = work("fit", "--config", work.config(changes))
        assert outcome.returncode == 0, outcome.stderr
        solutions.append(solution_of(work.run_folder()))
    assert (work.run_folder() / "alignment.jsonl").read_text() == ""
    for name, parameter in solutions[0].items():
        assert parameter.equal(solutions[1][name]), name


def test_what_is_measured_is_kept_by_step_whole_and_by_layer(work: Any) -> None:
    changes = {"model.alignment": {"every": 10, "compare": ["torch.optim.Adam", "torch.optim.SGD"]}}
    assert work("fit", "--config", work.config(changes)).returncode == 0
    rows = alignment_of(work.run_folder())
    assert list(rows) == [1, 11]
    names = ["intra", "intra_cosine", "preconditioned", "preconditioned_cosine", "inter"]
    names += [f"preconditioned_by/{o}{c}" for o in ("Adam", "SGD") for c in ("", "_cosine")]
    assert set(rows[11]) == {f"alignment/{n}" for n in [*names, "update_inter"]} | {"layers"}
    assert all(-1 <= v <= 1 for k, v in rows[11].items() if k != "layers")
    # The learning rate of SOAP's first step counts for nothing: there is no update to compare.
    assert "alignment/update_inter" not in rows[1]
    # Without a state yet, and for SGD always, the gradients stay as they are.
    assert rows[1]["alignment/preconditioned"] == pytest.approx(rows[1]["alignment/intra"], 1e-12)
    intra = rows[11]["alignment/intra"]
    assert rows[11]["alignment/preconditioned_by/SGD"] == pytest.approx(intra, rel=1e-12)
    assert rows[11]["alignment/preconditioned_by/Adam"] != pytest.approx(intra, abs=1e-3)
    layers = rows[11]["layers"]
    assert "network.last" in layers
    assert all(set(scores) <= set(names) | {"update_inter"} for scores in layers.values())


@pytest.mark.parametrize("inner", [1, 5])
def test_measuring_goes_on_after_a_resume_as_if_nothing_had_happened(
    inner: int, workplace: Any
) -> None:
    """With one inner step the checkpoint lies between a measured step and the one after."""
    changes = {
        "model.alignment": {"every": 5, "compare": ["torch.optim.Adam", "dpinn.optim.SOAP"]},
        "data.inner_steps": inner,
    }
    stop = 11 if inner == 1 else 10
    whole, broken = workplace(), workplace()
    assert whole("fit", "--config", whole.config(changes)).returncode == 0
    config = broken.config(changes | {"tracking.checkpoint_every": stop})
    assert (
        broken(
            "fit",
            "--config",
            config,
            "--trainer.max_steps",
            15,
        ).returncode
        == 0
    )
    assert broken("fit", "--resume", "--trainer.max_steps", 20).returncode == 0
    assert alignment_of(broken.run_folder()) == alignment_of(whole.run_folder())
    rows = (whole.run_folder() / "alignment.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 6, 11, 16]


RANDOM = """
import torch
from torch.optim import SGD

class Noisy(SGD):
    def step(self, closure=None):
        result = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.data += 1e-3 * torch.randn_like(p)
        return result
"""


def test_an_optimizer_that_draws_numbers_is_resumed_bitwise_and_not_disturbed(
    workplace: Any,
) -> None:
    noisy = {"class_path": "drawing.Noisy", "init_args": {"lr": 1.0e-4}}
    kron = ["pytorch_optimizer.Kron"]
    solutions = []
    for compare, parts in ((kron, [20]), ([], [20]), ([], [10, 20])):
        work = workplace()
        work.file("drawing.py", RANDOM)
        alignment = {"every": 5, "compare": compare}
        changes = {"model.optimizer": noisy, "model.alignment": alignment}
        config = ("--config", work.config(changes))
        for k, steps in enumerate(parts):
            arguments = ("--resume",) if k else config
            outcome = work("fit", *arguments, "--trainer.max_steps", steps)
            assert outcome.returncode == 0, outcome.stderr
        solutions.append(solution_of(work.run_folder()))
    for name, parameter in solutions[0].items():
        assert parameter.equal(solutions[1][name]), name
        assert parameter.equal(solutions[2][name]), name


@pytest.mark.parametrize(
    ("compared", "fragments"),
    [
        ("torch.optim.LBFGS", ["LBFGS", "cannot follow"]),
        ("torch.optim.Adagrad", ["Adagrad", "not known"]),
        ("torch.optim.Muon", ["model.alignment.compare", "2D"]),
    ],
)
def test_an_optimizer_that_cannot_be_compared_is_refused(
    compared: str, fragments: list[str], work: Any
) -> None:
    config = work.config({"model.alignment": {"every": 5, "compare": [compared]}})
    sentence = work("fit", "--config", config).sentence
    assert [f for f in fragments if f not in sentence] == [], sentence
    assert work.left == set()


def test_a_checkpoint_of_other_strategies_is_refused(work: Any) -> None:
    assert work("fit", "--config", work.config(), "--trainer.max_steps", 10).returncode == 0
    rising = ("--model.causal_tolerance", "dpinn.loss.RisingTolerance")
    sentence = work("fit", "--resume", "--trainer.max_steps", 20, *rising).sentence
    assert "another kind of model.causal_tolerance" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_alignment_on_several_ranks_is_that_of_one(ranks: int, workplace: Any) -> None:
    """From one checkpoint, so that roundoff has not grown yet; sharded SOAP included."""
    changes = DOUBLE | {
        "model.alignment": {"every": 5},
        "data": {"batch": 62, "chunks": 2, "inner_steps": 5, "points": {"ends": 5}},
        "trainer.max_steps": 10,
    }
    found = []
    for count in (1, ranks):
        work = workplace()
        assert work("fit", "--config", work.config(changes)).returncode == 0
        arguments = ("fit", "--resume", "--trainer.max_steps", 15, "--trainer.devices", count)
        for outcome in work.ranks(count, *arguments):
            assert outcome.returncode == 0, outcome.stderr
        found.append(alignment_of(work.run_folder())[11])
    one, several = found
    assert one.keys() == several.keys()
    assert "alignment/preconditioned" in one
    layers = one.pop("layers"), several.pop("layers")
    # The update after this step's has roundoff that the eigenbases have amplified.
    one.pop("alignment/update_inter"), several.pop("alignment/update_inter")
    one.pop("alignment/inter"), several.pop("alignment/inter")
    for name, score in one.items():
        assert several[name] == pytest.approx(score, rel=1e-12, abs=1e-12), name
    for layer, scores in layers[0].items():
        for name in ("intra", "preconditioned"):
            if name in scores:
                assert layers[1][layer][name] == pytest.approx(scores[name], abs=1e-11), layer
