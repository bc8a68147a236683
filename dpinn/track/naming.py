"""Names and texts that MLflow takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST_VALUE = 250  # characters of a parameter, tag or key; older servers refuse longer ones


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested mappings to dotted keys and texts within MLflow's limits."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{key}."))
        else:
            flat[key_of(key)] = shorten(str(value))
    return flat


def shorten(text: str) -> str:
    """Cut a text to MLflow's length, marked by an ellipsis."""
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def key_of(name: str) -> str:
    """The name with an underscore for every character that MLflow refuses."""
    allowed = "_-. :/"
    return "".join(c if c.isalnum() or c in allowed else "_" for c in str(name))[:LONGEST_VALUE]
