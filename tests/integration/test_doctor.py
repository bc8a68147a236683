"""``dpinn doctor`` as a user calls it: on a machine that is well, and on one that is not."""

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpinn.doctor.finding import examine

SLURM = ("scontrol", "sinfo", "srun", "sbatch")
COMPILERS = ("g++", "clang++", "c++", "gcc", "clang", "cc")


@pytest.fixture
def without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A PATH with all programs of this machine but some."""
    for variable in ("CXX", "MLFLOW_TRACKING_URI", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)

    def make(*left_out: str) -> str:
        place = tmp_path / "programs"
        place.mkdir()
        for folder in map(Path, os.environ["PATH"].split(os.pathsep)):
            for program in folder.iterdir() if folder.is_dir() else ():
                link = place / program.name
                if program.name not in left_out and not link.is_symlink():
                    link.symlink_to(program)
        return str(place)

    return make


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_machine_that_is_well_has_no_problem_and_nothing_is_left_on_it(
    work: Any, without: Callable[..., str], environment: dict[str, str]
) -> None:
    cache = Path(environment["DPINN_CACHE"])
    cached = set(cache.rglob("*"))
    outcome = work("doctor", "--json", PATH=without(*SLURM))
    assert (outcome.returncode, outcome.stderr) == (0, ""), outcome.stdout
    result = json.loads(outcome.stdout)
    found = {finding["name"]: finding for finding in result["findings"]}
    assert [f for f in result["findings"] if f["state"] not in ("ok", "absent")] == []
    assert (result["problems"], result["warnings"]) == (0, 0)
    for name in ("torch", "compiler", "gloo", "matmul", "cache folder", "current folder"):
        assert found[name]["state"] == "ok"
    for name in ("SLURM", "SLURM job", "MLflow store"):
        assert found[name]["state"] == "absent"
    assert "2 ranks agree" in found["gloo"]["text"]
    assert work.left == set()
    assert set(cache.rglob("*")) == cached


@pytest.mark.slow
def test_each_thing_that_is_wrong_is_told_with_its_remedy(
    work: Any, without: Callable[..., str], mounted: Callable[..., Path]
) -> None:
    disk = mounted("ro")
    uri = f"http://me:secret@127.0.0.1:{closed_port()}"
    wrong = {
        "PATH": without(*SLURM, *COMPILERS),
        "DPINN_CACHE": str(disk / "cache"),
        "MLFLOW_TRACKING_URI": uri,
        "GLOO_SOCKET_IFNAME": "missing0",
        "NVIDIA_TF32_OVERRIDE": "1",
    }
    outcome = work("doctor", **wrong)
    assert (outcome.returncode, outcome.stderr) == (1, "")
    lines = outcome.stdout.splitlines()
    told = {}
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(("problem", "warning")):
            assert following.strip().startswith("-> "), line
            told[line.split("  ", 2)[1].strip()] = f"{line} {following}"
    assert set(told) == {"compiler", "gloo", "matmul", "MLflow store", "cache folder"}
    assert lines[-1] == "4 problems, 1 warning"
    assert told["compiler"].startswith("warning")
    for name, fragments in {
        "compiler": ["no g++ or clang++ in PATH", "eagerly", "apt install g++ python3-dev"],
        "gloo": ["missing0", "GLOO_SOCKET_IFNAME"],
        "matmul": ["unset NVIDIA_TF32_OVERRIDE"],
        "MLflow store": ["http://127.0.0.1:", "connection refused", "unset MLFLOW_TRACKING_URI"],
        "cache folder": [f"{disk}/cache: Read-only file system", "DPINN_CACHE"],
    }.items():
        assert [f for f in fragments if f not in told[name]] == [], told[name]
    assert "secret" not in outcome.stdout
    assert work.left == set()


def test_without_a_compiler_a_training_runs_eagerly(
    work: Any, without: Callable[..., str], tmp_path: Path
) -> None:
    config = work.config({"model.compile": "on"})
    fresh = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    outcome = work("fit", "--config", config, PATH=without(*COMPILERS), **fresh)
    assert outcome.returncode == 0, outcome.stderr
    assert "the loss runs eagerly, at about half the speed: torch.compile fails" in outcome.stderr
    assert "dpinn doctor" in outcome.stderr


def test_a_read_only_place_of_the_store_or_the_work_is_a_problem(
    trained: Any, mounted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mounted("size=64m")
    (disk / "mlflow.db").write_bytes((trained.work.folder / "mlflow.db").read_bytes())
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(disk)
    store = examine("MLflow store", "tracking.mlflow_store")
    assert store.state == "problem"
    assert f"{disk}/mlflow.db takes no run (attempt to write a readonly database)" in store.text
    assert "MLFLOW_TRACKING_URI" in store.remedy
    folder = examine("current folder", "storage.current_folder")
    assert folder.state == "problem"
    assert "Read-only file system" in folder.text
    assert os.listdir(disk) == ["mlflow.db"]


def test_a_store_of_finished_runs_is_ok(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(trained.work.folder)
    found = examine("MLflow store", "tracking.mlflow_store")
    assert (found.state, "mlflow.db answers and takes runs" in found.text) == ("ok", True)


def test_other_ranks_are_silent(work: Any) -> None:
    outcome = work("doctor", RANK="1")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")
