"""Other programs, asked with a bound on the time that they may take."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from dataclasses import dataclass

from dpinn.errors import DpinnError


@dataclass(frozen=True)
class Answer:
    """How a program ended."""

    code: int
    stdout: str
    stderr: str


def ask(command: list[str], limit_s: float) -> Answer:
    """Run a program; what it has started is ended with it.

    Raises:
        DpinnError: it did not answer within ``limit_s`` seconds.
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise DpinnError(
            f"`{shlex.join(command)}` did not answer within {limit_s:g} s; "
            "run it yourself to see what it waits for"
        ) from error
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Answer(process.returncode, stdout.strip(), stderr.strip())
