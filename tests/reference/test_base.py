"""What every reference states about itself."""

import dataclasses
import json
import time

import numpy as np
import pytest

from dpinn.errors import DpinnError
from dpinn.problems import KNOWN
from dpinn.reference import BurgersReference, Reference
from dpinn.reference.base import ROUNDOFF

ALL = [problem().reference() for problem in KNOWN.values()]


@dataclasses.dataclass(frozen=True)
class Line(Reference):
    name, version = "line", 3
    slope: float = 2.0

    def solve(self, quick=False, progress=True):
        started, x = time.perf_counter(), np.linspace(0, 1, 5)
        return self.dataset(
            {"x": x},
            {"u": self.slope * x},
            error_estimate=0.0,
            solver="closed form",
            resolution="exact",
            started=started,
        )


def test_definition_is_plain_data_that_tells_solutions_apart():
    definitions = [
        Line().definition(),
        Line().definition(quick=True),
        Line(3.0).definition(),
        *(reference.definition() for reference in ALL),
    ]
    assert definitions[0] == {
        "name": "line",
        "version": 3,
        "parameters": {"slope": 2.0},
        "quick": False,
    }
    assert len({json.dumps(definition) for definition in definitions}) == len(definitions)


def test_no_error_is_stated_below_roundoff():
    assert Line().solve().error_estimate == ROUNDOFF


def test_solution_that_is_not_finite_is_refused():
    with pytest.raises(DpinnError, match=r"line gave non-finite values in u for \{'slope': nan\}"):
        Line(float("nan")).solve()


@pytest.mark.parametrize("reference", ALL, ids=lambda reference: reference.name)
def test_quick_solution_states_all_that_is_to_be_known(reference):
    solution = reference.solve(quick=True, progress=False)
    for name, points in solution.coords.items():
        assert points.dtype == np.float64, name
        np.testing.assert_allclose(np.diff(points), points[1] - points[0], rtol=1e-11)
    problem = KNOWN[reference.name]
    assert {*problem.fields, *(q.name for q in problem().quantities)} == set(solution)
    for values in solution.values():
        assert values.dtype == np.float64
        assert values.dims == problem.domain.coordinates
    assert ROUNDOFF <= solution.error_estimate < 0.2
    assert solution.seconds > 0
    assert solution.dpinn_reference_version == reference.version
    assert solution.solver
    assert solution.resolution
    for name, value in reference.parameters().items():
        assert solution.attrs[name] == value


def test_progress_bar_is_on_stderr_and_can_be_silenced(capsys):
    BurgersReference().solve(quick=True, progress=True)
    printed = capsys.readouterr()
    assert "burgers" in printed.err
    assert not printed.out
    BurgersReference().solve(quick=True, progress=False)
    assert capsys.readouterr() == ("", "")
