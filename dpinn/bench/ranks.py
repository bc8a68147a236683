"""Runs a function on several local ranks, each a process of its own, and collects what it returns.

A rank is started as ``python -m dpinn.bench.ranks FOLDER RANK``; what it is to do and what came out
lie in the folder as JSON.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from dpinn.errors import DpinnError

SPEC = "spec.json"
POLL_S = 0.05


def ranks_that_fit(device_type: str) -> int:
    """Local ranks that can run at all: one a GPU; on a CPU they may share cores."""
    return torch.cuda.device_count() if device_type == "cuda" else sys.maxsize


def on_ranks(
    function: str,
    ranks: int,
    device_type: str,
    arguments: dict[str, Any],
    limit_s: float = math.inf,
) -> list[Any]:
    """Call a function on each rank of a process group of its own.

    Args:
        function: its full path, ``package.module.function``; called with ``device`` and the
            arguments, within an initialized process group (NCCL on GPUs, else gloo).
        ranks: number of processes; on a CPU each has one thread.
        device_type: ``cpu`` or ``cuda``; on the latter each rank has a GPU of its own.
        arguments: plain values that JSON can hold.
        limit_s: the ranks are ended after so many seconds, their start included.

    Returns:
        What the function returned on each rank, plain values too.

    Raises:
        DpinnError: a rank ended with an error or took too long, or there are more ranks than GPUs.
    """
    if ranks > (most := ranks_that_fit(device_type)):
        raise DpinnError(f"{ranks} ranks need a GPU each, and this machine has {most}")
    spec = {
        "function": function,
        "ranks": ranks,
        "device_type": device_type,
        "arguments": arguments,
    }
    with tempfile.TemporaryDirectory(prefix="dpinn-ranks-") as name:
        folder = Path(name)
        (folder / SPEC).write_text(json.dumps(spec))
        processes = [_start(folder, rank) for rank in range(ranks)]
        try:
            _wait(processes, folder, limit_s)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
        return [json.loads(_result(folder, rank).read_text()) for rank in range(ranks)]


def _start(folder: Path, rank: int) -> subprocess.Popen[bytes]:
    with (folder / f"{rank}.stderr").open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "dpinn.bench.ranks", str(folder), str(rank)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )


def _wait(processes: list[subprocess.Popen[bytes]], folder: Path, limit_s: float) -> None:
    """Until all have ended, or one has failed, for which the others would wait for ever."""
    deadline = time.monotonic() + limit_s
    while any(process.poll() is None for process in processes):
        _require_success(processes, folder)
        if time.monotonic() > deadline:
            raise DpinnError(f"{len(processes)} ranks did not end within {limit_s:g} s")
        time.sleep(POLL_S)
    _require_success(processes, folder)


def _require_success(processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    for rank, process in enumerate(processes):
        if process.poll() and not _result(folder, rank).exists():
            lines = (folder / f"{rank}.stderr").read_text(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit code {process.returncode}"
            reason = reason.removeprefix(f"[rank{rank}]: ")
            raise DpinnError(f"rank {rank} of {len(processes)} failed: {reason}")


def _result(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.json"


def _run(folder: Path, rank: int) -> None:
    """Be one rank."""
    spec = json.loads((folder / SPEC).read_text())
    cuda = spec["device_type"] == "cuda"
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=spec["ranks"],
        device_id=device if cuda else None,
    )
    module, _, function = spec["function"].rpartition(".")
    result = getattr(importlib.import_module(module), function)(device, **spec["arguments"])
    dist.barrier()  # before any rank's answer counts, so that no rank leaves another alone
    answer = _result(folder, rank)
    partial = answer.with_suffix(".part")
    partial.write_text(json.dumps(result))
    partial.replace(answer)
    dist.destroy_process_group()
    # Python's own way out may abort, when a thread of gloo still has to free a tensor.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    _run(Path(sys.argv[1]), int(sys.argv[2]))
