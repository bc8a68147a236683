"""A real all-reduce between ranks on this machine, over gloo and over NCCL."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import re
import socket
import struct
from pathlib import Path

import torch
from torch import distributed as dist

from dpinn.bench.ranks import on_ranks
from dpinn.doctor.finding import Finding
from dpinn.errors import DpinnError

LIMIT_S = 60.0
"""For both ranks, of which each imports torch first, which takes seconds."""

SIOCGIFADDR = 0x8915
"""Linux' request for the IPv4 address of an interface."""

LIST = "`ip -brief address` lists them"


def gloo(name: str) -> Finding:
    """Two ranks on the CPU."""
    set_it = f"set GLOO_SOCKET_IFNAME to the interface that the machines share ({LIST})"
    if not dist.is_gloo_available():
        return Finding(name, "problem", "torch is built without gloo", "install another torch")
    return _reduced(name, 2, "cpu", "", set_it)


def nccl(name: str) -> Finding:
    """A rank on each of two GPUs; with one GPU, a rank alone."""
    if not dist.is_nccl_available():
        return Finding(name, "absent", "torch is built without it")
    version = ".".join(map(str, torch.cuda.nccl.version()))
    if not torch.cuda.is_available():
        return Finding(name, "absent", f"{version}, and no GPU to use it on")
    remedy = (
        f"set NCCL_SOCKET_IFNAME to the interface that the machines share ({LIST}); "
        "NCCL_DEBUG=INFO says more; in a container give it shared memory (--shm-size=1g)"
    )
    return _reduced(name, min(2, torch.cuda.device_count()), "cuda", f"{version}: ", remedy)


def _reduced(name: str, ranks: int, device_type: str, before: str, remedy: str) -> Finding:
    """Add up rank + 1 over the ranks and compare with the sum that is known."""
    try:
        answers = on_ranks(f"{__name__}.sum_of_ranks", ranks, device_type, {}, LIMIT_S)
    except DpinnError as error:
        told = re.sub(r"\[enforce fail at [^\]]*\] ", "", str(error))
        return Finding(name, "problem", f"{before}{told}", remedy)
    expected = ranks * (ranks + 1) / 2
    wrong = [answer["sum"] for answer in answers if answer["sum"] != expected]
    if wrong:
        text = f"{before}the ranks' sum is {wrong[0]:g} instead of {expected:g}"
        return Finding(name, "problem", text, remedy)
    addresses = sorted({address for answer in answers for address in answer["addresses"]})
    return _reached(name, f"{before}{_count(ranks)}", addresses, remedy)


def _count(ranks: int) -> str:
    return f"{ranks} ranks agree on a sum" if ranks > 1 else "a rank alone gets its sum"


def _reached(name: str, text: str, addresses: list[str], remedy: str) -> Finding:
    """Judge the addresses: a loop within the machine does for one machine only."""
    shown = [f"{a} ({interface})" if (interface := interface_of(a)) else a for a in addresses]
    text += f", over {', '.join(shown)}" if shown else ""
    if not addresses or not all(ipaddress.ip_address(a).is_loopback for a in addresses):
        return Finding(name, "ok", text)
    if int(os.environ.get("SLURM_JOB_NUM_NODES") or "1") > 1:
        return Finding(name, "problem", f"{text}, where other nodes cannot reach it", remedy)
    return Finding(name, "ok", f"{text}, which is for this machine alone")


def sum_of_ranks(device: torch.device) -> dict[str, object]:
    """What each rank does."""
    tensor = torch.full((1,), dist.get_rank() + 1.0, device=device)
    dist.all_reduce(tensor)
    return {"sum": tensor.item(), "addresses": local_addresses()}


def local_addresses() -> list[str]:
    """Addresses of this machine at which this process' sockets are connected or listen."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        # The folder's own descriptor is closed by now; files are no sockets.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(descriptor.name))) as s:
            if s.family in (socket.AF_INET, socket.AF_INET6):
                found.add(ipaddress.ip_address(s.getsockname()[0].partition("%")[0]))
    return [str(address) for address in found if not address.is_unspecified]


def interface_of(address: str) -> str | None:
    """The name of the network interface that has this IPv4 address; None where it is not known."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, interface in socket.if_nameindex():
            request = struct.pack("256s", interface.encode()[:15])
            with contextlib.suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return interface
    return None
