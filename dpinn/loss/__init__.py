"""Loss terms: sums of squares, term weights, causal weights."""

from dpinn.loss.causal import causal_weights
from dpinn.loss.residuals import ResidualSums, TermLayout
from dpinn.loss.weights import FixedWeights, GradientNormWeights, TermWeights

__all__ = [
    "FixedWeights",
    "GradientNormWeights",
    "ResidualSums",
    "TermLayout",
    "TermWeights",
    "causal_weights",
]
