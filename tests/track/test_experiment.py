import math
from pathlib import Path

import pytest
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from dpinn.errors import DpinnError
from dpinn.track.experiment import Experiment, TrackedRun

from ..mlflow_server import free_port
from .experiments import log_run, made_run, optimizer_params, series, use_store


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, made_database: Path) -> None:
    use_store(made_database, tmp_path)


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db")


def test_what_a_training_logged_is_read_back(tmp_path: Path) -> None:
    rows = [
        (50, {"error/u": 0.5, "time/elapsed_s": 2.0, "time/step_ms": 40.0, "weight/pde": 1.0}),
        (100, {"error/u": 0.1, "time/elapsed_s": 5.0, "time/step_ms": 60.0}),
        (100, {"final_error/u": 0.11, "reference_error": 1e-9, "residual/pde": 0.02}),
    ]
    run_id = log_run("study", rows, seed=7)
    experiment = Experiment.read("study")
    [run] = experiment.runs
    assert (experiment.name, experiment.store) == ("study", f"sqlite:///{tmp_path}/mlflow.db")
    assert (run.run_id, run.name, run.status, run.finished) == (
        run_id, "burgers-7", "finished", True
    )  # fmt: skip
    assert (run.problem, run.optimizer, run.learning_rate, run.seed) == (
        "burgers", "SOAP", 3e-3, "7"
    )  # fmt: skip
    assert (run.steps, run.budget, run.seconds, run.step_ms) == (100, 100, 5.0, 50.0)
    assert (run.device, run.folder) == ("CPU", "runs/7")
    assert (run.final_errors, run.residuals) == ({"u": 0.11}, {"pde": 0.02})
    assert run.reference_error == 1e-9
    assert run.histories["error/u"].steps.tolist() == [50, 100]
    assert run.histories["error/u"].values.tolist() == [0.5, 0.1]
    assert "weight/pde" not in run.histories  # nobody looks at it: its history is not asked for


def test_time_is_that_of_training_and_not_of_the_wall() -> None:
    rows = [
        (20, {"time/elapsed_s": 10.0}),
        (25, {"alignment/intra": 0.5}),  # in no row that has the time
        (30, {"time/elapsed_s": 20.0, "error/u": 0.1}),
        (1, {"alignment/inter": 0.5}),
    ]
    log_run("study", rows)
    [run] = Experiment.read("study").runs
    assert run.histories["alignment/intra"].seconds.tolist() == [15.0]
    assert run.histories["error/u"].seconds.tolist() == [20.0]
    assert run.histories["alignment/inter"].seconds.tolist() == [0.5]  # step 1 of 20 in 10 s


def test_without_a_clock_the_time_is_that_since_the_run_was_opened() -> None:
    run_id = log_run("study", [])
    start = client().get_run(run_id).info.start_time
    values = [Metric("error/u", 0.5, start + 1500, 10), Metric("error/u", 0.1, start + 4000, 20)]
    client().log_batch(run_id, metrics=values)
    [run] = Experiment.read("study").runs
    assert run.histories["error/u"].seconds.tolist() == [1.5, 4.0]
    assert run.seconds == 4.0


def test_a_step_logged_twice_counts_once_as_it_was_logged_last() -> None:
    run_id = log_run("study", [])
    values = [Metric("error/u", v, t, s) for v, t, s in [(0.5, 1, 10), (0.4, 9, 10), (0.1, 5, 20)]]
    client().log_batch(run_id, metrics=values)
    [run] = Experiment.read("study").runs
    assert run.histories["error/u"].values.tolist() == [0.4, 0.1]


def test_values_that_are_not_finite_leave_the_curves_but_not_the_errors() -> None:
    rows = [
        (10, {"error/u": 0.5, "loss/pde": math.nan}),
        (20, {"error/u": math.inf, "final_error/u": math.inf, "final_error/v": math.nan}),
    ]
    log_run("study", rows)
    [run] = Experiment.read("study").runs
    assert run.histories["error/u"].values.tolist() == [0.5]
    assert "loss/pde" not in run.histories
    assert run.final_errors == {"u": math.inf, "v": math.inf}


