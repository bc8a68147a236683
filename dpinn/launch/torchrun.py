"""``torchrun``, where what the ranks said is the last word and their exit code is kept.

Run as ``python -m dpinn.launch.torchrun`` with torchrun's options. After a rank that failed, or a
signal, torchrun itself prints a traceback of its own and ends with 1.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.run import main as torchrun

REQUEUE = 75
"""Exit code of a training that SIGUSR1 has stopped."""


def main(arguments: list[str]) -> int:
    """Start the ranks and wait for their end.

    Returns:
        The exit code: that of the first rank that failed, or of the signal that ended all.
    """
    if "LOGLEVEL" not in os.environ:
        logging.disable(logging.ERROR)  # of this process; the ranks have their own
    with tempfile.TemporaryDirectory(prefix="torchrun-") as folder:
        try:
            torchrun(["--log-dir", folder, *arguments])
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                _say(f"rank {rank} was ended by {signal.Signals(-failure.exitcode).name}")
                return 128 - failure.exitcode
            return failure.exitcode
        except SignalException as stopped:
            return REQUEUE if stopped.sigval == signal.SIGUSR1 else 128 + stopped.sigval
        except (RendezvousError, DistError) as error:
            _say(f"the nodes did not find each other: {str(error).splitlines()[0]}")
            return 1
    return 0


def _say(sentence: str) -> None:
    sys.stderr.write(f"dpinn: {sentence}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
