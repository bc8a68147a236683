"""``torchrun``, where what the ranks said is the last word and their exit code is kept.

Run as ``python -m dpinn.launch.torchrun`` with torchrun's options. torchrun itself prints a
traceback of its own after a rank that failed, or a signal, and ends with 1. LOGLEVEL, torchrun's
own variable, brings its log back.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import tempfile

REQUEUE = 75
"""Exit code of a training that SIGUSR1 has ended, as in dpinn.train.interruption."""


def main(arguments: list[str]) -> int:
    """Start the ranks of this node and wait for their end.

    Returns:
        The exit code: that of the first rank that failed, or of the signal that ended all.
    """
    if "LOGLEVEL" not in os.environ:
        _quieten()
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    with tempfile.TemporaryDirectory(prefix="torchrun-") as folder:
        try:
            torchrun(["--log-dir", folder, *arguments])
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode > 0:
                return failure.exitcode
            _say(f"rank {rank} was ended by {signal.Signals(-failure.exitcode).name}")
            return 128 - failure.exitcode
        except SignalException as stopped:
            return REQUEUE if stopped.sigval == signal.SIGUSR1 else 128 + stopped.sigval
        except DistError as error:
            _say(
                f"the nodes did not meet ({str(error).splitlines()[0].rstrip('.')}); start the "
                "same command on each, with a MASTER_ADDR and MASTER_PORT that all can reach"
            )
            return 1
    return 0


def _quieten() -> None:
    """Silence torchrun's own log, in this process; the ranks have theirs."""
    logging.disable(logging.ERROR)
    variable = "TORCH_CPP_LOG_LEVEL"
    if variable not in os.environ:
        os.environ[variable] = "FATAL"
        importlib.import_module("torch")  # which reads it now
        del os.environ[variable]


def _say(sentence: str) -> None:
    sys.stderr.write(f"dpinn: {sentence}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
