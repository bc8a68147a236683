"""What two runs have in common that took the same course, and a run slow enough to strike at."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SLOW_WEIGHTS = """
import os, time
from dpinn.loss import GradientNormWeights

class SlowWeights(GradientNormWeights):
    \"\"\"Weights that take their time, so that a test can strike in the middle of a run.\"\"\"

    def due(self, step):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        return super().due(step)
"""


@dataclass
class Pair:
    """The same training twice: in one go, and killed and resumed."""

    whole: Path
    resumed: Path
    continued_from: int


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def values_of(run: Path) -> list[dict[str, float]]:
    """All metrics but those of the clock and the machine."""
    return [
        {k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))}
        for row in rows_of(run)
    ]


def different(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested values are not bitwise the same."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.equal(b)
        return [] if same else [path]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for k in a for d in different(a[k], b[k], f"{path}/{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in
                different(x, y, f"{path}/{i}")]  # fmt: skip
    return [] if type(a) is type(b) and a == b else [path]


def assert_same_run(pair: Pair) -> None:
    runs = (pair.whole, pair.resumed)
    checkpoints = [torch.load(run / "checkpoints/last.ckpt", "cpu") for run in runs]
    for part in ("global_step", "compiled", "state_dict", "optimizer_states", "solution", "course"):
        assert different(checkpoints[0].get(part), checkpoints[1].get(part), part) == []
    assert values_of(pair.whole) == values_of(pair.resumed)
    results = [json.loads((run / "evaluation.json").read_text()) for run in runs]
    for key in ("error/u", "residual/pde", "residual/ic", "steps"):
        assert results[0][key] == results[1][key]
