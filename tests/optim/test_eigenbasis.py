import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dpinn.optim import eigenbasis

# dpinn keeps eigenvectors as rows; here they are columns, as in every textbook.


def columns_of(refresh):
    return refresh._replace(basis=refresh.basis.mT)


def on_columns(method):
    return lambda factor, basis: columns_of(method(factor, basis.mT.contiguous()))


REFRESH_METHODS = {name: on_columns(m) for name, m in eigenbasis.REFRESH_METHODS.items()}
refresh_by_qr = REFRESH_METHODS["qr"]
refresh_by_eigh = REFRESH_METHODS["eigh"]
refresh_by_cholesky_qr = REFRESH_METHODS["cholesky_qr"]


def initial_basis(factor):
    return eigenbasis.initial_basis(factor).mT


def off_diagonal(factor, basis):
    return eigenbasis.off_diagonal(factor, basis.mT)


def refresh_with_fallback(factor, basis, after):
    refresh, rungs = eigenbasis.refresh_with_fallback(factor, basis.mT.contiguous(), after)
    return columns_of(refresh), rungs


every_method = pytest.mark.parametrize("method", list(REFRESH_METHODS))
every_dtype = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=str
)


def factors(batch=3, size=6, dtype=torch.float64, seed=0):
    """Symmetric matrices with eigenvalues 1, 2, ... and their eigenvectors, largest first."""
    generator = np.random.default_rng(seed)
    vectors = np.linalg.qr(generator.standard_normal((batch, size, size)))[0]
    values = np.arange(size, 0, -1)
    factor = vectors * values @ vectors.swapaxes(-1, -2)
    return torch.from_numpy(factor).to(dtype), torch.from_numpy(vectors).to(dtype)


def moving_average(gradients, beta):
    """``sum (1 - beta) beta^k G_k G_k'`` with the last gradient's k = 0."""
    factor = np.zeros((gradients[0].shape[0],) * 2)
    for gradient in gradients:
        factor = beta * factor + (1 - beta) * gradient @ gradient.T
    return factor


def drifting(size, columns, count, noise, seed=0):
    """Gradients that turn slowly, as those of successive steps do."""
    generator = np.random.default_rng(seed)
    start, drift = generator.standard_normal((2, size, columns))
    return [
        start + step * noise * drift + noise * generator.standard_normal((size, columns))
        for step in range(count)
    ]


def graded(size, smallest, seed=0):
    vectors = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
    return vectors * np.logspace(0, smallest, size) @ vectors.T


HARD_FACTORS = [
    pytest.param(moving_average(drifting(48, 1, 1, 0), 0.999), id="bias, one step"),
    pytest.param(moving_average(drifting(48, 1, 10, 1e-2), 0.999), id="bias, ten steps"),
    pytest.param(moving_average(drifting(48, 1, 100, 1e-3), 0.9), id="bias, fast average"),
    pytest.param(moving_average(drifting(48, 2, 3, 1e-3), 0.999), id="input layer"),
    pytest.param(
        moving_average([graded(48, -9, seed) for seed in range(3)], 0.9), id="nearly low rank"
    ),
    pytest.param(graded(48, -20), id="eigenvalues to 1e-20"),
    pytest.param(np.diag(np.r_[np.ones(24), np.zeros(24)]), id="projector"),
    pytest.param(np.diag(np.r_[1.0, np.zeros(47)]), id="one entry"),
    pytest.param(np.eye(48), id="identity"),
    pytest.param(np.ones((48, 48)), id="ones"),
    pytest.param(1 / (np.arange(48)[:, None] + np.arange(48) + 1.0), id="Hilbert"),
]


def orthogonality_error(basis):
    basis = basis.numpy().astype(np.float64)
    return np.abs(basis.swapaxes(-1, -2) @ basis - np.eye(basis.shape[-1])).max()


def assert_same_columns(basis, expected, tolerance):
    """Up to signs."""
    overlap = (basis * expected).sum(-2).abs()
    torch.testing.assert_close(overlap, torch.ones_like(overlap), rtol=0, atol=tolerance)


def fails_on(function, condition):
    """``function`` raising as LAPACK's wrapper does where ``condition`` holds for its argument."""

    def wrapper(matrix, *arguments):
        if condition(matrix):
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return function(matrix, *arguments)

    return wrapper