def test_runs_of_every_status_are_read_the_oldest_first() -> None:
    for status in ("FINISHED", "FAILED", "KILLED", None):
        log_run("study", [(10, {"error/u": 0.5})], steps=200, status=status)
    runs = Experiment.read("study").runs
    assert [run.status for run in runs] == ["finished", "failed", "killed", "running"]
    # Finished means that what was taken was the budget, whatever a resumed run was given.
    assert [(run.steps, run.budget) for run in runs] == [(10, 10), (10, 200), (10, 200), (10, 200)]


def test_a_run_that_logged_nothing_is_read() -> None:
    log_run("study", [])
    [run] = Experiment.read("study").runs
    assert (run.seconds, run.step_ms, run.steps, run.final_errors) == (None, None, 0, {})
    assert math.isnan(run.reference_error)
    assert run.late_mean("alignment/intra") is None


def test_an_optimizer_around_another_is_named_with_it_and_has_its_rate() -> None:
    wrapper = {
        "class_path": "dpinn.optim.ScheduleFree",
        "init_args": {"beta": 0.9, "base": optimizer_params(lr=1e-3)},
    }
    log_run("study", [], optimizer=wrapper)
    [run] = Experiment.read("study").runs
    assert (run.optimizer, run.learning_rate) == ("ScheduleFree(SOAP)", 1e-3)


def test_what_a_run_does_not_tell_is_unknown() -> None:
    run = TrackedRun("id", "name", "failed")
    assert (run.problem, run.optimizer, run.learning_rate) == ("unknown", "unknown", None)
    assert (run.seed, run.device, run.folder, run.budget) == ("unknown", "unknown", "", 0)


def test_without_its_tag_the_problem_is_named_by_its_class() -> None:
    params = {"problem.class_path": "my_pde.AllenCahn"}
    assert TrackedRun("id", "name", "failed", params).problem == "allen_cahn"


def test_several_ranks_are_part_of_the_device() -> None:
    run = TrackedRun("id", "name", "failed", tags={"device": "H100", "world_size": "8"})
    assert run.device == "8 × H100"


def test_the_late_mean_is_over_the_last_half_of_the_steps() -> None:
    run = made_run(histories={"alignment/intra": series(-1.0, -1.0, 0.5, 0.7)})
    assert run.late_mean("alignment/intra") == pytest.approx(0.6)


def test_an_unknown_experiment_is_one_sentence_with_the_nearest_first(tmp_path: Path) -> None:
    for name in ("zebra", "study"):
        log_run(name, [])
    with pytest.raises(DpinnError) as caught:
        Experiment.read("stdy")
    assert str(caught.value) == (
        f"there is no experiment 'stdy' in sqlite:///{tmp_path}/mlflow.db; "
        "there is study, Default, zebra"
    )


def test_no_finished_run_is_one_sentence() -> None:
    for status in ("FAILED", "FAILED", None):
        log_run("study", [], status=status)
    with pytest.raises(DpinnError, match=r"'study' has no finished run \(2 failed, 1 running\)"):
        Experiment.read("study")
    with pytest.raises(DpinnError, match=r"'Default' has no finished run \(it is empty\)"):
        Experiment.read("Default")


def test_no_store_is_one_sentence_and_makes_none(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").unlink()
    with pytest.raises(DpinnError, match=r"there is no experiment 'study': .* does not exist"):
        Experiment.read("study")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_does_not_answer_is_one_sentence() -> None:
    with pytest.raises(DpinnError, match=r"does not answer \(connection refused\)"):
        Experiment.read("study", f"http://127.0.0.1:{free_port()}")


def test_a_store_that_goes_away_meanwhile_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    def cut(*_: object) -> None:
        raise MlflowException("Connection refused")

    log_run("study", [(10, {"error/u": 0.5})])
    monkeypatch.setattr(MlflowClient, "get_metric_history", cut)
    with pytest.raises(DpinnError, match=r"stopped answering .* \(connection refused\); try again"):
        Experiment.read("study")
