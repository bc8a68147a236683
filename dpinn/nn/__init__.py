"""Networks: ordinary modules that take tensors and jets alike."""

from dpinn.nn.embeddings import CoordinateScaling, FourierFeatures, Inputs, PeriodicEmbedding
from dpinn.nn.initialization import physics_informed_initialization
from dpinn.nn.layers import FactorizedLinear
from dpinn.nn.mlp import MLP
from dpinn.nn.modified_mlp import ModifiedMLP
from dpinn.nn.pinn import PINN
from dpinn.nn.pirate_net import PirateNet
from dpinn.nn.windowed import WindowedPINN

__all__ = [
    "MLP",
    "PINN",
    "CoordinateScaling",
    "FactorizedLinear",
    "FourierFeatures",
    "Inputs",
    "ModifiedMLP",
    "PeriodicEmbedding",
    "PirateNet",
    "WindowedPINN",
    "physics_informed_initialization",
]
