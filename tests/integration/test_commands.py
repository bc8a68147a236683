"""What the commands print, write and accept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

import dpinn


def as_json(outcome: Any) -> dict[str, Any]:
    """The one JSON object that is all of standard output."""
    assert outcome.returncode == 0, outcome.stderr
    assert len(outcome.stdout.splitlines()) == 1
    return json.loads(outcome.stdout)


@pytest.fixture(scope="module")
def evaluated(trained: Any) -> dict[str, Any]:
    return as_json(trained.work("evaluate", "--json"))


def test_fit_ends_with_the_error_the_references_own_the_figures_and_the_mlflow_run(
    trained: Any, evaluated: dict[str, Any]
) -> None:
    text = trained.outcome.stdout
    assert trained.outcome.stderr == ""
    assert "relative L2 error of u" in text
    assert "the reference's own error" in text
    assert evaluated["mlflow_run_id"] in text
    assert "sqlite:///" in text
    for figure in evaluated["figures"]:
        assert figure in text
        assert (trained.work.folder / figure).read_bytes().startswith(b"\x89PNG")


def test_evaluate_answers_with_one_json_object(evaluated: dict[str, Any]) -> None:
    assert {"error/u", "reference_error", "horizon", "steps", "seconds", "device"} <= set(evaluated)
    assert evaluated["horizon"] == 1.0
    assert evaluated["steps"] == 20
    assert 0 < evaluated["seconds"] < 300
    assert 0 <= evaluated["reference_error"] < 1e-10
    assert evaluated["device"].endswith("1 thread")


def test_a_run_is_named_by_its_folder_a_checkpoint_or_its_mlflow_id(
    trained: Any, evaluated: dict[str, Any]
) -> None:
    names = [
        trained.folder,
        trained.folder / "checkpoints/last.ckpt",
        evaluated["mlflow_run_id"],
    ]
    for name in names:
        answer = as_json(trained.work("evaluate", name, "--json"))
        for key in ("error/u", "reference_error", "residual/pde", "steps", "seconds"):
            assert answer[key] == evaluated[key], (name, key)


def test_evaluate_agrees_with_what_fit_has_written_down(
    trained: Any, evaluated: dict[str, Any]
) -> None:
    written = json.loads((trained.folder / "evaluation.json").read_text())
    assert written["error/u"] == evaluated["error/u"]


def test_a_loaded_solution_has_the_error_that_evaluate_states(
    trained: Any, evaluated: dict[str, Any]
) -> None:
    t, x = np.linspace(0, 1, 101), np.linspace(0, 1, 101)
    exact = np.sin(np.pi * x) * np.cos(2 * np.pi * t[:, None]) + 0.5 * np.sin(
        4 * np.pi * x
    ) * np.cos(8 * np.pi * t[:, None])
    u = dpinn.load(trained.folder)(t=t[:, None], x=x[None])["u"].value.numpy()
    error = np.linalg.norm(u - exact) / np.linalg.norm(exact)
    assert error == pytest.approx(evaluated["error/u"], rel=0.02)


def test_reference_answers_with_path_error_and_seconds(work: Any) -> None:
    answer = as_json(work("reference", "wave", "--quick", "--json"))
    assert set(answer) == {"path", "error_estimate", "seconds", "study"}
    assert answer["error_estimate"] < 1e-10
    assert answer["study"] == []  # a closed form
    assert answer["path"].endswith(".nc")
    assert answer["path"].startswith(work.environment["DPINN_CACHE"])


def test_a_study_solves_anew_and_prints_how_the_solution_converged(work: Any) -> None:
    path = Path(as_json(work("reference", "kdv", "--quick", "--json"))["path"])
    before = path.stat().st_mtime_ns
    cached = work("reference", "kdv", "--quick")
    assert path.stat().st_mtime_ns == before
    assert "refined in" not in cached.stdout
    outcome = work("reference", "kdv", "--quick", "--study")
    assert outcome.returncode == 0, outcome.stderr
    assert path.stat().st_mtime_ns > before
    lines = outcome.stdout.splitlines()
    (header,) = [k for k, line in enumerate(lines) if "refined in" in line]
    assert [line.split()[0] for line in lines[header + 1 : -1]] == ["256", "512", "512", "512"]
    answer = as_json(work("reference", "kdv", "--quick", "--study", "--json"))
    last = {trial["refined"]: trial["change"] for trial in answer["study"]}
    assert answer["error_estimate"] == pytest.approx(last["space"] + last["time"])
    assert "nothing to refine" in work("reference", "wave", "--quick", "--study").stdout


def test_results_are_one_table_of_the_newest_runs(trained: Any, work: Any) -> None:
    outcome = trained.work("results")
    assert outcome.returncode == 0, outcome.stderr
    header, rule, row = (line.split("|") for line in outcome.stdout.splitlines())
    assert len(header) == len(rule) == len(row)
    assert row[1].strip() == "wave"
    answer = as_json(trained.work("results", "--json"))
    evaluated = as_json(trained.work("evaluate", "--json"))
    assert answer["wave"]["error/u"] == evaluated["error/u"]
    assert f"u {evaluated['error/u']:.2e}" in row[3]
    assert "there is no evaluated run below" in work("results").sentence


def test_print_config_prints_a_configuration_that_gives_itself(work: Any) -> None:
    printed = work("fit", "--config", work.config(), "--print_config")
    assert printed.returncode == 0
    content = yaml.safe_load(printed.stdout)
    assert content["data"]["batch"] == 64
    assert content["model"]["network"]["init_args"]["width"] == 8
    work.file("printed.yaml", printed.stdout)
    again = work("fit", "--config", "printed.yaml", "--print_config")
    assert yaml.safe_load(again.stdout) == content
    assert work.left == set()


def test_configurations_merge_left_to_right_and_options_come_last(work: Any) -> None:
    work.config({"data.batch": 32})
    work.file("second.yaml", "data: {batch: 128}\nmodel: {network: {init_args: {width: 16}}}\n")
    work.file("third.yaml", "model: {clip: 5.0}\n")
    configs = [a for n in ("tiny", "second", "third") for a in ("--config", f"{n}.yaml")]
    printed = work("fit", *configs, "--model.causal_tolerance", 0.5, "--print_config").stdout
    content = yaml.safe_load(printed)
    assert content["data"]["batch"] == 128
    assert content["data"]["chunks"] == 4
    assert (
        content["model"]["network"]["init_args"] | {"width": 16, "blocks": 1}
        == (content["model"]["network"]["init_args"])
    )
    assert content["model"]["clip"] == 5.0
    assert content["model"]["causal_tolerance"] == 0.5


MINE = """\
from dpinn import Box, Problem
import torch

