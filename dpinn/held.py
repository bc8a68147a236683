"""What a problem holds among its attributes, in the precision and on the device of a training."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

UNKNOWNS = (nn.ParameterList, nn.ParameterDict)
"""Modules that are nothing but their parameters."""


def attributes_of(thing: object, base: type) -> dict[str, Any]:
    """Attributes of an object by name: its own, and those of its classes below `base`."""
    found: dict[str, Any] = {}
    for cls in reversed(type(thing).__mro__):
        if issubclass(cls, base) and cls is not base:
            found |= {n: v for n, v in vars(cls).items() if not n.startswith("__")}
    return found | vars(thing)


def move_held(thing: object, base: type, dtype: torch.dtype, device: torch.device | str) -> None:
    """Replace what an object, a copy of the user's, holds by what a training can compute with.

    Tensors, and those in lists, dicts, tuples and data classes, come to `device`, the real ones
    in `dtype` and the complex ones in its complex counterpart; modules are copied, likewise moved
    and frozen; numpy's single numbers become Python's, which the compiler knows. What need not
    change is left in place, and nothing that the user made is changed.
    """
    move = _Move(dtype, torch.device(device))
    for name, value in attributes_of(thing, base).items():
        moved = move(value)
        if moved is not value:
            vars(thing)[name] = moved


def held(value: object, name: str) -> Iterator[tuple[str, Tensor | nn.Module]]:
    """All tensors and modules in an attribute, with how each is written, ``self.ks[0]``."""
    if isinstance(value, Tensor | nn.Module):
        yield name, value
    elif isinstance(value, list | tuple):
        for k, item in enumerate(value):
            yield from held(item, f"{name}[{k}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from held(item, f"{name}[{key!r}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from held(getattr(value, field.name), f"{name}.{field.name}")


class _Move:
    """Moves values, the same value to the same copy."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.dtype = dtype
        self.device = device
        self.done: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any) -> Any:
        if id(value) not in self.done:
            # The value is kept as well, so that no other takes its id.
            self.done[id(value)] = (value, value)
            self.done[id(value)] = (value, self._moved(value))
        return self.done[id(value)][1]

    def _moved(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            frozen = copy.deepcopy(value).requires_grad_(False)
            return frozen._apply(self._tensor)
        if isinstance(value, np.number):
            return value.item()
        if isinstance(value, dict):
            items = {key: self(item) for key, item in value.items()}
            return items if any(items[k] is not v for k, v in value.items()) else value
        if isinstance(value, list | tuple):
            return self._sequence(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._data_class(value)
        return value

    def _tensor(self, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return tensor.to(self.device, self.dtype)
        if tensor.is_complex():
            return tensor.to(self.device, self.dtype.to_complex())
        return tensor.to(self.device)

    def _sequence(self, value: Any) -> Any:
        items = [self(item) for item in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        if hasattr(value, "_fields"):  # a named tuple
            return type(value)(*items)
        return tuple(items) if isinstance(value, tuple) else items

    def _data_class(self, value: Any) -> Any:
        moved = copy.copy(value)
        for field in dataclasses.fields(value):
            # Frozen ones take it, too.
            object.__setattr__(moved, field.name, self(getattr(value, field.name)))
        same = all(
            getattr(moved, f.name) is getattr(value, f.name) for f in dataclasses.fields(value)
        )
        return value if same else moved
