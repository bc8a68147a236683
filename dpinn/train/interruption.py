"""Signals that end a training early: noted at once, obeyed by all ranks at the same step."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from enum import IntEnum
from types import FrameType
from typing import NoReturn

import torch
from torch import distributed as dist

from dpinn.train.distributed import is_distributed

AGREE_EVERY = 10
"""Steps, at least, between two looks at the flags of all ranks."""


class Request(IntEnum):
    """What a signal asks for; of several the greatest counts."""

    NONE = 0
    REQUEUE = 1
    STOP = 2

    @property
    def exit_code(self) -> int:
        """By which a batch script tells what to do: 75 is EX_TEMPFAIL, try again later."""
        return {Request.NONE: 0, Request.REQUEUE: 75, Request.STOP: 128 + signal.SIGTERM}[self]


REQUESTS: Mapping[signal.Signals, Request] = {
    signal.SIGUSR1: Request.REQUEUE,
    signal.SIGTERM: Request.STOP,
}


class Interruption:
    """A flag that signals set, and nothing else: the training looks at it between two batches.

    A handler that saved or communicated would do so in the midst of a collective or of another
    save. SIGUSR1 (time is nearly up, SLURM's ``--signal=USR1@SECONDS``) asks for a checkpoint and
    to be queued again, SIGTERM (``scancel``, preemption, ``kill``) for a checkpoint and the end.

    Attributes:
        waits: whether SIGTERM waits for a step at which all can save; before the first step and
            after the last it ends the process at once.
    """

    def __init__(self) -> None:
        self.waits = False
        self._flag = Request.NONE

    def listen(self) -> None:
        """Handle both signals here."""
        for sign in REQUESTS:
            signal.signal(sign, self._handle)

    def leave(self, request: Request) -> NoReturn:
        """End the process with the request's exit code, whatever is signalled meanwhile.

        A launcher signals all ranks once one of them has ended, and Python takes its time to end.
        """
        for sign in REQUESTS:
            signal.signal(sign, signal.SIG_IGN)
        raise SystemExit(request.exit_code)

    def agreed(self, device: torch.device) -> Request:
        """What any rank was asked for; all ranks call it at the same step and hear the same."""
        if not is_distributed():
            return self._flag
        flag = torch.tensor(int(self._flag), device=device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return Request(int(flag))

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        request = REQUESTS[signal.Signals(signum)]
        if request is Request.STOP and not self.waits:
            self.leave(request)
        self._flag = max(self._flag, request)
