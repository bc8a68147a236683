from pathlib import Path

import pytest
import torch

from dpinn.doctor import devices
from dpinn.doctor.devices import Hardware, gpus, nvidia_hardware

PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 2024"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's files, without GPU, and no nvidia-smi."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def pci(root: Path, slot: str, vendor: str, kind: str) -> None:
    write(root / "sys/bus/pci/devices" / slot / "vendor", f"{vendor}\n")
    write(root / "sys/bus/pci/devices" / slot / "class", f"{kind}\n")


@pytest.mark.parametrize(
    ("text", "driver"), [(PROPRIETARY, "550.54.15"), (OPEN, "580.95.05")], ids=["closed", "open"]
)
def test_the_driver_tells_its_version_and_gpus(root: Path, text: str, driver: str) -> None:
    write(root / "proc/driver/nvidia/version", text)
    for slot in ("0000:17:00.0", "0000:65:00.0"):
        write(root / "proc/driver/nvidia/gpus" / slot / "information", "")
    assert nvidia_hardware(root) == Hardware(2, driver)


def test_without_a_driver_the_gpus_are_on_the_bus(root: Path) -> None:
    pci(root, "0000:00:02.0", "0x8086", "0x030000")  # Intel's graphics
    pci(root, "0000:01:00.0", "0x10de", "0x030000")
    pci(root, "0000:01:00.1", "0x10de", "0x040300")  # the same card's sound
    pci(root, "0000:02:00.0", "0x10de", "0x030200")
    assert nvidia_hardware(root) == Hardware(2, None)


def test_in_a_container_nvidia_smi_may_be_all_there_is(root: Path) -> None:
    program = root / "bin/nvidia-smi"
    write(program, "#!/bin/sh\necho 580.95.05\necho 580.95.05\necho 580.95.05\n")
    program.chmod(0o755)
    assert nvidia_hardware(root) == Hardware(3, "580.95.05")
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert nvidia_hardware(root) == Hardware(0, None)


@pytest.mark.parametrize(
    ("hardware", "cuda", "visible", "state", "fragments"),
    [
        (Hardware(0, None), None, None, "absent", ["none on this machine"]),
        (Hardware(0, None), "13.0", "", "absent", ["none on this machine"]),
        (Hardware(8, "580.1"), None, None, "problem", ["8 NVIDIA GPUs", "without CUDA", "pip"]),
        (Hardware(1, "580.1"), "13.0", "", "problem", ["CUDA_VISIBLE_DEVICES=''", "unset"]),
        (Hardware(1, "580.1"), "13.0", "-1", "problem", ["CUDA_VISIBLE_DEVICES='-1'"]),
        (Hardware(1, None), "13.0", None, "problem", ["1 NVIDIA GPU on", "driver", "--gpus all"]),
        (Hardware(1, "450.1"), "13.0", None, "problem", ["driver 450.1", "CUDA 13.0 or newer"]),
    ],
)
def test_why_torch_sees_no_gpu(
    hardware: Hardware,
    cuda: str | None,
    visible: str | None,
    state: str,
    fragments: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "nvidia_hardware", lambda: hardware)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = gpus("GPUs")
    assert found.state == state
    assert bool(found.remedy) == (state == "problem")
    said = f"{found.text} | {found.remedy}"
    assert [f for f in fragments if f not in said] == [], said
