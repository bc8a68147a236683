"""Names and texts that MLflow takes, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any

LONGEST_VALUE = 250  # characters of a parameter, tag or run's name; older servers refuse more
LONGEST_KEY = 200  # MLflow takes 250, of which `NAME_OF` needs some

ALLOWED = "_-. :"
"""What the parts of a key, between slashes, may have besides letters and digits."""

NAME_OF = "name/"
"""Beginning of the tags that keep the name behind each key that differs from it."""


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested mappings to dotted names and texts within MLflow's limits."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{dotted}."))
        else:
            flat[dotted] = shorten(str(value))
    return flat


def shorten(text: str, longest: int = LONGEST_VALUE) -> str:
    """Cut a text to a length, with an ellipsis and a digest in which long texts differ."""
    return text if len(text) <= longest else f"{text[: longest - 9]}…{_digest(text)}"


@lru_cache(maxsize=4096)  # each value that is logged needs it
def key_of(name: str) -> str:
    """The name under which MLflow takes a metric, parameter or tag.

    A name that it would refuse has underscores in place of characters, and a digest of what was
    there, so that two names never share a key.

    Example:
        >>> key_of("loss/u(0,x)"), key_of("loss/pde")
        ('loss/u_0_x_-e2569f76', 'loss/pde')
    """
    key = "/".join(map(_part, name.split("/")))
    return key if len(key) <= LONGEST_KEY else f"{key[: LONGEST_KEY - 9]}-{_digest(name)}"


def name_tags(names: Iterable[str]) -> dict[str, str]:
    """The tags by which `names_in` finds the names behind keys."""
    return {f"{NAME_OF}{key}": shorten(name) for name in names if (key := key_of(name)) != name}


def names_in(tags: Mapping[str, str]) -> dict[str, str]:
    """Names by key, of those that differ, from the tags of a run."""
    return {k.removeprefix(NAME_OF): v for k, v in tags.items() if k.startswith(NAME_OF)}


def _part(part: str) -> str:
    cleaned = "".join(c if c.isalnum() or c in ALLOWED else "_" for c in part)
    # MLflow takes a name for a path, which must not lead elsewhere.
    return part if cleaned == part and part not in ("", ".", "..") else f"{cleaned}-{_digest(part)}"


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
