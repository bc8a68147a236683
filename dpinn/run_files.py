"""The files of a run: where they lie, written whole or not at all, and read back."""

from __future__ import annotations

import json
import os
import pickle
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dpinn.errors import DpinnError, cause_of

CHECKPOINT = "checkpoints/last.ckpt"
PREVIOUS = "checkpoints/previous.ckpt"
"""The checkpoint before the last one."""
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
ALIGNMENT = "alignment.jsonl"
EVALUATION = "evaluation.json"
FIGURES = "figures"
RUN_ID = "mlflow_run_id"
RUNS = "runs"
"""The folder below the current one that holds the runs, unless another is named."""


def new_run_folder(output: Path, name: str) -> Path:
    """Create a folder of its own for a run, ``output/name-date-time``.

    Raises:
        DpinnError: it cannot be written.
    """
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for attempt in range(1000):
        folder = output / (stem if not attempt else f"{stem}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if output.exists() and not output.is_dir():
                raise DpinnError(f"{output} is a file; choose another --tracking.output") from None
        except OSError as error:
            raise DpinnError(
                f"cannot create {folder}: {error.strerror}; choose another --tracking.output"
            ) from error
        else:
            return folder
    raise DpinnError(f"{output} already has a thousand runs named {stem}")


def newest_run(output: Path = Path(RUNS)) -> Path:
    """The run below `output` whose checkpoint was written last.

    Raises:
        DpinnError: there is none.
    """
    checkpoints = sorted(output.glob(f"*/{CHECKPOINT}"), key=lambda p: p.stat().st_mtime_ns)
    if not checkpoints:
        raise DpinnError(f"there is no run below {output.resolve()}; train one with `dpinn fit`")
    return checkpoints[-1].parent.parent


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], keep: Path | None = None
) -> None:
    """Call `write` on a file beside `path`, then put it in place in one step.

    Args:
        path: of the file.
        write: writes the content.
        keep: name under which the file that was there stays; at no moment is there none at `path`.

    Raises:
        DpinnError: the folder is full or cannot be written; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            _set_aside(path, keep)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its zip writer.
        raise DpinnError(
            f"cannot write {path}: {cause_of(error)}; free some space or choose another "
            "--tracking.output"
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def _set_aside(path: Path, keep: Path) -> None:
    """Give a file a second name, in place of what had it."""
    second = keep.with_name(f".{keep.name}.{os.getpid()}.part")
    try:
        os.link(path, second)
    except OSError:  # a file system without links: for a moment there is only the other name
        second = path
    os.replace(second, keep)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


class DamagedCheckpointError(DpinnError):
    """A checkpoint that cannot be read to its end."""


def read_checkpoint(path: Path, device: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of dpinn: tensors and plain types only.

    Raises:
        DpinnError: there is none, it is damaged, or something else wrote it.
    """
    if not path.is_file():
        raise DpinnError(f"there is no checkpoint {path}; give a run folder or a checkpoint in one")
    damage = (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError)
    try:
        with zipfile.ZipFile(path) as archive:
            # torch itself does not look at the checksums that it writes.
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("wrong checksum")
        loaded = torch.load(path, map_location=device, weights_only=True)
    except (*damage, zipfile.BadZipFile) as error:
        raise DamagedCheckpointError(
            f"{path} is damaged or no checkpoint; use an earlier checkpoint, or train anew"
        ) from error
    if not isinstance(loaded, dict) or "solution" not in loaded:
        raise DpinnError(f"{path} was not written by dpinn; give a checkpoint of `dpinn fit`")
    return loaded


def best_checkpoint(folder: Path, look: Callable[[Path], object] = read_checkpoint) -> Path:
    """The last checkpoint of a run, or the one before it where the last is damaged.

    Args:
        folder: of the run.
        look: raises `DamagedCheckpointError` for one that is not whole.

    Raises:
        DpinnError: there is none, or neither is whole.
    """
    last, previous = folder / CHECKPOINT, folder / PREVIOUS
    try:
        if last.exists() or not previous.exists():
            look(last)
            return last
    except DamagedCheckpointError as error:
        try:
            look(previous)
        except DpinnError:
            raise error from None
    return previous


def said_of(checkpoint: Path) -> str:
    """What to tell a person who gets another checkpoint than the last."""
    return f"{checkpoint.parent.parent / CHECKPOINT} is damaged; {checkpoint} is used instead"


class History:
    """The logged metrics of a run, one JSON object a line, in the order of the steps.

    Args:
        path: the file; created by the first line.
        until: of an earlier file only the lines up to this step are kept, since a resumed run
            writes the later ones again.
    """

    def __init__(self, path: Path, until: int = 0):
        self.path = path
        self.rows = [row for row in read_history(path) if row["step"] <= until]
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(path, lambda file: file.write(text.encode()))

    def append(self, row: dict[str, Any]) -> None:
        """Add a line."""
        self.rows.append(row)
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise DpinnError(
                f"cannot write {self.path}: {error.strerror}; free some space, then resume the run"
            ) from error


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a history; a last one that a kill has cut short is left out."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows
