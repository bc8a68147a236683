"""Lightning's checkpoints, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from dpinn.optim.sharded_checkpoint import require_whole
from dpinn.optim.state import StateError
from dpinn.run_files import PREVIOUS, DamagedCheckpointError, read_checkpoint, write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the last checkpoint, then replaces it; reads tensors and plain types only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; the one that it replaces stays, under another name."""
        keep = Path(path).with_name(Path(PREVIOUS).name)
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file), keep)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; into main memory, not onto the device of the rank that wrote it."""
        checkpoint = read_checkpoint(Path(path), map_location or "cpu")
        for state in _sharded(checkpoint):
            # As it stands now: a run may have moved.
            state["shards"] = str(Path(path).parent / Path(state["shards"]).name)
        return checkpoint


def shard_folders(checkpoint: dict[str, Any], beside: Path) -> list[Path]:
    """The folders with the parts of a checkpoint that lie in shards beside it."""
    return [beside / Path(state["shards"]).name for state in _sharded(checkpoint)]


def read_whole_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, and look whether the shards beside it are all there.

    Raises:
        DamagedCheckpointError: it is not whole.
    """
    checkpoint = read_checkpoint(path)
    for folder in shard_folders(checkpoint, path.parent):
        try:
            require_whole(folder)
        except StateError as error:
            raise DamagedCheckpointError(str(error)) from error
    return checkpoint


def _sharded(checkpoint: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The optimizer states that name a folder of shards."""
    for state in checkpoint["optimizer_states"]:
        while "shards" not in state and "base" in state:
            state = state["base"]
        if "shards" in state:
            yield state
