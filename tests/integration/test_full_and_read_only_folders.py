"""A checkpoint is written whole or not at all, on real full and read-only file systems."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SLOW = {
    "trainer.max_steps": 100,
    "model.weights": {"class_path": "slow.SlowWeights", "init_args": {"every": 10}},
}

SLOW_WEIGHTS = """
import os, time
from dpinn.loss import GradientNormWeights

class SlowWeights(GradientNormWeights):
    def due(self, step):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        return super().due(step)
"""


def fill(disk: Path) -> Path:
    """Leave not a byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"0" * 4096)
        except OSError:
            return ballast


def test_a_disk_that_fills_up_leaves_the_last_checkpoint_to_go_on_from(
    work: Any, mounted: Callable[..., Path], wait_until: Callable[..., None]
) -> None:
    disk = mounted("size=16m")
    work.file("slow.py", SLOW_WEIGHTS)
    work.config(SLOW | {"tracking.output": str(disk / "runs")})
    running = work.start("fit", "--config", "tiny.yaml", PAUSE="0.03")
    wait_until(lambda: any(disk.glob("runs/*/checkpoints/last.ckpt")), "the first checkpoint")
    ballast = fill(disk)
    (run,) = (disk / "runs").iterdir()
    kept = (run / "checkpoints/last.ckpt").read_bytes()
    outcome = running.wait()
    assert outcome.returncode == 1
    hint, sentence = outcome.stderr.splitlines()
    assert hint == f"resume with: dpinn fit --resume {run}"
    assert sentence.startswith("dpinn: cannot write ")
    assert "free some space" in sentence
    assert (run / "checkpoints/last.ckpt").read_bytes() == kept
    assert not list(disk.rglob("*.part"))
    ballast.unlink()
    outcome = work("fit", "--resume", run)
    assert outcome.returncode == 0, outcome.stderr
    assert torch.load(run / "checkpoints/last.ckpt")["global_step"] == 100


def test_a_disk_that_is_full_from_the_start_is_named(
    work: Any, mounted: Callable[..., Path]
) -> None:
    disk = mounted("size=1m")
    fill(disk)
    config = work.config({"tracking.output": str(disk / "runs"), "tracking.mlflow": True})
    sentence = work("fit", "--config", config).sentence
    assert str(disk / "runs") in sentence
    assert "No space left" in sentence
    assert work.left == set()
    assert not [p for p in disk.rglob("*") if p.is_file() and p.name != "ballast"]


def test_a_read_only_output_folder_is_named(work: Any, mounted: Callable[..., Path]) -> None:
    disk = mounted("ro")
    config = work.config({"tracking.output": str(disk / "runs"), "tracking.mlflow": True})
    sentence = work("fit", "--config", config).sentence
    assert f"cannot create {disk}/runs/wave-" in sentence
    assert "Read-only file system; choose another --tracking.output" in sentence
    assert work.left == set()


def test_a_read_only_place_for_mlflow_leaves_no_run_folder(
    work: Any, mounted: Callable[..., Path]
) -> None:
    disk = mounted("ro")
    config = work.config({"tracking.mlflow": True})
    uri = f"sqlite:///{disk}/mlflow.db"
    sentence = work("fit", "--config", config, MLFLOW_TRACKING_URI=uri).sentence
    assert f"no MLflow store can be made at {disk}/mlflow.db" in sentence
    assert work.left <= {"runs"}


def test_evaluating_a_run_in_a_read_only_folder_answers_and_says_what_it_did_not_write(
    trained: Any, tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    disk = mounted("size=16m")
    copy = disk / "run/checkpoints"
    copy.mkdir(parents=True)
    (copy / "last.ckpt").write_bytes((trained.folder / "checkpoints/last.ckpt").read_bytes())
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    outcome = trained.work("evaluate", disk / "run")
    assert outcome.returncode == 0
    assert "relative L2 error of u" in outcome.stdout
    assert "figure " not in outcome.stdout
    (warning,) = outcome.stderr.splitlines()
    assert warning.startswith("dpinn: warning: figures and evaluation.json were not written")
    assert str(disk / "run") in warning
    assert "Read-only" in warning


def test_the_cache_of_references_may_be_unwritable_too(
    work: Any, mounted: Callable[..., Path]
) -> None:
    disk = mounted("ro")
    sentence = work("reference", "wave", DPINN_CACHE=str(disk)).sentence
    assert "DPINN_CACHE" in sentence
    assert os.listdir(disk) == []
