"""How the ranks meet: bounded in time, and only ranks that run the same."""

from __future__ import annotations

import platform
import socket
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from torch import distributed as dist

from dpinn.errors import DpinnError
from dpinn.train.strategies.lost_rank import collective_timeout, lost_contact

PACKAGES = ("dpinn", "lightning", "numpy", "scipy")
"""Beside torch, what decides the numbers."""


def meet(environment: ClusterEnvironment, connect: Callable[[], object]) -> None:
    """Connect to the other ranks, then compare what they run.

    Args:
        environment: says where rank 0 is met.
        connect: makes the process group.

    Raises:
        DpinnError: rank 0 is not found or did not answer in time, or some ranks run other versions.
    """
    rank, count = environment.global_rank(), environment.world_size()
    host, port = environment.main_address, environment.main_port
    seconds = collective_timeout().total_seconds()
    try:
        socket.getaddrinfo(host, port)
    except socket.gaierror:
        raise DpinnError(
            f"rank {rank} on {socket.gethostname()} does not know the address of rank 0's host, "
            f"{host}; export MASTER_ADDR as a name or address that all nodes can reach"
        ) from None
    try:
        if rank:
            _await_port(host, port, seconds)
        connect()
    except (RuntimeError, OSError) as error:
        reason = str(error) if isinstance(error, OSError) else lost_contact(error)
        if reason is None:
            raise
        raise DpinnError(
            f"rank {rank} of {count} did not meet the others at {host}:{port} within {seconds:g} s "
            f"({reason}); were all ranks started, and is MASTER_ADDR reachable from each node? "
            "`dpinn doctor` looks at the network"
        ) from error
    if count > 1:
        everyone: list[tuple[str, dict[str, str]]] = [("", {})] * count
        dist.all_gather_object(everyone, (socket.gethostname(), versions()))
        try:
            require_same_versions(everyone)
        except DpinnError:
            if rank:
                sys.exit(1)  # rank 0 says why
            raise


def _await_port(host: str, port: int, seconds: float) -> None:
    """Wait until something listens there; torch's own attempts fill the log with its frames."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=seconds):
                return
        except OSError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.1)


def versions() -> dict[str, str]:
    """What this rank runs."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def require_same_versions(everyone: Sequence[tuple[str, dict[str, str]]]) -> None:
    """Refuse ranks that would not compute the same.

    Args:
        everyone: host and versions of every rank, in their order.

    Raises:
        DpinnError: it names a rank, its host and what differs.
    """
    first_host, first = everyone[0]
    for rank, (host, found) in enumerate(everyone):
        differing = [name for name in first if found.get(name) != first[name]]
        if differing:
            name = differing[0]
            raise DpinnError(
                f"rank {rank} on {host} runs {name} {found.get(name)}, rank 0 on {first_host} "
                f"{name} {first[name]}; give all nodes the same environment"
            )
