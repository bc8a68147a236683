"""The GPUs: those that are there, and those that torch sees."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from dpinn.doctor.finding import Finding
from dpinn.doctor.programs import ask

NVIDIA = "0x10de"
DISPLAY = "0x03"
"""Vendor and class of a GPU on the PCI bus; sound and network devices have other classes."""

SMI_LIMIT_S = 20.0

HIDDEN = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES that show no GPU; the last one is SLURM's."""

GIVE = "in a container pass them in (--gpus all, --nv); in a SLURM job ask for --gpus-per-node"


@dataclass(frozen=True)
class Hardware:
    """NVIDIA GPUs of this machine, whether or not torch can use them."""

    gpus: int
    driver: str | None


def gpus(name: str) -> Finding:
    """The GPUs, each tried with a small sum."""
    hardware = nvidia_hardware()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        told = str(said[0].message).splitlines()[0] if said else ""
        return _unseen(name, hardware, torch.version.cuda, told)
    for index in range(count):
        try:
            _ = torch.ones(8, device=torch.device("cuda", index)).sum().item()
        except RuntimeError as error:
            return Finding(
                name,
                "problem",
                f"GPU {index} ({torch.cuda.get_device_name(index)}) cannot compute: "
                f"{str(error).splitlines()[0]}",
                f"this torch is built for {', '.join(torch.cuda.get_arch_list())}: install one "
                "that fits the GPU; if it is busy, `nvidia-smi` says with what",
            )
    text = ", ".join(
        f"{number} x {kind}" for kind, number in Counter(map(_kind, range(count))).items()
    )
    free = min(torch.cuda.mem_get_info(index)[0] for index in range(count))
    text += f", {free / 2**30:.0f} GiB free, driver {hardware.driver or 'unknown'}"
    if count < hardware.gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        text += f"; {count} of {hardware.gpus} are visible (CUDA_VISIBLE_DEVICES {visible})"
    return Finding(name, "ok", text)


def _kind(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB)"


def _unseen(name: str, hardware: Hardware, cuda: str | None, told: str) -> Finding:
    """Why torch sees no GPU.

    Args:
        name: the finding's.
        hardware: what is there.
        cuda: the version that torch was built for, None for a CPU build.
        told: what torch said of it.
    """
    if not hardware.gpus:
        return Finding(name, "absent", "none on this machine: training uses the CPU")
    there = f"{hardware.gpus} NVIDIA GPU{'s' * (hardware.gpus > 1)} on this machine"
    if cuda is None:
        return Finding(
            name,
            "problem",
            f"{there}, but torch is built without CUDA",
            "pip install --force-reinstall -c constraints.txt torch, from an index that has the "
            "CUDA build (PyPI's for Linux is one)",
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in HIDDEN:
        text = f"{there}, hidden by CUDA_VISIBLE_DEVICES={visible!r}"
        return Finding(name, "problem", text, f"unset CUDA_VISIBLE_DEVICES; {GIVE}")
    if hardware.driver is None:
        text = f"{there}, but no driver"
        return Finding(name, "problem", text, f"install NVIDIA's driver; {GIVE}")
    return Finding(
        name,
        "problem",
        f"{there} with driver {hardware.driver}, but torch sees none{f': {told}' * bool(told)}",
        f"the driver must be one for CUDA {cuda} or newer, else install a torch for an older "
        f"CUDA; {GIVE}",
    )  # fmt: skip


def nvidia_hardware(root: Path = Path("/")) -> Hardware:
    """Count the GPUs by the driver, nvidia-smi and the PCI bus, as each may be hidden."""
    driver = None
    version = root / "proc/driver/nvidia/version"
    if version.is_file() and (match := re.search(r"\b\d{3}\.\d+(\.\d+)?\b", version.read_text())):
        driver = match[0]
    counts = [
        len(list((root / "proc/driver/nvidia/gpus").glob("*"))),
        sum(map(_is_gpu, (root / "sys/bus/pci/devices").glob("*"))),
    ]
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = ask(query, SMI_LIMIT_S)
        if answer.code == 0:
            lines = answer.stdout.splitlines()
            counts.append(len(lines))
            driver = driver or (lines[0].strip() if lines else None)
    return Hardware(max(counts), driver)


def _is_gpu(device: Path) -> bool:
    try:
        vendor = (device / "vendor").read_text().strip()
        return vendor == NVIDIA and (device / "class").read_text().startswith(DISPLAY)
    except OSError:
        return False
