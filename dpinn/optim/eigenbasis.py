"""Eigenbases of preconditioner factors: pure functions on slabs of symmetric matrices.

A factor slab is ``[B, m, m]``, symmetric and positive semidefinite up to roundoff; a basis slab is
``[B, m, m]`` with orthonormal columns, those of larger eigenvalues first.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Refresh(NamedTuple):
    """A new basis and how the old one's columns were sorted on the way to it.

    ``basis`` is ``[B, m, m]``; ``permutation`` is ``[B, m]``: its entry j names the old column that
    column j of the new basis continues, so what is kept per column (SOAP's second moment) moves
    with it.
    """

    basis: Tensor
    permutation: Tensor


def initial_basis(factor: Tensor) -> Tensor:
    """Eigenvectors of ``factor`` ``[B, m, m]`` in descending order of their eigenvalues."""
    # Contiguous, as LAPACK's column-major result would reach other matrix kernels than the same
    # numbers read back from a checkpoint do.
    return torch.linalg.eigh(factor).eigenvectors.flip(-1).contiguous()


def refresh_by_qr(factor: Tensor, basis: Tensor) -> Refresh:
    """One step of orthogonal iteration: ``basis <- orth(factor basis)``, by Householder QR.

    The columns are sorted by the Rayleigh quotients ``diag(basis' factor basis)``, descending
    (SOAP, arXiv 2409.11321, algorithm 4).
    """
    product = factor @ basis
    permutation = _descending_rayleigh(product, basis)
    ordered = torch.take_along_dim(product, permutation.unsqueeze(-2), dim=-1)
    return Refresh(torch.linalg.qr(ordered).Q.contiguous(), permutation)


def refresh_by_eigh(factor: Tensor, basis: Tensor) -> Refresh:
    """The exact eigenbasis; the old columns are matched to it by the order of their quotients."""
    return Refresh(initial_basis(factor), _descending_rayleigh(factor @ basis, basis))


def _descending_rayleigh(product: Tensor, basis: Tensor) -> Tensor:
    quotients = (basis * product).sum(dim=-2)
    return torch.argsort(quotients, dim=-1, descending=True, stable=True)


REFRESH_METHODS: dict[str, Callable[[Tensor, Tensor], Refresh]] = {
    "qr": refresh_by_qr,
    "eigh": refresh_by_eigh,
}