@every_dtype
def test_initial_basis_holds_the_eigenvectors_in_descending_order(dtype, tolerance):
    factor, vectors = factors(dtype=dtype)
    basis = initial_basis(factor)
    assert_same_columns(basis, vectors, tolerance)
    assert basis.dtype == dtype
    assert basis.mT.is_contiguous()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e20], ids=str)
@pytest.mark.parametrize("factor", HARD_FACTORS)
def test_initial_basis_is_orthonormal_on_hard_factors(factor, scale):
    basis = initial_basis(torch.from_numpy(factor * scale).float()[None])
    assert orthogonality_error(basis) < 1e-5


def test_initial_basis_where_eigh_does_not_converge_is_found_in_float64(monkeypatch):
    factor, vectors = factors(dtype=torch.float32)
    single = fails_on(torch.linalg.eigh, lambda matrix: matrix.dtype == torch.float32)
    monkeypatch.setattr(torch.linalg, "eigh", single)
    basis = initial_basis(factor)
    assert basis.dtype == torch.float32
    assert_same_columns(basis, vectors, 1e-5)


def test_initial_basis_of_one_matrix_that_eigh_cannot_do_is_the_identity(monkeypatch):
    factor, vectors = factors()
    factor[1] = torch.eye(6)
    never = fails_on(torch.linalg.eigh, lambda matrix: (matrix == torch.eye(6)).all((1, 2)).any())
    monkeypatch.setattr(torch.linalg, "eigh", never)
    basis = initial_basis(factor)
    assert torch.equal(basis[1], torch.eye(6, dtype=factor.dtype))
    assert_same_columns(basis[::2], vectors[::2], 1e-13)


def test_initial_basis_of_a_factor_that_is_not_finite_is_the_identity():
    factor, vectors = factors()
    factor[1, 2, 3] = torch.nan
    basis = initial_basis(factor)
    assert torch.equal(basis[1], torch.eye(6, dtype=factor.dtype))
    assert_same_columns(basis[::2], vectors[::2], 1e-13)


