"""Whether SLURM answers, and what it has."""

from __future__ import annotations

import shutil

from dpinn.doctor.finding import Finding
from dpinn.doctor.programs import ask

LIMIT_S = 10.0
"""For each question; a controller that is there answers at once, even when it is busy."""

NO_CONFIG = "configuration source"
"""Part of what SLURM's programs say where they are installed but no cluster is configured."""


def slurm(name: str) -> Finding:
    """The controller and the partitions."""
    if not shutil.which("scontrol"):
        return Finding(name, "absent", "not on this machine, and needed only to submit jobs")
    ping = ask(["scontrol", "ping"], LIMIT_S)
    told = " ".join(f"{ping.stdout}\n{ping.stderr}".split())
    if NO_CONFIG in told:
        return Finding(
            name,
            "warning",
            "installed, but no cluster is configured",
            "point SLURM_CONF to the cluster's slurm.conf, or log in to its login node",
        )
    if "is UP" not in told:
        return Finding(
            name,
            "problem",
            f"no controller answers: {told[:200]}",
            "jobs cannot be submitted now: tell the administrators (slurmctld, munge), or set "
            "SLURM_CONF if this is another cluster's configuration",
        )
    version = ask(["sinfo", "--version"], LIMIT_S).stdout.rpartition(" ")[2]
    listed = ask(["sinfo", "--noheader", "--format=%P|%a|%F|%G"], LIMIT_S)
    return _partitions(name, version, listed.stdout)


def _partitions(name: str, version: str, listed: str) -> Finding:
    """What is open for jobs.

    Args:
        name: the finding's.
        version: SLURM's.
        listed: a line ``partition|availability|allocated/idle/other/total|GPUs`` each.
    """
    shown, usable = [], 0
    for line in filter(None, listed.splitlines()):
        partition, available, nodes, resources = line.split("|")
        allocated, idle, _, total = map(_nodes, nodes.split("/"))
        usable += (allocated + idle) * (available == "up")
        extra = "" if resources == "(null)" else f", {resources}"
        state = "" if available == "up" else f", {available}"
        shown.append(f"{partition} ({idle} of {total} nodes idle{extra}{state})")
    text = f"{version}, controller answers; partitions {', '.join(shown) or 'none'}"
    if not usable:
        return Finding(
            name,
            "warning",
            f"{text}; no node takes jobs",
            "`sinfo -R` says why the nodes are down; a submitted job waits until one is back",
        )
    return Finding(name, "ok", text)


def _nodes(number: str) -> int:
    """A number of nodes; thousands are written 1K."""
    return int(number) if number.isdigit() else int(float(number.rstrip("K")) * 1000)
