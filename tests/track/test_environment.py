import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dpinn.track import device_description, environment, git_state, versions


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_versions_name_what_decides_the_numbers() -> None:
    found = versions()
    assert found["version/torch"] == torch.__version__
    assert found["version/python"].startswith("3.")
    assert set(found) == {
        f"version/{p}" for p in ("python", "torch", "lightning", "mlflow", "dpinn", "cuda")
    }


def test_git_state_tells_commit_branch_and_changes(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "a.py").write_text("a = 1")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    clean = {"git/commit": commit, "git/branch": "main", "git/dirty": "false"}
    assert git_state(tmp_path) == {**clean, "mlflow.source.git.commit": commit}
    (tmp_path / "a.py").write_text("a = 2")
    assert git_state(tmp_path)["git/dirty"] == "true"
    git(tmp_path, "checkout", "--detach")
    assert git_state(tmp_path)["git/branch"] == "detached"


def test_git_state_is_empty_outside_a_repository_and_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) == {}
    git(tmp_path, "init")
    assert git_state(tmp_path) == {}  # no commit yet
    monkeypatch.setenv("PATH", "")
    assert git_state(Path(__file__).parent) == {}


def test_a_job_of_slurm_is_told_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert not any(tag.startswith("slurm/") for tag in environment())
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    found = {k: v for k, v in environment().items() if k.startswith("slurm/")}
    assert found == {"slurm/job_id": "4711", "slurm/restarts": "2"}


def test_the_environment_is_flat_text() -> None:
    found = environment()
    assert all(isinstance(k, str) and isinstance(v, str) and v for k, v in found.items())
    assert found["device"] == device_description()
    assert found["cpu/threads"] == str(torch.get_num_threads())
    assert found["precision/default_dtype"] == "float32"


@pytest.mark.usefixtures("matmul_precision")
def test_tf32_is_told_apart() -> None:
    torch.set_float32_matmul_precision("highest")
    assert environment()["precision/tf32"] == "false"
    torch.set_float32_matmul_precision("high")
    assert environment()["precision/tf32"] == "true"
