"""Converged reference solutions with their own error estimates, computed once and cached."""

from dpinn.reference.allen_cahn import AllenCahnReference
from dpinn.reference.base import Reference, Trial, study_of, study_table
from dpinn.reference.burgers import BurgersReference
from dpinn.reference.file import FileReference, conform
from dpinn.reference.ginzburg_landau import GinzburgLandauReference
from dpinn.reference.gray_scott import GrayScottReference
from dpinn.reference.kdv import KdVReference
from dpinn.reference.kolmogorov import KolmogorovReference, KolmogorovStart
from dpinn.reference.kuramoto_sivashinsky import KuramotoSivashinskyReference
from dpinn.reference.lid_driven_cavity import LidDrivenCavityReference
from dpinn.reference.rayleigh_taylor import RayleighTaylorReference
from dpinn.reference.reaction import ReactionReference
from dpinn.reference.store import cache_folder, load_reference, reference_path
from dpinn.reference.taylor_green import TaylorGreenReference
from dpinn.reference.wave import WaveReference

__all__ = [
    "AllenCahnReference",
    "BurgersReference",
    "FileReference",
    "GinzburgLandauReference",
    "GrayScottReference",
    "KdVReference",
    "KolmogorovReference",
    "KolmogorovStart",
    "KuramotoSivashinskyReference",
    "LidDrivenCavityReference",
    "RayleighTaylorReference",
    "ReactionReference",
    "Reference",
    "TaylorGreenReference",
    "Trial",
    "WaveReference",
    "cache_folder",
    "conform",
    "load_reference",
    "reference_path",
    "study_of",
    "study_table",
]
