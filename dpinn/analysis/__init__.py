"""What a trained solution is worth: errors against the reference."""

from dpinn.analysis.errors import Evaluation, evaluate, predict, relative_l2, thin_out

__all__ = ["Evaluation", "evaluate", "predict", "relative_l2", "thin_out"]
