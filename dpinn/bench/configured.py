"""What a configuration builds, without a trainer: the same keys and sentences as ``dpinn fit``."""

from __future__ import annotations

from argparse import ArgumentError
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer

from dpinn.errors import DpinnError
from dpinn.optim import SOAP
from dpinn.optim.sharding import ShardPlan, plan_shards
from dpinn.solution import import_from_current_folder
from dpinn.train.call import Call
from dpinn.train.cli import DpinnCLI, _quieten, _sentence
from dpinn.train.data import Collocations
from dpinn.train.module import PINNTraining
from dpinn.train.recording import Recorder
from dpinn.train.stages import plan_stages
from dpinn.train.strategies import DeepSpeedStrategy, choose_strategy
from dpinn.train.trainer_options import require_allowed


@dataclass(frozen=True)
class Configured:
    """A problem with its network and points, in the precision of the configuration.

    Attributes:
        module: holds the network; no trainer is attached.
        data: holds the points.
        max_steps: of the training that the configuration describes.
        output: folder in which runs get folders of their own.
        experiment: of MLflow; None where MLflow is not used.
        text: the whole configuration as YAML, files and options merged, defaults left out.
        recorder: logs, evaluates and saves.
        strategy: ``trainer.strategy``.
    """

    module: PINNTraining
    data: Collocations
    max_steps: int
    output: Path
    experiment: str | None
    text: str
    recorder: Recorder
    strategy: str | Strategy

    def require_trainable(self, ranks: int) -> None:
        """Refuse what `dpinn fit` on so many ranks would, without starting any.

        Raises:
            DpinnError: in the same words.
        """
        inner = self.data.inner_steps
        self.recorder.require_intervals(self.max_steps, inner, self.module)
        plan_stages(self.module.stages, self.module.problem, self.max_steps, inner)
        strategy = choose_strategy(self.strategy, ranks > 1)
        if isinstance(strategy, DeepSpeedStrategy):
            strategy.require_suitable(self.module.optimizer_factory)

    @property
    def name(self) -> str:
        """Problem and network in a few words."""
        network = type(self.module.pinn.network).__name__
        count = sum(p.numel() for p in self.module.pinn.parameters())
        return f"{self.module.problem.name}, {network} of {count:,} parameters"

    def optimizer(self) -> Optimizer:
        """The optimizer over the named parameters, as a training makes it; it has no state yet."""
        try:
            return self.module.optimizer_factory(list(self.module.pinn.named_parameters()))
        except ValueError as error:
            raise DpinnError(f"model.optimizer: {error}") from error


class _Unstarted(DpinnCLI):
    """Builds problem, network and points, and nothing that would run them."""

    def instantiate_classes(self) -> None:
        trainer = self._get(self.config, "trainer")
        require_allowed(trainer)
        self.config_init = self.parser.instantiate_classes(self.config)
        self.model = self._get(self.config_init, "model")
        self.datamodule = self._get(self.config_init, "data")
        dtype = torch.float64 if str(trainer.precision).startswith("64") else torch.float32
        self.model.pinn.to(dtype)

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def configured(arguments: list[str]) -> Configured:
    """Read a configuration from the arguments that ``dpinn fit`` would take.

    Raises:
        DpinnError: whatever the user can put right.
    """
    import_from_current_folder()
    _quieten()
    torch.set_float32_matmul_precision("highest")
    try:
        cli = _Unstarted(
            PINNTraining,
            Collocations,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, "fit": {"exit_on_error": False}},
            auto_configure_optimizers=False,
            call=Call(arguments),
        )
    except ArgumentError as error:
        raise DpinnError(_sentence(str(error))) from error
    tracking = cli._get(cli.config, "tracking")
    experiment = tracking.experiment or cli.model.problem.name
    content = cli.config[cli.subcommand].clone()
    for call in ("config", "ckpt_path"):  # of this call, not of the configuration
        content.pop(call, None)
    return Configured(
        cli.model,
        cli.datamodule,
        max_steps=cli._get(cli.config, "trainer").max_steps,
        output=Path(tracking.output),
        experiment=experiment if tracking.mlflow else None,
        text=cli._parser(cli.subcommand).dump(content, skip_none=False, skip_default=True),
        recorder=cli._get(cli.config_init, "tracking"),
        strategy=cli._get(cli.config_init, "trainer")["strategy"],
    )


def shard_plan(soap: SOAP, ranks: int) -> ShardPlan:
    """The plan that this SOAP makes on so many ranks when all parameters have gradients."""
    units = soap.units()
    return plan_shards(
        units,
        ranks,
        frequency=soap.param_groups[0]["precondition_frequency"],
        stagger=True,
        phases=[unit.phase for unit in units],
    )
