"""The cache of reference solutions: computed once, then read.

A solution is one NetCDF file below ``$DPINN_CACHE/references``. It is written whole or not at all,
ends with a digest of its content, and is computed by one process while others wait for it.

HDF5 never touches the disk here. Measured (HDF5 in h5py 3.16): writing to a full disk kills the
process with a segmentation fault, and reading a file with flipped bits can hang. So it works in
memory, the bytes are written by Python, and they are checked before HDF5 reads them.
"""

import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from tqdm import tqdm

from dpinn.errors import DpinnError, DpinnWarning
from dpinn.reference.base import Reference
from dpinn.reference.file import FileReference
from dpinn.reference.progress import Progress

DEFINITION = "dpinn_definition"
SEAL = b"\ndpinn sha256\n"
"""Follows the NetCDF bytes, before their digest; HDF5 ignores what comes after its own end."""

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What a parallel file system mounted without file locks answers."""


class _DamagedError(Exception):
    """A cached file that is not what was written."""


def cache_folder() -> Path:
    """Give the folder of all that dpinn caches: ``$DPINN_CACHE``, else the user's cache folder."""
    if chosen := os.environ.get("DPINN_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dpinn"


def reference_path(reference: Reference, quick: bool = False) -> Path:
    """Give the file of a solution; another definition has another file."""
    if isinstance(reference, FileReference):
        return Path(reference.path)
    key = hashlib.sha256(_definition(reference, quick).encode()).hexdigest()[:12]
    kind = "quick" if quick else "full"
    return cache_folder() / "references" / f"{reference.name}-{kind}-{key}.nc"


def load_reference(
    reference: Reference, quick: bool = False, progress: Progress = True, anew: bool = False
) -> xr.Dataset:
    """Read a reference solution, computing and caching it first where that was not yet done.

    Args:
        reference: the problem's reference, or a ``FileReference``, which is read each time.
        quick: the coarse solution, within seconds.
        progress: a bar on stderr, nothing, or a function of the steps done and their total.
        anew: compute it even if it is cached, and replace what is.

    Returns:
        What ``reference.solve`` gives, see there.

    Raises:
        DpinnError: if the cache cannot be written.

    Example:
        >>> solution = load_reference(WaveReference(), quick=True)  # doctest: +SKIP
        >>> solution.u.shape, solution.error_estimate  # doctest: +SKIP
        ((51, 129), 5.8e-15)
    """
    if isinstance(reference, FileReference):
        return reference.solve(quick, progress)
    path = reference_path(reference, quick)
    definition = _definition(reference, quick)
    try:
        cached = _read(path, definition)
    except _DamagedError:
        cached = None  # Told below, once no other process can be replacing it.
    if cached is not None and not anew:
        return cached
    with _locked(path, progress) as alone:
        try:
            cached = _read(path, definition)
        except _DamagedError as damage:
            warnings.warn(
                f"the cached reference {path} is damaged ({damage}); computing it again",
                DpinnWarning,
                stacklevel=2,
            )
        if cached is not None and not anew:
            return cached
        if alone:
            for part in path.parent.glob(f".{path.stem}-*.part"):
                part.unlink(missing_ok=True)  # of a process that was killed while it wrote
        dataset = reference.solve(quick, progress)
        dataset.attrs[DEFINITION] = definition
        _write(dataset, path)
    return dataset


def _definition(reference: Reference, quick: bool) -> str:
    return json.dumps(reference.definition(quick), sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """Turn numpy's numbers and arrays into what JSON knows."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{value!r} is not a number, a string or a list of them")


def _seal(netcdf: bytes | memoryview) -> bytes:
    return SEAL + hashlib.sha256(netcdf).digest()


def _read(path: Path, definition: str) -> xr.Dataset | None:
    """Read a cached file, None if there is none.

    Raises:
        _DamagedError: if it is not what was written.
        DpinnError: if it may not be read.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DpinnError(
            f"the cached reference {path} cannot be read ({error.strerror}); "
            "remove it, or set DPINN_CACHE to a folder of your own"
        ) from error
    end = len(content) - len(_seal(b""))
    netcdf = content[: max(end, 0)]
    if content[len(netcdf) :] != _seal(netcdf):
        raise _DamagedError("its digest does not match its content")
    dataset = xr.load_dataset(io.BytesIO(netcdf), engine="h5netcdf", decode_times=False)
    if dataset.attrs.get(DEFINITION) != definition:
        raise _DamagedError("it holds another solution")
    return dataset


def _write(dataset: xr.Dataset, path: Path) -> None:
    """Put the whole file in place at once, or leave nothing behind."""
    encoding = {name: {"_FillValue": None} for name in dataset.variables}
    netcdf = dataset.to_netcdf(engine="h5netcdf", encoding=encoding)
    part = path.with_name(f".{path.stem}-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            file.write(netcdf)
            file.write(_seal(netcdf))
            file.flush()
            # A file system may find out that it is full only when made to write.
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[bool]:
    """Let one process at a time compute this file; the kernel frees the lock of a dead one.

    Yields:
        Whether this process is alone: some file systems have no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    with lock:
        alone = True
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if progress is True:
                    waiting = f"waiting for another process that computes {path.name}"
                    tqdm.write(waiting, file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise _unwritable(path.parent, error) from error
            alone = False
            warnings.warn(
                f"{path.parent} has no file locks: processes that start together may each "
                "compute the reference",
                DpinnWarning,
                stacklevel=4,
            )
        yield alone


def _unwritable(folder: Path, error: OSError) -> DpinnError:
    return DpinnError(
        f"cannot write the reference solution below {folder} ({error.strerror}); "
        "set DPINN_CACHE to a writable folder with free space"
    )
