"""Two hosts, which are network namespaces: one is cut off in mid-run, nothing is killed."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from .trajectories import SLOW_WEIGHTS

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "launch/torchrun.sh"
RUN = "runs/two"
STEPS = 120
TIMEOUT_S = 12
"""For which a collective waits before it gives the other host up."""

BOUND_S = 60.0
"""Between the cut and the end of the last process; the timeout and 2 s on an idle machine."""

CONFIG = {
    "model.weights": {"class_path": "slow.SlowWeights", "init_args": {"every": 10}},
    "trainer": {"max_steps": STEPS, "accelerator": "cpu"},
}


def ip(*arguments: Any) -> None:
    done = subprocess.run(["ip", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two namespaces with the addresses 10.77.0.1 and 10.77.0.2, joined by a cable."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("two hosts need root and ip (apt-get install iproute2)")
    names = [f"dpinn-{os.getpid()}-{k}" for k in (0, 1)]
    made = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            ends = [("cable", "netns", name) for name in names]
            ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        except OSError as error:
            pytest.skip(f"no network namespaces can be made here: {error}")
        for k, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.77.0.{k}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "cable", "up")
        yield names
    finally:
        for name in made:
            ip("netns", "delete", name)


def start(work: Any, hosts: list[str], *arguments: Any, **environment: str) -> list[Any]:
    """The script on both hosts."""
    common = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **{"NNODES": "2", "NPROC_PER_NODE": "1", "MASTER_ADDR": "10.77.0.1"},
        "GLOO_SOCKET_IFNAME": "cable",
        **environment,
    }
    return [
        work.start_real(
            *("ip", "netns", "exec", host, SCRIPT, *arguments), **common, NODE_RANK=str(node)
        )
        for node, host in enumerate(hosts)
    ]


def has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_both_hosts_end_soon_with_a_sentence_and_the_run_goes_on(
    hosts: list[str], work: Any, wait_until: Callable[..., None]
) -> None:
    work.file("slow.py", SLOW_WEIGHTS)
    limit = {"DPINN_COLLECTIVE_TIMEOUT_S": str(TIMEOUT_S), "PAUSE": "0.05"}
    running = start(work, hosts, work.config(CONFIG), "--run", RUN, **limit)
    checkpoint = work.folder / RUN / "checkpoints/last.ckpt"
    wait_until(lambda: checkpoint.exists() or has_ended(running[0].pid), "a checkpoint")
    if not checkpoint.exists():
        pytest.fail("\n".join(str(host.wait()) for host in running))
    ip("-n", hosts[0], "link", "set", "cable", "down")
    struck = time.monotonic()
    outcomes = [host.wait() for host in running]
    assert time.monotonic() - struck < BOUND_S
    for rank, outcome in enumerate(outcomes):
        assert outcome.returncode == 1, outcome
        # Beside lines of progress and torch's remark that a namespace cannot look up names.
        assert "Traceback" not in outcome.stderr
        (sentence,) = [line for line in outcome.stderr.splitlines() if line.startswith("dpinn: ")]
        assert sentence.startswith(f"dpinn: rank {rank} lost contact with another rank at step ")
        assert sentence.endswith(f"; go on with: dpinn fit --resume {RUN}")
    saved = torch.load(checkpoint)["global_step"]
    assert 0 < saved < STEPS
    ip("-n", hosts[0], "link", "set", "cable", "up")
    first, second = [host.wait() for host in start(work, hosts, "--resume", RUN)]
    assert (first.returncode, second.returncode) == (0, 0), (first, second)
    assert f"resuming {RUN} at step {saved}" in first.stdout.splitlines()
    assert torch.load(checkpoint)["global_step"] == STEPS
