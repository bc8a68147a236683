"""``dpinn fit``: a typed configuration becomes a training."""

from __future__ import annotations

import logging
import os
import re
import warnings
from argparse import ArgumentError
from enum import Enum
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from yaml.representer import SafeRepresenter

from dpinn.errors import DpinnError, DpinnWarning, first_line
from dpinn.launch.launched import DEEPSPEED, Launched, launched, unused_tasks
from dpinn.problem import Problem
from dpinn.report import reference_of
from dpinn.solution import import_from_current_folder
from dpinn.train.call import Call, value_of
from dpinn.train.checkpoint_io import AtomicCheckpointIO
from dpinn.train.configuration import require_readable
from dpinn.train.data import Collocations
from dpinn.train.memory import keep_freed_memory
from dpinn.train.module import PINNTraining
from dpinn.train.progress import TrainingProgress
from dpinn.train.recording import Recorder
from dpinn.train.strategies import DeepSpeedStrategy, choose_strategy
from dpinn.train.strategies.environment import LaunchedEnvironment, require_visible_devices
from dpinn.train.strategies.lost_rank import (
    WatchingLauncher,
    go_on_with,
    lost_contact,
    lost_contact_error,
)
from dpinn.train.trainer_options import require_allowed

DESCRIPTION = """\
Train a PINN from a configuration. --resume [RUN] goes on with a run; --run FOLDER begins in this
folder, or goes on with what is in it. SIGUSR1 ends a training with exit code 75, to be queued
again, SIGTERM with 143, both after a checkpoint."""

UNION = (
    r"Does not validate|Subtypes:|Errors:|Expected a NoneType|Expected a path|Given value|"
    r"Problem with given class_path"
)
"""Lines of the parser that say nothing of their own."""


class DpinnCLI(LightningCLI):
    """One training from YAML files and options, every key checked before anything starts."""

    def __init__(self, *options: Any, call: Call, **named: Any):
        require_readable(call.arguments)
        self.call = call
        named["args"] = ["fit", *call.arguments]
        super().__init__(*options, **named)

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
        require_allowed(trainer)
        options.setdefault("plugins", []).append(AtomicCheckpointIO())
        ranks = launched(os.environ)
        if ranks is None:
            options["plugins"].append(LightningEnvironment())
            self._require_no_other_nodes()
            options["num_nodes"] = trainer.num_nodes
            self._remark_on_unused_tasks()
        else:
            require_visible_devices(ranks, trainer.accelerator)
            options["plugins"].append(LaunchedEnvironment(ranks))
            self._follow(ranks)
            options |= {"devices": trainer.devices, "num_nodes": trainer.num_nodes}
        several = trainer.devices not in (1, "1") or trainer.num_nodes != 1
        made = self._get(self.config_init, "trainer")
        by_deepspeed = ranks is not None and ranks.by == DEEPSPEED
        options["strategy"] = choose_strategy(made["strategy"], several, by_deepspeed)
        # None is another word for a logger and checkpoints of Lightning's own.
        options |= {"logger": False, "enable_checkpointing": False}
        if made["enable_progress_bar"] is False:
            self.trainer_defaults = {**self.trainer_defaults, "callbacks": []}
        try:
            return super().instantiate_trainer(**options)
        except MisconfigurationException as error:
            raise DpinnError(f"trainer: {first_line(error)}") from error

    def _follow(self, ranks: Launched) -> None:
        """Take the numbers of nodes and devices from the launcher, whatever a file says of them."""
        trainer = self._get(self.config, "trainer")
        for key, number in (("devices", ranks.local_world_size), ("num_nodes", ranks.num_nodes)):
            stated = value_of(self.call.arguments, f"--trainer.{key}")
            if stated not in (None, "auto", "-1", str(number)):
                raise DpinnError(
                    f"--trainer.{key} {stated}, but {ranks.by} has started {ranks.world_size} "
                    f"ranks, {ranks.local_world_size} on each node; leave it out"
                )
            trainer[key] = number

    def _require_no_other_nodes(self) -> None:
        """Nobody starts ranks on other nodes; a run that had some goes on without them."""
        trainer = self._get(self.config, "trainer")
        if trainer.num_nodes == 1 or "MASTER_ADDR" in os.environ:
            return
        stated = value_of(self.call.arguments, "--trainer.num_nodes")
        if stated is not None or "--ckpt_path" not in self.call.arguments:
            raise DpinnError(
                f"trainer.num_nodes is {trainer.num_nodes}, but nothing has started ranks on other "
                "nodes; use launch/torchrun.sh on each, or `dpinn submit`"
            )
        trainer["num_nodes"] = 1

    def _remark_on_unused_tasks(self) -> None:
        tasks = unused_tasks(os.environ)
        if tasks and self._get(self.config, "trainer").devices in (1, "1"):
            warnings.warn(
                f"this SLURM job has {tasks} tasks, but one process trains; put srun before dpinn",
                DpinnWarning,
                stacklevel=2,
            )

    def _parse_ckpt_path(self) -> None:
        """Lightning would take hyperparameters from the checkpoint here; ours has none."""

    @property
    def recorder(self) -> Recorder:
        """The record of the run."""
        return next(c for c in self.trainer.callbacks if isinstance(c, Recorder))  # type: ignore[attr-defined]

    def _run_subcommand(self, subcommand: str) -> None:
        """Train; an error of the libraries about a rank that is gone becomes a sentence."""
        try:
            super()._run_subcommand(subcommand)
        except (RuntimeError, ConnectionError) as error:
            reason = lost_contact(error)
            if reason is None or self.trainer.world_size == 1:
                raise
            rank, step = self.trainer.global_rank, self.trainer.global_step
            raise lost_contact_error(reason, rank, step, self.recorder.folder) from error

    def before_fit(self) -> None:
        """Refuse what does not go together; hand the whole configuration to the record."""
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            # Before there are several ranks to say it.
            self.trainer.strategy.require_suitable(self.model.optimizer_factory)
        recorder = self.recorder
        recorder.folder = self.call.folder
        recorder.interruption.listen()
        launcher = self.trainer.strategy.launcher
        if isinstance(launcher, WatchingLauncher):
            launcher.hint = lambda: go_on_with(recorder.folder)
        if self.trainer.world_size > 1:
            # Before the ranks meet, who would not wait for each other as long as some take; of
            # those on one machine one computes it.
            reference_of(self.model.problem)
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
    # Some optimizers of libraries have enumerations among their defaults.
    SafeRepresenter.add_multi_representer(Enum, lambda dumper, x: dumper.represent_data(x.value))
    torch.set_float32_matmul_precision("highest")
    keep_freed_memory()
    try:
        cli = DpinnCLI(
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
            parser_kwargs={
                "exit_on_error": False,
                "fit": {
                    "description": DESCRIPTION,
                    "exit_on_error": False,
                },
            },
            # PINNTraining makes its optimizer from model.optimizer.
            auto_configure_optimizers=False,
            call=Call.read(arguments),
        )
    except ArgumentError as error:
        raise DpinnError(_sentence(str(error))) from error
    except ValueError as error:
        # What a class of ours says of its arguments, where something else is allowed in its place.
        if not str(error).startswith("Does not validate"):
            raise
        raise DpinnError(_sentence(str(error))) from error
    except SystemExit as error:
        # Lightning exits with 1 after Ctrl-C.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    if cli.recorder.stopped:
        cli.recorder.interruption.leave(cli.recorder.stopped)


