"""The configurations that are shipped, and the scripts that train several of them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpinn.bench.configured import configured
from dpinn.loss import TermLayout
from dpinn.problems import KNOWN
from dpinn.train.stages import plan_stages

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "configs"
STUDY = CONFIGS / "study"
WHOLE = sorted(p for p in CONFIGS.rglob("*.yaml") if STUDY not in p.parents)
CHECKS = ("taylor_green", "reaction")
"""Problems beside the ten benchmarks."""


@pytest.mark.parametrize("config", WHOLE, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_a_shipped_configuration_describes_a_training(config: Path) -> None:
    """Its keys exist, its weights are of terms, its stages can be planned."""
    made = configured(["--config", str(config)])
    module, data = made.module, made.data
    assert made.max_steps > 0
    assert config.stem.startswith(module.problem.name)
    stages = plan_stages(module.stages, module.problem, made.max_steps, data.inner_steps)
    assert stages[-1].end == made.max_steps
    TermLayout.build(data.collocation)


def test_each_benchmark_has_a_configuration_for_a_laptop_and_one_at_scale() -> None:
    for folder in (CONFIGS, CONFIGS / "quick"):
        assert {p.stem for p in folder.glob("*.yaml")} >= set(KNOWN) - set(CHECKS)


@pytest.mark.parametrize("problem", ["allen_cahn", "burgers", "wave"])
def test_a_problem_and_an_optimizer_of_the_study_make_a_whole_one(problem: str, work: Any) -> None:
    for optimizer in sorted((STUDY / "optimizers").glob("*.yaml")):
        parts = (STUDY / f"{problem}.yaml", optimizer, STUDY / "compare.yaml")
        outcome = work("fit", *(c for p in parts for c in ("--config", p)), "--print_config")
        assert outcome.returncode == 0, outcome.stderr


SHORT = (
    *("--trainer.max_steps", "10", "--data.batch", "32", "--model.compile", "off"),
    *("--tracking.log_every", "10", "--tracking.mlflow", "false", "--tracking.figures", "false"),
)


def run_script(work: Any, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One of launch/, with trainings that take a second."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [REPOSITORY / "launch" / name, *SHORT],
        cwd=work.folder,
        env=os.environ | work.environment | environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_studys_script_trains_and_leaves_finished_runs_alone(work: Any) -> None:
    for said in ("wave: 10 steps", "runs/study/wave-soap-3: finished before"):
        done = run_script(work, "study.sh", PROBLEMS="wave", OPTIMIZERS="soap", SEEDS="3")
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    assert len(list(work.folder.glob("runs/study/wave-soap-3/*/evaluation.json"))) == 1


@pytest.mark.slow
def test_the_benchmarks_script_trains_what_is_left_and_prints_the_table(work: Any) -> None:
    done = run_script(work, "benchmarks.sh", PROBLEMS="wave")
    assert done.returncode == 0, done.stderr
    done = run_script(work, "benchmarks.sh", PROBLEMS="wave burgers")
    assert done.returncode == 0, done.stderr
    assert "wave: finished before" in done.stdout
    *_, header, _, wave, burgers = done.stdout.splitlines()
    assert "relative L2 error" in header
    assert (wave.split()[1], burgers.split()[1]) == ("wave", "burgers")
    assert len(list(work.folder.glob("runs/quick/*/evaluation.json"))) == 2
    done = run_script(work, "benchmarks.sh", PROBLEMS="wave burger")
    assert done.returncode == 1
    assert "1 runs failed" in done.stderr
