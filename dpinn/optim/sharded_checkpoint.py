"""SOAP's state as a folder into which every rank writes what it owns.

Written and read by ``torch.distributed.checkpoint``; saved on any number of ranks and loaded on any
other. The whole state is never in one place.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from dpinn.errors import cause_of
from dpinn.optim.state import StateError, check_state_dict, require_same_keys
from dpinn.optim.units import Unit

if TYPE_CHECKING:
    from dpinn.optim.divided import DividedOptimizer

SHARED = "shared"
"""Name of `SOAP.shared_state`, as bytes: tensors are all that is stored."""


def save_shards(optimizer: DividedOptimizer, folder: Path) -> None:
    """Write the state into a new folder; all ranks that share the state call it.

    The folder is whole once its file ``.metadata`` is there, which is written last.

    Raises:
        StateError: it could not be written.
    """
    content: dict[str, Tensor] = {}
    for key, entry in optimizer.owned_state().items():
        content |= {_path(key, name): torch.as_tensor(value) for name, value in entry.items()}
    shared = _to_bytes(optimizer.shared_state())
    ranks = optimizer.ranks
    if ranks is None or ranks.rank == 0:
        content[SHARED] = shared
    try:
        if ranks is None:
            with _without_advice():
                dcp.save(content, checkpoint_id=folder, no_dist=True)
        else:
            dcp.save(content, checkpoint_id=folder, process_group=ranks.group)
    except (dcp.CheckpointException, OSError) as error:
        raise StateError(
            f"cannot write {folder}: {_reason(error)}; free some space or choose another folder"
        ) from error


def load_shards(optimizer: DividedOptimizer, folder: Path) -> None:
    """Take over a saved state; each rank reads what it owns under its own number of ranks.

    Raises:
        StateError: the folder is incomplete or damaged, or of other parameters or options.
    """
    stored = _stored(folder)
    shared = _from_bytes(_read(folder, {SHARED: stored.pop(SHARED, None)})[SHARED], folder)
    keys = {key for group in shared["param_groups"] for key in group["params"]}
    names: dict[Any, set[str]] = {key: set() for key in keys}
    by_path = {str(key): key for key in keys}
    for path in stored:
        key, _, name = path.rpartition("|")
        require_same_keys("parameters", [key], [k for k in by_path if k == key])
        names[by_path[key]].add(name)
    check_state_dict({"state": names, **shared}, optimizer.param_groups, _ENTRIES)

    def entry_of(unit: Unit) -> dict[str, Any]:
        wanted = {_path(unit.key, name): stored[_path(unit.key, name)] for name in names[unit.key]}
        entry = {path.rpartition("|")[2]: t for path, t in _read(folder, wanted).items()}
        return entry | {"step": int(entry["step"])}

    present = {key for key, of_key in names.items() if of_key}
    optimizer.adopt(shared["param_groups"], shared["counters"], present, entry_of)


def require_whole(folder: Path) -> None:
    """Read all files of a saved state and compare their content with the checksums in it.

    Raises:
        StateError: the folder is incomplete or damaged.
    """
    for place in (_metadata(folder).storage_data or {}).values():
        name = place.relative_path
        try:
            with (folder / name).open("rb") as file:
                file.seek(place.offset)
                content = file.read(place.length)
            # Each tensor is what torch.save writes, which torch.load does not check.
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                is_whole = archive.testzip() is None
        except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile):
            is_whole = False
        if not is_whole:
            raise StateError(f"{folder} lacks a part of {name}; use an earlier checkpoint")


_ENTRIES = ("state", "param_groups", "counters")


def _path(key: str | int, name: str) -> str:
    return f"{key}|{name}"


def _metadata(folder: Path) -> Metadata:
    try:
        return dcp.FileSystemReader(folder).read_metadata()
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise StateError(
            f"{folder} is no complete sharded state; use an earlier checkpoint"
        ) from error


def _stored(folder: Path) -> dict[str, Any]:
    """Shape and dtype of every stored tensor by its path."""
    return dict(_metadata(folder).state_dict_metadata)


def _read(folder: Path, wanted: dict[str, Any]) -> dict[str, Tensor]:
    content: dict[str, Tensor] = {}
    for path, stored in wanted.items():
        if not isinstance(stored, TensorStorageMetadata):
            raise StateError(f"{folder} lacks {path!r}; it is no sharded state of SOAP")
        content[path] = torch.empty(stored.size, dtype=stored.properties.dtype)
    try:
        # Each rank for itself: what it reads depends on what it owns.
        with _without_advice():
            dcp.load(content, checkpoint_id=folder, no_dist=True)
    except (dcp.CheckpointException, OSError, EOFError, RuntimeError, ValueError) as error:
        raise StateError(
            f"{folder} is incomplete or damaged: {_reason(error)}; use an earlier checkpoint"
        ) from error
    return content


@contextmanager
def _without_advice() -> Iterator[None]:
    """Torch remarks that a single process saves or loads, which is what was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")
        yield


def _reason(error: BaseException) -> str:
    """What the first rank that failed has failed with."""
    failures = getattr(error, "failures", None)
    return cause_of(next(iter(failures.values()))[0] if failures else error)


def _to_bytes(content: dict[str, Any]) -> Tensor:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _from_bytes(content: Tensor, folder: Path) -> dict[str, Any]:
    try:
        loaded = torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)
    except (RuntimeError, EOFError, ValueError) as error:
        raise StateError(f"{folder} is damaged; use an earlier checkpoint") from error
    assert isinstance(loaded, dict)
    return loaded
