"""``dpinn plan`` and ``dpinn bench``, as their users call them."""

import json
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
KEYS = {"ranks", "imbalance", "imbalance_bound", "state_bytes_max", "gather_bytes", "optimizer_ms"}

WRAPPED = {
    "model.optimizer": {
        "class_path": "dpinn.optim.ScheduleFree",
        "init_args": {"base": {"class_path": "dpinn.optim.SOAP", "init_args": {"lr": 1.0e-3}}},
    }
}


def as_json(outcome: Any) -> dict[str, Any]:
    assert outcome.returncode == 0, outcome.stderr
    assert len(outcome.stdout.splitlines()) == 1
    return json.loads(outcome.stdout)


@pytest.fixture
def work(work: Any, tmp_path: Path) -> Any:
    """A folder with a cache that no other test has measured anything into."""
    work.environment = work.environment | {"DPINN_CACHE": str(tmp_path / "cache")}
    return work


# --- plan ---------------------------------------------------------------------------------


def test_a_plan_says_what_is_shared_and_which_rates_it_used(work: Any) -> None:
    outcome = work("plan", "--config", work.config(), "--ranks", 3)
    assert outcome.returncode == 0
    assert outcome.stderr == ""
    assert "not measured" in outcome.stdout
    answer = as_json(work("plan", "--config", work.config(), "--ranks", 3, "--json"))
    assert set(answer) >= KEYS
    assert answer["ranks"] == 3
    assert work.left == set()


def test_several_numbers_of_ranks_are_rows_of_one_table(work: Any) -> None:
    given = ("plan", "--config", work.config(), "--ranks", 1, 2, 4096)
    rows = as_json(work(*given, "--json"))["plans"]
    assert [row["ranks"] for row in rows] == [1, 2, 4096]
    assert rows[0]["state_bytes_max"] == rows[0]["state_bytes_total"]
    assert rows[0]["gather_bytes"] == rows[0]["imbalance"] == 0
    assert rows[2]["imbalance"] == pytest.approx(rows[2]["imbalance_bound"])
    lines = [line.split()[:1] for line in work(*given).stdout.splitlines()]
    assert [line for line in lines if line and line[0].isdigit()] == [["1"], ["2"], ["4096"]]


def test_averaging_around_soap_changes_no_plan_and_double_precision_doubles_the_bytes(
    work: Any,
) -> None:
    def plan(*more: Any, changes: Any = None) -> dict[str, Any]:
        return as_json(
            work("plan", "--config", work.config(changes), "--ranks", 2, "--json", *more)
        )

    plain = plan()
    assert plan(changes=WRAPPED) == plain
    double = plan("--trainer.precision", "64-true")
    assert double["state_bytes_max"] == 2 * plain["state_bytes_max"]
    assert double["gather_bytes"] == 2 * plain["gather_bytes"]


def test_a_network_of_the_size_of_turbulence_is_planned_from_its_configuration(work: Any) -> None:
    config = REPOSITORY / "configs/large/burgers_6x1024.yaml"
    outcome = work("plan", "--config", config, "--ranks", 1, 4, "--json")
    one, four = as_json(outcome)["plans"]
    assert four["state_bytes_max"] < (1 / 4 + 0.05) * one["state_bytes_max"]
    assert four["imbalance"] < four["imbalance_bound"] + 0.05


