"""The tasks of a job array: seeds, or the values of some keys."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from dpinn.errors import DpinnError

SEED = "seed_everything"

RANGE = re.compile(r"(\d+)(?:-(\d+)(?::([1-9]\d*))?)?")
ARRAY = re.compile(rf"{RANGE.pattern}(?:,{RANGE.pattern})*(?:%[1-9]\d*)?")


@dataclass(frozen=True)
class Task:
    """A training of its own in an array.

    Attributes:
        index: SLURM_ARRAY_TASK_ID.
        name: of its folder, ``seed-3`` or ``lr-0.001``.
        options: further ones of ``dpinn fit``.
    """

    index: int
    name: str
    options: tuple[str, ...]

    @property
    def shell_case(self) -> str:
        """What the job script sets for this task."""
        name, options = shlex.quote(self.name), shlex.join(self.options)
        return f"{self.index}) task={name} options=({options}) ;;"


def seed_tasks(array: str) -> list[Task]:
    """A task for each seed of an array in SLURM's notation, ``0-4`` or ``1,3,10-20:5%2``.

    Raises:
        DpinnError: it is not in this notation.
    """
    seeds: dict[int, None] = {}
    if ARRAY.fullmatch(array):
        for first, last, step in RANGE.findall(array.split("%")[0]):
            seeds |= dict.fromkeys(range(int(first), int(last or first) + 1, int(step or 1)))
    if not seeds:
        raise DpinnError(
            f"--array {array} holds no seeds in SLURM's notation; use 0-4, 1,3,5, or 0-9%2 for two "
            "at a time"
        )
    return [Task(seed, f"seed-{seed}", (f"--{SEED}", str(seed))) for seed in seeds]


def sweep_tasks(sweeps: Sequence[str]) -> list[Task]:
    """A task for each combination of values, ``["model.clip=1,2", "seed_everything=0,1"]``.

    A value may be a list, ``data.points={initial: 8},{initial: 16}``: commas within brackets do not
    separate.

    Raises:
        DpinnError: a sweep is not of the form KEY=VALUE,VALUE.
    """
    axes: dict[str, list[str]] = {}
    for sweep in sweeps:
        key, equals, values = sweep.partition("=")
        key = key.removeprefix("--")
        split = [v.strip() for v in re.split(r",(?![^\[{]*[\]}])", values)]
        if not (key and equals and all(split)) or key in axes or len(set(split)) < len(split):
            raise DpinnError(
                f"--sweep {sweep} must be KEY=VALUE,VALUE,... with another key each time and "
                "different values, such as --sweep model.optimizer.init_args.lr=0.001,0.003"
            )
        axes[key] = split
    combinations = itertools.product(*axes.values())
    return [_combination(k, dict(zip(axes, c, strict=True))) for k, c in enumerate(combinations)]


def _combination(index: int, values: dict[str, str]) -> Task:
    names = [f"{key.split('.')[-1]}-{value}" for key, value in values.items()]
    plain = re.sub(r"[^\w.+-]+", "_", "-".join(names).replace(f"{SEED}-", "seed-"))
    options = [part for key, value in values.items() for part in (f"--{key}", value)]
    # Two long or alike values may give the same plain name.
    return Task(index, f"{index}-{plain[:100]}", tuple(options))


def array_indices(tasks: Sequence[Task], limit: int | None) -> str:
    """The tasks of a sweep as SLURM's ``--array`` takes them.

    Args:
        tasks: numbered from 0.
        limit: how many of them run at the same time.
    """
    return f"0-{len(tasks) - 1}" + ("" if limit is None else f"%{limit}")
