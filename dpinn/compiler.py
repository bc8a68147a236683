"""Whether torch.compile works on this machine: a C++ compiler, Python's headers, a folder to write.

Run as ``python -m dpinn.compiler DEVICE`` it prints what fails, or nothing, in a process of its
own that can be given a bound.
"""

from __future__ import annotations

import secrets
import sys

import torch
from torch import Tensor

TRIFLE_ENTRIES = 13
"""A number of entries that nothing else compiles, so that the trifle is really built."""


def compiler_problem(device: torch.device, entries: int = TRIFLE_ENTRIES) -> str | None:
    """Compile a trifle; returns what fails, or None.

    What was built before is not built again: the same number of entries may work from the cache of
    compiled code where there is no compiler any more.
    """

    def trifle(x: Tensor) -> Tensor:
        return torch.sin(x) + x

    try:
        torch.compile(trifle, fullgraph=True)(torch.ones(entries, device=device))
    except Exception as error:
        return f"torch.compile fails ({_first_line(error)})"
    return None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


if __name__ == "__main__":
    never_built = 1000 + secrets.randbelow(1_000_000)
    print(compiler_problem(torch.device(sys.argv[1]), never_built) or "")
