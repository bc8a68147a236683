"""The Lightning module: set-up, training, evaluation and state of a PINN."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from dpinn.errors import DpinnError, DpinnWarning
from dpinn.loss import (
    SEAM,
    FixedTolerance,
    FixedWeights,
    PseudoTime,
    PseudoTimeLevel,
    ResidualSums,
    TermLayout,
    TermWeights,
    ToleranceSchedule,
)
from dpinn.nn import PINN, Inputs, physics_informed_initialization
from dpinn.nn.pinn import NetworkFactory
from dpinn.optim import (
    SOAP,
    NonFiniteError,
    ScheduleFree,
    WarmupExponentialDecay,
    needs_second_backward,
    soap_of,
)
from dpinn.problem import INITIAL, Problem
from dpinn.sampling import rank_slice
from dpinn.sampling.counter import stream_key
from dpinn.train.alignment import AlignmentMeter, AlignmentTracking, Reading
from dpinn.train.compiling import CompileMode, compile_loss, decide
from dpinn.train.course import OTHER_STAGES, Course
from dpinn.train.data import Collocations, StepBatch
from dpinn.train.distributed import broadcast_from_first
from dpinn.train.dry_run import require_trainable, warn_of_slips
from dpinn.train.objective import Objective
from dpinn.train.parallelism import WholeOnEveryRank
from dpinn.train.randomness import seed_all
from dpinn.train.requirements import require_same_strategies, require_suitable_strategy
from dpinn.train.sharing import Shard, shard_group, share_out
from dpinn.train.stages import Stage, Stages, adjust, plan_stages
from dpinn.train.step import Stepper


class PINNTraining(LightningModule):
    """Trains a PINN by manual optimization, several optimizer steps a Lightning batch.

    Args:
        problem: the PDE.
        network: a class path; called with the numbers of embedded coordinates and fields.
        optimizer: a class path; called with the named parameters.
        schedule: factor on the learning rate by step; null keeps the rate constant.
        weights: of the loss terms.
        causal_tolerance: ε of the causal weights, a number or a schedule; used when the data has
            more than one chunk.
        stages: time windows, or a curriculum over a parameter of the problem; null trains the whole
            domain at once.
        pseudo_time: marches the residual in pseudo-time, against spurious solutions; null does not.
        clip: largest norm of the whole gradient; null does not clip, and LBFGS never does.
        shard: which ranks divide SOAP's state: all of the ``world``, those of each ``node``, or
            ``off`` for a whole copy on every rank.
        initialize: fit the last layer to the initial condition before the first step if that helps.
        inputs: what the network sees of each coordinate that is not periodic: scaled from its
            interval of the ``domain`` to [0, 1]; the same with time from its present ``window``; or
            ``raw``, as it is.
        compile: compile the whole loss; ``auto`` does where the run is long enough to gain.
        alignment: when the terms' gradient alignment is measured, which leaves the training as it
            is to the bit; null measures nothing.
    """

    def __init__(
        self,
        problem: Problem,
        network: NetworkFactory,
        optimizer: OptimizerCallable = SOAP,
        schedule: WarmupExponentialDecay | None = None,
        weights: TermWeights | None = None,
        causal_tolerance: float | ToleranceSchedule = 1.0,
        stages: Stages | None = None,
        pseudo_time: PseudoTime | None = None,
        clip: float | None = 1.0,
        shard: Shard = "world",
        initialize: bool = True,
        inputs: Inputs = "domain",
        compile: CompileMode = "auto",
        alignment: AlignmentTracking | None = AlignmentTracking(),  # noqa: B008, it is frozen
    ):
        super().__init__()
        if clip is not None and clip <= 0:
            raise DpinnError(f"clip {clip} must be above 0; use null for none")
        if not isinstance(causal_tolerance, ToleranceSchedule):
            causal_tolerance = FixedTolerance(causal_tolerance)
        self.automatic_optimization = False
        self.problem = problem
        self.pinn = PINN(problem, network, inputs)
        self.stages = stages
        self.trained = copy.copy(problem)  # whose parameters a curriculum changes
        self.course = Course((Stage(0, 0, 0),))
        self.optimizer_factory = optimizer
        self.schedule = schedule
        self.objective = Objective(problem.terms, weights or FixedWeights(), causal_tolerance)
        self.pseudo_time = (
            None if pseudo_time is None else PseudoTimeLevel(pseudo_time, self.pinn, self.trained)
        )
        self.clip = clip
        self.shard = shard
        self.initialize = initialize
        self.compile_mode = compile
        self.compiled: bool | None = None
        self.start_fitted = False
        self.alignment = alignment
        self.meter: AlignmentMeter | None = None
        self._measured: dict[str, Any] = {}
        self._resumed_at = 0

    # --- set-up ---------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Plan the stages, before a checkpoint may bring those of a run."""
        steps = self.trainer.max_steps
        plan = plan_stages(self.stages, self.problem, steps, self._data.inner_steps)
        self.course = Course(plan)
        if plan[0].interval is not None:
            self.pinn.enter_window(plan[0].interval)
        every = getattr(self.objective.weighting, "every", None)
        longest = max(stage.end - stage.first for stage in plan)
        if every is not None and longest <= every:
            warnings.warn(
                f"model.weights.every is {every}, but no stage has more than {longest} steps: the "
                f"weights stay as they start; use a smaller one, such as {max(1, longest // 10)}",
                DpinnWarning,
                stacklevel=2,
            )

    def configure_model(self) -> None:
        """Take the trainer's precision before a checkpoint is loaded, which would be rounded."""
        self.pinn.to(torch.get_default_dtype())
        if self.pseudo_time is not None:
            self.pseudo_time.to(torch.get_default_dtype())

    def configure_optimizers(self) -> Optimizer:
        """The optimizer over all parameters by name, so that its state can be keyed by name.

        The parameters have their start values by then: a strategy may spread them afterwards.
        """
        self._set_start_values()
        self._shard_group = shard_group(self.shard, self.trainer.num_devices)
        optimizer = self._new_optimizer()
        if self.alignment is not None:
            self.meter = AlignmentMeter(self.alignment, self.pinn.named_parameters())
            if self._measured:
                self.meter.load_state_dict(self._measured)
                self._measured = {}
        return optimizer

    def _new_optimizer(self) -> Optimizer:
        try:
            optimizer = self.optimizer_factory(list(self.pinn.named_parameters()))
        except ValueError as error:
            raise DpinnError(f"model.optimizer: {error}") from error
        share_out(optimizer, self._shard_group)
        return optimizer

    def _set_start_values(self) -> None:
        """Start from the initial condition, or from the checkpoint, alike on every rank."""
        if self.compiled is None and self.initialize:
            held = self.problem.to(torch.float64, "cpu")
            interval = self.course.plan[0].interval if self.pinn.inputs == "window" else None
            fit = physics_informed_initialization(self.pinn, held, interval)
            self.start_fitted = fit is not None and fit.kept
        # By rounding, one rank may have kept a fit that another has not.
        fitted = torch.tensor(float(self.start_fitted), device=next(self.pinn.parameters()).device)
        broadcast_from_first([*self.parameters(), fitted])
        self.start_fitted = bool(fitted)

    def on_fit_start(self) -> None:
        """Look at the first step's points for mistakes, and compile where decided."""
        require_suitable_strategy(self)
        data = self._data
        parameter = next(self.pinn.parameters())
        # Whose network it is: at a seam still that of the stage which has ended. Lightning itself
        # does not know yet at which step it will go on.
        step = self._resumed_at
        stage = self.course.stage_at(max(0, step - 1))
        self._take_problem(parameter.dtype)
        adjust(self.trained, stage, parameter)
        sampled = data.sampled_in(stage)
        self._require_trainable(sampled.batch_at(step, device=self.device, dtype=parameter.dtype))
        collocation = replace(data.collocation, problem=self.trained)
        self.objective.layout = TermLayout.build(collocation)
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        offset, _ = rank_slice(collocation.batch, rank, world_size)
        sums = ResidualSums(self.pinn, self.trained, collocation, offset, self.pseudo_time)
        points = sampled.batch_at(
            step,
            rank=rank,
            world_size=world_size,
            device=self.device,
            dtype=parameter.dtype,
        )
        if self.course.marches:
            points[SEAM] = self.course.at_seam(self.trained, points[INITIAL])
        # A function even where it is not compiled: as a submodule it would be saved as well.
        self.stepper = Stepper(self, sums.forward, collocation)
        self.stepper.look(step, sums, points)
        if self.compiled is None:
            self.compiled = self._decide_compile()
        compiled = compile_loss(sums, points) if self.compiled else None
        self.compiled = compiled is not None
        self.stepper.sums = compiled or sums.forward

    def _take_problem(self, dtype: torch.dtype) -> None:
        """Have all that the problem holds in the precision and on the device of the training."""
        self.trained = self.problem.to(dtype, self.device)
        if self.pseudo_time is not None:
            self.pseudo_time.problem = self.trained

    def _require_trainable(self, points: Mapping[str, Tensor]) -> None:
        """Refuse what would train in silence to something else; `points` are those of all ranks."""
        if self.global_rank == 0:
            warn_of_slips(self.problem)
        with self.parallelism.whole_parameters():
            require_trainable(self.pinn, self.trained, points, self.device)

    def forward(self, points: Mapping[str, Tensor]) -> Tensor:
        """The sums of squares of all terms on this rank's points, for an engine that wraps this."""
        return self.stepper.sums(points)

    def _decide_compile(self) -> bool:
        if needs_second_backward(self.optimizer):
            if self.compile_mode == "on":
                name = type(self.optimizer).__name__
                warnings.warn(f"{name} differentiates the gradient, which cannot be compiled: "
                              "the loss runs eagerly", DpinnWarning, stacklevel=2)  # fmt: skip
            return False
        if not self.parallelism.compiles:
            if self.compile_mode == "on":
                warnings.warn("parameters that the ranks share out cannot be compiled: the loss "
                              "runs eagerly", DpinnWarning, stacklevel=2)  # fmt: skip
            return False
        taylor = self.pinn.taylor
        return decide(self.compile_mode, self.trainer.max_steps, self.device, taylor)

    # --- stages ---------------------------------------------------------------------------

    def enter(self, step: int) -> bool:
        """Be in the stage of a step; all ranks come here together, before its points are made.

        Returns:
            Whether the step begins a stage that follows another.
        """
        stage = self.course.stage_at(step)
        if stage is self.course.stage:
            return False
        begins = 0 < step == stage.first
        if begins:
            self._hand_on(step)
        self.course.enter(stage, self.pinn)
        if stage.interval is not None:
            self.pinn.enter_window(stage.interval)
        adjust(self.trained, stage, next(self.pinn.parameters()))
        return begins

    def _hand_on(self, step: int) -> None:
        """Keep the solution of the stage that has ended, and start all but it anew."""
        with self.evaluation() as pinn:
            solution = {k: v.detach().clone() for k, v in pinn.state_dict().items()}
        self.course.finish(solution)
        self.pinn.load_state_dict(solution)
        old = soap_of(self.optimizer)
        if old is not None:
            old.settle()  # before its memory, at which a stream of its own may be, is given back
        # An optimizer may draw numbers when it is made.
        seed_all(stream_key(self._data.collocation.seed, step, "stage"))
        self.trainer.strategy.optimizers = [self._new_optimizer()]
        self.objective.restart()
        if self.pseudo_time is not None:
            self.pseudo_time.restart()
        if self.meter is not None:
            self.meter.restart()
        self.stepper.take_rates()

    # --- training -------------------------------------------------------------------------

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Take the inner steps of a batch, then look once whether all numbers are finite."""
        if batch.first != self.global_step:
            raise RuntimeError(f"points of step {batch.first} came at step {self.global_step}")
        stepper = self.stepper
        stepper.begin()
        try:
            for k, points in enumerate(batch.points):
                stepper(batch.first + k, points, timed=k + 1 == len(batch.points))
        except (NonFiniteError, torch.linalg.LinAlgError):
            # An optimizer that meets NaN says so in its own words; ours name term and step.
            stepper.require_finite(batch.first)
            raise
        stepper.require_finite(batch.first)

    # --- evaluation and state -------------------------------------------------------------

    @contextmanager
    def evaluation(self) -> Iterator[PINN]:
        """The network at the averaged point, if the optimizer averages; gradients off.

        All ranks enter it together, since the parameters may be shared out among them.
        """
        with torch.no_grad(), self.parallelism.whole_parameters():
            optimizer = self.optimizer if self._trainer is not None else None
            if isinstance(optimizer, ScheduleFree):
                with optimizer.evaluation():
                    yield self.pinn
            else:
                yield self.pinn

    def alignment_readings(self) -> list[Reading]:
        """What was measured since the last call."""
        taken, limit = self.trainer.global_step, self.trainer.max_steps
        return [] if self.meter is None else self.meter.readings(taken, last=taken >= limit)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the solution's weights and what the run decided."""
        with self.evaluation():
            solution = {k: v.detach().clone() for k, v in self.pinn.state_dict().items()}
        checkpoint["solution"] = solution
        checkpoint["compiled"] = self.compiled
        checkpoint["start_fitted"] = self.start_fitted
        if self.stages is not None:
            checkpoint["course"] = self.course.state_dict()
        if self.meter is not None:
            checkpoint["alignment"] = self.meter.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A resumed run computes as it began."""
        self.compiled = checkpoint["compiled"]
        self.start_fitted = checkpoint.get("start_fitted", self.initialize)
        self._resumed_at = int(checkpoint["global_step"])
        self._measured = checkpoint.get("alignment", {})
        require_same_strategies(checkpoint["state_dict"], self.state_dict())
        saved = checkpoint.get("course")
        if (saved is None) != (self.stages is None):
            raise DpinnError(OTHER_STAGES)
        if saved is not None:
            self.course.load_state_dict(saved)

    @property
    def optimizer(self) -> Optimizer:
        """The one optimizer."""
        return self.trainer.optimizers[0]

    @property
    def skips(self) -> bool:
        """Whether the optimizer steps over what is not finite."""
        soap = soap_of(self.optimizer)
        return soap is not None and soap.nonfinite == "skip"

    @property
    def parallelism(self) -> WholeOnEveryRank:
        """How parameters and gradients lie on the ranks."""
        strategy = None if self._trainer is None else self.trainer.strategy
        return getattr(strategy, "parallelism", WholeOnEveryRank())

    @property
    def _data(self) -> Collocations:
        return self.trainer.datamodule  # type: ignore[attr-defined]
