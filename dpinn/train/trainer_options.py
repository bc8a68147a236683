"""The options of Lightning's trainer that a training of dpinn does not have, and what it has."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from jsonargparse import Namespace

from dpinn.errors import DpinnError

PRECISIONS = ("32-true", "64-true", "32", "64", 32, 64)
"""Half precisions do not resolve a PDE's residual."""

MAX_TIME = re.compile(r"\d+:\d\d:\d\d:\d\d")

STEPS = "trainer.max_steps says how long to train"
ERRORS = (
    "there are no validation batches: tracking.evaluate_every says when errors against the "
    "reference are measured"
)


class Refusal(NamedTuple):
    """The values that an option may have, and what to use instead of others."""

    allowed: tuple[Any, ...]
    instead: str


REFUSALS = {
    "accumulate_grad_batches": Refusal((1,), "a step takes one batch: set data.batch"),
    "gradient_clip_val": Refusal((None,), "use model.clip"),
    "gradient_clip_algorithm": Refusal((None,), "use model.clip"),
    "max_epochs": Refusal((None, -1), f"there are no epochs: {STEPS}"),
    "min_epochs": Refusal((None,), f"there are no epochs: {STEPS}"),
    "min_steps": Refusal((None,), STEPS),
    "limit_train_batches": Refusal((None,), f"new points are drawn without end: {STEPS}"),
    "overfit_batches": Refusal((0.0,), f"new points are drawn without end: {STEPS}"),
    "reload_dataloaders_every_n_epochs": Refusal((0,), "new points are drawn without end"),
    "fast_dev_run": Refusal(
        (False,),
        "for a short trial use a small trainer.max_steps with --tracking.mlflow false",
    ),
    "limit_val_batches": Refusal((None,), ERRORS),
    "limit_test_batches": Refusal((None,), "use `dpinn evaluate`"),
    "limit_predict_batches": Refusal((None,), "use `dpinn evaluate`"),
    "val_check_interval": Refusal((None,), ERRORS),
    "check_val_every_n_epoch": Refusal((None, 1), ERRORS),
    "num_sanity_val_steps": Refusal((None,), ERRORS),
    "log_every_n_steps": Refusal((None,), "use tracking.log_every"),
    "logger": Refusal((None, False), "use tracking.mlflow and tracking.experiment"),
    "enable_checkpointing": Refusal((None, False), "use tracking.checkpoint_every"),
    "profiler": Refusal((None,), "`dpinn bench step` times the parts of a step"),
    "barebones": Refusal((False,), "`dpinn bench step` times a step without logging"),
    "sync_batchnorm": Refusal((False,), "batch normalization would couple points of a batch"),
}


def require_allowed(trainer: Namespace) -> None:
    """Refuse options of Lightning's trainer that a PINN must not have.

    Raises:
        DpinnError: saying what to use instead.
    """
    if trainer.precision is not None and trainer.precision not in PRECISIONS:
        raise DpinnError(
            f"trainer.precision is {trainer.precision}; a PINN needs 32-true or 64-true"
        )
    for name, (allowed, instead) in REFUSALS.items():
        value = trainer.get(name, allowed[0])
        if not any(value is a or (value == a and type(value) is type(a)) for a in allowed):
            shown = value if isinstance(value, str | int | float) else "set"
            raise DpinnError(f"trainer.{name} is {shown}, which is not used here; {instead}")
    if isinstance(trainer.max_time, str) and not MAX_TIME.fullmatch(trainer.max_time):
        raise DpinnError(
            f"trainer.max_time {trainer.max_time!r} must be days:hours:minutes:seconds, such as "
            "00:01:30:00"
        )
    if str(trainer.devices) == "0" or trainer.num_nodes < 1:
        raise DpinnError(
            f"trainer.devices is {trainer.devices} and trainer.num_nodes {trainer.num_nodes}; "
            "both must be at least 1, or devices -1 for all of this machine"
        )