class Mine(Problem):
    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    fields = ("u",)
    periodic = ("x",)
    def residual(self, u):
        return {"pde": u.t + u.x}
    def initial(self, u, x):
        return {"ic": u - torch.sin(torch.pi * x)}
"""


@pytest.fixture(scope="module")
def mine(workplace: Any) -> Any:
    """A user's folder with a ten-line problem, trained from a configuration elsewhere."""
    work = workplace()
    work.file("my_pde.py", MINE)
    (work.folder / "configs").mkdir()
    config = work.config(name="configs/tiny.yaml")
    outcome = work("fit", "--config", config, "--problem", "my_pde.Mine")
    assert outcome.returncode == 0, outcome.stderr
    assert "there is no reference solution" in outcome.stdout
    return work


def test_a_ten_line_problem_of_the_users_own_trains_and_evaluates(mine: Any) -> None:
    assert len([line for line in MINE.splitlines() if line]) == 10
    run = mine.run_folder()
    assert run.name.startswith("mine-")
    answer = as_json(mine("evaluate", "--json"))
    assert {k for k in answer if k.startswith("residual/")} == {"residual/pde", "residual/ic"}
    assert "error/u" not in answer
    assert "reference_error" not in answer
    assert answer["horizon"] == 1.0
    assert "there is no reference solution" in mine("evaluate").stdout


def test_a_users_solution_loads_and_is_periodic(mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.folder)
    monkeypatch.syspath_prepend(str(mine.folder))
    solution = dpinn.load(mine.run_folder())
    left, right = solution(t=0.3, x=-1.0)["u"], solution(t=0.3, x=1.0)["u"]
    torch.testing.assert_close(left.value, right.value)
    torch.testing.assert_close(left.x, right.x)


def test_loading_without_the_users_file_says_where_to_run(mine: Any, work: Any) -> None:
    sentence = work("evaluate", mine.run_folder()).sentence
    assert "my_pde" in sentence
    assert "run from the folder that holds its file" in sentence


def test_a_users_problem_is_compared_with_a_file_that_it_names(work: Any) -> None:
    work.file("my_pde.py", f'{MINE}    def reference(self):\n        return "exact.nc"\n')
    t, x = np.linspace(0, 1, 41), np.linspace(-1, 1, 40, endpoint=False)
    exact = np.sin(np.pi * (x[None] - t[:, None]))
    data = xr.Dataset({"u": (("t", "x"), exact)}, {"t": t, "x": x}, {"error_estimate": 1e-7})
    data.to_netcdf(work.folder / "exact.nc", engine="h5netcdf")
    outcome = work("fit", "--config", work.config(), "--problem", "my_pde.Mine")
    assert outcome.returncode == 0, outcome.stderr
    answer = json.loads((work.run_folder() / "evaluation.json").read_text())
    assert 0 < answer["error/u"] < 3
    assert answer["reference_error"] == 1e-7
    (work.folder / "exact.nc").unlink()
    assert "exact.nc does not exist" in work("evaluate").sentence


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "torch.optim.Adam": {"lr": 3e-3},
    # Every step has new points: without a line search it diverges.
    "torch.optim.LBFGS": {"lr": 1.0, "line_search_fn": "strong_wolfe", "max_iter": 10},
    "dpinn.optim.MuonWithAdamW": {"lr": 3e-3},
    "torch_optimizer.Shampoo": {"lr": 0.1},
    "torch_optimizer.Adahessian": {"lr": 0.1},
    "torch_optimizer.Lamb": {"lr": 3e-2},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_baseline_lowers_the_loss(optimizer: str, work: Any) -> None:
    steps = 10 if optimizer.endswith("LBFGS") else 40
    changes = {
        "model.optimizer": {"class_path": optimizer, "init_args": OPTIMIZERS[optimizer]},
        "data": {"batch": 256, "inner_steps": 1},
        "trainer.max_steps": steps,
        "tracking.log_every": 1,
        "tracking.evaluate_every": steps,
        "tracking.checkpoint_every": steps,
    }
    outcome = work("fit", "--config", work.config(changes))
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    rows = (work.run_folder() / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["loss/total"] for row in rows]
    assert len(losses) == steps
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_a_solution_trained_in_float64_is_loaded_to_the_last_bit(workplace: Any) -> None:
    work = workplace()
    assert work("fit", "-c", work.config({"trainer.precision": "64-true"})).returncode == 0
    run = work.run_folder()
    saved = torch.load(run / "checkpoints/last.ckpt")["solution"]
    loaded = dpinn.load(run).pinn.state_dict()
    assert saved.keys() == loaded.keys()
    for name, values in saved.items():
        assert values.dtype == torch.float64
        assert loaded[name].equal(values), name
