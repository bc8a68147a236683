"""Whatever starts the ranks, the same ranks train the same run: bitwise, on gloo."""

import importlib.util
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

LAUNCH = Path(__file__).parents[2] / "launch"
BINARIES = Path(sys.executable).parent

CONFIG = {
    "model.weights": {"class_path": "dpinn.loss.GradientNormWeights", "init_args": {"every": 10}},
    "trainer": {"max_steps": 20, "precision": "64-true", "accelerator": "cpu"},
    # Neither the batch nor its chunks divide into two ranks.
    "data": {"batch": 63, "chunks": 3, "inner_steps": 5, "points": {"initial": 9, "ends": 5}},
}

ONE_NODE = ("--trainer.devices", "2")
TWO_NODES = ("--trainer.devices", "1", "--trainer.num_nodes", "2")


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start(work: Any, *command: Any, **environment: str) -> Any:
    path = f"{BINARIES}:{os.environ['PATH']}"
    return work.start_real(*command, PATH=path, **environment)


def run_folder(work: Any, *started: Any) -> Path:
    for outcome in [process.wait() for process in started]:
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return work.run_folder()


def by_torchrun(work: Any, request: pytest.FixtureRequest) -> Path:
    script = LAUNCH / "torchrun.sh"
    return run_folder(work, start(work, script, work.config(CONFIG), *ONE_NODE, NPROC_PER_NODE="2"))


def by_two_torchruns(work: Any, request: pytest.FixtureRequest) -> Path:
    config, port = work.config(CONFIG), free_port()
    nodes = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NPROC_PER_NODE": "1"}
    command = (LAUNCH / "torchrun.sh", config, *TWO_NODES)
    # The second comes first, and waits.
    return run_folder(work, *(start(work, *command, **nodes, NODE_RANK=k) for k in "10"))


def by_deepspeed(work: Any, request: pytest.FixtureRequest) -> Path:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    environment = {"NPROC_PER_NODE": "2", "MASTER_PORT": free_port(), "DS_ACCELERATOR": "cpu"}
    command = (LAUNCH / "deepspeed.sh", work.config(CONFIG), *ONE_NODE)
    return run_folder(work, start(work, *command, **environment))


def by_srun(work: Any, request: pytest.FixtureRequest) -> Path:
    slurm = request.getfixturevalue("slurm")
    command = ("srun", "--nodes=2", "--ntasks-per-node=1", "dpinn", "fit", "--config")
    environment = dict(slurm.environment) | {"MASTER_PORT": free_port()}
    return run_folder(
        work, work.start_real(*command, work.config(CONFIG), *TWO_NODES, **environment)
    )


@pytest.fixture(scope="module")
def by_lightning(workplace: Callable[[], Any]) -> Path:
    work = workplace()
    return run_folder(work, start(work, "dpinn", "fit", "--config", work.config(CONFIG), *ONE_NODE))


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, f"{path}/{key}")
    else:
        yield path, tree


def losses(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.startswith(("time/", "memory/"))} for r in rows]


@pytest.mark.parametrize("launch", [by_torchrun, by_two_torchruns, by_deepspeed, by_srun])
def test_the_trajectory_does_not_depend_on_what_starts_the_ranks(
    launch: Callable[..., Path], by_lightning: Path, work: Any, request: pytest.FixtureRequest
) -> None:
    run = launch(work, request)
    assert losses(run) == losses(by_lightning)
    assert [row["step"] for row in losses(run)] == [5, 10, 15, 20]
    saved = [torch.load(r / "checkpoints/last.ckpt") for r in (by_lightning, run)]
    for part in ("global_step", "state_dict", "solution", "optimizer_states"):
        expected, found = (dict(leaves(checkpoint[part])) for checkpoint in saved)
        assert found.keys() == expected.keys()
        assert any(isinstance(v, torch.Tensor) for v in found.values()) or part == "global_step"
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(found[name], value), (part, name)
            else:
                assert found[name] == value, (part, name)
