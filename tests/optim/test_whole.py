"""Optimizers of ours refuse parameters of which each rank holds a part, and run uncompiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from dpinn import DpinnError
from dpinn.optim import SOAP, MuonWithAdamW, ScheduleFree

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SOAP": SOAP,
    "Muon": MuonWithAdamW,
    "ScheduleFree": partial(ScheduleFree, base=torch.optim.AdamW),
}


def build_on_fully_sharded(size: int, name: str, named: bool) -> str:
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))
    fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    try:
        OPTIMIZERS[name](model.named_parameters() if named else model.parameters())
    except DpinnError as error:
        return str(error)
    return "built"


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("size", [1, 2])
def test_fully_sharded_parameters_are_refused(
    size: int, name: str, on_ranks: Callable[..., list[Any]]
) -> None:
    for named in (False, True):
        for sentence in on_ranks(size, build_on_fully_sharded, size, name, named):
            assert sentence.startswith(f"{name} needs whole parameters and was given DTensors")
            assert "DistributedDataParallel" in sentence


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_inside_a_compiled_function_runs_as_it_is(name: str) -> None:
    def refuse(graph: Any, inputs: Any) -> Any:
        raise AssertionError("the step was compiled")

    def trajectory(compiled: bool) -> list[torch.nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in ((6, 5), (4,))]
        optimizer = OPTIMIZERS[name](weights)
        step = torch.compile(optimizer.step, backend=refuse) if compiled else optimizer.step
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            step()
        return weights

    for eager, compiled in zip(trajectory(False), trajectory(True), strict=True):
        assert eager.equal(compiled)
