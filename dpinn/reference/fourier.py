"""Periodic grids and their Fourier modes."""

import os
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from dpinn.reference.base import Array

Modes = NDArray[np.complexfloating]


def available_cores() -> int:
    """Cores that this process may use, which a batch system makes fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class FourierGrid:
    """Real fields on a periodic box in any number of dimensions.

    Values are ``... x n_1 x ... x n_d``, modes ``... x n_1 x ... x n_d/2+1`` (the unnormalized
    real transform of scipy); leading axes are fields, transformed together.
    """

    lower: tuple[float, ...]
    """Where each axis begins."""
    lengths: tuple[float, ...]
    """The period along each axis."""
    cells: tuple[int, ...]
    """Points along each axis, even numbers; the point at the far seam is not repeated."""
    keep: float = 1.0
    """Part of the wavenumbers that ``dealias`` keeps: 2/3 makes a quadratic term free of aliasing,
    1/2 a cubic one."""
    workers: int = field(default_factory=available_cores)
    """Threads of the transforms."""

    def __post_init__(self) -> None:
        if not len(self.lower) == len(self.lengths) == len(self.cells):
            raise ValueError(
                f"lower {self.lower}, lengths {self.lengths} and cells {self.cells} "
                "must name the same number of axes"
            )
        if any(cells % 2 for cells in self.cells):
            raise ValueError(f"cells {self.cells} must be even")

    @property
    def axes(self) -> tuple[int, ...]:
        """The array axes of space, counted from the end."""
        return tuple(range(-len(self.cells), 0))

    @cached_property
    def points(self) -> tuple[Array, ...]:
        """The coordinates along each axis, shaped to broadcast against values."""
        return self._open(
            [
                start + length * np.arange(cells) / cells
                for start, length, cells in zip(self.lower, self.lengths, self.cells, strict=True)
            ]
        )

    @cached_property
    def wavenumbers(self) -> tuple[Array, ...]:
        """The angular wavenumbers along each axis, shaped to broadcast against modes."""
        transforms = [scipy.fft.fftfreq] * (len(self.cells) - 1) + [scipy.fft.rfftfreq]
        return self._open(
            [
                2 * np.pi * frequencies(cells, length / cells)
                for frequencies, cells, length in zip(
                    transforms, self.cells, self.lengths, strict=True
                )
            ]
        )

    @cached_property
    def laplacian(self) -> Array:
        """The symbol of the Laplacian, minus the squared wavenumber, shaped like modes."""
        return -sum((k**2 for k in self.wavenumbers), start=np.zeros(1))

    def derivative(self, axis: int, order: int = 1) -> Modes:
        """Give the symbol of a derivative along one axis, shaped to broadcast against modes.

        An odd derivative of the highest (Nyquist) mode is zero on the grid and is set so.
        """
        symbol = (1j * self.wavenumbers[axis]) ** order
        if order % 2:
            highest = np.pi * self.cells[axis] / self.lengths[axis]
            symbol[np.isclose(np.abs(self.wavenumbers[axis]), highest)] = 0
        return symbol

    def to_modes(self, values: Array) -> Modes:
        """Transform values into modes."""
        return scipy.fft.rfftn(values, axes=self.axes, workers=self.workers)

    def to_values(self, modes: Modes) -> Array:
        """Transform modes into values."""
        return scipy.fft.irfftn(modes, s=self.cells, axes=self.axes, workers=self.workers)

    def dealias(self, modes: Modes) -> Modes:
        """Set the modes beyond ``keep`` of the highest wavenumber to zero, in place."""
        if self.keep < 1:
            modes *= self._kept
        return modes

    def sample(self, modes: Modes, points: tuple[int, ...]) -> Array:
        """Give values at fewer, equispaced points along each axis, both ends of it included.

        Args:
            modes: ``... x n_1 x ... x n_d/2+1``.
            points: ``m_i`` such that ``m_i - 1`` divides ``n_i``.

        Returns:
            ``... x m_1 x ... x m_d`` values.
        """
        values = self.to_values(modes)
        for axis, cells, count in zip(self.axes, self.cells, points, strict=True):
            if cells % (count - 1):
                raise ValueError(f"{cells} cells cannot be sampled at {count} equispaced points")
            chosen = np.arange(count) * (cells // (count - 1)) % cells
            values = np.take(values, chosen, axis=axis)
        return values

    @cached_property
    def _kept(self) -> Array:
        kept = np.ones(1)
        for k, cells, length in zip(self.wavenumbers, self.cells, self.lengths, strict=True):
            kept = kept * (np.abs(k) < self.keep * np.pi * cells / length)
        return kept

    def _open(self, axes: list[Array]) -> tuple[Array, ...]:
        """Shape one array per axis so that they broadcast against each other."""
        return tuple(np.ix_(*axes))
