"""Taylor-mode derivatives: jets that flow through ordinary modules, and the recorder.

Usable alone::

    plan = DerivativePlan.build(("t", "x"), [(1, 0), (0, 2)])
    jet = network(Jet.seed(points, plan))      # points: N x 2
    u = fields_of(jet, ("u",))["u"]            # u.t, u.xx: tensors of shape N
"""

from dpinn.jet import rules as _rules  # fills the table of rules
from dpinn.jet.autograd import autograd_jet
from dpinn.jet.field import Field, Record, RecordingField, fields_of
from dpinn.jet.jet import RULES, Jet, NoJetRuleError
from dpinn.jet.plan import DerivativePlan, MultiIndex, parse_derivative

__all__ = [
    "RULES",
    "DerivativePlan",
    "Field",
    "Jet",
    "MultiIndex",
    "NoJetRuleError",
    "Record",
    "RecordingField",
    "autograd_jet",
    "fields_of",
    "parse_derivative",
]
del _rules
