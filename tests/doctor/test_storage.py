import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest

from dpinn.doctor.storage import cache_folder, current_folder, nearest, temporary_folder

Usage = namedtuple("Usage", "total used free")


def test_a_folder_that_is_still_to_be_made_is_judged_where_it_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPINN_CACHE", str(tmp_path / "a/b"))
    found = cache_folder("cache folder")
    assert found.state == "ok"
    assert found.text.startswith(f"{tmp_path}/a/b, ")
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_folder_of_a_relative_path_is_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert nearest(Path("a/b")) == tmp_path


def test_a_file_in_the_place_of_the_folder_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DPINN_CACHE", str(tmp_path / "file"))
    found = cache_folder("cache folder")
    assert found.state == "problem"
    assert "Not a directory" in found.text
    assert "DPINN_CACHE" in found.remedy


@pytest.mark.parametrize(("free", "state"), [(9e8, "warning"), (2e9, "ok")])
def test_little_space_is_a_warning(
    free: float, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e12, 1e12 - free, free))
    found = current_folder("current folder")
    assert found.state == state
    assert f"{free / 1e9:.3g} GB free" in found.text
    assert bool(found.remedy) == (state == "warning")


def test_no_temporary_folder_at_all_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    found = temporary_folder("temporary folder")
    assert found.state == "problem"
    assert found.text.startswith("No usable temporary directory")
    assert "TMPDIR" in found.remedy
