import json
import math

import pytest

from dpinn.track.experiment import TrackedRun
from dpinn.track.groups import Group, Spread, group_runs

from .experiments import made_run, series


def labels(*runs: TrackedRun) -> dict[str, list[str]]:
    return {problem: [g.label for g in groups] for problem, groups in group_runs(runs).items()}


def only(*runs: TrackedRun) -> Group:
    [[group]] = group_runs(runs).values()
    return group


def with_error(error: float, seed: int, status: str = "finished") -> TrackedRun:
    last = {"final_error/u": error, "reference_error": 1e-4}
    return made_run(seed=seed, status=status, last=last)


def test_seeds_of_one_optimizer_on_one_problem_are_a_group() -> None:
    runs = [
        made_run(o, s, p) for s in (1, 0) for o in ("SOAP", "Adam") for p in ("wave", "burgers")
    ]
    grouped = group_runs(runs)
    assert labels(*runs) == {"burgers": ["Adam", "SOAP"], "wave": ["Adam", "SOAP"]}
    assert [g.seeds for g in grouped["wave"]] == [["0", "1"], ["0", "1"]]


def test_learning_rates_are_told_apart_where_there_are_several() -> None:
    runs = [made_run("SOAP", lr=1e-2), made_run("SOAP", lr=3e-3), made_run("Adam", lr=1e-3)]
    assert labels(*runs) == {"burgers": ["Adam", "SOAP, lr 0.003", "SOAP, lr 0.01"]}


def test_a_rate_that_differs_on_another_problem_is_told_everywhere() -> None:
    runs = [made_run("SOAP", lr=1e-2), made_run("SOAP", lr=3e-3, problem="wave")]
    assert labels(*runs) == {"burgers": ["SOAP, lr 0.01"], "wave": ["SOAP, lr 0.003"]}


def test_runs_of_different_length_are_not_averaged() -> None:
    short = made_run("SOAP", histories={"error/u": series(0.5)})
    long = made_run("SOAP", seed=1)
    adam = made_run("Adam", histories={"error/u": series(0.5, 0.5, 0.5)})
    assert labels(short, long, adam) == {"burgers": ["Adam", "SOAP, 10 steps", "SOAP, 20 steps"]}


def test_a_run_that_did_not_end_stays_with_its_seeds() -> None:
    cut_short = made_run(seed=1, status="failed", histories={"error/u": series(0.5)})
    group = only(made_run(seed=0), cut_short)
    assert (group.label, group.statuses, group.seeds) == (
        "SOAP", {"finished": 1, "failed": 1}, ["0"]
    )  # fmt: skip


def test_the_error_is_median_and_range_over_the_finished_seeds() -> None:
    group = only(
        with_error(0.3, 0), with_error(0.1, 1), with_error(0.2, 2), with_error(9.0, 3, "failed")
    )
    assert group.errors == {"u": Spread(0.2, 0.1, 0.3)}
    assert only(with_error(0.3, 0), with_error(0.1, 1)).errors["u"].median == pytest.approx(0.2)


def test_a_seed_that_diverged_counts_in_the_median() -> None:
    group = only(with_error(0.1, 0), with_error(math.inf, 1), with_error(0.2, 2))
    assert group.errors == {"u": Spread(0.2, 0.1, math.inf)}
    assert group.statement(math.inf) == "not finite"
    assert group.row()["errors"]["u"] == {
        "median": 0.2, "min": 0.1, "max": None, "statement": "2.00e-01"
    }  # fmt: skip


def test_an_error_near_the_references_own_is_a_bound() -> None:
    group = only(with_error(4.9e-4, 0), with_error(5.1e-4, 1))
    assert group.statement(4.9e-4) == "< 5.0e-04"
    assert group.statement(5.1e-4) == "5.10e-04"
    unstated = only(made_run(last={"final_error/u": 1e-9}))
    assert unstated.statement(1e-9) == "1.00e-09"
    assert unstated.row()["reference_error"] is None


def test_alignment_time_and_step_are_those_of_the_finished_runs() -> None:
    def run(seed: int, score: float, step_ms: float, status: str = "finished") -> TrackedRun:
        histories = {
            "alignment/intra": series(-1.0, score),
            "time/step_ms": series(step_ms, step_ms, every=5),
        }
        return made_run(seed=seed, status=status, histories=histories)

    group = only(run(0, 0.2, 10.0), run(1, 0.4, 30.0), run(2, 1.0, 999.0, "failed"))
    intra = group.alignment["intra"]
    assert intra is not None
    assert (intra.median, intra.lowest, intra.highest) == (pytest.approx(0.3), 0.2, 0.4)
    assert group.alignment["preconditioned"] is None
    assert group.step_ms == Spread(20.0, 10.0, 30.0)
    assert group.seconds == Spread(10.0, 10.0, 10.0)


def test_a_group_without_a_finished_run_has_reached_nothing() -> None:
    group = only(made_run(status="running"))
    assert (group.errors, group.residuals, group.seconds) == ({}, {}, None)
    assert (group.statuses, group.seeds) == ({"running": 1}, ["0"])


def test_runs_of_different_configurations_are_not_seeds_of_one_group() -> None:
    viscous = {"problem.init_args.viscosity": "0.1"}
    thin = {"problem.init_args.viscosity": "0.01"}
    assert labels(made_run(seed=0, **viscous), made_run(seed=1, **thin)) == {
        "burgers": ["SOAP, viscosity 0.01", "SOAP, viscosity 0.1"]
    }
    precise = {"trainer.precision": "64-true"}
    assert labels(made_run(seed=0), made_run(seed=1, **precise)) == {
        "burgers": ["SOAP, precision 64-true", "SOAP, precision not set"]
    }


def test_what_tells_configurations_apart_is_named_in_the_shortest_form() -> None:
    def network(name: str, **arguments: str) -> dict[str, str]:
        found = {f"model.network.init_args.{k}": v for k, v in arguments.items()}
        return found | {"model.network.class_path": f"dpinn.nn.{name}"}

    runs = [
        made_run(seed=0, **network("MLP", width="64", depth="3")),
        made_run(seed=1, **network("MLP", width="64", depth="3")),
        made_run(seed=2, **network("PirateNet", width="64", blocks="2")),
        made_run(seed=3, **network("PirateNet", width="64", blocks="3")),
    ]
    assert labels(*runs) == {
        "burgers": [
            "SOAP, MLP",
            "SOAP, PirateNet, blocks 2",
            "SOAP, PirateNet, blocks 3",
        ]
    }


def test_how_a_group_was_computed_may_differ_and_is_told() -> None:
    runs = [
        made_run(seed=s, **{"trainer.devices": d, "tracking.output": d, "data.seed": str(s)})
        for s, d in enumerate(("1", "2", "1"))
    ]
    assert only(*runs).differing == {"trainer.devices": ["1", "2"]}
    assert only(made_run(seed=0), made_run(seed=1)).differing == {}


def test_a_row_is_json() -> None:
    row = only(with_error(math.inf, 0)).row()
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_a_parameter_that_only_one_of_the_runs_has_is_a_difference() -> None:
    runs = [made_run("SOAP", seed) for seed in (0, 1)]
    runs[1].params["model.pseudo_time.class_path"] = "dpinn.loss.FixedPseudoTime"
    assert labels(*runs) == {"burgers": ["SOAP, FixedPseudoTime", "SOAP, no pseudo_time"]}
