"""Converged reference solutions with their own error estimates, computed once and cached."""

from dpinn.reference.allen_cahn import AllenCahnReference
from dpinn.reference.base import Reference
from dpinn.reference.burgers import BurgersReference
from dpinn.reference.file import FileReference, conform
from dpinn.reference.ginzburg_landau import GinzburgLandauReference
from dpinn.reference.gray_scott import GrayScottReference
from dpinn.reference.kdv import KdVReference
from dpinn.reference.kuramoto_sivashinsky import KuramotoSivashinskyReference
from dpinn.reference.reaction import ReactionReference
from dpinn.reference.store import cache_folder, load_reference, reference_path
from dpinn.reference.wave import WaveReference

__all__ = [
    "AllenCahnReference",
    "BurgersReference",
    "FileReference",
    "GinzburgLandauReference",
    "GrayScottReference",
    "KdVReference",
    "KuramotoSivashinskyReference",
    "ReactionReference",
    "Reference",
    "WaveReference",
    "cache_folder",
    "conform",
    "load_reference",
    "reference_path",
]
