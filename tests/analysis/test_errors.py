"""Errors of a network against a reference on its grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from dpinn.analysis import Evaluation, errors, evaluate, predict, relative_l2, thin_out

AXES = {"t": np.linspace(0, 1, 7), "x": np.linspace(-1, 1, 11), "y": np.linspace(2, 3, 5)}


def polynomial(points):
    t, x, y = points.unbind(1)
    return torch.stack([t + 10 * x + 100 * y, t * x], dim=1)


def grid(*axes):
    return np.meshgrid(*axes, indexing="ij")


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([0.0, 0.0], [3.0, 4.0], 1.0),
        ([3.0, 5.0], [3.0, 4.0], 0.2),
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 5.0]], 1 / math.sqrt(39)),
    ],
)
def test_relative_l2_is_over_all_points(prediction, reference, expected):
    assert relative_l2(np.array(prediction), np.array(reference)) == pytest.approx(expected)


def test_prediction_has_the_axes_in_their_order():
    t, x, y = grid(*AXES.values())
    values = predict(polynomial, ("u", "v"), AXES)
    np.testing.assert_allclose(values["u"], t + 10 * x + 100 * y)
    np.testing.assert_allclose(values["v"], t * x)


@pytest.mark.parametrize("batch", [1, 100, 384, 385, 10_000])
def test_prediction_in_batches_equals_the_unbatched_one(batch, monkeypatch):
    sizes = []

    def network(points):
        sizes.append(len(points))
        return polynomial(points)

    whole = predict(polynomial, ("u", "v"), AXES)
    monkeypatch.setattr(errors, "BATCH", batch)
    batched = predict(network, ("u", "v"), AXES)
    assert max(sizes) <= batch
    assert sum(sizes) == 7 * 11 * 5
    for name in whole:
        np.testing.assert_array_equal(batched[name], whole[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_module_is_called_in_its_own_precision_without_gradients(dtype):
    torch.manual_seed(0)
    network = nn.Linear(3, 1).to(dtype)
    values = predict(network, ("u",), AXES)["u"]
    assert values.dtype == np.float64
    t, x, y = grid(*AXES.values())
    a, b, c = network.weight.detach().double().numpy()[0]
    expected = a * t + b * x + c * y + float(network.bias)
    np.testing.assert_allclose(values, expected, rtol=1e-5 if dtype == torch.float32 else 1e-12)


def reference(**attributes) -> xr.Dataset:
    t, x, y = grid(*AXES.values())
    u, v = t + 10 * x + 100 * y, 2 * t * x
    return xr.Dataset({"u": (tuple(AXES), u), "v": (tuple(AXES), v)}, AXES, attributes)


def test_evaluation_compares_field_by_field():
    result = evaluate(polynomial, ("u", "v"), reference(error_estimate=1e-9))
    assert result.errors["u"] < 1e-15
    assert result.errors["v"] == pytest.approx(0.5)
    assert result.reference_error == 1e-9
    assert result.predictions["v"].shape == (7, 11, 5)


def test_reference_without_an_error_estimate_has_none():
    assert math.isnan(evaluate(polynomial, ("u", "v"), reference()).reference_error)


@pytest.mark.parametrize(
    ("error", "own", "statement"),
    [
        (3.14159e-4, 1e-6, "3.14e-04"),
        (5.0e-6, 1e-6, "5.00e-06"),
        (4.9e-6, 1e-6, "< 5.0e-06"),
        (1e-12, 1e-6, "< 5.0e-06"),
        (2e-3, float("nan"), "2.00e-03"),
    ],
)
def test_error_below_what_the_reference_resolves_is_stated_as_a_bound(error, own, statement):
    assert Evaluation({"u": error}, own, {}).statement("u") == statement


@pytest.mark.parametrize("points", [1, 10, 50, 100, 385, 1000])
def test_thinning_keeps_every_kth_point_of_each_axis(points):
    whole = reference()
    thin = thin_out(whole, points)
    strides = {math.ceil(whole.sizes[d] / thin.sizes[d]) for d in whole.dims}
    assert max(strides) == max(1, math.ceil((385 / points) ** (1 / 3))) or points == 1
    for d in whole.dims:
        assert set(thin[d].values) <= set(whole[d].values)
        assert thin[d].values[0] == whole[d].values[0]
    assert thin.u.size <= 385


def test_reference_smaller_than_asked_stays_whole():
    xr.testing.assert_identical(thin_out(reference(), 385), reference())
