"""A real SLURM of two virtual nodes on this machine: its own daemons, key, ports and folder."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

PATIENCE_S = 300.0
"""A job of a tiny training takes a tenth of it on an idle machine."""

NODES = ("n1", "n2")

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
# A requeued job waits until the credential of its last start has expired; by default 120 s.
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
# Finished jobs stay visible for the length of the tests.
MinJobAge=3600
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 PriorityTier=10 PreemptMode=OFF
PartitionName=short Nodes=ALL MaxTime=00:10:00 PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=1-00:00:00 PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL MaxTime=1-00:00:00 PriorityTier=20 PreemptMode=OFF
"""
"""Jobs of ``high`` take the nodes from those of ``low``, which have 30 s to save."""

NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000 "
    "Gres=gpu:2 State=UNKNOWN"
)
STAND_IN_GPUS = "AutoDetect=off\nName=gpu File=/dev/tty[1-2]\n"

LOCK = ("-o", "DPkg::Lock::Timeout=600")
"""Another test may be installing something too."""

GONE = "GONE"
"""The state of a job that SLURM does not know (any more)."""


class Slurm:
    """SLURM's daemons, and what a test asks of them.

    Partitions: ``main`` (default), ``short`` (at most ten minutes), ``low`` (preempted by ``high``,
    requeued, with 30 s of grace). Nodes ``n1`` and ``n2`` have four CPUs and two GPUs each, which
    are stand-ins: no CUDA.

    Args:
        folder: for its configuration, state and logs; a short path, as it holds a socket.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            # The nodes' names do not resolve: in a job, and for srun alone.
            "DPINN_MASTER_ADDR": "127.0.0.1",
            "MASTER_ADDR": "127.0.0.1",
            # Jobs find the ``dpinn`` of these tests.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        }
        """For every process that uses SLURM; jobs inherit it from the one that submits them."""

    def start(self) -> None:
        """Start the daemons and wait until both nodes are idle."""
        host = socket.gethostname().split(".")[0]
        controller_port, *ports = _free_ports(1 + len(NODES))
        nodes = [
            NODE.format(name=name, host=host, port=port)
            for name, port in zip(NODES, ports, strict=True)
        ]
        conf = CONF.format(
            host=host,
            controller_port=controller_port,
            folder=self.folder,
            nodes="\n".join(nodes),
        )
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "gres.conf").write_text(STAND_IN_GPUS)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        munge_files = {
            "key-file": key,
            "socket": self.folder / "munge.socket",
            "pid-file": self.folder / "munge.pid",
            "log-file": self.folder / "munge.log",
            "seed-file": self.folder / "munge.seed",
        }
        # --force: the folder's parent is writable by others.
        options = [f"--{name}={path}" for name, path in munge_files.items()]
        self._daemon("munged", "--foreground", "--force", *options)
        self._until(munge_files["socket"].exists, "munged")
        self._daemon("slurmctld", "-D", "-c")
        for name in NODES:
            self._daemon("slurmd", "-D", "-N", name)
        self._until(lambda: self._idle() == len(NODES), "two idle nodes")

    def stop(self) -> None:
        """Cancel what runs, then stop the daemons."""
        try:
            if len(self.daemons) > len(NODES):
                # Killed first, as SLURM would wait 30 s for tasks that take their time.
                self.run("scancel", "--full", "--signal=KILL", "--user=root")
                self.run("scancel", "--user=root")
                self._until(lambda: not self.run("squeue", "--noheader"), "end of all jobs")
        finally:
            for daemon in reversed(self.daemons):
                daemon.terminate()
                daemon.wait(30)

    def run(self, *command: str) -> str:
        """What a command of SLURM prints; its mistakes end the test."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def scontrol(self, *arguments: str) -> str:
        """What ``scontrol`` prints."""
        return self.run("scontrol", *arguments)

    def field(self, job: str | int, name: str) -> str:
        """A field of ``scontrol show job``, such as ``Restarts``."""
        found = re.search(rf"(?:^|\s){name}=(\S*)", self.scontrol("show", "job", str(job)))
        assert found, f"job {job} has no field {name}"
        return found[1]

    def state(self, job: str | int) -> str:
        """``PENDING``, ``RUNNING``, ``COMPLETED``, ``FAILED``, ``CANCELLED``, ..."""
        states = self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")
        return states.splitlines()[0] if states else GONE

    def wait_for(
        self, job: str | int, states: str | Iterable[str], seconds: float = PATIENCE_S
    ) -> str:
        """Wait until the job is in one of these states, and tell which."""
        wanted = {states} if isinstance(states, str) else set(states)
        deadline = time.monotonic() + seconds
        while (state := self.state(job)) not in wanted:
            assert time.monotonic() < deadline, (
                f"waited {seconds:g} s in vain for job {job} to be {' or '.join(sorted(wanted))}; "
                f"it is {state}\n{self.log(job)}"
            )
            time.sleep(0.2)
        return state

    def log(self, job: str | int) -> str:
        """What the job has printed so far."""
        path = Path(self.field(job, "StdOut"))
        return path.read_text() if path.is_file() else ""

    def _daemon(self, *command: str) -> None:
        with (self.folder / "daemons.log").open("a") as log:
            # A test run that is killed leaves none behind.
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.daemons.append(process)

    def _idle(self) -> int:
        done = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
        )
        return done.stdout.split().count("idle")

    def _until(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or any(d.poll() is not None for d in self.daemons):
                logs = [p.read_text()[-2000:] for p in sorted(self.folder.glob("*.log"))]
                raise AssertionError("\n".join([f"SLURM: no {what}", *logs]))
            time.sleep(0.1)


def require_slurm() -> None:
    """Install SLURM where that is allowed, or skip the test."""
    missing = [name for name in ("munged", "slurmctld", "slurmd") if not shutil.which(name)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        install = [
            *["apt-get", "install", "--yes", "--no-install-recommends"],
            *LOCK,
            "slurm-wlm",
            "munge",
        ]
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], install):
            subprocess.run(command, env=quiet, capture_output=True, timeout=600)
        missing = [name for name in missing if not shutil.which(name)]
    if missing:
        pytest.skip(
            f"no SLURM here: {', '.join(missing)} missing (apt-get install slurm-wlm munge)"
        )
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons are started by root alone here")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports
