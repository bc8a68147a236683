"""The folders that a training writes to: whether they take a file, and how much space is left."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from dpinn.doctor.finding import Finding

LITTLE_GB = 1.0
"""A checkpoint of a large network and its predecessor fit."""

SAMPLE = bytes(64 * 1024)


def cache_folder(name: str) -> Finding:
    """The folder of reference solutions and measured constants."""
    from dpinn.reference.store import cache_folder

    return _judge(name, cache_folder(), "set DPINN_CACHE to a writable folder with free space")


def current_folder(name: str) -> Finding:
    """The folder of runs and of the MLflow database."""
    remedy = "go to a folder with free space, or name one by --run or --tracking.output"
    return _judge(name, Path.cwd(), remedy)


def temporary_folder(name: str) -> Finding:
    """The folder of what only this process needs."""
    remedy = "set TMPDIR to a writable folder with free space"
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return Finding(name, "problem", error.strerror or "none is usable", remedy)
    return _judge(name, folder, remedy)


def _judge(name: str, folder: Path, remedy: str) -> Finding:
    trouble = trouble_writing(folder)
    if trouble:
        return Finding(name, "problem", f"{folder}: {trouble}", remedy)
    free = shutil.disk_usage(nearest(folder)).free / 1e9
    text = f"{folder}, {free:.3g} GB free"
    return Finding(name, "warning", text, remedy) if free < LITTLE_GB else Finding(name, "ok", text)


def trouble_writing(folder: Path) -> str | None:
    """Write a file without a name, which nobody sees, where the folder is or would be made.

    Permissions tell little: root has them on a read-only file system, and a quota is in none.
    """
    place = nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(SAMPLE)
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def nearest(folder: Path) -> Path:
    """The folder itself, or the one above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())
