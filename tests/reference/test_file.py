"""A user's own reference file."""

import numpy as np
import pytest
import xarray as xr

from dpinn.errors import DpinnError
from dpinn.reference import FileReference, load_reference


@pytest.fixture
def dataset() -> xr.Dataset:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    return xr.Dataset(
        {"u": (("x", "t"), values), "noise": (("x",), values[:, 0])},
        {"t": [0, 1], "x": [0.0, 0.5, 1.0]},
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "dns.nc"


def test_file_is_read_in_the_problems_order_and_in_float64(dataset, path):
    dataset.to_netcdf(path, engine="h5netcdf")
    solution = load_reference(FileReference(path, ("t", "x"), ("u",)))
    assert solution.u.dims == ("t", "x")
    assert set(solution.data_vars) == {"u"}
    assert solution.u.dtype == solution.t.dtype == np.float64
    np.testing.assert_array_equal(solution.u, dataset.u.T)
    assert np.isnan(solution.error_estimate)


def test_stated_error_of_the_file_is_kept(dataset, path):
    dataset.assign_attrs(error_estimate=3e-4).to_netcdf(path, engine="h5netcdf")
    assert load_reference(FileReference(path, ("t", "x"), ("u",))).error_estimate == 3e-4


def test_changed_file_is_read_anew(dataset, path):
    dataset.to_netcdf(path, engine="h5netcdf")
    reference = FileReference(path, ("t", "x"), ("u",))
    load_reference(reference)
    (2 * dataset).to_netcdf(path, engine="h5netcdf")
    np.testing.assert_array_equal(load_reference(reference).u, 2 * dataset.u.T)


@pytest.mark.parametrize(
    ("coordinates", "fields", "message"),
    [
        (("t", "x"), ("u", "v", "p"), r"dns.nc lacks the fields v, p; it has the fields u, noise"),
        (("t", "x", "y"), ("u",), "lacks the dimensions y"),
        (("t", "z"), ("w",), "lacks the fields w; dimensions z"),
        (("t", "x"), ("noise",), "noise in .* has the dimensions x; it must have t, x"),
    ],
)
def test_what_is_missing_is_named(dataset, path, coordinates, fields, message):
    dataset.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(DpinnError, match=message):
        load_reference(FileReference(path, coordinates, fields))


def test_dimension_without_values_is_named(dataset, path):
    dataset.drop_vars("t").to_netcdf(path, engine="h5netcdf")
    with pytest.raises(DpinnError, match="lacks the values of the coordinates t"):
        load_reference(FileReference(path, ("t", "x"), ("u",)))


def test_values_that_are_not_finite_are_refused(dataset, path):
    dataset.u[0, 0] = np.nan
    dataset.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(DpinnError, match=r"u in .* has values that are not finite"):
        load_reference(FileReference(path, ("t", "x"), ("u",)))


def test_missing_file_and_file_that_is_no_netcdf_are_told_in_a_sentence(path):
    reference = FileReference(path, ("t", "x"), ("u",))
    with pytest.raises(DpinnError, match=r"dns\.nc does not exist"):
        load_reference(reference)
    path.write_text("not a NetCDF file")
    with pytest.raises(DpinnError, match=r"dns\.nc cannot be read as NetCDF"):
        load_reference(reference)


def test_what_is_optional_is_read_where_it_is_there(tmp_path):
    t, x = np.linspace(0, 1, 3), np.linspace(0, 1, 4)
    values = (("t", "x"), np.arange(12.0).reshape(3, 4))
    path = tmp_path / "flow.nc"
    xr.Dataset({"u": values, "p": values, "other": values}, {"t": t, "x": x}).to_netcdf(
        path, engine="h5netcdf"
    )
    found = FileReference(path, ("t", "x"), ("u",), optional=("p", "vorticity")).solve()
    assert set(found.data_vars) == {"u", "p"}
    with pytest.raises(DpinnError, match="lacks the fields v"):
        FileReference(path, ("t", "x"), ("u", "v"), optional=("p",)).solve()
