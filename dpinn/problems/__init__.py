"""The benchmark problems, one file a PDE."""

from dpinn.problems.allen_cahn import AllenCahn
from dpinn.problems.burgers import Burgers
from dpinn.problems.wave import Wave

__all__ = ["AllenCahn", "Burgers", "Wave"]