@every_method
@pytest.mark.parametrize("basis_dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("factor_dtype", [torch.float32, torch.float64], ids=str)
def test_a_refreshed_basis_is_orthonormal_contiguous_and_of_the_old_dtype(
    method, factor_dtype, basis_dtype
):
    factor, _ = factors(dtype=factor_dtype)
    old = initial_basis(factors(seed=1)[0]).to(basis_dtype)
    old = old.mT.contiguous().mT
    basis, permutation, failed, _ = REFRESH_METHODS[method](factor, old)
    exact = factor_dtype == basis_dtype == torch.float64
    assert orthogonality_error(basis) < (1e-13 if exact else 1e-5)
    assert basis.dtype == basis_dtype
    assert basis.mT.is_contiguous()
    assert torch.equal(permutation.sort(-1).values, torch.arange(6).expand(3, 6))
    assert failed.tolist() == [False] * 3


@pytest.mark.parametrize("method", ["qr", "cholesky_qr"])
def test_orthogonal_iteration_converges_to_the_eigenbasis(method):
    factor, vectors = factors()
    basis = initial_basis(factors(seed=1)[0])
    start = off_diagonal(factor, basis)
    for _ in range(200):
        basis, permutation, *_ = REFRESH_METHODS[method](factor, basis)
    assert start.min() > 0.1
    assert off_diagonal(factor, basis).max() < 1e-9
    assert torch.equal(permutation, torch.arange(6).expand(3, 6))
    assert_same_columns(basis, vectors, 1e-9)


@every_method
def test_columns_are_sorted_and_the_permutation_names_where_each_was(method):
    factor, vectors = factors()
    shuffle = torch.tensor([3, 0, 5, 1, 4, 2])
    basis, permutation, *_ = REFRESH_METHODS[method](factor, vectors[:, :, shuffle])
    assert torch.equal(shuffle[permutation], torch.arange(6).expand(3, 6))
    assert_same_columns(basis, vectors, 1e-12)


@pytest.mark.parametrize("method", ["qr", "cholesky_qr"])
def test_one_step_spans_what_the_factor_makes_of_the_leading_columns(method):
    factor, _ = factors()
    old = initial_basis(factors(seed=1)[0])
    basis, permutation, *_ = REFRESH_METHODS[method](factor, old)
    image = factor @ torch.take_along_dim(old, permutation.unsqueeze(-2), -1)
    for count in range(1, 7):
        leading = basis[..., :count]
        outside = image[..., :count] - leading @ (leading.mT @ image[..., :count])
        assert outside.abs().max() < 1e-12


def test_cholesky_and_householder_steps_agree_up_to_signs():
    factor, _ = factors(size=24)
    old = initial_basis(factors(size=24, seed=1)[0])
    for _ in range(5):
        householder, cholesky = refresh_by_qr(factor, old), refresh_by_cholesky_qr(factor, old)
        assert torch.equal(householder.permutation, cholesky.permutation)
        assert_same_columns(cholesky.basis, householder.basis, 1e-11)
        old = householder.basis


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("factor", HARD_FACTORS)
def test_a_basis_carried_along_stays_orthonormal_on_hard_factors(method, dtype, factor):
    factor = torch.from_numpy(factor).to(dtype)[None]
    basis = initial_basis(factors(batch=1, size=48, dtype=dtype)[0])
    for _ in range(5):
        basis, _, failed, _ = REFRESH_METHODS[method](factor, basis)
        assert failed.tolist() == [False]
        assert orthogonality_error(basis) < (1e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("beta", [0.999, 0.9])
def test_cholesky_qr_follows_a_bias_from_rank_one_on(beta, dtype):
    gradients = drifting(48, 1, 60, 1e-2)
    basis = initial_basis(torch.from_numpy(moving_average(gradients[:1], beta)).to(dtype)[None])
    for count in range(2, 60, 2):
        factor = torch.from_numpy(moving_average(gradients[:count], beta)).to(dtype)[None]
        basis, _, failed, _ = refresh_by_cholesky_qr(factor, basis)
        assert failed.tolist() == [False]
        expected = np.linalg.eigh(factor[0].double().numpy())[1][:, -1]
        assert abs(expected @ basis[0, :, 0].double().numpy()) > 0.999


def test_cholesky_qr_keeps_the_null_space_of_a_factor():
    vector = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0]
    factor = torch.from_numpy(vector[:, :1] @ vector[:, :1].T)[None]
    old = torch.from_numpy(vector)[None]
    basis, permutation, *_ = refresh_by_cholesky_qr(factor, old)
    assert permutation[0, 0] == 0
    continued = torch.take_along_dim(old, permutation.unsqueeze(-2), -1)
    assert_same_columns(basis, continued, 0.1)


@every_method
@pytest.mark.parametrize("exponent", [-100, -37, 66])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_power_of_two_on_the_factor_changes_no_bit(method, dtype, exponent):
    factor, _ = factors(dtype=dtype, size=20)
    old = initial_basis(factors(dtype=dtype, size=20, seed=1)[0])
    expected = REFRESH_METHODS[method](factor, old)
    result = REFRESH_METHODS[method](factor * 2.0**exponent, old)
    assert torch.equal(result.basis, expected.basis)
    assert torch.equal(result.permutation, expected.permutation)
    assert torch.equal(initial_basis(factor * 2.0**exponent), initial_basis(factor))


def test_the_division_by_a_scale_rounds_nothing():
    factor, _ = factors(dtype=torch.float32, size=20)
    old, _ = factors(dtype=torch.float32, size=20, seed=1)
    basis, permutation, *_ = refresh_by_qr(factor, old)
    ordered = torch.take_along_dim(factor @ old, permutation.unsqueeze(-2), -1)
    assert torch.equal(basis, torch.linalg.qr(ordered).Q)


@every_method
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e20, 1e37], ids=str)
def test_a_factor_may_have_any_scale(method, scale):
    factor, _ = factors(dtype=torch.float32)
    old = initial_basis(factors(dtype=torch.float32, seed=1)[0])
    scaled = (factor.double() * scale).float()
    basis, _, failed, _ = REFRESH_METHODS[method](scaled, old)
    assert not failed.any()
    assert orthogonality_error(basis) < 1e-5
    if scale > 1e-40:
        assert_same_columns(basis, REFRESH_METHODS[method](factor, old).basis, 1e-4)