def _sentence(message: str) -> str:
    """One sentence from what the parser says in many lines."""
    plain = re.sub(r"<class '(?:.*\.)?(\w+)'>", r"\1", message)
    lines = [line.strip(" -") for line in plain.splitlines()]
    # What it says of the alternatives of a type, null among them, hides the mistake.
    kept = " ".join(line for line in lines if line and not re.match(UNION, line))
    if "Expected a" in kept and "Got value:" not in kept:
        kept = " ".join([kept, *(line for line in lines if line.startswith("Given value:"))])
    for pattern, replacement in (
        (r'Parser key "(.*?)":', r"\1:"),
        (r"Type \S*Callable\[.*?\] expects a function or a callable class: ", ""),
        (r"[.,]? G(?:ot|iven) value: Namespace\(.*\)$", ""),
        (r"Expected a (?:typing\.)?(.+?)\.? G(?:ot|iven) value: ", r"expected \1, got "),
    ):
        kept = re.sub(pattern, replacement, kept)
    return f"{kept.rstrip('. ')}; `dpinn fit --help` lists what is allowed"


def _quieten() -> None:
    """Silence advice of Lightning that does not apply: there are no epochs and no data files."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*resuming from a checkpoint that ended before the epoch.*",
        ".*isn't a stateful dataloader.*",
        ".*LightningCLI's args parameter.*",
        # Its advice would ruin the accuracy.
        ".*TensorFloat32 tensor cores.*",
        ".*srun. command is available on your system but is not used.*",
        ".*treespec, LeafSpec.* is deprecated.*",
        # Gradients are set to None before every step, which breaks the cycle.
        ".*backward.. with create_graph=True will create a reference cycle.*",
    ):
        warnings.filterwarnings("ignore", message)
