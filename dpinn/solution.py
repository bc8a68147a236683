"""A trained solution as a function of named coordinates."""

from __future__ import annotations

import math
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.autograd import forward_ad

from dpinn.batches import in_batches
from dpinn.box import SAME
from dpinn.errors import DpinnError, DpinnWarning
from dpinn.jet import DerivativePlan, Field
from dpinn.jet.field import Key
from dpinn.jet.plan import TIME
from dpinn.nn import PINN, WindowedPINN
from dpinn.nn.pinn import NetworkFactory
from dpinn.problem import Problem
from dpinn.run_files import CHECKPOINT, best_checkpoint, read_checkpoint, said_of


class SolutionField(Field):
    """A field of a solution, whose derivatives are computed when they are read."""

    def __init__(
        self, name: str, value: Tensor, coordinates: Sequence[str], derive: Callable[[Key], Tensor]
    ):
        super().__init__(name, value, coordinates, {})
        self.derive = derive

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self.value.detach().cpu().numpy()
        return array if dtype is None else array.astype(dtype)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Functions of numpy see an array; there is no gradient that they could lose."""
        arrays = [np.asarray(i) if isinstance(i, Field | Tensor) else i for i in inputs]
        return getattr(function, method)(*arrays, **options)

    def _read(self, key: Key) -> Tensor:
        if key not in self.derivatives:
            self.derivatives[key] = self.derive(key)
        return self.derivatives[key]


@dataclass(frozen=True)
class RunFacts:
    """What is known about how a solution was trained.

    Attributes:
        steps: optimizer steps.
        seconds: of training, all parts of a resumed run together.
        device: what it was trained on.
        seed: of points and parameters.
        mlflow_run_id: the run in MLflow, or None.
        planned_steps: of the whole training; None where it is not known.
        initial_errors: by field and quantity, of the network as the training began.
    """

    steps: int
    seconds: float
    device: str
    seed: int
    mlflow_run_id: str | None
    planned_steps: int | None = None
    initial_errors: dict[str, float] = field(default_factory=dict)


class Solution:
    """A trained PINN: ``solution(t=t, x=x)["u"]``, and ``.xx`` of it, are tensors.

    Args:
        problem: the PDE.
        pinn: the network with its trained weights, or those of all time windows as one.
        facts: how it was trained.
        windows: intervals of time that were trained one after the other; () if there were none.
        extrapolate: answer outside of the trained domain too; coordinates are not looked at.
    """

    def __init__(
        self,
        problem: Problem,
        pinn: PINN | WindowedPINN,
        facts: RunFacts,
        windows: Sequence[tuple[float, float]] = (),
        extrapolate: bool = False,
    ):
        self.problem = problem
        self.pinn = pinn.requires_grad_(False).eval()
        self.facts = facts
        self.windows = tuple(windows)
        self.extrapolate = extrapolate

    def __call__(self, **coordinates: Any) -> dict[str, SolutionField]:
        """Evaluate all fields, at any number of points: memory beyond the result is bounded.

        Args:
            coordinates: a number, array or tensor for each coordinate of the problem, of shapes
                that broadcast together. Through a tensor that requires a gradient, values and
                derivatives can be differentiated further; their memory then grows with the points.

        Returns:
            Each field by name, of the broadcast shape; derivatives are read as ``u.t``, ``u.xx``.

        Raises:
            DpinnError: a coordinate is missing, unknown, not finite, or outside of the trained
                domain; a periodic one has no outside.
        """
        names = self.problem.domain.coordinates
        if set(coordinates) != set(names):
            raise DpinnError(
                f"a solution of {type(self.problem).__name__} takes {', '.join(names)}; "
                f"given were {', '.join(coordinates) or 'none'}"
            )
        for name in names:
            if not self.extrapolate:
                self._require_inside(name, coordinates[name])
        like = next(self.pinn.parameters())
        columns = [
            torch.as_tensor(coordinates[n], dtype=like.dtype, device=like.device) for n in names
        ]
        points = _Points(columns)
        values = points.evaluate(
            lambda p: dict(zip(self.problem.fields, self.pinn(p).unbind(1), strict=True))
        )
        return {
            name: SolutionField(name, value, names, self._derivative(points, name))
            for name, value in values.items()
        }

    def _derivative(self, points: _Points, field: str) -> Callable[[Key], Tensor]:
        names = self.problem.domain.coordinates

        def derive(key: Key) -> Tensor:
            laplacian = isinstance(key, str)
            plan = DerivativePlan.build(names, [] if isinstance(key, str) else [key], laplacian)
            found = points.evaluate(
                lambda p: {field: self.pinn.fields(p, plan)[field].derivatives[key]}
            )
            return found[field]

        return derive

    def _require_inside(self, name: str, given: Any) -> None:
        """Refuse a coordinate that is not finite, or where nothing was trained."""
        # Before it is rounded to the precision of the network.
        values = given.detach() if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
        if not values.numel():
            return
        seen = [float(v) for v in values.aminmax()]
        for value in seen:
            if not math.isfinite(value):
                raise DpinnError(f"the coordinate {name} is {value} somewhere; give finite numbers")
        if name in self.problem.periodic:
            return
        low, high = self.problem.domain[name]
        if name == TIME and self.windows:
            low, high = self.windows[0][0], self.windows[-1][1]
        weights = next(self.pinn.parameters()).dtype
        floating = [d for d in (values.dtype, weights) if d.is_floating_point]
        rounding = max(torch.finfo(d).eps for d in floating) * max(abs(low), abs(high))
        margin = SAME * (high - low) + rounding
        for value in seen:
            if not low - margin <= value <= high + margin:
                raise DpinnError(
                    f"{name} = {value:.6g} is outside of {low:g} to {high:g}, where the solution "
                    "was trained; to have it answer there, load it with extrapolate=True"
                )


class _Points:
    """Points that columns of coordinates broadcast to, made only as many as are asked for."""

    def __init__(self, columns: Sequence[Tensor]):
        self.columns = torch.broadcast_tensors(*columns)
        self.shape = self.columns[0].shape

    def evaluate(self, function: Callable[[Tensor], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Give what `function` makes of ``N x coordinates`` points, in the columns' shape."""

        def at(first: int, last: int) -> Mapping[str, Tensor]:
            return function(self._between(first, last))

        count = self.shape.numel()
        # A graph holds all points at once anyway.
        values = at(0, count) if self._is_differentiated() else in_batches(at, 0, count)
        return {name: value.reshape(self.shape) for name, value in values.items()}

    def _between(self, first: int, last: int) -> Tensor:
        grid = self.shape or (1,)
        index = torch.arange(first, last, device=self.columns[0].device)
        where = torch.unravel_index(index, grid)
        return torch.stack([column.expand(grid)[where] for column in self.columns], dim=1)

    def _is_differentiated(self) -> bool:
        """Whether a gradient of the coordinates is wanted, in reverse or in forward mode."""
        return any(
            (column.requires_grad and torch.is_grad_enabled())
            or forward_ad.unpack_dual(column).tangent is not None
            for column in self.columns
        )


