"""Optimizers that follow a training without moving anything, so that they can be compared."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from dpinn.errors import DpinnError, DpinnWarning
from dpinn.optim import (
    ScheduleFree,
    needs_closure,
    needs_second_backward,
    precondition,
    soap_of,
)

KEY = "model.alignment.compare"


class Follower:
    """An optimizer over copies of the parameters, which sees gradients and moves nothing.

    Args:
        factory: makes it from named parameters.
        named: the parameters that it follows.

    Raises:
        DpinnError: it cannot follow, or has no preconditioner that is known.
    """

    def __init__(self, factory: OptimizerCallable, named: Sequence[tuple[str, Tensor]]):
        copies = [(name, torch.nn.Parameter(p.detach().clone())) for name, p in named]
        self.parameters: list[Tensor] = [p for _, p in copies]
        try:
            self.optimizer = factory(copies)
        except ValueError as error:
            raise DpinnError(f"{KEY}: {error}") from error
        self.label = label_of(self.optimizer)
        if needs_closure(self.optimizer) or needs_second_backward(self.optimizer):
            raise DpinnError(
                f"{KEY}: {self.label} evaluates the loss itself, so it cannot follow a training; "
                "leave it out"
            )
        if precondition(self.optimizer, {}) is None:
            raise DpinnError(
                f"{KEY}: the preconditioner of {self.label} is not known; "
                "dpinn.optim.precondition says which are"
            )
        self._hold_still()

    def see(self, parameters: Iterable[Tensor]) -> None:
        """Take copies of these parameters and of their gradients."""
        for copy, parameter in zip(self.parameters, parameters, strict=True):
            copy.data.copy_(parameter.detach())
            copy.grad = None if parameter.grad is None else parameter.grad.detach().clone()

    def step(self) -> None:
        """Take the gradients into the state, and let go of them."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state."""
        self.optimizer.load_state_dict(dict(state))
        self._hold_still()

    def _hold_still(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0


class Followers:
    """Several followers by label; one that fails is left behind, and the training goes on."""

    def __init__(
        self, factories: Iterable[OptimizerCallable], named: Sequence[tuple[str, Tensor]]
    ) -> None:
        self.by_label: dict[str, Follower] = {}
        for factory in factories:
            follower = Follower(factory, named)
            if follower.label in self.by_label:
                raise DpinnError(f"{KEY} has {follower.label} twice; name each class once")
            self.by_label[follower.label] = follower

    def see(self, parameters: Sequence[Tensor]) -> None:
        """Show them the parameters and gradients of a step."""
        for follower in self.by_label.values():
            follower.see(parameters)

    def step(self, step: int) -> None:
        """Let them take the step that was taken."""
        for label, follower in list(self.by_label.items()):
            try:
                follower.step()
            except (torch.linalg.LinAlgError, DpinnError) as error:
                del self.by_label[label]
                warnings.warn(
                    f"{label} of {KEY} is left behind at step {step}: {error}", DpinnWarning, 2
                )

    def settle(self) -> None:
        """Wait for what their optimizers may be doing on streams of their own."""
        for follower in self.by_label.values():
            soap = soap_of(follower.optimizer)
            if soap is not None:
                soap.settle()

    def state_dict(self) -> dict[str, Any]:
        """The optimizers' states by label."""
        return {k: follower.optimizer.state_dict() for k, follower in self.by_label.items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Go on with saved states; an optimizer that has none starts anew."""
        for label, follower in self.by_label.items():
            if label in states:
                follower.load(states[label])


def label_of(optimizer: Optimizer) -> str:
    """``SOAP``, or ``ScheduleFree.SOAP``."""
    name = type(optimizer).__name__
    if isinstance(optimizer, ScheduleFree):
        return f"{name}.{label_of(optimizer.base)}"  # a name that MLflow takes
    return name
