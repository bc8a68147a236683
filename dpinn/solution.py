"""A trained solution as a function of named coordinates."""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from dpinn.errors import DpinnError, DpinnWarning
from dpinn.jet import DerivativePlan, Field
from dpinn.jet.field import Key
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
    """

    def __init__(
        self,
        problem: Problem,
        pinn: PINN | WindowedPINN,
        facts: RunFacts,
        windows: Sequence[tuple[float, float]] = (),
    ):
        self.problem = problem
        self.pinn = pinn.requires_grad_(False).eval()
        self.facts = facts
        self.windows = tuple(windows)

    def __call__(self, **coordinates: Any) -> dict[str, SolutionField]:
        """Evaluate all fields.

        Args:
            coordinates: a number, array or tensor for each coordinate of the problem, of shapes
                that broadcast together.

        Returns:
            Each field by name, of the broadcast shape; derivatives are read as ``u.t``, ``u.xx``.
        """
        names = self.problem.domain.coordinates
        if set(coordinates) != set(names):
            raise DpinnError(
                f"a solution of {type(self.problem).__name__} takes {', '.join(names)}; "
                f"given were {', '.join(coordinates) or 'none'}"
            )
        like = next(self.pinn.parameters())
        columns = [
            torch.as_tensor(coordinates[n], dtype=like.dtype, device=like.device) for n in names
        ]
        columns = list(torch.broadcast_tensors(*columns))
        shape = columns[0].shape
        points = torch.stack([c.reshape(-1) for c in columns], dim=1)
        values = self.pinn(points)
        return {
            name: SolutionField(
                name, values[:, k].reshape(shape), names, self._derivative(points, name, shape)
            )
            for k, name in enumerate(self.problem.fields)
        }

    def _derivative(self, points: Tensor, field: str, shape: torch.Size) -> Callable[[Key], Tensor]:
        names = self.problem.domain.coordinates

        def derive(key: Key) -> Tensor:
            laplacian = isinstance(key, str)
            plan = DerivativePlan.build(names, [] if isinstance(key, str) else [key], laplacian)
            return self.pinn.fields(points, plan)[field]._read(key).reshape(shape)

        return derive


def load(where: str | Path, device: str = "cpu") -> Solution:
    """Load a trained solution.

    Args:
        where: a run folder, a checkpoint file, or the id of an MLflow run.
        device: where it shall compute.

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
        return _from_checkpoint(checkpoint, device)
    if not path.exists() and re.fullmatch("[0-9a-f]{32}", str(where)):
        from dpinn.track import download_artifact

        with tempfile.TemporaryDirectory(prefix="dpinn-") as folder:
            return _from_checkpoint(download_artifact(str(where), CHECKPOINT, folder), device)
    return _from_checkpoint(path, device)


def _from_checkpoint(path: Path, device: str) -> Solution:
    checkpoint = read_checkpoint(path, device)
    run = checkpoint.get("run")
    if not run or not run["config"]:
        raise DpinnError(f"{path} has no configuration; only runs of `dpinn fit` can be loaded")
    config = yaml.safe_load(run["config"])
    problem, network = instantiate(config["problem"], config["model"]["network"])
    try:
        return restored(checkpoint, problem, lambda: PINN(problem, network), device)
    except RuntimeError as error:
        raise DpinnError(
            f"{path} does not fit the network that its configuration describes; was the class "
            f"{config['model']['network']['class_path']} changed since?"
        ) from error


def restored(
    checkpoint: Mapping[str, Any], problem: Problem, make: Callable[[], PINN], device: str = "cpu"
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
        return Solution(problem, pinns[0], facts)
    windows = [tuple(stage["interval"]) for stage in stages["stages"]]
    whole = WindowedPINN(pinns, [end for _, end in windows[:-1]])
    return Solution(problem, whole, facts, windows)


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
