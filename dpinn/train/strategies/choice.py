"""Which strategy a configuration asks for."""

from __future__ import annotations

from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy

from dpinn.errors import DpinnError
from dpinn.train.strategies.deepspeed import DeepSpeedStrategy, Stage
from dpinn.train.strategies.replicated import ReplicatedStrategy

STAGES: dict[str, Stage] = {
    "deepspeed_stage_0": 0,
    "deepspeed_stage_1": 1,
    "deepspeed_stage_2": 2,
    "deepspeed_stage_3": 3,
}

REPLICATED = ("ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
"""Lightning's names for what ReplicatedStrategy does, which knows no unused parameters."""


def choose_strategy(
    given: str | Strategy, several: bool, by_deepspeed: bool = False
) -> str | Strategy:
    """Our strategy for a name, a class path that was instantiated, or ``auto``.

    Args:
        given: ``trainer.strategy``.
        several: whether there is more than one rank.
        by_deepspeed: whether DeepSpeed's launcher has started the ranks; then ``auto`` trains
            through its engine.

    Raises:
        DpinnError: it would train otherwise than asked for, for example average the gradients
            that `PINNTraining` adds up.
    """
    if isinstance(given, Strategy):
        if isinstance(given, (ReplicatedStrategy, SingleDeviceStrategy)):
            return given
        ours = "DeepSpeedStrategy" if "DeepSpeed" in type(given).__name__ else "ReplicatedStrategy"
        raise DpinnError(
            f"trainer.strategy is {type(given).__module__}.{type(given).__name__}, which averages "
            "or clips gradients on its own; use a name, or the class path "
            f"dpinn.train.strategies.{ours}"
        )
    if given == "auto" and by_deepspeed:
        return DeepSpeedStrategy(stage=0)
    if given == "auto":
        return ReplicatedStrategy() if several else given
    if given in REPLICATED:
        return ReplicatedStrategy()
    if given in STAGES:
        return DeepSpeedStrategy(stage=STAGES[given])
    raise DpinnError(
        f"trainer.strategy is {given!r}; it must be auto, ddp, {', '.join(STAGES)}, or the class "
        "path of a strategy in dpinn.train.strategies"
    )
