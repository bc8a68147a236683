"""How the loss is compiled."""

from typing import Any

import pytest
import torch
from torch import nn

from dpinn.train.compiling import compile_loss


class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, points: Any) -> torch.Tensor:
        return self.weight.square()


@pytest.mark.skipif(
    not hasattr(torch._inductor.config, "deterministic"), reason="needs torch 2.10 or newer"
)
def test_kernels_are_not_chosen_by_timing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_really, seen = torch.compile, []

    def compile_eagerly(module: nn.Module, *, options: Any, **others: Any) -> nn.Module:
        compile_really(module, options=options, **others)  # refuses an option that it does not know
        seen.append(options)
        return module

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    assert compile_loss(Sums(), {"interior": torch.zeros(1)}) is not None
    assert seen == [{"deterministic": True}]
