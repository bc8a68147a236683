import pytest
import torch
from torch import nn

from dpinn.errors import DpinnError
from dpinn.optim import (
    SOAP,
    MuonWithAdamW,
    ScheduleFree,
    needs_closure,
    needs_second_backward,
    optimizer_class,
    optimizer_names,
)

LARGE_STEPS = {"Adadelta": 1.0, "LBFGS": 0.5}


def least_squares():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    inputs = torch.randn(32, 3, generator=generator)
    targets = torch.randn(32, 2, generator=generator)
    return network, lambda: (network(inputs) - targets).square().mean()


@pytest.mark.filterwarnings("ignore")  # torch_optimizer calls deprecated torch functions
@pytest.mark.parametrize("name", optimizer_names())
def test_every_listed_optimizer_lowers_a_loss(name):
    network, loss_of = least_squares()
    optimizer = optimizer_class(name)(network.parameters(), lr=LARGE_STEPS.get(name, 1e-2))
    start = loss_of().item()

    def closure():
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward(create_graph=needs_second_backward(optimizer))
        return loss

    for _ in range(20):
        if needs_closure(optimizer):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    assert loss_of().item() < 0.995 * start


def test_names_on_which_packages_conflict_are_torchs():
    for name in ("RAdam", "Adafactor"):
        assert optimizer_class(name) is getattr(torch.optim, name)


def test_ours_and_class_paths():
    assert optimizer_class("SOAP") is SOAP
    assert optimizer_class("Muon") is MuonWithAdamW
    assert optimizer_class("dpinn.optim.ScheduleFree") is ScheduleFree
    assert optimizer_class("torch.optim.Adam") is torch.optim.Adam


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("soap", "SOAP"),
        ("Adm", "Adam"),
        ("Shampo", "Shampoo"),
        ("dpinn.optim.Soap", "cannot be imported"),
        ("torch.optim.lr_scheduler.LambdaLR", "not a class of optimizers"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, hint):
    with pytest.raises(DpinnError, match=hint):
        optimizer_class(name)


def test_what_a_training_loop_must_know():
    parameters = [nn.Parameter(torch.zeros(2))]
    adahessian = optimizer_class("Adahessian")
    assert needs_second_backward(adahessian(parameters))
    assert needs_second_backward(ScheduleFree(parameters, adahessian))
    assert not needs_second_backward(SOAP(parameters))
    assert needs_closure(torch.optim.LBFGS(parameters))
    assert not needs_closure(SOAP(parameters))
