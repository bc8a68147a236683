"""dpinn: distributed second-order training of physics-informed neural networks."""

from dpinn.errors import DpinnError, DpinnWarning
from dpinn.problem import Box, Problem, Terms, on
from dpinn.solution import Solution, load

__all__ = ["Box", "DpinnError", "DpinnWarning", "Problem", "Solution", "Terms", "load", "on"]