@every_method
def test_a_zero_factor_lets_the_old_basis_stay(method):
    factor, old = factors(dtype=torch.float32)
    factor[1] = 0
    refresh = REFRESH_METHODS[method](factor, old)
    assert refresh.idle.tolist() == [False, True, False]
    assert not refresh.failed.any()


@every_method
@pytest.mark.parametrize("entry", [torch.nan, torch.inf])
def test_a_bad_matrix_fails_alone_and_leaves_the_others_bits(method, entry):
    factor, _ = factors(batch=4)
    old = initial_basis(factors(batch=4, seed=1)[0])
    expected = REFRESH_METHODS[method](factor, old)
    factor[1, 2, 3] = factor[1, 3, 2] = entry
    result = REFRESH_METHODS[method](factor, old)
    assert result.failed.tolist() == [False, True, False, False]
    others = [0, 2, 3]
    assert torch.equal(result.basis[others], expected.basis[others])
    assert torch.equal(result.permutation[others], expected.permutation[others])


@every_method
@pytest.mark.parametrize("entry", [torch.nan, torch.inf])
def test_a_single_entry_that_is_not_finite_fails(method, entry):
    factor = torch.tensor([1.0, entry, 0.0]).reshape(3, 1, 1)
    refresh = REFRESH_METHODS[method](factor, -torch.ones(3, 1, 1))
    assert refresh.failed.tolist() == [False, True, False]
    assert refresh.idle.tolist() == [False, False, True]


@every_method
def test_on_the_cpu_a_matrix_gets_the_same_bits_alone_as_in_a_slab(method):
    factor, _ = factors(batch=4, size=20)
    old = initial_basis(factors(batch=4, size=20, seed=1)[0])
    slab = REFRESH_METHODS[method](factor, old)
    for index in range(4):
        alone = REFRESH_METHODS[method](factor[index : index + 1], old[index : index + 1])
        assert torch.equal(alone.basis[0], slab.basis[index])
        assert torch.equal(alone.permutation[0], slab.permutation[index])


def test_where_eigh_does_not_converge_only_that_matrix_fails(monkeypatch):
    factor, vectors = factors()
    factor[1] = torch.eye(6)
    picky = fails_on(torch.linalg.eigh, lambda matrix: (matrix == torch.eye(6)).all((1, 2)).any())
    monkeypatch.setattr(torch.linalg, "eigh", picky)
    basis, _, failed, _ = refresh_by_eigh(factor, vectors)
    assert failed.tolist() == [False, True, False]
    assert_same_columns(basis[::2], vectors[::2], 1e-13)


