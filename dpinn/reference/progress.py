"""How a long solve tells how far it is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from tqdm import tqdm

Progress: TypeAlias = bool | Callable[[int, int], None]
"""A bar on stderr (True), nothing (False), or a function of the steps done and their total."""

LOG_SECONDS = 30.0
"""Between two lines of progress where stderr is a file, as in a batch job."""


@contextmanager
def track(total: int, description: str, progress: Progress) -> Iterator[Callable[[int], object]]:
    """Give a function to be called with the number of steps just done."""
    if callable(progress):
        done = 0

        def report(steps: int) -> None:
            nonlocal done
            done += steps
            progress(done, total)

        yield report
        return
    interval = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    with tqdm(
        total=total, desc=description, disable=not progress, mininterval=interval, file=sys.stderr
    ) as bar:
        yield bar.update
