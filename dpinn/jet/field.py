"""Fields with derivatives as a residual reads them, and the recorder that learns which.

A residual is called once with `RecordingField` objects, which note every derivative that is
read; training then computes exactly those and hands them over as `Field` objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpinn.errors import DpinnError
from dpinn.jet.derivative_names import suggested_derivative
from dpinn.jet.jet import Jet
from dpinn.jet.plan import (
    LAPLACIAN,
    TIME,
    DerivativePlan,
    MultiIndex,
    multi_index,
    parse_derivative,
)

LaplacianKey = str
Key = MultiIndex | LaplacianKey


class Field:
    """One field at a batch of points: its value, and its derivatives by name.

    ``u.t``, ``u.xx``, ``u.laplacian`` and ``u.d("theta", "theta")`` are plain tensors of the
    value's shape; used by itself (``u**3``, ``torch.sin(u)``) a field is its value. A number or an
    array of numpy may be an operand, on either side; numpy's functions are refused, as they would
    lose the gradient.
    """

    # Else numpy would answer ``np.sqrt(2.0) * u`` by itself, with an array.
    __array_ufunc__: Any = None

    def __init__(
        self, name: str, value: Tensor, coordinates: Sequence[str], derivatives: dict[Key, Tensor]
    ):
        self.name = name
        self.value = value
        self.coordinates = tuple(coordinates)
        self.derivatives = derivatives

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        if attribute == LAPLACIAN:
            return self._read(LAPLACIAN)
        index = parse_derivative(attribute, self.coordinates)
        if index is not None:
            return self._read(index)
        # A tensor's own ``t`` would be taken for the derivative along a time that there is not.
        if not hasattr(Tensor, attribute) or attribute == TIME:
            meant = suggested_derivative(attribute, self.name, self.coordinates)
            raise AttributeError(
                f"{self.name}.{attribute} is no derivative; "
                + (f"write {meant}, as " if meant else "")
                + f"the coordinates of {self.name} are {', '.join(self.coordinates)}"
            )
        return getattr(self.value, attribute)

    def d(self, *names: str) -> Tensor:
        """Derivative by the names of the coordinates, ``u.d("theta", "theta")``."""
        return self._read(multi_index(names, self.coordinates)) if names else self.value

    def _read(self, key: Key) -> Tensor:
        if key not in self.derivatives:
            raise DpinnError(
                f"{self.name}.{spell(key, self.coordinates)} was not read in the dry call of the "
                "residual, so it is not computed; read every derivative on every branch"
            )
        return self.derivatives[key]

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Torch functions see the value."""
        return function(
            *[_unwrap(a) for a in args], **{k: _unwrap(v) for k, v in (kwargs or {}).items()}
        )

    def __repr__(self) -> str:
        return f"Field({self.name}, shape={tuple(self.value.shape)})"

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, key: Any) -> Tensor:
        return self.value[key]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError(
            f"{self.name} cannot become an array of numpy, which knows no gradients; use the "
            "functions of torch, such as torch.sin(u), or u.value.detach().cpu().numpy()"
        )

    def _operand(self, other: Any) -> Any:
        """What stands on the other side, as the value can be computed with."""
        if isinstance(other, np.ndarray):
            array = torch.as_tensor(other, device=self.value.device)
            return array.to(self.value.dtype) if array.is_floating_point() else array
        return other.item() if isinstance(other, np.generic) else _unwrap(other)

    def __neg__(self) -> Tensor:
        return -self.value

    def __add__(self, other: Any) -> Tensor:
        return self.value + self._operand(other)

    def __radd__(self, other: Any) -> Tensor:
        return self._operand(other) + self.value

    def __sub__(self, other: Any) -> Tensor:
        return self.value - self._operand(other)

    def __rsub__(self, other: Any) -> Tensor:
        return self._operand(other) - self.value

    def __mul__(self, other: Any) -> Tensor:
        return self.value * self._operand(other)

    def __rmul__(self, other: Any) -> Tensor:
        return self._operand(other) * self.value

    def __truediv__(self, other: Any) -> Tensor:
        return self.value / self._operand(other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return self._operand(other) / self.value

    def __pow__(self, exponent: Any) -> Tensor:
        return self.value ** self._operand(exponent)

    def __rpow__(self, base: Any) -> Tensor:
        return self._operand(base) ** self.value

    def __abs__(self) -> Tensor:
        return abs(self.value)

    def __lt__(self, other: Any) -> Tensor:
        return self.value < self._operand(other)

    def __le__(self, other: Any) -> Tensor:
        return self.value <= self._operand(other)

    def __gt__(self, other: Any) -> Tensor:
        return self.value > self._operand(other)

    def __ge__(self, other: Any) -> Tensor:
        return self.value >= self._operand(other)

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return self.value == self._operand(other)

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return self.value != self._operand(other)

    __hash__ = object.__hash__


@dataclass
class Record:
    """What one dry call has read: multi-indices per field, and whether any Laplacian."""

    coordinates: tuple[str, ...]
    partials: set[MultiIndex] = field(default_factory=set)
    laplacian: bool = False

    def plan(self) -> DerivativePlan:
        """The smallest plan that computes all of it."""
        return DerivativePlan.build(self.coordinates, self.partials, self.laplacian)


class RecordingField(Field):
    """A field that answers every derivative with numbers and notes that it was read."""

    def __init__(self, name: str, value: Tensor, record: Record):
        super().__init__(name, value, record.coordinates, {})
        self.record = record

    def _read(self, key: Key) -> Tensor:
        if isinstance(key, str):
            if set(self.coordinates) == {TIME}:
                raise ValueError(f"{self.name}.{key} needs a coordinate of space, beside {TIME}")
            self.record.laplacian = True
        else:
            self.record.partials.add(key)
        # A stand-in in (0, 1): neither zero nor one, so that quotients and roots stay finite.
        if key not in self.derivatives:
            self.derivatives[key] = 0.5 + 0.25 * torch.sin(self.value * (len(self.derivatives) + 2))
        return self.derivatives[key]


def fields_of(jet: Jet, names: Sequence[str]) -> dict[str, Field]:
    """Read the fields out of a network's output jet, ``N x fields``; tensors are ``N``."""
    plan = jet.plan
    out = {}
    channels = jet.channels.unbind(0)
    for k, name in enumerate(names):
        derivatives: dict[Key, Tensor] = {}
        for index, position, factorial in zip(
            plan.partials, range(len(plan.partials)), plan.factorials, strict=True
        ):
            column = channels[position][:, k]
            derivatives[index] = column if factorial == 1 else factorial * column
        second = [
            tuple(2 * (a == axis) for a in range(len(plan.coordinates)))
            for axis, c in enumerate(plan.coordinates)
            if c != TIME
        ]
        if plan.laplacian:
            derivatives[LAPLACIAN] = channels[-1][:, k]
        elif second and all(s in derivatives for s in second):
            total = derivatives[second[0]]
            for s in second[1:]:
                total = total + derivatives[s]
            derivatives[LAPLACIAN] = total
        out[name] = Field(name, derivatives[plan.partials[0]], plan.coordinates, derivatives)
    return out


def spell(key: Key, coordinates: Sequence[str]) -> str:
    """The name of a derivative as a residual writes it."""
    if isinstance(key, str):
        return key
    if all(len(c) == 1 for c in coordinates):
        return "".join(c * k for c, k in zip(coordinates, key, strict=True))
    names = [c for c, k in zip(coordinates, key, strict=True) for _ in range(k)]
    return "d(" + ", ".join(repr(n) for n in names) + ")"


def _unwrap(value: Any) -> Any:
    if isinstance(value, Field):
        return value.value
    if isinstance(value, (list, tuple)):
        return type(value)(_unwrap(v) for v in value)
    return value