class HostReads(TorchDispatchMode):
    """Records the operations that need a value or a size from the device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "equal"):
            self.seen.append(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("function", [*REFRESH_METHODS.values(), off_diagonal])
def test_a_slab_is_refreshed_without_reading_values_on_the_host(function):
    factor, old = factors()
    with HostReads() as reads:
        function(factor, old)
    assert reads.seen == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cholesky_qr_on_cuda_synchronizes_nothing_and_agrees_with_the_cpu():
    factor, old = factors(size=24)
    factor_there, old_there = factor.cuda(), old.cuda()
    refresh_by_cholesky_qr(factor_there, old_there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = refresh_by_cholesky_qr(factor_there, old_there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here = refresh_by_cholesky_qr(factor, old)
    assert_same_columns(there.basis.cpu(), here.basis, 1e-12)
    assert not there.failed.any()


# The fallback chain: what reaches each rung, and that the rung is named.


def test_a_column_of_zeros_breaks_cholesky_qr_and_householder_takes_over():
    factor, old = factors()
    old[1, :, 4] = 0
    assert refresh_by_cholesky_qr(factor, old).failed.tolist() == [False, True, False]
    refresh, rungs = refresh_with_fallback(factor[1:2], old[1:2], after="cholesky_qr")
    assert rungs == ["qr"]
    assert orthogonality_error(refresh.basis) < 1e-13
    assert torch.equal(refresh.basis, refresh_by_qr(factor[1:2], old[1:2]).basis)


@pytest.mark.parametrize("after", ["cholesky_qr", "qr"])
def test_a_basis_that_is_not_finite_is_replaced_by_eigh(after):
    factor, old = factors()
    old[1, 0, 0] = torch.nan
    assert REFRESH_METHODS[after](factor, old).failed.tolist() == [False, True, False]
    refresh, rungs = refresh_with_fallback(factor[1:2], old[1:2], after)
    assert rungs == ["eigh"]
    assert_same_columns(refresh.basis, factors()[1][1:2], 1e-13)


def test_where_householder_raises_eigh_takes_over(monkeypatch):
    factor, vectors = factors()
    monkeypatch.setattr(torch, "geqrf", fails_on(torch.geqrf, lambda matrix: True))
    refresh, rungs = refresh_with_fallback(factor, vectors, after="cholesky_qr")
    assert rungs == ["eigh"] * 3
    assert_same_columns(refresh.basis, vectors, 1e-13)


@pytest.mark.parametrize("after", ["qr", "eigh"])
def test_where_eigh_fails_in_float32_float64_on_the_cpu_takes_over(monkeypatch, after):
    factor, vectors = factors(dtype=torch.float32)
    single = fails_on(torch.linalg.eigh, lambda matrix: matrix.dtype == torch.float32)
    monkeypatch.setattr(torch.linalg, "eigh", single)
    shuffle = torch.tensor([3, 0, 5, 1, 4, 2])
    refresh, rungs = refresh_with_fallback(factor, vectors[:, :, shuffle], after)
    assert rungs == ["cpu"] * 3
    assert refresh.basis.dtype == torch.float32
    assert torch.equal(shuffle[refresh.permutation], torch.arange(6).expand(3, 6))
    assert_same_columns(refresh.basis, vectors, 1e-5)


@every_method
def test_of_a_factor_that_is_not_finite_the_old_basis_is_kept(method):
    factor, old = factors(dtype=torch.float32)
    factor[0, 2, 3] = torch.nan
    factor[2, 0, 0] = torch.inf
    refresh, rungs = refresh_with_fallback(factor[::2], old[::2], after=method)
    assert rungs == ["kept", "kept"]
    assert torch.equal(refresh.basis, old[::2])
    assert torch.equal(refresh.permutation, torch.arange(6).expand(2, 6))
    assert refresh.idle.all()
    assert not refresh.failed.any()


def test_each_matrix_of_a_slab_falls_as_far_as_it_must():
    factor, old = factors(batch=3)
    old[0, :, 4] = 0
    old[1, 0, 0] = torch.nan
    factor[2, 0, 0] = torch.nan
    assert refresh_by_cholesky_qr(factor, old).failed.all()
    refresh, rungs = refresh_with_fallback(factor, old, after="cholesky_qr")
    assert rungs == ["qr", "eigh", "kept"]
    assert orthogonality_error(refresh.basis) < 1e-13


def test_an_unknown_method_to_fall_back_from_is_named():
    with pytest.raises(ValueError, match=r"'svd'.*cholesky_qr, qr, eigh"):
        refresh_with_fallback(*factors(), after="svd")


@every_dtype
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20], ids=str)
def test_off_diagonal_is_the_share_of_the_norm_outside_the_diagonal(dtype, tolerance, scale):
    factor = factors(dtype=dtype)[0] * scale
    basis = initial_basis(factors(dtype=dtype, seed=1)[0])
    columns = basis.numpy().astype(np.float64)
    rotated = columns.swapaxes(-1, -2) @ factor.numpy().astype(np.float64) @ columns
    rest = rotated * (1 - np.eye(6))
    expected = np.linalg.norm(rest, axis=(-2, -1)) / np.linalg.norm(rotated, axis=(-2, -1))
    np.testing.assert_allclose(off_diagonal(factor, basis).numpy(), expected, atol=tolerance)


def test_off_diagonal_of_a_zero_factor_is_zero_and_of_its_own_basis_roundoff():
    factor, vectors = factors()
    factor[1] = 0
    result = off_diagonal(factor, vectors)
    assert result[1] == 0
    assert result.max() < 1e-15 * 6


def test_off_diagonal_takes_a_basis_and_a_factor_of_different_dtypes():
    factor, vectors = factors()
    assert off_diagonal(factor, vectors.float()).dtype == torch.float64
    assert off_diagonal(factor.float(), vectors).max() < 1e-6
