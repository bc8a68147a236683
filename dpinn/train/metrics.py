"""What a training says of its last step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dpinn.optim import soap_of

if TYPE_CHECKING:
    from dpinn.train.module import PINNTraining


def metrics_of(module: PINNTraining) -> dict[str, float]:
    """What a log line holds of the last step, by path name; one transfer from the device."""
    objective, stepper, marching = module.objective, module.stepper, module.pseudo_time
    tolerance = objective.causality.tolerance(objective.tolerance_state)
    steps = torch.zeros(0) if marching is None else 1 / marching.inverse_tau.double()
    numbers = torch.cat(
        [
            stepper.terms.double(),
            objective.term_weights.double(),
            torch.stack(
                [
                    *(stepper.total.double(), stepper.norm.double()),
                    *(objective.causal.amin().double(), tolerance.double()),
                ]
            ),
            steps.to(module.device),
        ]
    ).tolist()
    terms = module.problem.terms
    keys = [f"{kind}/{term}" for kind in ("loss", "weight") for term in terms]
    keys += ["loss/total", "gradient/norm", "causal/min", "causal/tolerance"]
    keys += [] if marching is None else [f"pseudo_time/{term}" for term in marching.terms]
    logged = dict(zip(keys, numbers, strict=True))
    logged["learning_rate"] = float(module.optimizer.param_groups[0]["lr"])
    soap = soap_of(module.optimizer)
    if soap is not None:
        counts = {f"optimizer/{k}": float(v) for k, v in soap.counters.items() if k != "steps"}
        logged |= counts | {"memory/optimizer_gb": soap.state_bytes / 1e9}
    if module.course.stage is not None and len(module.course.plan) > 1:
        logged["stage"] = float(module.course.stage.index)
    return logged
