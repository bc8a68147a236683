"""Trainings whose SOAP is divided over ranks (invariants 2, 3 and 5), in real processes."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

LR = 1.0e-3

SOAP = {
    "model.optimizer": {"class_path": "dpinn.optim.SOAP", "init_args": {"lr": LR}},
    "model.weights": {"class_path": "dpinn.loss.GradientNormWeights", "init_args": {"every": 4}},
    "trainer": {"max_steps": 12, "precision": "64-true", "accelerator": "cpu"},
    "data": {"batch": 63, "chunks": 3, "inner_steps": 1, "points": {"initial": 9, "ends": 5}},
    "tracking": {"log_every": 1, "evaluate_every": 6, "checkpoint_every": 6, "mlflow": False},
}


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoint_of(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints/last.ckpt")


def train(work: Any, ranks: int, *more: Any, expect: int = 0) -> list[Any]:
    arguments = ("fit", *more, "--trainer.devices", ranks)
    outcomes = work.ranks(ranks, *arguments) if ranks > 1 else [work(*arguments)]
    for outcome in outcomes:
        assert outcome.returncode == expect, outcome.stderr
    return outcomes


def assert_same(a: Any, b: Any, path: str = "state") -> None:
    if isinstance(b, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(b, dict):
        assert a.keys() == b.keys(), path
        for key in b:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(b, (list, tuple)):
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{k}")
    else:
        assert a == b, path


@pytest.fixture(scope="module")
def on_three(workplace: Any) -> Any:
    """A run of six steps on three ranks."""
    work = workplace()
    train(work, 3, "--config", work.config(SOAP), "--trainer.max_steps", 6)
    return work


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_run_resumed_on_other_ranks_takes_the_same_next_step(
    ranks: int, on_three: Any, workplace: Any
) -> None:
    """In float64 to 1e-7 of the learning rate; on three ranks, bitwise."""
    runs = {}
    for count in (3, ranks):
        work = workplace()
        run = work.folder / "runs" / "copy"
        shutil.copytree(on_three.run_folder(), run)
        saved = checkpoint_of(run)["optimizer_states"][0]
        train(work, count, "--resume", run, "--trainer.max_steps", 7)
        runs[count] = checkpoint_of(run)
    assert saved["counters"]["steps"] == 6
    assert runs[ranks]["optimizer_states"][0]["counters"]["steps"] == 7
    for name, parameter in runs[3]["solution"].items():
        error = (runs[ranks]["solution"][name] - parameter).abs().max()
        assert error <= (0 if ranks == 3 else 1e-7 * LR), name


def test_a_run_on_three_ranks_that_is_broken_off_goes_on_bitwise(
    on_three: Any, workplace: Any
) -> None:
    whole, resumed = workplace(), workplace()
    train(whole, 3, "--config", whole.config(SOAP))
    run = resumed.folder / "runs" / "copy"
    shutil.copytree(on_three.run_folder(), run)
    train(resumed, 3, "--resume", run, "--trainer.max_steps", 12)
    a, b = checkpoint_of(run), checkpoint_of(whole.run_folder())
    for part in ("state_dict", "solution", "optimizer_states"):
        assert_same(a[part], b[part], part)
    clocks = ("time/", "memory/")
    for x, y in zip(rows_of(run), rows_of(whole.run_folder()), strict=True):
        assert {k: v for k, v in x.items() if not k.startswith(clocks)} == {
            k: v for k, v in y.items() if not k.startswith(clocks)
        }


AVERAGED = {
    "model.optimizer": {
        "class_path": "dpinn.optim.ScheduleFree",
        "init_args": {"base": {"class_path": "dpinn.optim.SOAP", "init_args": {"lr": LR}}},
    }
}


@pytest.mark.parametrize("changes", [{}, AVERAGED], ids=["soap", "schedule-free"])
def test_sharded_checkpoints_hold_the_same_state(changes: Any, workplace: Any) -> None:
    """Saved as shards on three ranks, resumed on two, beside the same with one file."""
    solutions = []
    for sharded in ("false", "true"):
        work = workplace()
        more = ("--tracking.sharded_checkpoints", sharded)
        config = work.config(SOAP | changes)
        train(work, 3, "--config", config, "--trainer.max_steps", 6, *more)
        moved = work.folder / "elsewhere"
        work.run_folder().rename(moved)
        shards = list((moved / "checkpoints").glob("shards-*"))
        assert [s.name for s in shards] == (["shards-6"] if sharded == "true" else [])
        train(work, 2, "--resume", moved, "--trainer.max_steps", 12, *more)
        solutions.append(checkpoint_of(moved)["solution"])
        names = {s.name for s in (moved / "checkpoints").glob("shards-*")}
        assert names == ({"shards-6", "shards-12"} if sharded == "true" else set())
    assert_same(solutions[1], solutions[0])


def test_shards_that_are_gone_are_named(work: Any) -> None:
    config = work.config(SOAP)
    more = ("--trainer.max_steps", 6, "--tracking.sharded_checkpoints", "true")
    train(work, 2, "--config", config, *more)
    run = work.run_folder()
    shutil.rmtree(run / "checkpoints" / "shards-6")
    outcomes = work.ranks(2, "fit", "--resume", run, "--trainer.devices", 2)
    assert all(outcome.returncode == 1 for outcome in outcomes)
    assert "shards-6 is no complete sharded state" in outcomes[0].sentence


def test_sharded_and_whole_optimizer_train_bitwise_alike(workplace: Any) -> None:
    """On the same ranks, so on the same gradients: over the world, over nodes, and not at all."""
    states = {}
    for shard in ("off", "world", "node"):
        work = workplace()
        train(work, 4, "--config", work.config(SOAP), "--model.shard", shard)
        states[shard] = checkpoint_of(work.run_folder())
        (last,) = rows_of(work.run_folder())[-1:]
        assert last["optimizer/refreshes"] > 0
        assert last["optimizer/skipped_steps"] == 0
    whole = states["off"]
    for shard in ("world", "node"):
        for part in ("state_dict", "optimizer_states"):
            assert_same(states[shard][part], whole[part], f"{shard}: {part}")


BLOWING = """
import torch
from dpinn.problems import Wave

