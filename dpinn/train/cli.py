"""``dpinn fit``: a typed configuration becomes a training."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from dpinn.errors import DpinnError
from dpinn.problem import Problem
from dpinn.run_files import CHECKPOINT, CONFIG, newest_run, read_checkpoint
from dpinn.solution import import_from_current_folder
from dpinn.train.checkpoint_io import AtomicCheckpointIO
from dpinn.train.data import Collocations
from dpinn.train.module import PINNTraining
from dpinn.train.progress import TrainingProgress
from dpinn.train.recording import Recorder
from dpinn.train.strategies import ReplicatedStrategy

PRECISIONS = ("32-true", "64-true", "32", "64", 32, 64)
"""Half precisions do not resolve a PDE's residual."""


class DpinnCLI(LightningCLI):
    """One training from YAML files and options, every key checked before anything starts."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only ``fit``; evaluation is dpinn's own."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Put the problem at the top, where model and data both take it from."""
        parser.add_argument("--problem", type=Problem, required=True, help="the PDE, a class path")
        parser.add_lightning_class_args(Recorder, "tracking")
        parser.link_arguments("problem", "model.problem", apply_on="instantiate")
        parser.link_arguments("problem", "data.problem", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed")

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Choose what follows from the rest: precision, plugins and the strategy."""
        trainer = self._get(self.config, "trainer")
        if trainer.precision is not None and trainer.precision not in PRECISIONS:
            raise DpinnError(
                f"trainer.precision is {trainer.precision}; a PINN needs 32-true or 64-true"
            )
        options.setdefault("plugins", []).append(AtomicCheckpointIO())
        several = trainer.devices not in (1, "1") or trainer.num_nodes != 1
        if several and trainer.strategy == "auto":
            options["strategy"] = ReplicatedStrategy()
        return super().instantiate_trainer(**options)

    def before_fit(self) -> None:
        """Hand the whole configuration to the record of the run."""
        recorder = next(c for c in self.trainer.callbacks if isinstance(c, Recorder))  # type: ignore[attr-defined]
        config = self.config[self.subcommand].clone()
        config.pop("ckpt_path", None)
        config.pop("config", None)
        # A resumed run is another call, not another configuration.
        recorder.config = self._parser(self.subcommand).dump(
            config, skip_check=True, skip_none=False
        )


def fit(arguments: list[str]) -> None:
    """Run ``dpinn fit`` with command-line arguments.

    Raises:
        DpinnError: whatever the user can put right.
        SystemExit: from the parser, with a sentence on standard error.
    """
    import_from_current_folder()
    _quieten()
    torch.set_float32_matmul_precision("highest")
    DpinnCLI(
        PINNTraining,
        Collocations,
        save_config_callback=None,
        seed_everything_default=0,
        trainer_defaults={
            "max_epochs": -1,
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "callbacks": [TrainingProgress()],
        },
        parser_kwargs={"fit": {"description": "Train a PINN from a configuration."}},
        args=["fit", *_resumed(arguments)],
    )


def _resumed(arguments: list[str]) -> list[str]:
    """Replace ``--resume [RUN]`` by the run's configuration and checkpoint."""
    if "--resume" not in arguments:
        return arguments
    at = arguments.index("--resume")
    rest = arguments[at + 1 :]
    if rest and not rest[0].startswith("-"):
        folder, rest = Path(rest[0]), rest[1:]
    else:
        folder = newest_run()
    if folder.is_file():
        folder = folder.parent.parent
    checkpoint = folder / CHECKPOINT
    step = read_checkpoint(checkpoint)["global_step"]
    if not (folder / CONFIG).is_file():
        raise DpinnError(f"{folder} has no {CONFIG}; give the folder of a run")
    print(f"resuming {folder} at step {step}", flush=True)
    config = ["--config", str(folder / CONFIG), "--ckpt_path", str(checkpoint)]
    return [*config, *arguments[:at], *rest]


def _quieten() -> None:
    """Silence advice of Lightning that does not apply: there are no epochs and no data files."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*resuming from a checkpoint that ended before the epoch.*",
        ".*isn't a stateful dataloader.*",
        ".*LightningCLI's args parameter.*",
    ):
        warnings.filterwarnings("ignore", message)
