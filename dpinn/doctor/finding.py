"""What a check found, and what to do where something is wrong."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from typing import Literal

from dpinn.errors import DpinnError, first_line

State = Literal["ok", "absent", "warning", "problem"]
"""``absent``: not there and not needed. ``warning``: trains, but not as well as it could."""


@dataclass(frozen=True)
class Finding:
    """One line of ``dpinn doctor``.

    Attributes:
        name: what was looked at.
        state: how it is.
        text: what was found, in a few words.
        remedy: what to do, where something is wrong or may go wrong.
    """

    name: str
    state: State
    text: str
    remedy: str = ""


INSTALL = "pip install -c constraints.txt -e ., in dpinn's source folder"
REPORT = "`dpinn doctor` itself failed here: report it with all of its lines"


def examine(name: str, check: str) -> Finding:
    """Do a check; one that fails is a problem too, and keeps none of the others from being done.

    Args:
        name: what the finding will be called.
        check: a function of this package, ``module.function``, which gets the name and returns a
            `Finding`. Its module is imported only here, as even torch may fail to be.
    """
    module, _, function = check.rpartition(".")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            look = getattr(importlib.import_module(f"dpinn.doctor.{module}"), function)
            finding: Finding = look(name)
            return finding
    except DpinnError as error:
        # Our sentences say what to do after their last semicolon.
        told, _, advice = str(error).rpartition("; ")
        return Finding(name, "problem", told or str(error), advice if told else REPORT)
    except ImportError as error:
        return Finding(name, "problem", f"{type(error).__name__}: {first_line(error)}", INSTALL)
    except Exception as error:
        return Finding(name, "problem", f"{type(error).__name__}: {first_line(error)}", REPORT)
