import pytest
import torch

from dpinn.optim.eigenbasis import initial_basis, refresh_by_eigh, refresh_by_qr


def factors(batch=3, size=6, dtype=torch.float64, seed=0):
    """Symmetric matrices with eigenvalues 1, 2, ... and their eigenvectors, largest first."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(
        torch.randn(batch, size, size, generator=generator, dtype=torch.float64)
    ).Q
    values = torch.arange(size, 0, -1, dtype=torch.float64)
    return (vectors * values @ vectors.mT).to(dtype), vectors.to(dtype)


def off_diagonal(factor, basis):
    rotated = basis.mT @ factor @ basis
    return (rotated - torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1))).abs().max().item()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=str
)
def test_initial_basis_holds_the_eigenvectors_in_descending_order(dtype, tolerance):
    factor, vectors = factors(dtype=dtype)
    basis = initial_basis(factor)
    overlap = (basis * vectors).sum(-2).abs()
    torch.testing.assert_close(overlap, torch.ones_like(overlap), rtol=0, atol=tolerance)
    assert basis.dtype == dtype
    assert basis.is_contiguous()


@pytest.mark.parametrize("refresh", [refresh_by_qr, refresh_by_eigh])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=str
)
def test_refreshed_basis_is_orthonormal_and_contiguous(refresh, dtype, tolerance):
    factor, _ = factors(dtype=dtype)
    basis, _ = refresh(factor, initial_basis(factors(dtype=dtype, seed=1)[0]))
    identity = torch.eye(6, dtype=dtype).expand_as(basis)
    torch.testing.assert_close(basis.mT @ basis, identity, rtol=0, atol=tolerance)
    assert basis.is_contiguous()


def test_orthogonal_iteration_converges_to_the_eigenbasis():
    factor, vectors = factors()
    basis = initial_basis(factors(seed=1)[0])
    start = off_diagonal(factor, basis)
    for _ in range(200):
        basis, permutation = refresh_by_qr(factor, basis)
    assert start > 0.5
    assert off_diagonal(factor, basis) < 1e-9
    assert torch.equal(permutation, torch.arange(6).expand(3, 6))
    overlap = (basis * vectors).sum(-2).abs()
    torch.testing.assert_close(overlap, torch.ones_like(overlap), rtol=0, atol=1e-9)


@pytest.mark.parametrize("refresh", [refresh_by_qr, refresh_by_eigh])
def test_columns_are_sorted_and_the_permutation_names_where_each_was(refresh):
    factor, vectors = factors()
    shuffle = torch.tensor([3, 0, 5, 1, 4, 2])
    basis, permutation = refresh(factor, vectors[:, :, shuffle])
    assert torch.equal(shuffle[permutation], torch.arange(6).expand(3, 6))
    overlap = (basis * vectors).sum(-2).abs()
    torch.testing.assert_close(overlap, torch.ones_like(overlap), rtol=0, atol=1e-12)


def test_one_qr_refresh_spans_what_the_factor_makes_of_the_leading_columns():
    factor, _ = factors()
    old = initial_basis(factors(seed=1)[0])
    basis, permutation = refresh_by_qr(factor, old)
    image = factor @ torch.take_along_dim(old, permutation.unsqueeze(-2), -1)
    for count in range(1, 7):
        leading = basis[..., :count]
        outside = image[..., :count] - leading @ (leading.mT @ image[..., :count])
        assert outside.abs().max() < 1e-12


@pytest.mark.parametrize("refresh", [refresh_by_qr, refresh_by_eigh])
def test_a_zero_factor_leaves_an_orthonormal_basis(refresh):
    basis, _ = refresh(torch.zeros(2, 4, 4), torch.eye(4).expand(2, 4, 4))
    torch.testing.assert_close(basis.mT @ basis, torch.eye(4).expand(2, 4, 4))
