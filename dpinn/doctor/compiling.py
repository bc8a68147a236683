"""Whether the loss can be compiled here, tried in a process of its own."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch

from dpinn.doctor.finding import Finding
from dpinn.doctor.programs import ask
from dpinn.errors import DpinnError

LIMIT_S = 120.0
"""Torch needs 5 to 20 s; without a bound a stale lock of its cache would hold it for ever."""

INSTALL = (
    "install a C++ compiler and Python's headers (Debian: apt install g++ python3-dev; Fedora, "
    "Rocky: dnf install gcc-c++ python3-devel; clusters: module load gcc), or name the compiler "
    "in CXX"
)

CACHE = "torch keeps compiled code in TORCHINDUCTOR_CACHE_DIR: set it to a writable folder"


def compiler(name: str) -> Finding:
    """Compile a trifle that was never compiled here, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    missing = missing_tools()
    try:
        answer = ask([sys.executable, "-m", "dpinn.compiler", device], LIMIT_S)
    except DpinnError:
        failure = f"torch.compile did not end within {LIMIT_S:g} s"
    else:
        last = (answer.stderr.splitlines() or [""])[-1]
        failure = answer.stdout if answer.code == 0 else f"torch.compile failed: {last}"
    if not failure:
        return Finding(name, "ok", f"torch.compile works on the {device.upper()}")
    failure += f"; there is no {' and no '.join(missing)}" if missing else ""
    return Finding(
        name,
        "warning",
        f"{failure}: training runs eagerly, at about half the speed",
        INSTALL if missing else f"{CACHE}; {INSTALL}",
    )


def missing_tools() -> list[str]:
    """Which of the things are missing that torch's compiler needs."""
    missing = []
    named = os.environ.get("CXX")
    compilers = [named.split()[0]] if named else ["g++", "clang++"]
    if not any(map(shutil.which, compilers)):
        missing.append(f"{' or '.join(compilers)} in PATH")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not headers.is_file():
        missing.append(str(headers))
    return missing
