"""Muon for the matrices of a network and AdamW for everything else, as one optimizer."""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.optimizer import ParamsT

from dpinn.optim.whole import require_whole_parameters


class MuonWithAdamW(Optimizer):
    """Muon (orthogonalised momentum) on 2-D parameters, AdamW on the others.

    Muon's update is scaled to the root mean square of AdamW's, so one learning rate and one
    schedule serve both ("Muon is scalable for LLM training", arXiv 2502.16982). The arithmetic is
    torch's own. Every given group becomes up to two, one a rule, told by their entry ``"rule"``.

    Args:
        params: parameters, groups, or ``named_parameters()``.
        lr: learning rate of both rules.
        weight_decay: decoupled weight decay of both rules.
        momentum: Muon's momentum.
        nesterov: whether Muon looks ahead along its momentum.
        ns_steps: Newton-Schulz iterations of the orthogonalisation.
        betas: AdamW's decay rates.
        eps: AdamW's epsilon.

    Raises:
        DpinnError: parameters that are divided over ranks (FSDP2's ``fully_shard``).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        # Two optimizers without parameters of their own: each step lends them groups and state.
        self._rules: dict[str, Optimizer] = {
            "muon": Muon(
                [torch.zeros(1, 1)],
                lr=lr,
                weight_decay=weight_decay,
                momentum=momentum,
                nesterov=nesterov,
                ns_steps=ns_steps,
                adjust_lr_fn="match_rms_adamw",
            ),
            "adamw": AdamW(
                [torch.zeros(1)], lr=lr, weight_decay=weight_decay, betas=betas, eps=eps
            ),
        }
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, parted by rule; options in it override those of the rule that has them."""
        listed = list(param_group["params"])
        require_whole_parameters("Muon", map(_parameter_of, listed))
        options = {name: value for name, value in param_group.items() if name != "params"}
        for rule, optimizer in self._rules.items():
            members = [entry for entry in listed if _rule_of(entry) == rule]
            if members:
                super().add_param_group(
                    {**optimizer.defaults, **options, "rule": rule, "params": members}
                )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    # Compiled, the orthogonalisation in bfloat16 comes to other digits.
    @_disable_dynamo
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both rules, after ``closure`` if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for rule, optimizer in self._rules.items():
            optimizer.param_groups = [g for g in self.param_groups if g["rule"] == rule]
            optimizer.state = self.state
            optimizer.step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_rules": self._rules}


def _rule_of(entry: Any) -> str:
    return "muon" if _parameter_of(entry).ndim == 2 else "adamw"


def _parameter_of(entry: Any) -> Tensor:
    parameter: Tensor = entry[1] if isinstance(entry, tuple) else entry
    return parameter
