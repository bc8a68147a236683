"""Optimizers for PINNs, usable in any PyTorch program."""

from dpinn.optim.muon import MuonWithAdamW
from dpinn.optim.registry import (
    needs_closure,
    needs_second_backward,
    optimizer_class,
    optimizer_names,
)
from dpinn.optim.schedule import WarmupExponentialDecay
from dpinn.optim.schedule_free import ScheduleFree
from dpinn.optim.soap import SOAP
from dpinn.optim.state import StateError

__all__ = [
    "SOAP",
    "MuonWithAdamW",
    "ScheduleFree",
    "StateError",
    "WarmupExponentialDecay",
    "needs_closure",
    "needs_second_backward",
    "optimizer_class",
    "optimizer_names",
]
