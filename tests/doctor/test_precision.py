import pytest
import torch

from dpinn.doctor import precision
from dpinn.doctor.precision import TOLERANCE, matmul, product_error


def tf32(x: torch.Tensor) -> torch.Tensor:
    """Keep the 10 bits of the mantissa that TF32 has."""
    return (x.view(torch.int32) & ~((1 << 13) - 1)).view(torch.float32)


def test_the_tolerance_tells_float32_from_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert product_error(cpu) < TOLERANCE / 10
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *a: tf32(to(x, *a)))
    assert product_error(cpu) > TOLERANCE * 10


def test_tf32_that_the_environment_forces_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    found = matmul("matmul")
    assert (found.state, found.remedy) == ("problem", "unset NVIDIA_TF32_OVERRIDE")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert matmul("matmul").state == "ok"


def test_tf32_that_dpinn_overrules_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    found = matmul("matmul")
    assert found.state == "ok"
    assert "overrules TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1" in found.text


def test_inexact_products_on_a_gpu_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(precision, "product_error", lambda _: 3e-4)
    found = matmul("matmul")
    assert found.state == "problem"
    assert "3e-04" in found.text
