"""Options of Lightning's trainer that make no sense here."""

from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

from dpinn.errors import DpinnError
from dpinn.train.trainer_options import REFUSALS, require_allowed


def options(**changed: Any) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer")
    return parser.parse_object({"trainer": changed}).trainer


def test_the_defaults_of_lightning_and_of_a_run_are_allowed() -> None:
    require_allowed(options())
    require_allowed(
        options(max_epochs=-1, logger=False, enable_checkpointing=False, max_time="00:01:00:00")
    )


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("accumulate_grad_batches", 2, "data.batch"),
        ("gradient_clip_val", 1.0, "model.clip"),
        ("gradient_clip_algorithm", "norm", "model.clip"),
        ("max_epochs", 3, "trainer.max_steps"),
        ("min_epochs", 3, "trainer.max_steps"),
        ("min_steps", 3, "trainer.max_steps"),
        ("limit_train_batches", 5, "trainer.max_steps"),
        ("limit_train_batches", 1.0, "trainer.max_steps"),
        ("overfit_batches", 2, "trainer.max_steps"),
        ("fast_dev_run", True, "trainer.max_steps"),
        ("fast_dev_run", 1, "trainer.max_steps"),
        ("limit_val_batches", 5, "tracking.evaluate_every"),
        ("limit_test_batches", 5, "dpinn evaluate"),
        ("limit_predict_batches", 5, "dpinn evaluate"),
        ("val_check_interval", 5, "tracking.evaluate_every"),
        ("check_val_every_n_epoch", 5, "tracking.evaluate_every"),
        ("num_sanity_val_steps", 5, "tracking.evaluate_every"),
        ("log_every_n_steps", 5, "tracking.log_every"),
        ("logger", True, "tracking.mlflow"),
        ("enable_checkpointing", True, "tracking.checkpoint_every"),
        ("profiler", "simple", "dpinn bench step"),
        ("barebones", True, "dpinn bench step"),
        ("sync_batchnorm", True, "couple points"),
        ("reload_dataloaders_every_n_epochs", 1, "new points"),
        ("precision", "bf16-mixed", "32-true"),
        ("max_time", "soon", "00:01:30:00"),
        ("devices", 0, "at least 1"),
        ("num_nodes", 0, "at least 1"),
    ],
)
def test_an_option_without_sense_is_refused_with_what_to_use(
    name: str, value: Any, instead: str
) -> None:
    with pytest.raises(DpinnError, match=rf"trainer\.{name}.*{instead}"):
        require_allowed(options(**{name: value}))


def test_lightning_still_has_every_option_that_is_refused() -> None:
    assert REFUSALS.keys() <= vars(options()).keys()
