"""How a PDE is declared: a `Problem` with its domain, fields and conditions."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from dpinn.box import Box
from dpinn.condition import INITIAL, Condition, Location, at, on, quantity
from dpinn.dry_call import DryCall
from dpinn.errors import DpinnError
from dpinn.held import UNKNOWNS, attributes_of, held, move_held
from dpinn.jet import Field
from dpinn.jet.plan import TIME

if TYPE_CHECKING:
    from dpinn.reference import Reference

__all__ = ["INITIAL", "Condition", "Problem", "Terms", "at", "on", "quantity", "snake_case"]

Terms = dict[str, Tensor | Field]
"""What a condition returns: residuals that are to vanish, by name; one number a point."""


def snake_case(name: str) -> str:
    """``AllenCahn`` to ``allen_cahn``."""
    return "".join(f"_{c}" if c.isupper() else c for c in name).lower().lstrip("_")


class Problem:
    """A PDE with its domain, fields and conditions; subclass it to declare one.

    A subclass sets `domain`, `fields` and perhaps `periodic`, and defines ``residual`` (in the
    interior), perhaps ``initial`` (at the domain's first time) and methods decorated by `on` or
    `at`. Each takes the fields and coordinates that it names, tensors of shape ``N``, and returns a
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
        conditions = tuple(self._record(name, location) for name, location in self._methods())
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
        return tuple(self._record(n, quantity=True) for n in self._marked("is_quantity"))

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
        arguments = {
            n: fields[n] if n in fields else columns[n].contiguous() for n in condition.arguments
        }
        returned = getattr(self, condition.name)(**arguments)
        if not isinstance(returned, Mapping):
            returned = {condition.name: returned}
        return {k: v.value if isinstance(v, Field) else v for k, v in returned.items()}

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """Return a copy whose tensors and modules can be used with fields of `dtype` on `device`.

        That goes for those among its attributes and its class', in lists, tuples, dicts and data
        classes too. The copy's modules are frozen; this problem is left as it is.
        """
        moved = copy.copy(self)
        move_held(moved, Problem, dtype, device)
        return moved

    # --- declaration checks ---------------------------------------------------------------

    @property
    def _title(self) -> str:
        return type(self).__name__

    def _methods(self) -> Iterator[tuple[str, Location | None]]:
        yield "residual", None
        if hasattr(self, INITIAL):
            if TIME not in self.domain.coordinates:
                raise DpinnError(f"{self._title} has an initial condition but no coordinate t")
            yield INITIAL, Location("on", ({TIME: self.domain[TIME][0]},))
        for name in self._marked("location"):
            location = getattr(type(self), name).location
            self._check_location(name, location)
            yield name, location

    def _marked(self, mark: str) -> Iterator[str]:
        """Methods with a mark, in the order of definition, base classes first."""
        names = dict.fromkeys(n for cls in reversed(type(self).__mro__) for n in vars(cls))
        for name in names:
            method = getattr(type(self), name)
            if callable(method) and getattr(method, mark, None) is not None:
                yield name

    def _check_declaration(self) -> None:
        if isinstance(self, nn.Module):
            raise DpinnError(
                f"{self._title} is a torch.nn.Module as well, whose parameters nothing would "
                "train; derive it from dpinn.Problem alone and make them numbers"
            )
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
        self._check_held()

    def _check_held(self) -> None:
        for attribute, value in attributes_of(self, Problem).items():
            for name, item in held(value, f"self.{attribute}"):
                unknowns = isinstance(item, UNKNOWNS)
                if unknowns or (isinstance(item, Tensor) and item.requires_grad):
                    kind = "torch parameters" if unknowns else "a tensor that requires a gradient"
                    raise DpinnError(
                        f"{self._title}: {name} is {kind}, which nothing would train, as unknowns "
                        "of a problem are not supported yet; make it a number, or call "
                        f"{name}.requires_grad_(False)"
                    )

    def _check_location(self, method: str, location: Location) -> None:
        title, decorator = f"{self._title}.{method}", location.decorator
        for coordinate, value in (item for place in location.places for item in place.items()):
            if coordinate not in self.domain.coordinates:
                raise DpinnError(
                    f"{title}: @{decorator}({coordinate}=...) names no coordinate; "
                    f"use one of {', '.join(self.domain.coordinates)}"
                )
            low, high = self.domain[coordinate]
            if decorator == "on" and value not in (low, high):
                inside = f", or @at({coordinate}={value:g}) within it" if low < value < high else ""
                raise DpinnError(
                    f"{title}: {coordinate} = {value:g} is no face of the domain; "
                    f"use {low:g} or {high:g}{inside}"
                )
            if not low <= value <= high:
                raise DpinnError(
                    f"{title}: {coordinate} = {value:g} is outside the domain; "
                    f"use a value from {low:g} to {high:g}"
                )

    def _record(
        self, name: str, location: Location | None = None, quantity: bool = False
    ) -> Condition:
        places = () if location is None else location.places
        call = DryCall(self.to(torch.float64, "cpu"), name, places)
        if quantity:
            call.require_quantity()
            return Condition(name, (), call.arguments, call.record.plan(), (name,))
        terms = call.require_terms()
        if location is None and not (call.record.partials or call.record.laplacian):
            raise DpinnError(
                f"{self._title}.residual reads no derivative, so it is no PDE; use e.g. u.t"
            )
        listed = (
            location is not None
            and location.decorator == "at"
            and len(places[0]) == len(self.domain.coordinates)
        )
        return Condition(name, places, call.arguments, call.record.plan(), terms, listed)
