"""What does not go together in a training, told before its first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from dpinn.errors import DpinnError

if TYPE_CHECKING:
    from dpinn.train.module import PINNTraining


def require_suitable_strategy(module: PINNTraining) -> None:
    """Refuse what cannot be done with gradient or parameters in parts, or with an engine.

    Raises:
        DpinnError: naming the key of the configuration.
    """
    parallelism = module.parallelism
    if module.stages is not None and not parallelism.renews_optimizer:
        raise DpinnError(
            "model.stages begins each stage with a new optimizer, which DeepSpeed's engine "
            "does not take; use trainer.strategy ddp"
        )
    if parallelism.gradient_is_whole:
        return
    compared = module.alignment is not None and module.alignment.compare
    for what, wanted in (("pseudo_time", module.pseudo_time), ("alignment.compare", compared)):
        if wanted:
            raise DpinnError(
                f"model.{what} needs the whole gradient and network on every rank; use "
                "trainer.strategy ddp or deepspeed_stage_0"
            )


def require_same_strategies(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse to go on with other loss strategies than those whose state was saved.

    Raises:
        DpinnError: naming the key of the configuration.
    """
    for part, key in (("objective.tol", "causal_tolerance"), ("pseudo_time.", "pseudo_time")):
        shapes = [
            {name: value.shape for name, value in state.items() if name.startswith(part)}
            for state in (saved, own)
        ]
        if shapes[0] != shapes[1]:
            raise DpinnError(
                f"the checkpoint was written with another kind of model.{key}; resume with the "
                "one that the run began with, or begin a new run"
            )