class Blowing(Wave):
    \"\"\"A residual whose gradient alone is not finite, at one point in some steps.\"\"\"

    def residual(self, u, t):
        (pde,) = super().residual(u).values()
        near = torch.where(t < 0.01, 0 * u.t, torch.ones_like(t))
        return {"pde": pde + torch.sqrt(near) - 1}
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_steps_with_gradients_that_are_not_finite_are_skipped_on_request(
    ranks: int, work: Any
) -> None:
    work.file("blowing.py", BLOWING)
    config = work.config(
        SOAP
        | {
            "problem": "blowing.Blowing",
            "model.optimizer": {
                "class_path": "dpinn.optim.SOAP",
                "init_args": {"lr": LR, "nonfinite": "skip"},
            },
        }
    )
    outcomes = train(work, ranks, "--config", config)
    (last,) = rows_of(work.run_folder())[-1:]
    skipped = last["optimizer/skipped_steps"]
    assert 0 < skipped < 12
    assert "was skipped, as its gradient is not finite" in outcomes[0].stderr
    for name, parameter in checkpoint_of(work.run_folder())["solution"].items():
        assert torch.isfinite(parameter).all(), name


def test_without_that_request_all_ranks_stop_and_one_says_why(work: Any) -> None:
    work.file("blowing.py", BLOWING)
    config = work.config(SOAP | {"problem": "blowing.Blowing"})
    arguments = ("fit", "--config", config, "--trainer.devices", 2)
    outcomes = work.ranks(2, *arguments)
    assert all(outcome.returncode == 1 for outcome in outcomes)
    assert "is not finite at step" in outcomes[0].sentence


def test_the_state_of_a_killed_rank_is_in_the_checkpoint(work: Any, wait_until: Any) -> None:
    """Nothing of what the dead rank owned is lost: the state is whole on every parameter."""
    config = work.config(SOAP | {"trainer.max_steps": 100000})
    running = work.start_ranks(4, "fit", "--config", config, "--trainer.devices", 4)
    wait_until(lambda: any(work.folder.glob("runs/*/checkpoints/last.ckpt")), "a checkpoint")
    running[2].kill(signal.SIGKILL)
    for rank in running:
        rank.wait()
    saved = checkpoint_of(work.run_folder())
    state = saved["optimizer_states"][0]["state"]
    network = {name.removeprefix("pinn.") for name in saved["state_dict"] if "pinn." in name}
    assert network
    owned = {key for key, entry in state.items() if entry}
    assert owned >= {key for key in state if key in network and "scale" not in key}
    assert all(entry["step"] == saved["global_step"] - 1 for entry in state.values() if entry)
