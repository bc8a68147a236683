"""State dictionaries keyed by parameter name or position, and their strict loading."""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor

from dpinn.errors import DpinnError

Key = str | int


class StateError(DpinnError):
    """A saved optimizer state that does not belong to these parameters."""


def parameter_keys(param_groups: Sequence[dict[str, Any]]) -> dict[Tensor, Key]:
    """Each parameter's key in a state dictionary: its name where given, else its position."""
    keys: dict[Tensor, Key] = {}
    for group in param_groups:
        names = group.get("param_names")
        for index, parameter in enumerate(group["params"]):
            keys[parameter] = len(keys) if names is None else names[index]
    return keys


def pack_groups(param_groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups with their parameters replaced by keys."""
    keys = parameter_keys(param_groups)
    return [
        {**_options(group), "params": [keys[parameter] for parameter in group["params"]]}
        for group in param_groups
    ]


def check_state_dict(
    state_dict: Mapping[str, Any],
    param_groups: Sequence[dict[str, Any]],
    entries: Collection[str] = ("state", "param_groups"),
) -> None:
    """Raise `StateError` unless entries, groups, options and parameters are all as here."""
    require_same_keys("entries", state_dict, entries)
    saved_groups = state_dict["param_groups"]
    if len(saved_groups) != len(param_groups):
        raise StateError(
            f"the optimizer state has {len(saved_groups)} parameter groups and this optimizer has "
            f"{len(param_groups)}; build it with the groups that the state was saved from"
        )
    pairs = zip(saved_groups, pack_groups(param_groups), strict=True)
    for index, (saved, here) in enumerate(pairs):
        require_same_keys(f"parameters of group {index}", saved["params"], here["params"])
        # Schedulers add options ("initial_lr") when they are built, before or after a load.
        missing = sorted(set(here) - set(saved) - {"initial_lr"})
        if missing:
            raise StateError(
                f"the optimizer state lacks {', '.join(missing)} in group {index}; "
                "it was saved by another optimizer class or version"
            )


def load_groups(
    saved_groups: Sequence[Mapping[str, Any]], param_groups: Sequence[dict[str, Any]]
) -> None:
    """Take over the saved options in place, so that whoever shares the groups sees them."""
    for saved, group in zip(saved_groups, param_groups, strict=True):
        group.update(deepcopy(_options(saved)))


def require_same_keys(what: str, saved: Collection[Any], here: Collection[Any]) -> None:
    """Raise `StateError` naming what is missing and what is unexpected."""
    missing = [key for key in here if key not in saved]
    unexpected = [key for key in saved if key not in here]
    if missing or unexpected:
        raise StateError(
            f"the optimizer state does not fit in its {what}: "
            f"missing {_some(missing)}, unexpected {_some(unexpected)}; "
            "load it into the model and optimizer that it was saved from"
        )


def _some(keys: Sequence[Any], shown: int = 5) -> str:
    text = ", ".join(repr(key) for key in keys[:shown]) or "none"
    return text if len(keys) <= shown else f"{text} and {len(keys) - shown} more"


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "param_names")}
