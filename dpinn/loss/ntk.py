"""The diagonal of the neural tangent kernel: how strongly the parameters move each residual.

A term with residuals r_i has the kernel K_ij = J_i · J_j, J_i = ∂r_i/∂θ (arXiv 2007.14527).
The sum of its diagonal needs neither the kernel nor a Jacobian: for random signs v_i the mean
of |Σ v_i J_i|² is Σ |J_i|² (Hutchinson 1989), and each Σ v_i J_i is one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from dpinn.loss.pseudo_time import PseudoTimeLevel
from dpinn.loss.residuals import condition_residuals
from dpinn.nn import PINN
from dpinn.sampling import Collocation, rank_slice
from dpinn.sampling.counter import BITS, random_bits, stream_key

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over the ranks."""

BLOCK_POINTS = 64
"""Points whose gradients are taken at once: each costs a backward pass through the block."""

BLOCK_ENTRIES = 2**26
"""Entries of the gradients that are held at once, 512 MiB in float64."""


def ntk_means(
    pinn: PINN,
    collocation: Collocation,
    points: Mapping[str, Tensor],
    causal: Tensor,
    *,
    probes: int | None,
    key: int,
    rank: int = 0,
    world_size: int = 1,
    reduce: Reduce,
    pseudo_time: PseudoTimeLevel | None = None,
) -> Tensor:
    """Each term's mean of ``w_i |∂r_i/∂θ|²`` over the points of all ranks.

    Args:
        pinn: the network; θ are those of its parameters that train.
        collocation: gives the problem, the numbers of points and their chunks.
        points: this rank's slice of every condition's points, ``n x coordinates``.
        causal: the weights w of the interior's chunks, ``chunks``; other points weigh 1.
        probes: random projections that are averaged: a backward pass and a sum of the whole
            gradient over the ranks for each, in every term. None is exact and takes the
            gradient of every point.
        key: of the random signs, from `stream_key`; the sign of a point depends on its place
            in the global batch alone, so any number of ranks projects alike.
        rank: whose slice `points` are.
        world_size: number of slices.
        reduce: sums a tensor over the ranks, which come to it equally often.
        pseudo_time: adds its step to the residuals of the interior.

    Returns:
        The means in the order of the problem's terms, float64, ``terms``.
    """
    problem = collocation.problem
    parameters = [p for p in pinn.parameters() if p.requires_grad]
    means = []
    for condition in problem.conditions:
        residuals = partial(condition_residuals, pinn, problem, condition, pseudo_time=pseudo_time)
        here = points[condition.name]
        count = collocation.count(condition)
        index = torch.arange(*rank_slice(count, rank, world_size), device=here.device)
        chunk = index * collocation.condition_chunks(condition) // count
        weights = torch.ones_like(here[:, 0]) if condition.places else causal.to(here)[chunk]
        if probes is None:
            sums = reduce(_exact_sums(residuals, here, weights, parameters))
        else:
            estimates = []
            for term, residual in zip(condition.terms, residuals(here), strict=True):
                keys = [stream_key(key, term, probe) for probe in range(probes)]
                factors = [random_signs(k, index) * weights.sqrt() for k in keys]
                estimates.append(_projected_sum(residual, factors, parameters, reduce))
            sums = torch.stack(estimates)
        means.append(sums / count)
    return torch.cat(means)


def random_signs(key: int, index: Tensor) -> Tensor:
    """1 or -1 for each counter, as a pure function of it; int64 of the shape of `index`."""
    return 1 - 2 * (random_bits(key, index) >> (BITS - 1))


def flat_gradient(residuals: Tensor, factors: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """``Σ factors_i ∂r_i/∂θ``, all parameters in one vector; the residuals' graph is kept."""
    if not residuals.requires_grad:  # of no parameter
        return torch.cat([torch.zeros_like(p).reshape(-1) for p in parameters])
    gradients = torch.autograd.grad(
        residuals, parameters, factors, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.reshape(-1) for g in gradients])


def squared_gradient_norms(residuals: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """``|∂r_i/∂θ|²`` of each of ``n`` residuals, float64; their graph is kept."""
    if not len(residuals) or not residuals.requires_grad:
        # This rank has none of a few points, or no parameter moves them.
        return torch.zeros_like(residuals, dtype=torch.float64)
    rows = torch.eye(len(residuals), dtype=residuals.dtype, device=residuals.device)
    try:
        gradients = torch.autograd.grad(
            residuals, parameters, rows,
            retain_graph=True, allow_unused=True, is_grads_batched=True,
        )  # fmt: skip
    except RuntimeError:  # a backward pass with an operation that vmap does not know
        flat = torch.stack([flat_gradient(residuals, row, parameters) for row in rows])
        gradients = (flat,)
    norms = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for gradient in gradients:
        if gradient is not None:
            norms += torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64) ** 2
    return norms


def _exact_sums(
    residuals: Callable[[Tensor], list[Tensor]],
    points: Tensor,
    weights: Tensor,
    parameters: Sequence[Tensor],
) -> Tensor:
    """``Σ w_i |∂r_i/∂θ|²`` over this rank's points, one entry a term of the condition."""
    size = min(BLOCK_POINTS, max(1, BLOCK_ENTRIES // sum(p.numel() for p in parameters)))
    # A graph a block: in that of the whole slice each row would cost a pass through all points.
    blocks = []
    for some, its_weights in zip(points.split(size), weights.split(size), strict=True):
        norms = [squared_gradient_norms(r, parameters) for r in residuals(some)]
        blocks.append(torch.stack(norms) @ its_weights.double())
    return torch.stack(blocks).sum(0)


def _projected_sum(
    residuals: Tensor, projections: Sequence[Tensor], parameters: Sequence[Tensor], reduce: Reduce
) -> Tensor:
    """``Σ w_i |∂r_i/∂θ|²`` over the points of all ranks, estimated by vectors ``± sqrt(w_i)``."""
    squares = []
    for factors in projections:
        flat = reduce(flat_gradient(residuals, factors, parameters))
        squares.append(torch.linalg.vector_norm(flat, dtype=torch.float64) ** 2)
    return torch.stack(squares).mean()
