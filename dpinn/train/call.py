"""What ``dpinn fit`` is called with: a training begins, or goes on from its last checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dpinn.errors import DpinnError, DpinnWarning
from dpinn.run_files import CHECKPOINT, CONFIG, PREVIOUS, best_checkpoint, newest_run, said_of
from dpinn.train.checkpoint_io import read_whole_checkpoint


@dataclass(frozen=True)
class Call:
    """Arguments, of which ``--resume`` and ``--run`` have been taken.

    Attributes:
        arguments: for the parser.
        folder: in which the run begins; None for a new one.
    """

    arguments: Sequence[str]
    folder: Path | None = None

    @classmethod
    def read(cls, given: Sequence[str]) -> Call:
        """Understand ``--resume [RUN]``, go on with a run, and ``--run FOLDER``, begin in it.

        A run that has a checkpoint goes on also with ``--run``, so that a job that is queued again
        is started by the same command.

        Raises:
            DpinnError: there is no such run, or its checkpoints are damaged.
        """
        resumed, folder = "--resume" in given, value_of(given, "--run")
        if resumed and "--run" in given:
            raise DpinnError("--resume and --run say the same; give one of them")
        if resumed:
            at = list(given).index("--resume")
            rest = list(given[at + 1 :])
            run = Path(rest.pop(0)) if rest and not rest[0].startswith("-") else newest_run()
            return cls(_going_on(run, [*given[:at], *rest]))
        if folder is None:
            return cls(given)
        rest = _without(given, "--run")
        if any((Path(folder) / name).exists() for name in (CHECKPOINT, PREVIOUS)):
            # With the configuration that it began with, in which the file stands that was given.
            return cls(_going_on(Path(folder), _without(_without(rest, "--config"), "-c")))
        return cls(rest, Path(folder))


def value_of(arguments: Sequence[str], option: str) -> str | None:
    """What was given for an option, as ``--option value`` or ``--option=value``; the last counts.

    Raises:
        DpinnError: it stands there without a value.
    """
    value = None
    for at, argument in enumerate(arguments):
        if argument == option:
            if at + 1 == len(arguments):
                raise DpinnError(f"{option} needs a value")
            value = arguments[at + 1]
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
    return value


def _without(arguments: Sequence[str], option: str) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != option and not argument.startswith(f"{option}="):
            kept.append(argument)
        skip = argument == option and not skip
    return kept


def _going_on(run: Path, rest: Sequence[str]) -> list[str]:
    """Arguments for a run's own configuration and checkpoint."""
    checkpoint = run if run.is_file() else best_checkpoint(run, read_whole_checkpoint)
    folder = checkpoint.parent.parent
    if checkpoint != run and checkpoint != run / CHECKPOINT:
        rank_zero_only(warnings.warn)(said_of(checkpoint), DpinnWarning, stacklevel=2)
    step = read_whole_checkpoint(checkpoint)["global_step"]
    if not (folder / CONFIG).is_file():
        raise DpinnError(f"{folder} has no {CONFIG}; give the folder of a run")
    rank_zero_only(print)(f"resuming {folder} at step {step}", flush=True)
    return ["--config", str(folder / CONFIG), "--ckpt_path", str(checkpoint), *rest]