MISTAKES: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "another optimizer": (
        {"model.optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}},
        ["--ranks", 2],
        "model.optimizer is Adam, which is not sharded",
    ),
    "an unknown key": ({"model.netwrok": 1}, ["--ranks", 2], "model.netwrok"),
    "a bad option": ({}, ["--ranks", 2, "--data.batch", "many"], "data.batch"),
    "a negative rate": ({"model.optimizer.init_args.lr": -1.0}, ["--ranks", 2], "lr is -1"),
    "half precision": ({"trainer.precision": "16-mixed"}, ["--ranks", 2], "64-true"),
    "no ranks": ({}, ["--ranks", 0], "--ranks 0 must be at least 1"),
    "nodes without their size": ({}, ["--ranks", 4, "--shard-group", "node"], "give both"),
    "half a node": (
        {},
        ["--ranks", 6, "--shard-group", "node", "--ranks-per-node", 4],
        "use 4 or 8",
    ),
    "no such rates": ({}, ["--ranks", 2, "--constants", "none.json"], "none.json"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_a_plan_is_one_sentence(work: Any, case: str) -> None:
    changes, arguments, sentence = MISTAKES[case]
    outcome = work("plan", "--config", work.config(changes), *arguments)
    assert sentence in outcome.sentence


def test_a_missing_configuration_is_one_sentence(work: Any) -> None:
    assert "nowhere.yaml" in work("plan", "--config", "nowhere.yaml", "--ranks", 2).sentence


# --- bench --------------------------------------------------------------------------------


def test_measured_rates_are_kept_and_used_by_the_next_plan(work: Any, tmp_path: Path) -> None:
    measured = as_json(
        work("bench", "constants", "--sizes", 8, 16, "--steps", 2, "--json", "--device", "cpu")
    )
    assert Path(measured["path"]).is_relative_to(tmp_path / "cache")
    assert set(measured["refresh_rates"]) == set(measured["step_rates"]) == {"8", "16"}
    assert "2 local ranks, gloo" in measured["gathered_by"]
    answer = as_json(work("plan", "--config", work.config(), "--ranks", 2, "--json"))
    assert answer["constants"] == measured["source"]
    kept = tmp_path / "rates.json"
    kept.write_text(Path(measured["path"]).read_text().replace("measured", "borrowed"))
    given = ("plan", "--config", work.config(), "--ranks", 2, "--json", "--constants", kept)
    assert as_json(work(*given))["constants"].startswith("borrowed")


def test_a_step_is_split_into_its_parts(work: Any) -> None:
    given = ("bench", "--config", work.config(), "--steps", 2, "--device", "cpu")
    (row,) = as_json(work(*given, "--batch", 32, "--json"))["rows"]
    parts = row["loss_ms"] + row["reduce_ms"] + row["optimizer_ms"]
    assert row["total_ms"] == pytest.approx(parts)
    assert row["ranks"] == 1
    assert not row["compiled"]
    text = work("bench", "step", *given[1:]).stdout
    assert "forward+backward" in text


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, WRAPPED], ids=["SOAP", "ScheduleFree"])
def test_a_step_is_timed_on_real_ranks(work: Any, changes: dict[str, Any]) -> None:
    given = ("--config", work.config(changes), "--steps", 2, "--device", "cpu", "--json")
    rows = as_json(work("bench", "step", *given, "--ranks", 2))["rows"]
    assert [row["ranks"] for row in rows] == [2]
    assert all(row["loss_ms"] > 0 and row["optimizer_ms"] > 0 for row in rows)


@pytest.mark.slow
def test_optimizers_are_measured_side_by_side_and_sharded(work: Any) -> None:
    given = ("--config", work.config(), "--steps", 2, "--device", "cpu", "--json")
    answer = as_json(work("bench", "optimizer", *given, "--ranks", 1, 2))
    rows = {(row["name"], row["ranks"]): row for row in answer["rows"]}
    assert {("dpinn SOAP", 1), ("torch Adam", 1), ("dpinn SOAP, sharded", 2)} <= set(rows)
    ours = rows["dpinn SOAP", 1]
    assert 0 < ours["share"] < 1
    assert ours["state_bytes"] == rows["dpinn SOAP, sharded", 1]["state_bytes"]
    plan = as_json(work("plan", "--config", work.config(), "--ranks", 2, "--json"))
    assert rows["dpinn SOAP, sharded", 2]["state_bytes"] == plan["state_bytes_max"]
    assert {f["reason"] for f in answer["failed"]} <= {"not installed"}


CPU = ["--device", "cpu"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["speed"], "there is no bench 'speed'; use one of step, optimizer, refresh, constants"),
        (["refresh", "--sizes", 1, *CPU], "--sizes must be at least 2"),
        (["optimizer", "--config", "tiny.yaml", "--steps", 1, *CPU], "use at least 2"),
        (["step", "--config", "tiny.yaml", "--batch", 33, *CPU], "33"),
        (["step", "--config", "tiny.yaml", "--ranks", 0, *CPU], "--ranks 0 must be at least 1"),
        (["optimizer", "--config", "tiny.yaml", "--ranks", 0, *CPU], "--ranks 0 must be at least"),
        (["constants", "--sizes", 0, *CPU], "at least 1"),
        (["step", "--config", "tiny.yaml", "--steps", 0, *CPU], "--steps 0 must be at least 1"),
    ],
    ids=lambda value: " ".join(map(str, value[:1])) if isinstance(value, list) else "",
)
def test_a_mistake_in_a_bench_is_one_sentence(
    work: Any, arguments: list[Any], sentence: str
) -> None:
    work.config()
    assert sentence in work("bench", *arguments).sentence


def test_bench_refresh_compares_the_methods(work: Any) -> None:
    arguments = ("--sizes", 16, "--count", 2, "--steps", 1, *CPU)
    result = as_json(work("bench", "refresh", *arguments, "--json"))
    assert [row["method"] for row in result["rows"]] == ["cholesky_qr", "qr", "eigh"]
    assert all(row["failed"] == 0 for row in result["rows"])
