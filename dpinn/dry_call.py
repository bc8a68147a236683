"""A method of a problem, called once on stand-in numbers, where mistakes show as sentences."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dpinn.condition import Place
from dpinn.errors import DpinnError
from dpinn.explain import BY_NAME, explained, line_of
from dpinn.graph import leaves
from dpinn.jet import Field, Record, RecordingField

if TYPE_CHECKING:
    from dpinn.problem import Problem

DRY_POINTS = 7
"""Points of a dry call; a number that no other size equals by chance, so that shapes show."""


class DryCall:
    """Calls a method with fields that answer every derivative, and keeps what it read.

    Args:
        problem: with all that it holds in float64 on the CPU.
        name: of the method.
        places: where it holds; () for the interior.

    Attributes:
        arguments: names of the fields and coordinates that the method takes.
        record: the derivatives that it has read.

    Raises:
        DpinnError: the method takes something else, or it failed.
    """

    def __init__(self, problem: Problem, name: str, places: Sequence[Place]):
        self.title = f"{type(problem).__name__}.{name}"
        self.name = name
        self.fields = tuple(problem.fields)
        self.coordinates = problem.domain.coordinates
        self.method = getattr(problem, name)
        parameters = inspect.signature(self.method).parameters
        self.arguments = tuple(parameters)
        for argument, parameter in parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise DpinnError(
                    f"{self.title} takes {parameter.replace(annotation=parameter.empty)}; name "
                    f"what it reads, as in {name}(self, {', '.join(self.fields)})"
                )
            if argument not in self.fields and argument not in self.coordinates:
                raise DpinnError(
                    f"{self.title} takes {argument!r}, which is neither a field "
                    f"({', '.join(self.fields)}) nor a coordinate ({', '.join(self.coordinates)})"
                )
        self.record = Record(self.coordinates)
        points, values = _stand_ins(problem, places)
        columns = dict(zip(self.coordinates, points.unbind(1), strict=True))
        # They require a gradient as in training, where it shows what each term depends on.
        values.requires_grad_()
        explanation = explained(self.title, self.method, self.coordinates)
        with explanation, torch.enable_grad(), _NoGradientsByCoordinates(values):
            fields = {
                field: RecordingField(field, value, self.record)
                for field, value in zip(self.fields, values.unbind(0), strict=True)
            }
            given = {
                a: fields[a] if a in fields else columns[a].contiguous() for a in self.arguments
            }
            self.returned = self.method(**given)

    def require_terms(self) -> tuple[str, ...]:
        """Return the names of the terms.

        Raises:
            DpinnError: the method returned something else than real numbers that depend on the
                fields, one a point, by name.
        """
        returned = self.returned
        if not isinstance(returned, Mapping) or not returned:
            kind = "field" if isinstance(returned, Field) else type(returned).__name__
            got = "nothing" if returned is None or returned == {} else f"a {kind}"
            raise self._mistake(
                f'{self.title} returned {got}; return a dict of named terms, {{"pde": ...}}'
            )
        for term, value in returned.items():
            require_real(f"{self.title}: the term {term!r}", value, line_of(self.method))
            shape = tuple(value.shape)
            if shape != (DRY_POINTS,):
                mean = "" if shape else "; a mean or an integral over the points is no term"
                raise self._mistake(
                    f"{self.title}: the term {term!r} has shape {shape} for {DRY_POINTS} points; "
                    f"it must be ({DRY_POINTS},), one number a point{mean}"
                )
            if not value.requires_grad:
                raise self._mistake(
                    f"{self.title}: the term {term!r} has no gradient, as it depends on no field "
                    "by torch operations that can be differentiated; leave it out, or look for "
                    "numpy, .detach() or comparisons on its way"
                )
        return tuple(returned)

    def require_quantity(self) -> None:
        """Check that the method has returned one number a point.

        Raises:
            DpinnError: it did not, or it has the name of a field or coordinate.
        """
        if self.name in self.fields or self.name in self.coordinates:
            owner = self.title.partition(".")[0]
            raise DpinnError(
                f"{owner}: the quantity {self.name!r} has the name of a field or coordinate"
            )
        returned = self.returned
        shape = tuple(returned.shape) if isinstance(returned, (Tensor, Field)) else None
        if shape != (DRY_POINTS,):
            raise self._mistake(
                f"{self.title} is a quantity; it must return a tensor with one number a "
                f"point, not {type(returned).__name__} of shape {shape}"
            )

    def _mistake(self, sentence: str) -> DpinnError:
        return DpinnError(f"{sentence} ({line_of(self.method)})")


class _NoGradientsByCoordinates(TorchFunctionMode):
    """Refuses to differentiate what depends on the fields by what does not.

    The fields are no function of the coordinates that the method sees, so that the result would
    lack all but the explicit dependence on them.
    """

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = values

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if function is torch.autograd.grad:
            given = dict(zip(("outputs", "inputs"), args, strict=False)) | named
            if self._any(given["outputs"], True) and self._any(given["inputs"], False):
                raise ValueError(BY_NAME)
        return function(*args, **named)

    def _any(self, tensors: Tensor | Sequence[Tensor], depends: bool) -> bool:
        """Whether some of the tensors depend on the fields, or do not."""
        some = [tensors] if isinstance(tensors, Tensor) else tensors
        return any(any(leaf is self.values for leaf in leaves(t)) == depends for t in some)


def require_real(what: str, value: Any, where: str) -> None:
    """Refuse a term that is no tensor of real numbers.

    Raises:
        DpinnError: naming its type.
    """
    if not isinstance(value, (Tensor, Field)):
        raise DpinnError(
            f"{what} is a {type(value).__name__}; return a tensor with one number a point ({where})"
        )
    if value.dtype.is_complex:
        raise DpinnError(
            f"{what} is complex ({value.dtype}); return its real and imaginary part as two "
            f'terms, {{"real": r.real, "imaginary": r.imag}} ({where})'
        )
    if not value.dtype.is_floating_point:
        raise DpinnError(
            f"{what} is {value.dtype}, which has no gradient; return a real number a point that "
            f"vanishes where it holds, e.g. torch.relu(u) for u <= 0 ({where})"
        )


def _stand_ins(problem: Problem, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
    """Points, ``DRY_POINTS x coordinates``, and values in (0, 1), ``fields x DRY_POINTS``."""
    generator = torch.Generator().manual_seed(0)
    box = problem.domain
    size = (DRY_POINTS, len(box.coordinates))
    unit = torch.rand(size, generator=generator, dtype=torch.float64)
    low = torch.tensor(box.lower(), dtype=torch.float64)
    points = low + unit * (torch.tensor(box.upper(), dtype=torch.float64) - low)
    for coordinate, value in places[0].items() if places else ():
        points[:, box.coordinates.index(coordinate)] = value
    size = (len(problem.fields), DRY_POINTS)
    return points, torch.rand(size, generator=generator, dtype=torch.float64)
