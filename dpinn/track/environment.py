"""What a run was made with, as flat text tags."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path

import torch

_OF_SLURM = {
    "slurm/job_id": "SLURM_JOB_ID",
    "slurm/nodes": "SLURM_JOB_NODELIST",
    "slurm/restarts": "SLURM_RESTART_COUNT",
}

_PACKAGES = ("torch", "lightning", "mlflow", "dpinn")


def versions() -> dict[str, str]:
    """Return ``version/<package>`` of what decides the numbers; "none" for what is not there."""
    found = {"version/python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[f"version/{package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[f"version/{package}"] = "none"
    # The package's own version tells the build (2.13.0+cpu), the metadata does not always.
    found["version/torch"] = str(torch.__version__)
    found["version/cuda"] = torch.version.cuda or "none"
    return found


def git_state(folder: str | Path = ".") -> dict[str, str]:
    """Return commit, branch and whether files are changed; empty without git or a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD") or ""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {
        "git/commit": commit,
        "git/branch": "detached" if branch == "HEAD" else branch,
        "git/dirty": "unknown" if changed is None else str(bool(changed)).lower(),
        "mlflow.source.git.commit": commit,  # shown in the server's list of runs
    }


def _git(folder: str | Path, *arguments: str) -> str | None:
    """Return what git prints, or None when it is missing, fails or takes over 10 s."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def device_description() -> str:
    """Return the accelerator's name and memory, or the processor's name."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return _processor_name()


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def slurm_job() -> dict[str, str]:
    """Return id, nodes and number of requeues of the SLURM job, as far as there is one."""
    return {tag: os.environ[name] for tag, name in _OF_SLURM.items() if os.environ.get(name)}


def environment(folder: str | Path = ".") -> dict[str, str]:
    """Return all of it: versions, git state, SLURM job, device, host, threads and precision."""
    return {
        **versions(),
        **git_state(folder),
        **slurm_job(),
        "device": device_description(),
        "host": socket.gethostname(),
        "cpu/count": str(os.cpu_count()),
        "cpu/threads": str(torch.get_num_threads()),
        "precision/default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "precision/tf32": str(_tf32_allowed()).lower(),
    }


def _tf32_allowed() -> bool:
    # The older allow_tf32 raises once anybody has set the newer fp32_precision.
    matmul = torch.backends.cuda.matmul.fp32_precision
    inherited = getattr(torch.backends, "fp32_precision", "none")
    return matmul == "tf32" or (matmul == "none" and inherited == "tf32")
