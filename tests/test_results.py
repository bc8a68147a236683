"""The table of results: the newest run of each problem, benchmarks in their order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dpinn import DpinnError
from dpinn.results import collect, table


def write(folder: Path, run: str, age: int, **content: object) -> None:
    path = folder / run / "evaluation.json"
    path.parent.mkdir(parents=True)
    common = {
        "horizon": 1.0,
        "steps": 10,
        "seconds": 3.2,
        "seed": 0,
        "device": "CPU",
        "finished": True,
    }
    path.write_text(json.dumps(common | content))
    os.utime(path, (1e9 - age, 1e9 - age))


def test_the_newest_run_of_each_problem_is_taken_benchmarks_first(tmp_path):
    own = {"reference_error": 1e-9}
    write(tmp_path, "a", 3, problem="heat", **{"error/u": 0.5})
    write(tmp_path, "b", 2, problem="burgers", **{"error/u": 0.1}, **own)
    write(tmp_path, "c", 1, problem="wave", **{"error/u": 0.2}, **own)
    write(tmp_path, "d", 0, problem="burgers", **{"error/u": 0.3}, **own)
    assert [(r["problem"], r["error/u"]) for r in collect(tmp_path)] == [
        ("wave", 0.2), ("burgers", 0.3), ("heat", 0.5)
    ]  # fmt: skip


def test_a_row_states_errors_starts_bounds_and_what_is_not_known(tmp_path):
    write(
        tmp_path, "a", 1, problem="lid_driven_cavity", horizon=None, reference_error=1e-6,
        **{"error/u": 0.0123, "error/p": 4e-6, "error/v": None, "initial_error/u": 1.5},
    )  # fmt: skip
    write(tmp_path, "b", 0, problem="mine")
    rows = table(collect(tmp_path)).splitlines()
    lines = [[cell.strip() for cell in row.split("|")] for row in rows]
    errors = "u 1.23e-02, p < 5.0e-06, v not finite"
    assert lines[2][1:6] == ["lid_driven_cavity", "steady", errors, "u 1.50e+00", "1.0e-06"]
    assert lines[3][3:6] == ["no reference", "unknown", "not stated"]
    assert lines[2][6:10] == ["10", "3 s", "0", "CPU"]


def test_nothing_to_show_and_damage_are_told(tmp_path):
    with pytest.raises(DpinnError, match="no evaluated run below"):
        collect(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/evaluation.json").write_text("{")
    with pytest.raises(DpinnError, match="is damaged; `dpinn evaluate` writes it anew"):
        collect(tmp_path)
