import copy
import io

import torch
from torch import nn

from dpinn.optim import MuonWithAdamW


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def train(optimizer, module, steps):
    for step in steps:
        optimizer.zero_grad()
        inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        (module(inputs) - inputs[:, :2].sin()).square().mean().backward()
        optimizer.step()


def test_matrices_step_as_torchs_muon_and_the_rest_as_adamw():
    ours, theirs = network(), network()
    optimizer = MuonWithAdamW(ours.parameters(), lr=0.01, weight_decay=0.1)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    others = [p for p in theirs.parameters() if p.ndim != 2]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.01, weight_decay=0.1)
    for step in range(5):
        train(optimizer, ours, [step])
        muon.zero_grad()
        train(adamw, theirs, [step])
        muon.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_resume_is_bitwise():
    module = network()
    optimizer = MuonWithAdamW(module.named_parameters(), lr=0.01)
    train(optimizer, module, range(4))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    resumed = copy.deepcopy(module)
    other = MuonWithAdamW(resumed.named_parameters(), lr=1.0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    train(optimizer, module, range(4, 8))
    train(other, resumed, range(4, 8))
    for one, two in zip(module.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_one_learning_rate_drives_both_rules():
    module = network()
    optimizer = MuonWithAdamW([{"params": list(module.parameters()), "weight_decay": 0.5}])
    assert [group["rule"] for group in optimizer.param_groups] == ["muon", "adamw"]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.5}
    before = copy.deepcopy(list(module.parameters()))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(optimizer, module, range(3))
    assert all(map(torch.equal, before, module.parameters()))


def test_a_network_without_matrices_has_adamw_alone():
    optimizer = MuonWithAdamW([nn.Parameter(torch.zeros(3))])
    assert [group["rule"] for group in optimizer.param_groups] == ["adamw"]
