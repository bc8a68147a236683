"""How a PDE is declared: a `Problem` with its fields, and conditions `on` faces of its domain."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dpinn.box import Box
from dpinn.errors import DpinnError
from dpinn.jet import DerivativePlan, Field, Record, RecordingField
from dpinn.jet.plan import TIME

if TYPE_CHECKING:
    from dpinn.reference import Reference

Terms = dict[str, Tensor | Field]
"""What a condition returns: residuals that are to vanish, by name; one number a point."""

Face = tuple[str, float]
"""A face of the box: the coordinate that is held, and its value."""

INITIAL = "initial"
"""The condition at the first time, and the name of its method."""

DRY_POINTS = 7
"""Points of a dry call; a number that no other size equals by chance, so that shapes show."""


def on(**faces: float | Sequence[float]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a method as a condition on faces of the domain.

    ``@on(x=(-1, 1))`` chooses the two faces x = -1 and x = 1, ``@on(x=(0, 1), y=0)`` three
    faces of a square; the condition's points are spread evenly over the faces.
    """
    chosen = []
    for name, values in faces.items():
        for value in values if isinstance(values, Sequence) else (values,):
            if isinstance(value, str):
                raise DpinnError(
                    f"@on({name}={values!r}) is no face; write numbers, e.g. @on({name}=(0, 1))"
                )
            chosen.append((name, float(value)))
    if not chosen:
        raise DpinnError("@on(...) names no face; write e.g. @on(x=(-1, 1))")

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method.faces = tuple(chosen)  # type: ignore[attr-defined]
        return method

    return mark


def quantity(method: Callable[..., Any]) -> Callable[..., Any]:
    """Declare a method as a quantity that follows from the solution, such as the vorticity.

    It takes the fields and coordinates that it names and returns one number a point. It is
    compared with the variable of its name in the reference, as the fields are, and is not trained.
    """
    method.is_quantity = True  # type: ignore[attr-defined]
    return method


@dataclass(frozen=True)
class Condition:
    """One method of a problem with where it holds and what its dry call has read.

    Attributes:
        name: the method's name: ``residual``, ``initial``, that of an `on` method or a `quantity`.
        faces: the faces where it holds; () for the interior.
        arguments: names of the fields and coordinates that the method takes.
        plan: the derivatives that it reads.
        terms: names of the loss terms that it returns; of a quantity, its own name.
    """

    name: str
    faces: tuple[Face, ...]
    arguments: tuple[str, ...]
    plan: DerivativePlan
    terms: tuple[str, ...]


def snake_case(name: str) -> str:
    """``AllenCahn`` to ``allen_cahn``."""
    return "".join(f"_{c}" if c.isupper() else c for c in name).lower().lstrip("_")


