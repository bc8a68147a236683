"""The machine itself."""

from __future__ import annotations

import os
import platform
import socket

from dpinn.doctor.finding import Finding


def machine(name: str) -> Finding:
    """Host, system, cores, memory."""
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    cores = len(os.sched_getaffinity(0))
    total = os.cpu_count() or cores
    usable = f"{cores} of {total}" if cores < total else f"{cores}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding(
        name,
        "ok",
        f"{socket.gethostname()}, {system}, {platform.machine()}, {usable} cores, "
        f"{memory:.0f} GiB of memory",
    )
