"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (arXiv 2409.11321)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch import distributed as dist
from torch._compile import _disable_dynamo
from torch.optim.optimizer import ParamsT

from dpinn.errors import DpinnError
from dpinn.optim.agreement import NonFiniteError, agree, energies, first_non_finite
from dpinn.optim.divided import DividedOptimizer
from dpinn.optim.hyperparameters import check_hyperparameters, factor_beta, refresh_method
from dpinn.optim.shards import Placement, Task
from dpinn.optim.side_streams import SideStreams
from dpinn.optim.state import Key
from dpinn.optim.whole import require_whole_parameters

MOST_SKIPS_IN_A_ROW = 100
"""A run that skips more has no finite gradient left, and would go on for ever."""


class SOAP(DividedOptimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner, on one process or divided over many.

    For a matrix parameter ``W`` with gradient ``G``, factors ``L ~ E[G G']``, ``R ~ E[G' G]`` and
    their eigenbases ``Q_L``, ``Q_R``::

        G~ = Q_L' G Q_R
        M  = b1 M + (1 - b1) G~,    V = b2 V + (1 - b2) G~^2
        W -= lr sqrt(1 - b2^t) / (1 - b1^t)  Q_L [M / (sqrt(V) + eps)] Q_R'
        W -= lr weight_decay W
        L  = b L + (1 - b) G G',    R = b R + (1 - b) G' G,    b = shampoo_beta or b2
        every `precondition_frequency` steps: Q_L, Q_R move toward the eigenvectors of L, R

    A parameter's first gradient sets its factors and bases and moves nothing. A parameter without
    a gradient is left as it is, its step count too.

    With a process group each rank owns some of the parameters' factors, bases and moments, computes
    their steps, and one all-gather hands the steps to all; the result is bitwise that of a single
    process. Every rank must hold the same gradients, as after DistributedDataParallel.

    Args:
        params: parameters, groups, or ``named_parameters()``; with names the state is keyed by
            name, else by position.
        lr: learning rate.
        betas: decay rates of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled weight decay.
        precondition_frequency: steps between two refreshes of the bases.
        precondition_1d: whether a 1-D parameter gets a basis as an ``m x 1`` matrix.
        max_precond_dim: a larger dimension is not rotated.
        shampoo_beta: decay rate of the factors; the second beta if None.
        refresh: ``"cholesky_qr"`` or ``"qr"`` (one step of orthogonal iteration), ``"eigh"``, or
            ``"auto"``: the first on a GPU, the second on a CPU.
        stagger: refresh a share of the bases in every step instead of all of them at once.
        tolerance: a factor whose off-diagonal part in its basis, relative to the whole, is not
            above it is not refreshed. Telling costs half a refresh and, on a GPU, a wait.
        overlap: refresh on a stream of its own while the next forward pass runs (CUDA).
        nonfinite: what all ranks do at a gradient that is not finite: ``"stop"`` raises and names
            it, ``"skip"`` leaves parameters and state as they are and counts the step.
        process_group: the ranks that divide the state among them; more than one such group may
            hold copies of the same model.

    Raises:
        ValueError: a hyperparameter out of range, complex parameters, a name given twice.
        DpinnError: parameters that are divided over ranks (FSDP2's ``fully_shard``).
        NonFiniteError: from ``step``, before parameters or state have changed.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        precondition_frequency: int = 2,
        precondition_1d: bool = True,
        max_precond_dim: int = 10000,
        shampoo_beta: float | None = None,
        refresh: str = "auto",
        stagger: bool = False,
        tolerance: float = 0.0,
        overlap: bool = False,
        nonfinite: Literal["stop", "skip"] = "stop",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        if nonfinite not in ("stop", "skip"):
            raise ValueError(f"SOAP's nonfinite is {nonfinite!r}; it must be 'stop' or 'skip'")
        self._begin(SideStreams() if overlap else None)
        self.nonfinite = nonfinite
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "precondition_frequency": precondition_frequency,
            "precondition_1d": precondition_1d,
            "max_precond_dim": max_precond_dim,
            "shampoo_beta": shampoo_beta,
            "refresh": refresh,
            "stagger": stagger,
            "tolerance": tolerance,
        }
        super().__init__(params, defaults)
        if process_group is not None:
            self.shard_over(process_group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with their own hyperparameters where given."""
        check_hyperparameters({**self.defaults, **param_group})
        super().add_param_group(param_group)
        try:
            require_whole_parameters("SOAP", self.param_groups[-1]["params"])
        except DpinnError:
            del self.param_groups[-1]
            raise
        problem = None
        if any(parameter.is_complex() for parameter in self.param_groups[-1]["params"]):
            problem = "SOAP takes real parameters; give torch.view_as_real(parameter)"
        keys = self._keys()
        if len(keys) != len(set(keys.values())):
            problem = "SOAP got two parameters of the same name; names must be unique"
        if problem is not None:
            del self.param_groups[-1]
            raise ValueError(problem)
        self._shards.slabs.append([])
        self._fixed.append(None)
        self._consolidated = None

    # --- a step ---------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    # Reads numbers on the host and changes its state's layout, so a compiler has nothing to gain.
    @_disable_dynamo
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step from the gradients in ``.grad``, after ``closure`` if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._require_fixed_options()
        self._consolidated = None
        self.settle()
        shards = self._shards
        # Not at the end of a step: what has failed is mended in the slab where it failed.
        shards.merge()
        moving = {p: owner for p, owner in shards.owners.items() if p.grad is not None}
        newcomers = self._newcomers()
        plan, owners = shards.plan_with(newcomers, self._frequency)
        own, starting = shards.active(), shards.starting(newcomers, owners)
        self._steps += 1
        if self._agreed_finite([*own, *starting], shards.owners | owners):
            shards.plan, shards.owners = plan, shards.owners | owners
            self._fix_options(index for index, _ in newcomers.values())
            self._compute(own, starting, moving)
        return loss

    def _compute(
        self, own: Sequence[Task], starting: Sequence[Task], moving: Mapping[Tensor, int]
    ) -> None:
        """The step itself; on several ranks factors and bases move while directions travel."""
        directions: dict[Tensor, Tensor] = {}
        for task in own:
            group = self.param_groups[task.group]
            direction = task.slab.update_moments(task.gradient, group["betas"], group["eps"])
            directions |= _by_parameter(task.slab.parameters, direction)
            if self.ranks is None:
                self._advance(task)
        gathering = None if self.ranks is None else self.ranks.start_gather(moving, directions)
        for index, slab, gradient in starting:
            slab.start(gradient, factor_beta(self.param_groups[index]))
            self._shards.slabs[index].append(slab)
        if gathering is None:
            self._apply(directions)
            return
        for task in own:
            self._advance(task)
        self._apply(gathering.wait())

    def _advance(self, task: Task) -> None:
        """Take a gradient into the factors, and move the bases where it is their turn."""
        group, slab = self.param_groups[task.group], task.slab
        slab.update_factors(task.gradient, factor_beta(group))
        if (slab.step + slab.units[0].phase) % group["precondition_frequency"] == 0:
            device = slab.units[0].device
            method = refresh_method(group, device)
            with nullcontext() if self._streams is None else self._streams.beside(device):
                slab.refresh(method, group["tolerance"], self._counts)

    def _apply(self, directions: Mapping[Tensor, Tensor]) -> None:
        """Move the parameters, alike on every rank."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p in directions]
            if parameters:
                steps = [directions[p] for p in parameters]
                torch._foreach_add_(parameters, steps, alpha=-group["lr"])
                if group["weight_decay"]:
                    torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])

    def _newcomers(self) -> dict[Tensor, Placement]:
        """The parameters that have their first gradient now, with group and unit."""
        found: dict[Tensor, Placement] = {}
        for index, group in enumerate(self.param_groups):
            fresh = [
                p
                for p in group["params"]
                if p.grad is not None and p not in self._shards.owners and p.numel()
            ]
            if any(p.grad.is_sparse for p in fresh):
                raise ValueError("SOAP takes dense gradients; use sparse=False in the embedding")
            if fresh:
                units = self._units(group)
                found |= {p: Placement(index, units[p]) for p in fresh}
        return found

    def _agreed_finite(self, tasks: Sequence[Task], owners: Mapping[Tensor, int]) -> bool:
        """Whether all ranks can take the step; raises where the policy is to stop."""
        keys = self._keys()
        positions = {parameter: position for position, parameter in enumerate(keys)}
        ranks, device = self.ranks, next(iter(keys)).device
        norms = [(slab, energies(gradient)) for _, slab, gradient in tasks]
        moving = sorted(positions[p] for p in owners if p.grad is not None)
        finite, self._totals = agree(
            ranks, [norm for _, norm in norms], moving, self._counts, device
        )
        if finite:
            self._skipped_in_a_row = 0
            return True
        self._skipped += 1
        self._skipped_in_a_row += 1
        if self.nonfinite == "skip" and self._skipped_in_a_row <= MOST_SKIPS_IN_A_ROW:
            return False
        own = {
            unit.position: norm
            for slab, stacked in norms
            for unit, norm in zip(slab.units, stacked, strict=True)
        }
        parameter = list(keys)[first_non_finite(ranks, own, device)]
        where = "" if ranks is None else f" on rank {ranks.global_rank(owners[parameter])}"
        often = "" if self.nonfinite == "stop" else f" for the {self._skipped_in_a_row}th time"
        raise NonFiniteError(
            f"the gradient of parameter {keys[parameter]!r} is not finite, or too large to be "
            f"squared, at step {self._steps}{where}{often}; lower the learning rate"
        )

    # --- other gradients ------------------------------------------------------------------

    @overload
    def precondition(self, gradients: Mapping[Key, Tensor]) -> dict[Key, Tensor]: ...

    @overload
    def precondition(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]: ...

    @torch.no_grad()
    def precondition(
        self, gradients: Mapping[Key, Tensor] | Sequence[Tensor | None]
    ) -> dict[Key, Tensor] | list[Tensor | None]:
        """What the current bases and scaling make of other gradients; no state changes.

        Each gradient becomes ``sqrt(1 - b2^t) Q_L [(Q_L' G Q_R) / (sqrt(V) + eps)] Q_R'``: the
        step's direction (the change of ``W`` over ``-lr``, weight decay apart) if ``G`` were the
        bias-corrected first moment. A parameter that has not made a step yet has no scaling: its
        gradient comes back as it is. Sharded, all ranks call it with gradients of the same
        parameters.

        Args:
            gradients: either one tensor or None a parameter, in the order of the groups, or a
                mapping from some parameters' keys (name, or position) to tensors.

        Returns:
            A list or a dict, as given.
        """
        self.settle()
        keys = self._keys()
        given = _given(gradients, keys)
        directions: dict[Tensor, Tensor] = {}
        for group, slabs in zip(self.param_groups, self._shards.slabs, strict=True):
            for slab in slabs:
                chosen = [i for i, unit in enumerate(slab.units) if unit.key in given]
                if chosen:
                    part = slab if len(chosen) == len(slab.units) else slab.select(chosen)
                    stacked = part.stack(given[unit.key] for unit in part.units)
                    scaled = part.precondition(stacked, group["betas"][1], group["eps"])
                    directions |= _by_parameter(part.parameters, scaled)
        if self.ranks is not None:
            owners = {p: owner for p, owner in self._shards.owners.items() if keys[p] in given}
            directions = self.ranks.start_gather(owners, directions).wait()
        result = dict(given)
        for parameter, direction in directions.items():
            result[keys[parameter]] = direction.to(given[keys[parameter]].dtype)
        if isinstance(gradients, Mapping):
            return result
        return [result.get(key) for key in keys.values()]


def _by_parameter(parameters: Sequence[Tensor], stacked: Tensor) -> dict[Tensor, Tensor]:
    return {
        parameter: matrix.view(parameter.shape).to(parameter.dtype)
        for parameter, matrix in zip(parameters, stacked.unbind(), strict=True)
    }


def _given(
    gradients: Mapping[Key, Tensor] | Sequence[Tensor | None], keys: Mapping[Tensor, Key]
) -> dict[Key, Tensor]:
    """The gradients that are there, by key."""
    if isinstance(gradients, Mapping):
        unknown = [key for key in gradients if key not in set(keys.values())]
        if unknown:
            raise ValueError(f"no parameter is called {unknown[0]!r}")
        return dict(gradients)
    if len(gradients) != len(keys):
        raise ValueError(f"{len(gradients)} gradients were given for {len(keys)} parameters")
    pairs = zip(keys.values(), gradients, strict=True)
    return {key: gradient for key, gradient in pairs if gradient is not None}
