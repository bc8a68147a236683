"""Where the conditions of a problem hold: on faces of its domain, at places, in the interior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpinn.errors import DpinnError
from dpinn.jet import DerivativePlan

Place = Mapping[str, float]
"""The coordinates that are held and their values; the others range over the domain."""

Method = Callable[..., Any]

INITIAL = "initial"
"""The condition at the first time, and the name of its method."""


@dataclass(frozen=True)
class Condition:
    """One method of a problem with where it holds and what its dry call has read.

    Attributes:
        name: the method's name: ``residual``, ``initial``, that of an `on` or `at` method or of a
            `quantity`.
        places: where it holds, its points spread evenly over them; () for the interior.
        arguments: names of the fields and coordinates that the method takes.
        plan: the derivatives that it reads.
        terms: names of the loss terms that it returns; of a quantity, its own name.
        listed: whether the places are the points themselves: an `at` that names all coordinates.
    """

    name: str
    places: tuple[Place, ...]
    arguments: tuple[str, ...]
    plan: DerivativePlan
    terms: tuple[str, ...]
    listed: bool = False


@dataclass(frozen=True)
class Location:
    """What a decorator says of its method.

    Attributes:
        decorator: ``on`` or ``at``.
        places: one a face, or one a point, line or plane.
    """

    decorator: str
    places: tuple[Place, ...]


def on(**faces: float | Sequence[float]) -> Callable[[Method], Method]:
    """Declare a method as a condition on faces of the domain.

    ``@on(x=(-1, 1))`` chooses the two faces x = -1 and x = 1, ``@on(x=(0, 1), y=0)`` three
    faces of a square; the condition's points are spread evenly over the faces. For a corner, or
    any other point or line, see `at`.
    """
    places = [{n: value} for n, given in faces.items() for value in _numbers("on", n, given)]
    if not places:
        raise DpinnError("@on(...) names no face; write e.g. @on(x=(-1, 1))")
    return _mark(Location("on", tuple(places)))


def at(**coordinates: float | Sequence[float]) -> Callable[[Method], Method]:
    """Declare a method as a condition at points of the domain, inside or on its boundary.

    All coordinates that are named are held at once, the others range over the domain:
    ``@at(x=0, y=0)`` is a corner of a square, at all times if there is a coordinate ``t``, and
    ``@at(x=0.5)`` a line through its middle. Sequences of equal length list several points,
    ``@at(x=(0, 1), y=(0.5, 0.5))``; a single number is shared by all of them.

    Where all coordinates are named, the condition has as many points as are listed.
    """
    given = {n: _numbers("at", n, values) for n, values in coordinates.items()}
    if not given or not all(given.values()):
        raise DpinnError("@at(...) names no point; write e.g. @at(x=0, y=0)")
    several = {n: len(v) for n, v in given.items() if len(v) > 1}
    if len(set(several.values())) > 1:
        counts = ", ".join(f"{count} of {name}" for name, count in several.items())
        raise DpinnError(f"@at(...) lists {counts}; give each point all of its coordinates")
    count = max(map(len, given.values()))
    columns = {n: v * count if len(v) == 1 else v for n, v in given.items()}
    return _mark(Location("at", tuple({n: v[k] for n, v in columns.items()} for k in range(count))))


def quantity(method: Method) -> Method:
    """Declare a method as a quantity that follows from the solution, such as the vorticity.

    It takes the fields and coordinates that it names and returns one number a point. It is
    compared with the variable of its name in the reference, as the fields are, and is not trained.
    """
    method.is_quantity = True  # type: ignore[attr-defined]
    return method


def _numbers(decorator: str, name: str, given: Any) -> list[float]:
    """One number or several, Python's or numpy's."""
    plain = given.tolist() if hasattr(given, "tolist") else given
    values = list(plain) if isinstance(plain, Sequence) and not isinstance(plain, str) else [plain]
    for value in values:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            what = "face" if decorator == "on" else "place"
            raise DpinnError(
                f"@{decorator}({name}={given!r}) is no {what}; write numbers, "
                f"e.g. @{decorator}({name}=(0, 1))"
            )
    return [float(value) for value in values]


def _mark(location: Location) -> Callable[[Method], Method]:
    def mark(method: Method) -> Method:
        if hasattr(method, "location"):
            raise DpinnError(
                f"{method.__name__} has two decorators that say where it holds; use one @on(...) "
                "or @at(...), or a method for each"
            )
        method.location = location  # type: ignore[attr-defined]
        return method

    return mark
