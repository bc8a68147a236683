"""A user's own reference solution, from a NetCDF file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr

from dpinn.errors import DpinnError
from dpinn.reference.base import Reference
from dpinn.reference.progress import Progress


@dataclasses.dataclass(frozen=True)
class FileReference(Reference):
    """A solution that was computed elsewhere; it is read where it lies, never copied or cached.

    The attribute ``error_estimate`` of the file, a relative L2 error, is NaN if it has none.

    Example:
        >>> FileReference("dns.nc", coordinates=("t", "x"), fields=("u",))  # doctest: +SKIP
    """

    name: ClassVar[str] = "file"
    version: ClassVar[int] = 1

    path: str | Path
    coordinates: tuple[str, ...]
    """The problem's coordinates, in its order."""
    fields: tuple[str, ...]
    """The fields that the file must have."""
    optional: tuple[str, ...] = ()
    """What is compared as well if the file has it; everything else in it is left out."""

    def solve(self, quick: bool = False, progress: Progress = True) -> xr.Dataset:
        """Read and check the file; ``quick`` and ``progress`` change nothing.

        Raises:
            DpinnError: if the file cannot be read, or naming what is missing in it.
        """
        try:
            dataset = xr.load_dataset(self.path, decode_times=False)
        except FileNotFoundError as error:
            raise DpinnError(f"the reference file {self.path} does not exist") from error
        except Exception as error:  # Each engine answers a damaged file in its own way.
            raise DpinnError(
                f"the reference file {self.path} cannot be read as NetCDF ({error})"
            ) from error
        names = [*self.fields, *(name for name in self.optional if name in dataset.data_vars)]
        dataset = conform(dataset, self.coordinates, names, source=str(self.path))
        dataset.attrs.setdefault("error_estimate", float("nan"))
        return dataset


def conform(
    dataset: xr.Dataset, coordinates: Sequence[str], fields: Sequence[str], source: str
) -> xr.Dataset:
    """Give the named fields in float64, over the named coordinates in that order.

    Args:
        dataset: may hold more fields, its dimensions may be in another order.
        coordinates: the dimensions that each field must have.
        fields: the variables that must be there.
        source: what the dataset is called in an error.

    Raises:
        DpinnError: naming the fields, dimensions or coordinate values that are missing, or a
            field with other dimensions or with values that are not finite.
    """
    missing = {
        "fields": [name for name in fields if name not in dataset.data_vars],
        "dimensions": [name for name in coordinates if name not in dataset.dims],
        "values of the coordinates": [
            name for name in coordinates if name in dataset.dims and name not in dataset.coords
        ],
    }
    absent = "; ".join(f"{kind} {', '.join(names)}" for kind, names in missing.items() if names)
    if absent:
        has = ", ".join(map(str, dataset.data_vars)) or "none"
        over = ", ".join(map(str, dataset.dims)) or "none"
        raise DpinnError(
            f"{source} lacks the {absent}; it has the fields {has} over the dimensions {over}"
        )
    for name in fields:
        if set(dataset[name].dims) != set(coordinates):
            raise DpinnError(
                f"{name} in {source} has the dimensions {', '.join(map(str, dataset[name].dims))}; "
                f"it must have {', '.join(coordinates)}"
            )
        if not np.isfinite(dataset[name].values).all():
            raise DpinnError(f"{name} in {source} has values that are not finite")
    chosen = dataset[list(fields)].transpose(*coordinates).astype(np.float64)
    return chosen.assign_coords({name: chosen[name].astype(np.float64) for name in coordinates})