def load(where: str | Path, device: str = "cpu", extrapolate: bool = False) -> Solution:
    """Load a trained solution.

    Args:
        where: a run folder, a checkpoint file, or the id of an MLflow run.
        device: where it shall compute.
        extrapolate: let it answer outside of the trained domain too, instead of refusing.

    Raises:
        DpinnError: there is none, it is damaged, or its problem cannot be imported.

    Example:
        >>> u = load("runs/burgers-20260101-120000")(t=0.5, x=0.1)["u"]  # doctest: +SKIP
    """
    path = Path(where)
    if path.is_dir():
        checkpoint = best_checkpoint(path)
        if checkpoint != path / CHECKPOINT:
            warnings.warn(said_of(checkpoint), DpinnWarning, stacklevel=2)
        return _from_checkpoint(checkpoint, device, extrapolate)
    if not path.exists() and re.fullmatch("[0-9a-f]{32}", str(where)):
        from dpinn.track import download_artifact

        with tempfile.TemporaryDirectory(prefix="dpinn-") as folder:
            artifact = download_artifact(str(where), CHECKPOINT, folder)
            return _from_checkpoint(artifact, device, extrapolate)
    return _from_checkpoint(path, device, extrapolate)


def _from_checkpoint(path: Path, device: str, extrapolate: bool) -> Solution:
    checkpoint = read_checkpoint(path, device)
    run = checkpoint.get("run")
    if not run or not run["config"]:
        raise DpinnError(f"{path} has no configuration; only runs of `dpinn fit` can be loaded")
    config = yaml.safe_load(run["config"])
    problem, network = instantiate(config["problem"], config["model"]["network"])
    inputs = config["model"].get("inputs", "raw")  # as before there was a choice
    try:
        return restored(
            checkpoint, problem, lambda: PINN(problem, network, inputs), device, extrapolate
        )
    except RuntimeError as error:
        raise DpinnError(
            f"{path} does not fit the network that its configuration describes; was the class "
            f"{config['model']['network']['class_path']} changed since?"
        ) from error


def restored(
    checkpoint: Mapping[str, Any],
    problem: Problem,
    make: Callable[[], PINN],
    device: str = "cpu",
    extrapolate: bool = False,
) -> Solution:
    """The solution in a checkpoint, given the problem and how its networks are made.

    Raises:
        RuntimeError: the networks have other weights than the checkpoint.
    """
    run = checkpoint["run"]
    stages = checkpoint.get("course", {"stages": [{"interval": None}], "finished": []})
    states = [*stages["finished"], checkpoint["solution"]]
    # Of the dtype that was trained before anything is copied into them, which would round it.
    dtype = next(iter(checkpoint["solution"].values())).dtype
    pinns = [make().to(device, dtype) for _ in states]
    for pinn, state in zip(pinns, states, strict=True):
        pinn.load_state_dict(state)
    facts = RunFacts(
        steps=int(checkpoint["global_step"]),
        seconds=float(run["seconds"]),
        device=run["device"],
        seed=int(run["seed"]),
        mlflow_run_id=run["mlflow_run_id"],
        planned_steps=run.get("planned_steps"),
        initial_errors=dict(run.get("initial_errors", {})),
    )
    if stages["stages"][0]["interval"] is None:
        return Solution(problem, pinns[0], facts, extrapolate=extrapolate)
    windows = [tuple(stage["interval"]) for stage in stages["stages"]]
    whole = WindowedPINN(pinns, [end for _, end in windows[:-1]])
    return Solution(problem, whole, facts, windows, extrapolate)


def instantiate(problem: Any, network: Any) -> tuple[Problem, NetworkFactory]:
    """Make a problem and a network factory from their entries in a configuration."""
    from jsonargparse import ArgumentParser

    import_from_current_folder()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--problem", type=Problem)
    parser.add_argument("--network", type=NetworkFactory)
    try:
        parsed = parser.parse_object({"problem": problem, "network": network})
    except Exception as error:
        name = problem.get("class_path", problem) if isinstance(problem, dict) else problem
        raise DpinnError(
            f"the problem {name} or its network cannot be made; run from the folder that holds "
            f"its file ({str(error).splitlines()[-1].strip()})"
        ) from error
    made = parser.instantiate(parsed)
    return made.problem, made.network


def import_from_current_folder() -> None:
    """Let class paths such as ``my_pde.AllenCahn`` name files of the current folder.

    By its full path: while a configuration is read, the current folder is that of its file.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
