"""Names of derivatives as they are written by mistake, and how they are written here."""

from __future__ import annotations

from collections.abc import Sequence


def derivative_names(text: str, coordinates: Sequence[str]) -> tuple[str, ...]:
    """Read ``"x1x1"`` or ``"xx"`` as the coordinates whose names stand one after another.

    Returns:
        Their names; () where it cannot be read so.
    """
    for name in coordinates:
        if text == name:
            return (name,)
        if text.startswith(name):
            rest = derivative_names(text[len(name) :], coordinates)
            if rest:
                return (name, *rest)
    return ()


def suggested_derivative(attribute: str, field: str, coordinates: Sequence[str]) -> str | None:
    """Return how the derivative is written that an unknown attribute seems to mean.

    Args:
        attribute: such as ``u_xx``, ``dx``, ``du_dx`` or ``x1x1``.
        field: name of the field of which it was read.
        coordinates: of the field.

    Returns:
        ``u.xx``, or ``u.d("x1", "x1")`` where a coordinate has more than a letter; None where it
        seems to mean nothing.
    """
    candidates = [attribute, attribute.replace("_", "")]
    candidates += [c.removeprefix(f"d{field}") for c in candidates]
    candidates += [c.removeprefix(field) for c in candidates]
    candidates += [c.replace("d", "") for c in candidates if "d" not in coordinates]
    for candidate in candidates:
        names = derivative_names(candidate, coordinates)
        if names and all(len(name) == 1 for name in names):
            return f"{field}.{''.join(names)}"
        if names:
            return f"{field}.d({', '.join(repr(n) for n in names)})".replace("'", '"')
    return None
