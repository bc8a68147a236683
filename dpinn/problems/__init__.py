"""The benchmark problems, one file a PDE."""

import importlib
import sys

from dpinn.errors import DpinnError
from dpinn.problem import Problem
from dpinn.problems.allen_cahn import AllenCahn
from dpinn.problems.burgers import Burgers
from dpinn.problems.ginzburg_landau import GinzburgLandau
from dpinn.problems.gray_scott import GrayScott
from dpinn.problems.kdv import KdV
from dpinn.problems.kolmogorov import Kolmogorov
from dpinn.problems.kuramoto_sivashinsky import KuramotoSivashinsky
from dpinn.problems.lid_driven_cavity import LidDrivenCavity
from dpinn.problems.rayleigh_taylor import RayleighTaylor
from dpinn.problems.reaction import Reaction
from dpinn.problems.taylor_green import TaylorGreen
from dpinn.problems.wave import Wave

__all__ = [
    "KNOWN",
    "AllenCahn",
    "Burgers",
    "GinzburgLandau",
    "GrayScott",
    "KdV",
    "Kolmogorov",
    "KuramotoSivashinsky",
    "LidDrivenCavity",
    "RayleighTaylor",
    "Reaction",
    "TaylorGreen",
    "Wave",
    "problem_by_name",
]

KNOWN: dict[str, type[Problem]] = {
    "wave": Wave,
    "burgers": Burgers,
    "allen_cahn": AllenCahn,
    "kdv": KdV,
    "kuramoto_sivashinsky": KuramotoSivashinsky,
    "gray_scott": GrayScott,
    "ginzburg_landau": GinzburgLandau,
    "lid_driven_cavity": LidDrivenCavity,
    "kolmogorov": Kolmogorov,
    "rayleigh_taylor": RayleighTaylor,
    "taylor_green": TaylorGreen,
    "reaction": Reaction,
}
"""All problems by name, in the order of the benchmarks' table."""


def problem_by_name(name: str) -> Problem:
    """Make a problem with its defaults from its name (``burgers``) or class path.

    Raises:
        DpinnError: there is no such problem.
    """
    if name in KNOWN:
        return KNOWN[name]()
    module, _, attribute = name.rpartition(".")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute, None) if module else None
    except ModuleNotFoundError as error:
        # What the user's own file imports in vain is another mistake.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        found = None
    if not (isinstance(found, type) and issubclass(found, Problem)):
        raise DpinnError(
            f"there is no problem {name}; use one of {', '.join(KNOWN)}, or a class path such as "
            "my_pde.AllenCahn"
        )
    try:
        return found()
    except TypeError as error:
        raise DpinnError(f"{name} cannot be made without arguments: {error}") from error
