"""How exactly matrix products are computed."""

from __future__ import annotations

import os

import torch

from dpinn.doctor.finding import Finding

TOLERANCE = 1e-5
"""Between float32's 1e-7 and the 5e-4 of TF32, which has 10 bits."""

SIZE = 256


def matmul(name: str) -> Finding:
    """Full float32 as in a training, measured on a GPU; TF32 ruins a PINN's accuracy."""
    if os.environ.get("NVIDIA_TF32_OVERRIDE") == "1":
        return Finding(
            name,
            "problem",
            "NVIDIA_TF32_OVERRIDE=1 forces TF32 on every product, whatever dpinn sets",
            "unset NVIDIA_TF32_OVERRIDE",
        )
    text = "float32 products are computed in full (highest, no TF32)"
    if os.environ.get("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE") == "1":
        text += "; dpinn overrules TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1"
    if not torch.cuda.is_available():
        return Finding(name, "ok", text)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # as `dpinn fit` does
    error = product_error(torch.device("cuda"))
    torch.set_float32_matmul_precision(before)
    if error > TOLERANCE:
        return Finding(
            name,
            "problem",
            f"products on the GPU are off by {error:.0e}, which is not float32",
            "look in the environment for what forces TF32 or lower precision (env | grep -i TF32)",
        )
    return Finding(name, "ok", f"{text}; off by {error:.0e} on the GPU")


def product_error(device: torch.device) -> float:
    """Error of a float32 product relative to float64's, in norms."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    product = (a.to(device) @ b.to(device)).cpu().double()
    return float((product - exact).norm() / exact.norm())
