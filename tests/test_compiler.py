import sys
from pathlib import Path

import pytest

from dpinn.doctor.programs import ask


def test_a_compiler_that_is_not_there_is_found_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    answer = ask([sys.executable, "-m", "dpinn.compiler", "cpu"], 120)
    assert answer.code == 0
    assert answer.stdout.startswith("torch.compile fails (")
