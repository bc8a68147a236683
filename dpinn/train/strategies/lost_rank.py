"""What happens when a rank dies: the others end soon, each with one sentence."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.distributed import (
    _destroy_dist_connection,
    _set_num_threads_if_needed,
)
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed as dist

from dpinn.errors import DpinnError

TIMEOUT_VARIABLE = "DPINN_COLLECTIVE_TIMEOUT_S"

TIMEOUT_S = 600.0
"""Longer than rank 0 needs between two steps to evaluate and to write a checkpoint."""

GRACE_S = 20.0
"""A rank that lost contact says so and ends within a second or two."""

POLL_S = 0.5

SIGNS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Timed out waiting",
    "Timed out after",
    "timeout caused pair closure",
    "Connection timed out",
    "gloo",
    "NCCL",
    "Socket",
    "failed to recv",
    "store->get",
    "wait timeout",
)
"""Words of gloo, NCCL and torch's store about a rank that does not answer."""


def collective_timeout() -> timedelta:
    """How long a collective waits for the other ranks; DPINN_COLLECTIVE_TIMEOUT_S in seconds.

    With gloo a rank that dies is noticed at once. NCCL notices by this time only; then its
    watchdog ends the process (TORCH_NCCL_ASYNC_ERROR_HANDLING, on by default).
    """
    given = os.environ.get(TIMEOUT_VARIABLE)
    try:
        seconds = TIMEOUT_S if given is None else float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise DpinnError(f"{TIMEOUT_VARIABLE} is {given!r}; it must be a number of seconds above 0")
    return timedelta(seconds=seconds)


def lost_contact(error: BaseException | None) -> str | None:
    """The first line of a collective's error when another rank has gone; None for other errors."""
    while error is not None:
        is_known = isinstance(error, (dist.DistError, dist.DistBackendError))
        is_runtime = isinstance(error, (RuntimeError, ConnectionError))
        if is_known or (is_runtime and any(sign in str(error) for sign in SIGNS)):
            return _plain(str(error))
        error = error.__cause__
    return None


def lost_contact_error(reason: str, rank: int, step: int, folder: Path | None) -> DpinnError:
    """What a rank says that lost another, and then ends."""
    # To take leave of ranks that are gone may hang, as Lightning does it with NCCL, or abort, as
    # gloo's threads do when the libraries are unloaded below them.
    atexit.unregister(_destroy_dist_connection)
    atexit.register(_leave_at_once)
    return DpinnError(
        f"rank {rank} lost contact with another rank at step {step}: {reason}{go_on_with(folder)}"
    )


def _leave_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def go_on_with(folder: Path | None) -> str:
    """The end of a sentence about a run that broke off."""
    return "" if folder is None else f"; go on with: dpinn fit --resume {folder}"


def _plain(message: str) -> str:
    """The first sentence, without the place in the library's source."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "no answer")
    if line.startswith("[") and "] " in line:
        line = line.partition("] ")[2]
    return line.partition(". ")[0].rstrip(".")[:200]


class WatchingLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher, but a rank that dies leaves the others time to say so.

    Lightning kills all ranks at once when it finds one dead, without a word.

    Attributes:
        hint: called for how to go on, when the ranks are ended from here.
        leaving: set once this rank needs no other any more, and is to be left alone.
    """

    hint: Callable[[], str] = staticmethod(lambda: "")
    leaving: threading.Event = threading.Event()

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start the other ranks of this node and run the function here."""
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            self._call_children_scripts()
            threading.Thread(target=self._watch, daemon=True, name="dpinn-watch").start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _watch(self) -> None:
        while True:
            time.sleep(POLL_S)
            codes = [process.poll() for process in self.procs]
            if all(code == 0 for code in codes):
                return
            if any(codes):
                break
        rank, code = next((k, c) for k, c in enumerate(codes, start=1) if c)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self.leaving.is_set():
            return
        # This process is still there: it waits for a rank that will never answer.
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        print(
            f"dpinn: rank {rank} of this node ended {how} and the others wait for it in vain"
            f"{self.hint()}",
            file=sys.stderr,
            flush=True,
        )
        for process in self.procs:
            if process.poll() is None:
                process.kill()
        os._exit(1)
