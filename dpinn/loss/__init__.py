"""Loss terms: sums of squares, term weights, causal weights, pseudo-time, gradient alignment."""

from dpinn.loss.alignment import Alignment, alignment, grams
from dpinn.loss.causal import FixedTolerance, RisingTolerance, ToleranceSchedule, causal_weights
from dpinn.loss.ntk import ntk_means
from dpinn.loss.pseudo_time import (
    AdaptivePseudoTime,
    FixedPseudoTime,
    PseudoTime,
    PseudoTimeLevel,
)
from dpinn.loss.residuals import SEAM, ResidualSums, TermLayout
from dpinn.loss.weights import (
    BalancedWeights,
    FixedWeights,
    GradientNormWeights,
    NTKWeights,
    TermMeasures,
    TermWeights,
)

__all__ = [
    "SEAM",
    "AdaptivePseudoTime",
    "Alignment",
    "BalancedWeights",
    "FixedPseudoTime",
    "FixedTolerance",
    "FixedWeights",
    "GradientNormWeights",
    "NTKWeights",
    "PseudoTime",
    "PseudoTimeLevel",
    "ResidualSums",
    "RisingTolerance",
    "TermLayout",
    "TermMeasures",
    "TermWeights",
    "ToleranceSchedule",
    "alignment",
    "causal_weights",
    "grams",
    "ntk_means",
]
