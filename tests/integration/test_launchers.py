"""Whatever starts the ranks, the same ranks train the same run: bitwise, on gloo."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from .trajectories import different, values_of

pytestmark = pytest.mark.slow

LAUNCH = Path(__file__).parents[2] / "launch"
BINARIES = Path(sys.executable).parent

CONFIG = {
    "model.weights": {"class_path": "dpinn.loss.GradientNormWeights", "init_args": {"every": 10}},
    "trainer": {"max_steps": 20, "precision": "64-true", "accelerator": "cpu"},
    # Neither the batch nor its chunks divide into two ranks.
    "data": {"batch": 63, "chunks": 3, "inner_steps": 5, "points": {"initial": 9, "ends": 5}},
}


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
    return run_folder(work, start(work, script, work.config(CONFIG), NPROC_PER_NODE="2"))


def by_two_torchruns(work: Any, request: pytest.FixtureRequest) -> Path:
    config, port = work.config(CONFIG), free_port()
    nodes = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NPROC_PER_NODE": "1"}
    command = (LAUNCH / "torchrun.sh", config)
    # The second comes first, and waits.
    return run_folder(work, *(start(work, *command, **nodes, NODE_RANK=k) for k in "10"))


def require_deepspeed() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("no DeepSpeed here (pip install -c constraints.txt '.[deepspeed]')")


def by_deepspeed(work: Any, request: pytest.FixtureRequest) -> Path:
    require_deepspeed()
    environment = {"NPROC_PER_NODE": "2", "MASTER_PORT": free_port(), "DS_ACCELERATOR": "cpu"}
    command = (LAUNCH / "deepspeed.sh", work.config(CONFIG))
    return run_folder(work, start(work, *command, **environment))


def by_deepspeed_over_ssh(work: Any, request: pytest.FixtureRequest) -> Path:
    require_deepspeed()
    ssh = request.getfixturevalue("ssh")
    work.file("hosts", "node0 slots=1\nnode1 slots=1\n")
    # Of the environment the nodes get no more than what DeepSpeed sends.
    sent = {**work.environment, "DS_ACCELERATOR": "cpu"}
    work.file(".deepspeed_env", "".join(f"{name}={value}\n" for name, value in sent.items()))
    environment = {"HOSTFILE": "hosts", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    environment |= {"PATH": f"{ssh}:{BINARIES}:{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"}
    command = (LAUNCH / "deepspeed.sh", work.config(CONFIG))
    return run_folder(work, work.start_real(*command, **environment))


def by_srun(work: Any, request: pytest.FixtureRequest) -> Path:
    slurm = request.getfixturevalue("slurm")
    command = ("srun", "--nodes=2", "--ntasks-per-node=1", "dpinn", "fit", "--config")
    return run_folder(work, work.start_real(*command, work.config(CONFIG), **slurm.environment))


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[Path]:
    """A folder with an ``ssh`` that knows node0 and node1, which are this machine; a real sshd."""
    missing = [name for name in ("pdsh", "sshd", "ssh-keygen") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip("hosts need root and an sshd (apt-get install pdsh openssh-server)")
    Path("/run/sshd").mkdir(exist_ok=True)
    for key in ("host", "user"):
        path = str(tmp_path / key)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    port = free_port()
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile none\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nPermitRootLogin yes\n"
    )
    (tmp_path / "config").write_text(
        f"Host node0 node1\nHostName 127.0.0.1\nPort {port}\nIdentityFile {tmp_path}/user\n"
        "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
    )
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path}/config "$@"\n')
    program.chmod(0o755)
    sshd = subprocess.Popen([shutil.which("sshd"), "-D", "-f", tmp_path / "sshd_config"])
    yield program.parent
    sshd.terminate()
    sshd.wait(30)


@pytest.fixture(scope="module")
def by_lightning(workplace: Callable[[], Any]) -> Path:
    work = workplace()
    command = ("dpinn", "fit", "--config", work.config(CONFIG), "--trainer.devices", 2)
    return run_folder(work, start(work, *command))


@pytest.mark.parametrize(
    "launch", [by_torchrun, by_two_torchruns, by_deepspeed, by_deepspeed_over_ssh, by_srun]
)
def test_the_trajectory_does_not_depend_on_what_starts_the_ranks(
    launch: Callable[..., Path], by_lightning: Path, work: Any, request: pytest.FixtureRequest
) -> None:
    run = launch(work, request)
    assert values_of(run) == values_of(by_lightning)
    assert [row["step"] for row in values_of(run)] == [5, 10, 15, 20]
    saved = [torch.load(r / "checkpoints/last.ckpt") for r in (by_lightning, run)]
    for part in ("global_step", "state_dict", "solution", "optimizer_states"):
        assert different(saved[0][part], saved[1][part], part) == []
