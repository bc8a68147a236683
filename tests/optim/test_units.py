import pytest
import torch

from dpinn.optim.units import unit_of


@pytest.mark.parametrize(
    ("shape", "options", "rows", "columns", "rotates"),
    [
        ((3, 4), {}, 3, 4, (True, True)),
        ((3,), {}, 3, 1, (True, False)),
        ((3,), {"precondition_1d": False}, 3, 1, (False, False)),
        ((1, 4), {}, 1, 4, (False, True)),
        ((2, 3, 4), {}, 2, 12, (True, True)),
        ((2, 3, 4), {"max_precond_dim": 11}, 2, 12, (True, False)),
        ((), {}, 1, 1, (False, False)),
        ((0, 4), {}, 0, 0, (False, False)),
    ],
    ids=str,
)
def test_every_shape_is_a_matrix(shape, options, rows, columns, rotates):
    options = {"precondition_1d": True, "max_precond_dim": 100, **options}
    unit = unit_of(torch.zeros(shape), "w", 0, **options)
    assert (unit.rows, unit.columns) == (rows, columns)
    assert (unit.rotates_rows, unit.rotates_columns) == rotates
    assert ("left_basis" in unit.state_shapes()) == rotates[0]
    assert ("right_factor" in unit.state_shapes()) == rotates[1]


def test_half_precision_parameters_get_single_precision_state():
    options = {"precondition_1d": True, "max_precond_dim": 100}
    for given, kept in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert unit_of(torch.zeros(2, 2, dtype=given), 0, 0, **options).dtype == kept
