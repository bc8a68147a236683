"""DeepSpeed's ZeRO under Lightning, on CUDA and on CPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from dpinn.errors import DpinnError
from dpinn.train.distributed import all_reduce_sum
from dpinn.train.parallelism import Sums, WholeOnEveryRank
from dpinn.train.strategies.replicated import ReplicatedStrategy
from dpinn.train.strategies.suitable import require_suitable

if TYPE_CHECKING:
    from dpinn.train.strategies.engine import Engine

Stage = Literal[0, 1, 2, 3]

ZERO_OPTIONS = (
    *("allgather_bucket_size", "allgather_partitions", "contiguous_gradients", "overlap_comm"),
    *("reduce_bucket_size", "reduce_scatter", "sub_group_size"),
    *("stage3_max_live_parameters", "stage3_max_reuse_distance"),
    *("stage3_param_persistence_threshold", "stage3_prefetch_bucket_size"),
)
"""Entries of DeepSpeed's ``zero_optimization`` that change speed and memory, not the training."""


class DeepSpeedStrategy(ReplicatedStrategy):
    """Trains through DeepSpeed's engine, with the trajectory of `ReplicatedStrategy`.

    Stage 0 partitions nothing, so any optimizer goes with it, sharded SOAP too. Stage 1
    partitions the optimizer's state over the ranks, 2 the gradient as well, 3 the parameters as
    well (between two losses: a loss and its backward pass have them all). DeepSpeed hands the
    optimizer one flat shard in these stages, so it must compute every entry by itself, as Adam
    and SGD do.

    Gradients are summed and clipped by dpinn, at ``model.clip``: DeepSpeed's own clipping is off.
    A checkpoint holds the whole state in one file, so a run may be resumed with another strategy
    and on another number of ranks.

    Args:
        stage: of ZeRO, 0 to 3.
        zero: further entries of DeepSpeed's ``zero_optimization``, of those in ZERO_OPTIONS.
        options: of `ReplicatedStrategy`.
    """

    def __init__(self, stage: Stage = 0, zero: dict[str, Any] | None = None, **options: Any):
        super().__init__(**options)
        self.stage = stage
        self.zero = dict(zero or {})
        self._engine: Engine | None = None
        self.parallelism: WholeOnEveryRank = (
            ThroughEngine(self) if stage == 0 else Partitioned(self)
        )

    @property
    def engine(self) -> Engine:
        """DeepSpeed's engine, there from the set-up of a training on."""
        assert self._engine is not None
        return self._engine

    def require_suitable(self, factory: OptimizerCallable) -> None:
        """Refuse what cannot work, and an optimizer that this stage would make another one.

        Raises:
            DpinnError: with the reason and what to do.
        """
        for name in self.zero:
            if name not in ZERO_OPTIONS:
                raise DpinnError(
                    f"DeepSpeedStrategy's zero has {name!r}; it takes {', '.join(ZERO_OPTIONS)}"
                )
        if importlib.util.find_spec("deepspeed") is None:
            raise DpinnError(
                "DeepSpeed is not installed; install it with "
                "`pip install -c constraints.txt 'dpinn[deepspeed]'`"
            )
        require_suitable(factory, self.stage)

    def setup_environment(self) -> None:
        """Tell DeepSpeed what it would guess."""
        super().setup_environment()
        os.environ["LOCAL_RANK"] = str(self.local_rank)
        if self.root_device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"

    def setup(self, trainer: Trainer) -> None:
        """Make the optimizer, then the engine around both."""
        super().setup(trainer)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        from dpinn.train.strategies.engine import make_engine
        from dpinn.train.strategies.shards import ShardedState

        module = self.lightning_module
        assert module is not None
        self.require_suitable(module.optimizer_factory)  # type: ignore[arg-type]
        (optimizer,) = self.optimizers
        if self.stage == 0:
            self._engine = make_engine(module, optimizer, 0, self.zero, self.root_device)
            return
        groups = optimizer.state_dict()["param_groups"]
        order = {p: k for k, p in enumerate(p for g in optimizer.param_groups for p in g["params"])}
        self._engine = make_engine(module, optimizer, self.stage, self.zero, self.root_device)
        self._state = ShardedState(self._engine.optimizer, groups, order)
        # DeepSpeed makes some optimizers anew for the shards.
        self.optimizers = [self._engine.optimizer.optimizer]

    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Through the engine, which in the stages from 1 on averages: the loss is a sum."""
        factor = 1 if self.stage == 0 else self.world_size
        self.engine.backward(closure_loss * factor)
        return closure_loss

    def optimizer_step(
        self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any
    ) -> Any:
        """Evaluate the loss, then step through the engine, which takes no closure."""
        loss = closure()
        self.engine.step()
        return loss

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state, as an optimizer without shards has it; all ranks call it together."""
        if self.stage == 0:
            return super().optimizer_state(optimizer)
        whole = self._state.gather()
        return whole if self.is_global_zero else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give every rank its part of a whole state."""
        if self.stage == 0:
            super().load_optimizer_state_dict(checkpoint)
        else:
            self._state.scatter(checkpoint["optimizer_states"][0])

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All parameters and buffers; all ranks call it together."""
        with self.parallelism.whole_parameters():
            state = super().lightning_module_state_dict()
            return {k: v.clone() if self.stage == 3 else v for k, v in state.items()}

    def teardown(self) -> None:
        """Give up the engine with its hooks; in stage 3 the parameters stay in parts.

        They are not gathered, since the other ranks may have gone.
        """
        if self._engine is not None:
            self._engine.destroy()
            self._engine = None
        super().teardown()


class ThroughEngine(WholeOnEveryRank):
    """Stage 0: the engine runs the loss; gradients are added up as without it."""

    several_backwards = False
    renews_optimizer = False

    def __init__(self, strategy: DeepSpeedStrategy):
        self.strategy = strategy
        self.compiles = strategy.stage < 3

    def forward(self, sums: Sums, points: Mapping[str, Tensor]) -> Tensor:
        """The sums at these points, of which a backward pass follows."""
        return self.strategy.engine(points)


class Partitioned(ThroughEngine):
    """Stages 1 to 3: after a backward pass each rank has its part of the summed gradient."""

    gradient_is_whole = False

    def whole_parameters(self) -> AbstractContextManager[None]:
        """A context in which all parameters are there; all ranks enter it together."""
        return self.strategy.engine.whole_parameters()

    def finish_gradient(self, parameters: Sequence[Tensor], limit: float) -> Tensor:
        """Scale the parts of the summed gradient down to a norm of at most `limit` in all."""
        parts = self.strategy.engine.gradient_parts()
        squares = torch.stack([part.square().sum() for part in parts]).sum()
        norm = all_reduce_sum(squares).sqrt()
        if limit != float("inf"):
            # As torch.nn.utils.clip_grad_norm_ has it.
            torch._foreach_mul_(parts, (limit / (norm + 1e-6)).clamp(max=1.0))
        return norm
