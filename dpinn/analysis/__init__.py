"""What a trained solution is worth: errors against the reference, statistics of flows."""

from dpinn.analysis.errors import (
    Evaluation,
    axes_of,
    evaluate,
    relative_l2,
    statement,
    times_inside,
    window_errors,
)
from dpinn.analysis.flow_comparison import FlowComparison, compare_flows
from dpinn.analysis.predictions import (
    Array,
    Network,
    Observe,
    grid_points,
    observe,
    predict,
    predict_at,
    predict_share,
)
from dpinn.analysis.sample import GridSample

__all__ = [
    "Array",
    "Evaluation",
    "FlowComparison",
    "GridSample",
    "Network",
    "Observe",
    "axes_of",
    "compare_flows",
    "evaluate",
    "grid_points",
    "observe",
    "predict",
    "predict_at",
    "predict_share",
    "relative_l2",
    "statement",
    "times_inside",
    "window_errors",
]
