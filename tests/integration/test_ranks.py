"""Two ranks train as one does (invariant 2), over gloo in real processes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SGD = {
    "model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0e-3}},
    "model.weights": {"class_path": "dpinn.loss.GradientNormWeights", "init_args": {"every": 10}},
    "trainer": {"max_steps": 50, "precision": "64-true", "accelerator": "cpu"},
    # Neither the batch nor its chunks divide into two ranks.
    "data": {"batch": 63, "chunks": 3, "inner_steps": 1, "points": {"initial": 9, "ends": 5}},
    "tracking": {"log_every": 1, "evaluate_every": 50, "checkpoint_every": 25, "mlflow": False},
}


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_ranks_follow_the_trajectory_of_one(workplace: Any) -> None:
    runs = []
    for ranks in (1, 2):
        work = workplace()
        work.config(SGD)
        arguments = ("fit", "--config", "tiny.yaml", "--trainer.devices", ranks)
        if ranks == 1:
            outcome = work(*arguments)
        else:
            outcome = work.real(Path(sys.executable).with_name("dpinn"), *arguments)
        assert outcome.returncode == 0, outcome.stderr
        runs.append(work.run_folder())
    one, two = (rows_of(run) for run in runs)
    names = [k for k in one[0] if not k.startswith(("time/", "memory/"))]
    assert [row["step"] for row in two] == list(range(1, 51))
    for name in names:
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-12, abs=1e-12), name
    for a, b in zip(one, two, strict=True):
        for name in names:
            assert b[name] == pytest.approx(a[name], rel=1e-10, abs=1e-10), (a["step"], name)
    one, two = (torch.load(run / "checkpoints/last.ckpt")["solution"] for run in runs)
    for name, parameter in one.items():
        torch.testing.assert_close(two[name], parameter, rtol=1e-10, atol=1e-10)
