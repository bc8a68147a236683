"""Schedule-free averaging around any optimizer (arXiv 2405.15682)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, overload

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import LBFGS, Optimizer

from dpinn.optim.state import (
    Key,
    StateError,
    check_state_dict,
    load_groups,
    pack_groups,
    parameter_keys,
    require_same_keys,
)
from dpinn.optim.whole import require_whole_parameters


@dataclass
class _Average:
    """How far one group's weighted average of the ``z`` has come."""

    steps: int = 0
    largest_lr: float = 0.0
    weight_sum: float = 0.0

    def next_coefficient(self, lr: float, r: float, weight_lr_power: float) -> float:
        """Count one step more; return the share ``c`` of the new ``z`` in ``x``."""
        self.steps += 1
        self.largest_lr = max(self.largest_lr, float(lr))
        weight = self.steps**r * self.largest_lr**weight_lr_power
        self.weight_sum += weight
        # A warmup that starts at learning rate 0 has moved nothing and weighs nothing.
        return weight / self.weight_sum if self.weight_sum else 0.0


class ScheduleFree(Optimizer):
    """Schedule-free learning around a base optimizer.

    Three points: the gradient is taken at ``y``, the base optimizer moves ``z`` with it, and ``x``,
    the average of the ``z``, is the solution (arXiv 2405.15682, equations 4-6)::

        z <- base(z, gradient at y)
        x <- (1 - c) x + c z,    c = w / (sum of all w),    w = t^r max(lr so far)^weight_lr_power
        y <- (1 - beta) z + beta x

    The parameters hold ``y`` while training; ``z`` and ``x`` are state. ``evaluation()`` puts ``x``
    in their place and later ``y`` back, both by copy, so that looking at the solution never changes
    a run. The average takes the place of a first moment: give the base none, or little. A parameter
    without a gradient is left alone.

    ``param_groups`` are the base's own, so setting ``group["lr"]`` sets the base's learning rate.

    Args:
        params: as the base takes them.
        base: makes the base optimizer, for example ``functools.partial(SOAP, lr=3e-3)``.
        beta: where ``y`` lies between ``z`` (0) and ``x`` (1).
        r: power of the step count in the averaging weights.
        weight_lr_power: power of the largest learning rate so far in them.

    Raises:
        ValueError: beta outside [0, 1), or a base that must evaluate the loss itself (L-BFGS).
        DpinnError: parameters that are divided over ranks (FSDP2's ``fully_shard``).
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[[Iterable[Any]], Optimizer],
        beta: float = 0.9,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"ScheduleFree's beta is {beta}; it must be at least 0 and below 1")
        self.base = base(params)
        if isinstance(self.base, LBFGS):
            raise ValueError("ScheduleFree cannot wrap LBFGS, which evaluates the loss at z itself")
        self.beta = beta
        self.r = r
        self.weight_lr_power = weight_lr_power
        self.training = True
        self._averages: list[_Average] = []
        super().__init__(self.base.param_groups, self.base.defaults)
        self.param_groups = self.base.param_groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters to the base, and an average of their own."""
        # Optimizer.__init__ comes here with the base's own groups.
        if not any(param_group is group for group in self.base.param_groups):
            self.base.add_param_group(param_group)
        require_whole_parameters(
            "ScheduleFree", self.base.param_groups[len(self._averages)]["params"]
        )
        self._averages.append(_Average())

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    # Its averaging weights change in every step, which would be compiled again and again.
    @_disable_dynamo
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step from the gradients at ``y``, after ``closure`` if one is given."""
        if not self.training:
            raise RuntimeError("ScheduleFree.step at the average x; call train() before it")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [
            [parameter for parameter in group["params"] if parameter.grad is not None]
            for group in self.param_groups
        ]
        everything = [parameter for parameters in moving for parameter in parameters]
        for parameter in everything:
            if parameter not in self.state:
                self.state[parameter] = {
                    "z": parameter.detach().clone(),
                    "x": parameter.detach().clone(),
                }
        _copy(everything, self._points(everything, "z"))
        skipped = self._skipped_steps
        try:
            self.base.step()
        except BaseException:
            self._return_to_y(everything)
            raise
        if self._skipped_steps > skipped:
            self._return_to_y(everything)
            return loss
        _copy(self._points(everything, "z"), everything)
        groups = zip(self.param_groups, self._averages, moving, strict=True)
        for group, average, parameters in groups:
            coefficient = average.next_coefficient(group["lr"], self.r, self.weight_lr_power)
            if parameters:
                x, z = self._points(parameters, "x"), self._points(parameters, "z")
                torch._foreach_lerp_(x, z, coefficient)
                _copy(parameters, torch._foreach_lerp(z, x, self.beta))
        return loss

    @torch.no_grad()
    def eval(self) -> None:
        """Put the average ``x`` into the parameters; ``y`` is kept aside."""
        if not self.training:
            return
        parameters = list(self.state)
        for parameter in parameters:
            self.state[parameter]["y"] = parameter.detach().clone()
        _copy(parameters, self._points(parameters, "x"))
        self.training = False

    @torch.no_grad()
    def train(self) -> None:
        """Put ``y`` back into the parameters."""
        if self.training:
            return
        _copy(list(self.state), [state.pop("y") for state in self.state.values()])
        self.training = True

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """The parameters are the average ``x`` inside, and what they were again after."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            if was_training:
                self.train()

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Bring a base's divided state to one rank; the points are whole on every rank."""
        if hasattr(self.base, "consolidate_state_dict"):
            self.base.consolidate_state_dict(to)

    def state_dict(self) -> dict[str, Any]:
        """Points by parameter key, the averages, and the base's own state dictionary."""
        keys = parameter_keys(self.param_groups)
        return {
            "state": {key: dict(self.state.get(p, {})) for p, key in keys.items()},
            "param_groups": pack_groups(self.param_groups),
            "averages": [asdict(average) for average in self._averages],
            "training": self.training,
            "base": self.base.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a saved state; the parameters must be loaded with the ones saved beside it.

        Raises:
            StateError: parameters, shapes or entries differ.
        """
        entries = ("state", "param_groups", "averages", "training", "base")
        check_state_dict(state_dict, self.param_groups, entries)
        points = {"z", "x"} if state_dict["training"] else {"z", "x", "y"}
        keys = parameter_keys(self.param_groups)
        require_same_keys("parameters", state_dict["state"], list(keys.values()))
        loaded = {
            parameter: _loaded_points(parameter, key, saved, points)
            for parameter, key in keys.items()
            if (saved := state_dict["state"][key])
        }
        averages = [_loaded_average(saved) for saved in state_dict["averages"]]
        if len(averages) != len(self.param_groups):
            raise StateError(
                f"the optimizer state has {len(averages)} averages for "
                f"{len(self.param_groups)} parameter groups; it is incomplete"
            )
        self.base.load_state_dict(state_dict["base"])
        load_groups(state_dict["param_groups"], self.base.param_groups)
        # torch's own optimizers replace their groups when they load.
        self.param_groups = self.base.param_groups
        self.state.clear()
        self.state.update(loaded)
        self._averages = averages
        self.training = bool(state_dict["training"])

    def __getstate__(self) -> dict[str, Any]:
        own = ("base", "beta", "r", "weight_lr_power", "training", "_averages")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    @property
    def _skipped_steps(self) -> int:
        """Steps that the base did not take, as SOAP does at gradients that are not finite."""
        return int(getattr(self.base, "counters", {}).get("skipped_steps", 0))

    def _return_to_y(self, parameters: list[Tensor]) -> None:
        """Put the parameters back where the gradient was taken, to the bit."""
        if parameters:
            z, x = self._points(parameters, "z"), self._points(parameters, "x")
            _copy(parameters, torch._foreach_lerp(z, x, self.beta))

    def _points(self, parameters: Iterable[Tensor], name: str) -> list[Tensor]:
        return [self.state[parameter][name] for parameter in parameters]


def _copy(targets: list[Tensor], sources: Iterable[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, list(sources))


def _loaded_points(
    parameter: Tensor, key: Key, saved: Mapping[str, Tensor], points: set[str]
) -> dict[str, Tensor]:
    require_same_keys(f"state of parameter {key!r}", saved, points)
    for name, point in saved.items():
        if point.shape != parameter.shape:
            raise StateError(
                f"the optimizer state's {name} of parameter {key!r} has shape "
                f"{tuple(point.shape)} and here it must be {tuple(parameter.shape)}; "
                "load it into the model that it was saved from"
            )
    return {name: point.to(parameter.device, copy=True) for name, point in saved.items()}


def _loaded_average(saved: Mapping[str, Any]) -> _Average:
    require_same_keys("averages", saved, [field.name for field in fields(_Average)])
    return _Average(**saved)
