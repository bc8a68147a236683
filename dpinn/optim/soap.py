"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (arXiv 2409.11321)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from dpinn.optim.eigenbasis import REFRESH_METHODS
from dpinn.optim.slab import Slab, gradients_of, load_unit, merge, start_slab
from dpinn.optim.state import (
    Key,
    check_state_dict,
    load_groups,
    pack_groups,
    parameter_keys,
    require_same_keys,
)
from dpinn.optim.units import Unit, unit_of


class SOAP(Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner.

    For a matrix parameter ``W`` with gradient ``G``, factors ``L ~ E[G G']``, ``R ~ E[G' G]`` and
    their eigenbases ``Q_L``, ``Q_R``::

        G~ = Q_L' G Q_R
        M  = b1 M + (1 - b1) G~,    V = b2 V + (1 - b2) G~^2
        W -= lr sqrt(1 - b2^t) / (1 - b1^t)  Q_L [M / (sqrt(V) + eps)] Q_R'
        W -= lr weight_decay W
        L  = b L + (1 - b) G G',    R = b R + (1 - b) G' G,    b = shampoo_beta or b2
        every `precondition_frequency` steps: Q_L, Q_R move toward the eigenvectors of L, R

    A parameter's first gradient sets its factors and bases and moves nothing. A parameter without
    a gradient is left as it is, its step count too.

    Args:
        params: parameters, groups, or ``named_parameters()``; with names the state is keyed by
            name, else by position.
        lr: learning rate.
        betas: decay rates of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled weight decay.
        precondition_frequency: steps between two refreshes of the bases.
        precondition_1d: whether a 1-D parameter gets a basis as an ``m x 1`` matrix.
        max_precond_dim: a larger dimension is not rotated.
        shampoo_beta: decay rate of the factors; the second beta if None.
        refresh: ``"qr"`` (one step of orthogonal iteration) or ``"eigh"``.

    Raises:
        ValueError: a hyperparameter out of range, complex parameters, a name given twice.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        precondition_frequency: int = 2,
        precondition_1d: bool = True,
        max_precond_dim: int = 10000,
        shampoo_beta: float | None = None,
        refresh: str = "qr",
    ) -> None:
        # One list of slabs a group. Their stacks are the state; `Optimizer.state` stays empty.
        self._slabs: list[list[Slab]] = []
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "precondition_frequency": precondition_frequency,
            "precondition_1d": precondition_1d,
            "max_precond_dim": max_precond_dim,
            "shampoo_beta": shampoo_beta,
            "refresh": refresh,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with their own hyperparameters where given."""
        _check_hyperparameters({**self.defaults, **param_group})
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        for parameter in added["params"]:
            if parameter.is_complex():
                raise ValueError("SOAP takes real parameters; give torch.view_as_real(parameter)")
        keys = self._keys()
        if len(keys) != len(set(keys.values())):
            raise ValueError("SOAP got two parameters of the same name; names must be unique")
        self._slabs.append([])

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step from the gradients in ``.grad``, after ``closure`` if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            self._step_group(index, group)
        return loss

    def _step_group(self, index: int, group: dict[str, Any]) -> None:
        active, idle = _split_by_gradient(self._slabs[index])
        started = self._start_newcomers(index, group)
        parameters: list[Tensor] = []
        directions: list[Tensor] = []
        beta = _factor_beta(group)
        for slab in active:
            gradient = slab.stack(gradients_of(slab.parameters))
            direction = slab.update_moments(gradient, group["betas"], group["eps"])
            slab.update_factors(gradient, beta)
            if slab.step % group["precondition_frequency"] == 0:
                slab.refresh(group["refresh"])
            parameters += slab.parameters
            directions += [
                matrix.view(parameter.shape).to(parameter.dtype)
                for matrix, parameter in zip(direction.unbind(), slab.parameters, strict=True)
            ]
        if parameters:
            torch._foreach_add_(parameters, directions, alpha=-group["lr"])
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        # With one step for all, slabs of unlike kind stay unlike.
        if idle or started:
            self._slabs[index] = merge([*active, *idle, *started])

    def _start_newcomers(self, index: int, group: dict[str, Any]) -> list[Slab]:
        """Slabs for the parameters that have their first gradient now."""
        placed = {parameter for slab in self._slabs[index] for parameter in slab.parameters}
        newcomers = [
            parameter
            for parameter in group["params"]
            if parameter.grad is not None and parameter not in placed and parameter.numel()
        ]
        if not newcomers:
            return []
        forms: dict[tuple[Any, ...], tuple[list[Unit], list[Tensor]]] = {}
        units = self._units(group)
        for parameter in newcomers:
            if parameter.grad.is_sparse:
                raise ValueError("SOAP takes dense gradients; use sparse=False in the embedding")
            unit = units[parameter]
            form = (*unit.state_shapes().items(), unit.dtype, unit.device)
            same_units, same_parameters = forms.setdefault(form, ([], []))
            same_units.append(unit)
            same_parameters.append(parameter)
        return [start_slab(*members, _factor_beta(group)) for members in forms.values()]

    @overload
    def precondition(self, gradients: Mapping[Key, Tensor]) -> dict[Key, Tensor]: ...

    @overload
    def precondition(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]: ...

    @torch.no_grad()
    def precondition(
        self, gradients: Mapping[Key, Tensor] | Sequence[Tensor | None]
    ) -> dict[Key, Tensor] | list[Tensor | None]:
        """What the current bases and scaling make of other gradients; no state changes.

        Each gradient becomes ``sqrt(1 - b2^t) Q_L [(Q_L' G Q_R) / (sqrt(V) + eps)] Q_R'``: the
        step's direction (the change of ``W`` over ``-lr``, weight decay apart) if ``G`` were the
        bias-corrected first moment. A parameter that has not made a step yet has no scaling: its
        gradient comes back as it is.

        Args:
            gradients: either one tensor or None a parameter, in the order of the groups, or a
                mapping from some parameters' keys (name, or position) to tensors.

        Returns:
            A list or a dict, as given.
        """
        keys = self._keys()
        if isinstance(gradients, Mapping):
            unknown = [key for key in gradients if key not in set(keys.values())]
            if unknown:
                raise ValueError(f"no parameter is called {unknown[0]!r}")
            given = dict(gradients)
        elif len(gradients) != len(keys):
            raise ValueError(f"{len(gradients)} gradients were given for {len(keys)} parameters")
        else:
            pairs = zip(keys.values(), gradients, strict=True)
            given = {key: gradient for key, gradient in pairs if gradient is not None}
        result = dict(given)
        for group, slabs in zip(self.param_groups, self._slabs, strict=True):
            for slab in slabs:
                chosen = [i for i, unit in enumerate(slab.units) if unit.key in given]
                if not chosen:
                    continue
                part = slab if len(chosen) == len(slab.units) else slab.select(chosen)
                stacked = part.stack(given[unit.key] for unit in part.units)
                scaled = part.precondition(stacked, group["betas"][1], group["eps"])
                for unit, matrix in zip(part.units, scaled.unbind(), strict=True):
                    like = given[unit.key]
                    result[unit.key] = matrix.reshape(like.shape).to(like.dtype)
        if isinstance(gradients, Mapping):
            return result
        return [result.get(key) for key in keys.values()]

    def state_dict(self) -> dict[str, Any]:
        """Groups and state by parameter key; a parameter without a gradient so far has ``{}``.

        Like every torch optimizer's, the tensors are the live ones.
        """
        state: dict[Key, dict[str, Any]] = {key: {} for key in self._keys().values()}
        for slabs in self._slabs:
            for slab in slabs:
                for index, unit in enumerate(slab.units):
                    state[unit.key] = slab.unit_state(index)
        return {"state": state, "param_groups": pack_groups(self.param_groups)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a saved state whole, in the dtypes in which it was saved.

        Raises:
            StateError: parameters, shapes or options differ; nothing has been changed then.
        """
        check_state_dict(state_dict, self.param_groups)
        saved_groups, saved_state = state_dict["param_groups"], state_dict["state"]
        require_same_keys("parameters", saved_state, list(self._keys().values()))
        loaded: list[list[Slab]] = []
        for group, saved_group in zip(self.param_groups, saved_groups, strict=True):
            singles: list[Slab] = []
            for parameter, unit in self._units({**saved_group, "params": group["params"]}).items():
                if entry := saved_state[unit.key]:
                    singles.append(load_unit(parameter, unit, entry))
            loaded.append(merge(singles))
        load_groups(saved_groups, self.param_groups)
        self._slabs = loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_slabs": self._slabs}

    def _keys(self) -> dict[Tensor, Key]:
        return parameter_keys(self.param_groups)

    def _units(self, group: Mapping[str, Any]) -> dict[Tensor, Unit]:
        """The units of a group's parameters under that group's options."""
        keys = self._keys()
        positions = {parameter: position for position, parameter in enumerate(keys)}
        return {
            parameter: unit_of(
                parameter,
                keys[parameter],
                positions[parameter],
                precondition_1d=group["precondition_1d"],
                max_precond_dim=group["max_precond_dim"],
            )
            for parameter in group["params"]
        }


def _split_by_gradient(slabs: list[Slab]) -> tuple[list[Slab], list[Slab]]:
    """Slabs whose units all have a gradient, and slabs whose units all have none."""
    active: list[Slab] = []
    idle: list[Slab] = []
    for slab in slabs:
        having = [i for i, p in enumerate(slab.parameters) if p.grad is not None]
        if len(having) == len(slab.units):
            active.append(slab)
        elif not having:
            idle.append(slab)
        else:
            active.append(slab.select(having))
            idle.append(slab.select(sorted(set(range(len(slab.units))) - set(having))))
    return active, idle


def _factor_beta(group: Mapping[str, Any]) -> float:
    beta = group["shampoo_beta"]
    return float(group["betas"][1] if beta is None else beta)


def _check_hyperparameters(options: Mapping[str, Any]) -> None:
    rates = {"betas[0]": options["betas"][0], "betas[1]": options["betas"][1]}
    if options["shampoo_beta"] is not None:
        rates["shampoo_beta"] = options["shampoo_beta"]
    for name, value in rates.items():
        if not 0 <= value < 1:
            raise ValueError(f"SOAP's {name} is {value}; it must be at least 0 and below 1")
    for name in ("lr", "weight_decay"):
        if not options[name] >= 0:
            raise ValueError(f"SOAP's {name} is {options[name]}; it must not be negative")
    if not options["eps"] > 0:
        raise ValueError(f"SOAP's eps is {options['eps']}; it must be positive")
    for name in ("precondition_frequency", "max_precond_dim"):
        if not (isinstance(options[name], int) and options[name] >= 1):
            raise ValueError(f"SOAP's {name} is {options[name]}; it must be an integer from 1 on")
    if options["refresh"] not in REFRESH_METHODS:
        allowed = " or ".join(repr(name) for name in REFRESH_METHODS)
        raise ValueError(f"SOAP's refresh is {options['refresh']!r}; it must be {allowed}")