class Problem:
    """A PDE with its domain, fields and conditions; subclass it to declare one.

    A subclass sets `domain`, `fields` and perhaps `periodic`, and defines ``residual`` (in the
    interior), perhaps ``initial`` (at the domain's first time) and methods decorated by `on`.
    Each takes the fields and coordinates that it names, tensors of shape ``N``, and returns a
    dict of named terms of the same shape that are to vanish.
    """

    domain: Box
    fields: ClassVar[tuple[str, ...]]
    periodic: ClassVar[tuple[str, ...]] = ()
    up_to_constant: ClassVar[tuple[str, ...]] = ()
    """Fields that the equations fix but for a constant in space, such as a pressure; they are
    compared with a reference after the mean of the difference is taken off."""

    def reference(self) -> Reference | str | None:
        """Where the solution is known from: a `Reference`, the path of a NetCDF file, or None."""
        return None

    @property
    def name(self) -> str:
        """The problem's name in runs and tables: its class name in lower case with underscores."""
        return snake_case(type(self).__name__)

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """All conditions, after one dry call each; this is where mistakes are found.

        Raises:
            DpinnError: one sentence on what is missing or wrong in the declaration.
        """
        self._check_declaration()
        conditions = tuple(self._record(name, faces) for name, faces in self._methods())
        seen: dict[str, str] = {}
        for condition in conditions:
            for term in condition.terms:
                if term in seen:
                    raise DpinnError(
                        f"{self._title}: the term {term!r} is returned by both {seen[term]} and "
                        f"{condition.name}; give every term its own name"
                    )
                seen[term] = condition.name
        return conditions

    @cached_property
    def quantities(self) -> tuple[Condition, ...]:
        """What follows from a solution and is looked at beside its fields; nothing is trained."""
        self._check_declaration()
        return tuple(self._record(n, (), quantity=True) for n in self._marked("is_quantity"))

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of all loss terms."""
        return tuple(term for condition in self.conditions for term in condition.terms)

    def evaluate(
        self, condition: Condition, fields: Mapping[str, Field], points: Tensor
    ) -> dict[str, Tensor]:
        """Call the method of a condition or quantity.

        Args:
            condition: one of `conditions` or `quantities`.
            fields: the fields with the derivatives of the condition's plan, tensors of ``N``.
            points: ``N x coordinates``.

        Returns:
            A tensor of shape ``N`` per term.
        """
        columns = dict(zip(self.domain.coordinates, points.unbind(1), strict=True))
        arguments = {n: fields[n] if n in fields else columns[n] for n in condition.arguments}
        returned = getattr(self, condition.name)(**arguments)
        if not isinstance(returned, Mapping):
            returned = {condition.name: returned}
        return {k: v.value if isinstance(v, Field) else v for k, v in returned.items()}

    # --- declaration checks ---------------------------------------------------------------

    @property
    def _title(self) -> str:
        return type(self).__name__

    def _methods(self) -> Iterator[tuple[str, tuple[Face, ...]]]:
        yield "residual", ()
        if hasattr(self, INITIAL):
            if TIME not in self.domain.coordinates:
                raise DpinnError(f"{self._title} has an initial condition but no coordinate t")
            yield INITIAL, ((TIME, self.domain[TIME][0]),)
        for name in self._marked("faces"):
            faces = getattr(type(self), name).faces
            self._check_faces(name, faces)
            yield name, faces

    def _marked(self, mark: str) -> Iterator[str]:
        """Methods with a mark, in the order of definition, base classes first."""
        names = dict.fromkeys(n for cls in reversed(type(self).__mro__) for n in vars(cls))
        for name in names:
            method = getattr(type(self), name)
            if callable(method) and getattr(method, mark, None) is not None:
                yield name

    def _check_declaration(self) -> None:
        if not isinstance(getattr(self, "domain", None), Box):
            raise DpinnError(f"{self._title} has no domain; set domain = Box(t=(0, 1), x=(-1, 1))")
        fields = getattr(self, "fields", ())
        if isinstance(fields, str) or not fields:
            raise DpinnError(f'{self._title} has no fields; set fields = ("u",)')
        clash = set(fields) & set(self.domain.coordinates)
        if clash or len(set(fields)) != len(fields):
            raise DpinnError(f"{self._title}: every field and coordinate needs its own name")
        if isinstance(self.periodic, str) or set(self.periodic) - set(self.domain.coordinates):
            raise DpinnError(
                f"{self._title}: periodic = {self.periodic!r} must be a tuple of coordinates "
                f"of the domain, e.g. ({self.domain.coordinates[-1]!r},)"
            )
        if not callable(getattr(self, "residual", None)):
            raise DpinnError(
                f"{self._title} has no residual; define residual(self, {', '.join(fields)}, "
                f'{", ".join(self.domain.coordinates)}) that returns {{"pde": ...}}'
            )

    def _check_faces(self, method: str, faces: tuple[Face, ...]) -> None:
        for coordinate, value in faces:
            if coordinate not in self.domain.coordinates:
                raise DpinnError(
                    f"{self._title}.{method}: @on({coordinate}=...) names no coordinate; "
                    f"use one of {', '.join(self.domain.coordinates)}"
                )
            if value not in self.domain[coordinate]:
                low, high = self.domain[coordinate]
                raise DpinnError(
                    f"{self._title}.{method}: {coordinate} = {value:g} is no face of the domain; "
                    f"use {low:g} or {high:g}"
                )

    def _record(self, name: str, faces: tuple[Face, ...], quantity: bool = False) -> Condition:
        arguments = tuple(inspect.signature(getattr(self, name)).parameters)
        coordinates = self.domain.coordinates
        for argument in arguments:
            if argument not in self.fields and argument not in coordinates:
                raise DpinnError(
                    f"{self._title}.{name} takes {argument!r}, which is neither a field "
                    f"({', '.join(self.fields)}) nor a coordinate ({', '.join(coordinates)})"
                )
        record = Record(coordinates)
        points, values = self._dry_points(faces)
        fields = {f: RecordingField(f, v, record) for f, v in zip(self.fields, values, strict=True)}
        columns = dict(zip(coordinates, points.unbind(1), strict=True))
        try:
            returned = getattr(self, name)(**{a: fields.get(a, columns.get(a)) for a in arguments})
        except (AttributeError, ValueError) as error:
            raise DpinnError(f"{self._title}.{name}: {error}") from error
        if quantity:
            self._check_quantity(name, returned)
            return Condition(name, faces, arguments, record.plan(), (name,))
        self._check_returned(name, returned)
        if not faces and not (record.partials or record.laplacian):
            raise DpinnError(
                f"{self._title}.residual reads no derivative, so it is no PDE; use e.g. u.t"
            )
        return Condition(name, faces, arguments, record.plan(), tuple(returned))

    def _dry_points(self, faces: tuple[Face, ...]) -> tuple[Tensor, list[Tensor]]:
        generator = torch.Generator().manual_seed(0)
        size = (DRY_POINTS, len(self.domain.coordinates))
        unit = torch.rand(size, generator=generator, dtype=torch.float64)
        low = torch.tensor(self.domain.lower(), dtype=torch.float64)
        points = low + unit * (torch.tensor(self.domain.upper(), dtype=torch.float64) - low)
        for coordinate, value in faces[:1]:
            points[:, self.domain.coordinates.index(coordinate)] = value
        values = torch.rand(
            (len(self.fields), DRY_POINTS), generator=generator, dtype=torch.float64
        )
        return points, list(values.unbind(0))

    def _check_quantity(self, name: str, returned: Any) -> None:
        if name in self.fields or name in self.domain.coordinates:
            raise DpinnError(
                f"{self._title}: the quantity {name!r} has the name of a field or coordinate"
            )
        shape = tuple(returned.shape) if isinstance(returned, (Tensor, Field)) else None
        if shape != (DRY_POINTS,):
            raise DpinnError(
                f"{self._title}.{name} is a quantity; it must return a tensor with one number a "
                f"point, not {type(returned).__name__} of shape {shape}"
            )

    def _check_returned(self, name: str, returned: Any) -> None:
        if not isinstance(returned, Mapping) or not returned:
            kind = "field" if isinstance(returned, Field) else type(returned).__name__
            got = "nothing" if returned is None or returned == {} else f"a {kind}"
            raise DpinnError(
                f'{self._title}.{name} returned {got}; return a dict of named terms, {{"pde": ...}}'
            )
        for term, value in returned.items():
            if not isinstance(value, (Tensor, Field)):
                raise DpinnError(
                    f"{self._title}.{name}: the term {term!r} is a {type(value).__name__}; "
                    "return a tensor with one number a point"
                )
            if tuple(value.shape) != (DRY_POINTS,):
                raise DpinnError(
                    f"{self._title}.{name}: the term {term!r} has shape {tuple(value.shape)} for "
                    f"{DRY_POINTS} points; it must be ({DRY_POINTS},), one number a point"
                )
