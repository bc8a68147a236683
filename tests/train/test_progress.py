"""What is shown of a training while it runs."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from dpinn.train import progress
from dpinn.train.progress import TrainingProgress


@pytest.mark.parametrize(
    ("shown", "numbers"),
    [
        ({}, ""),
        ({"loss": 0.25}, "loss 2.50e-01, "),
        ({"loss": 0.25, "error u": 1e-3}, "loss 2.50e-01, error u 1.00e-03, "),
    ],
)
def test_a_line_holds_what_is_known_and_nothing_empty(
    shown: dict[str, float],
    numbers: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    trainer: Any = SimpleNamespace(max_steps=10, global_step=0)
    module: Any = None
    bar = TrainingProgress()
    bar.on_train_start(trainer, module)
    bar.shown = shown
    trainer.global_step = 3
    bar.on_train_batch_end(trainer, module, None, None, 0)
    bar.on_train_end(trainer, module)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"step 3/10, {numbers}\d+\.\d steps/s, \d\d:\d\d left", line)
