"""Real ``dpinn`` processes in folders of their own, on tiny networks."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from .slurm import Slurm, require_slurm

PATIENCE_S = 300.0
"""Nothing here takes a tenth of it on an idle machine."""

TINY: dict[str, Any] = {
    "problem": "dpinn.problems.Wave",
    "model": {
        "network": {"class_path": "dpinn.nn.PirateNet", "init_args": {"width": 8, "blocks": 1}},
        "optimizer": {"class_path": "dpinn.optim.SOAP", "init_args": {"lr": 1.0e-3}},
        "compile": "off",
    },
    "data": {"batch": 64, "chunks": 4, "inner_steps": 5},
    "trainer": {"max_steps": 20},
    "tracking": {
        "log_every": 5,
        "evaluate_every": 10,
        "checkpoint_every": 10,
        "mlflow": False,
        "figures": False,  # which would take longer than all else
    },
}
"""A training of a second, the report included."""


@dataclass
class Outcome:
    """How a process ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def sentence(self) -> str:
        """The one line on standard error that tells what is wrong, once it is the only one."""
        assert self.returncode not in (0, -signal.SIGKILL), (self.stdout, self.stderr)
        lines = self.stderr.strip().splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("dpinn: "), self.stderr
        return lines[0].removeprefix("dpinn: ")


@dataclass
class Started:
    """A process that runs."""

    pid: int
    wait: Callable[[], Outcome]

    def kill(self, sign: int = signal.SIGKILL) -> None:
        os.kill(self.pid, sign)


class ForkServer:
    """Starts processes; see ``fork_server.py``."""

    def __init__(self, scratch: Path, environment: dict[str, str]):
        self.scratch = scratch
        self.count = 0
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the fork server is gone"
        return json.loads(answer)

    def start(self, folder: Path, arguments: list[str], environment: dict[str, str]) -> Started:
        self.count += 1
        files = {k: self.scratch / f"{self.count}.{k}" for k in ("stdout", "stderr")}
        request = {"folder": str(folder), "arguments": arguments, "environment": environment}
        pid = self.ask(request | {k: str(v) for k, v in files.items()})["pid"]

        def wait() -> Outcome:
            code = self.ask({"wait": pid})["returncode"]
            return Outcome(code, files["stdout"].read_text(), files["stderr"].read_text())

        return Started(pid, wait)

    def stop(self) -> None:
        self.process.communicate("\n", timeout=30)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What every process of these tests gets: one thread, a cache of references of its own."""
    return {
        "DPINN_CACHE": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture(scope="session", autouse=True)
def one_thread_and_own_cache(environment: dict[str, str]) -> Iterator[None]:
    before = os.environ.get("DPINN_CACHE"), torch.get_num_threads()
    os.environ["DPINN_CACHE"] = environment["DPINN_CACHE"]
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before[1])
    if before[0] is None:
        del os.environ["DPINN_CACHE"]
    else:
        os.environ["DPINN_CACHE"] = before[0]


@pytest.fixture(scope="session")
def fork_server(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[ForkServer]:
    server = ForkServer(tmp_path_factory.mktemp("outputs"), environment)
    yield server
    server.stop()


@dataclass
class Workplace:
    """A folder in which a user works."""

    folder: Path
    server: ForkServer
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: Any, **environment: str) -> Started:
        """Start ``dpinn`` with these arguments in the folder."""
        given = [str(a) for a in arguments]
        return self.server.start(self.folder, given, self.environment | environment)

    def __call__(self, *arguments: Any, **environment: str) -> Outcome:
        """Run ``dpinn`` with these arguments in the folder, to its end."""
        return self.start(*arguments, **environment).wait()

    def start_ranks(self, count: int, *arguments: Any, **environment: str) -> list[Started]:
        """Start ``dpinn`` on several ranks, as torchrun does."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }
        return [
            self.start(
                *arguments, **{**common, **environment, "RANK": str(k), "LOCAL_RANK": str(k)}
            )
            for k in range(count)
        ]

    def ranks(self, count: int, *arguments: Any, **environment: str) -> list[Outcome]:
        """Run ``dpinn`` on several ranks to its end."""
        started = self.start_ranks(count, *arguments, **environment)
        return [rank.wait() for rank in started]

    def real(self, *command: Any) -> Outcome:
        """Run a program the long way, as a shell does."""
        done = subprocess.run(
            [str(c) for c in command],
            cwd=self.folder,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start_real(self, *command: Any, **environment: str) -> Started:
        """Start a program the long way."""
        process = subprocess.Popen(
            [str(c) for c in command],
            cwd=self.folder,
            env=os.environ | self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def wait() -> Outcome:
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
            return Outcome(process.returncode, stdout, stderr)

        return Started(process.pid, wait)

    def config(self, changes: dict[str, Any] | None = None, name: str = "tiny.yaml") -> Path:
        """Write the tiny configuration, changed by dotted keys."""
        content: dict[str, Any] = json.loads(json.dumps(TINY))
        for key, value in (changes or {}).items():
            at = content
            *parents, last = key.split(".")
            for parent in parents:
                at = at.setdefault(parent, {})
            at[last] = value
        path = self.folder / name
        path.write_text(yaml.safe_dump(content))
        return path

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    @property
    def left(self) -> set[str]:
        """What lies in the folder, the files that the test itself wrote left out."""
        return {
            str(p.relative_to(self.folder))
            for p in self.folder.rglob("*")
            if p.suffix not in (".yaml", ".py", ".pyc") and p.name != "__pycache__"
        }

    def run_folder(self) -> Path:
        """The only run below ``runs``."""
        (folder,) = (self.folder / "runs").iterdir()
        return folder


@pytest.fixture(scope="session")
def workplace(
    tmp_path_factory: pytest.TempPathFactory,
    fork_server: ForkServer,
    environment: dict[str, str],
) -> Callable[[], Workplace]:
    """Makes empty folders to work in."""

    def make() -> Workplace:
        return Workplace(tmp_path_factory.mktemp("work"), fork_server, environment)

    return make


@pytest.fixture
def work(workplace: Callable[[], Workplace]) -> Workplace:
    return workplace()


@dataclass
class Trained:
    """A finished training."""

    work: Workplace
    folder: Path
    outcome: Outcome


@pytest.fixture(scope="session")
def trained(workplace: Callable[[], Workplace]) -> Trained:
    """A training of the wave equation with its MLflow run; not to be changed by a test."""
    work = workplace()
    config = work.config({"tracking.mlflow": True, "tracking.figures": True})
    outcome = work("fit", "--config", config)
    assert outcome.returncode == 0, outcome.stderr
    return Trained(work, work.run_folder(), outcome)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    def wait(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
            time.sleep(0.002)

    return wait


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A real SLURM of two nodes; each pytest process that asks gets its own."""
    require_slurm()
    # Not below pytest's folders, whose paths are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = Slurm(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts small file systems in memory; only root may."""
    mounts: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"mount{len(mounts)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"no file system can be mounted here ({' '.join(command)})")
        mounts.append(place)
        return place

    yield mount
    for place in mounts:
        subprocess.run(["umount", "-l", str(place)], check=True)
