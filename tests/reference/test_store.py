"""The cache: whole files only, damage noticed, one computation however many ask."""

import dataclasses
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import xarray as xr

from dpinn.errors import DpinnError, DpinnWarning
from dpinn.reference import Reference, load_reference, reference_path


@dataclasses.dataclass(frozen=True)
class Counted(Reference):
    """Counts how often it is solved."""

    name: ClassVar[str] = "counted"
    version: ClassVar[int] = 1
    solved: ClassVar[list[bool]] = []
    slope: float = 2.0

    def solve(self, quick=False, progress=True):
        started = time.perf_counter()
        self.solved.append(quick)
        t, x = np.linspace(0, 1, 3), np.linspace(0, 1, 200)
        return self.dataset(
            {"t": t, "x": x},
            {"u": self.slope * t[:, None] * x, "v": np.sin(t[:, None] + x)},
            error_estimate=1e-9,
            solver="made up",
            resolution="3 x 200",
            started=started,
        )


SLOW = """
import dataclasses, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
from dpinn.reference import load_reference
sys.path.insert(0, {here!r})
import test_store

@dataclasses.dataclass(frozen=True)
class Slow(test_store.Counted):
    name = "slow"

    def solve(self, quick=False, progress=True):
        with Path({log!r}).open("a") as log:
            log.write("solving\\n")
        while not Path({release!r}).exists():
            time.sleep(0.02)
        return super().solve(quick, progress)

print(float(load_reference(Slow(), progress={progress}).u.sum()))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DPINN_CACHE", str(tmp_path / "cache"))
    Counted.solved.clear()
    return tmp_path / "cache" / "references"


def start_slow(tmp_path: Path, progress: bool = False) -> subprocess.Popen[str]:
    """A process that solves until there is a file ``release``."""
    code = SLOW.format(
        here=str(Path(__file__).parent),
        log=str(tmp_path / "log"),
        release=str(tmp_path / "release"),
        progress=progress,
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until_solving(tmp_path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists():
        assert time.monotonic() < deadline, "the other process did not begin"
        time.sleep(0.02)


def left_in(folder: Path) -> list[str]:
    """What lies in a folder besides locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_second_load_reads_what_the_first_computed():
    first, second = load_reference(Counted()), load_reference(Counted())
    assert Counted.solved == [False]
    xr.testing.assert_identical(first, second)
    assert second.error_estimate == 1e-9
    assert second.slope == 2.0


def test_cached_file_is_ordinary_netcdf_with_a_readable_name(cache):
    load_reference(Counted())
    path = reference_path(Counted())
    assert path.parent == cache
    assert path.name.startswith("counted-full-")
    assert left_in(cache) == [path.name]
    stored = xr.load_dataset(path, engine="h5netcdf")
    assert stored.u.dims == ("t", "x")
    assert stored.solver == "made up"


def test_other_parameters_quickness_and_version_are_other_files(monkeypatch):
    paths = {reference_path(Counted()), reference_path(Counted(3.0))}
    paths.add(reference_path(Counted(), quick=True))
    load_reference(Counted())
    monkeypatch.setattr(Counted, "version", 2)
    paths.add(reference_path(Counted()))
    assert len(paths) == 4
    load_reference(Counted())
    load_reference(Counted(), quick=True)
    assert Counted.solved == [False, False, True]


def test_cache_is_below_dpinn_cache_then_xdg_then_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert reference_path(Counted()).parent == tmp_path / "cache" / "references"
    monkeypatch.delenv("DPINN_CACHE")
    assert reference_path(Counted()).parent == tmp_path / "xdg" / "dpinn" / "references"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert reference_path(Counted()).parent == tmp_path / "home/.cache/dpinn/references"


def flip_a_bit(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"x",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: os.urandom(len(content)),
        lambda content: b"\0" * len(content),
        *(lambda content, at=at: flip_a_bit(content, at) for at in (0, 9, 600, 5000, -900, -1)),
    ],
    ids=["empty", "byte", "half", "short", "long", "garbage", "zeros"]
    + [f"bit in byte {at}" for at in (0, 9, 600, 5000, -900, -1)],
)
def test_damaged_file_is_computed_again_with_a_warning(damage):
    whole = load_reference(Counted())
    path = reference_path(Counted())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(DpinnWarning, match="is damaged .*; computing it again") as warned:
        again = load_reference(Counted())
    assert len(warned) == 1
    xr.testing.assert_equal(again, whole)
    assert Counted.solved == [False, False]
    xr.testing.assert_identical(load_reference(Counted()), again)
    assert Counted.solved == [False, False]


def test_file_of_another_solution_under_this_name_is_damage():
    load_reference(Counted(5.0))
    reference_path(Counted(5.0)).rename(reference_path(Counted()))
    with pytest.warns(DpinnWarning, match="it holds another solution"):
        assert load_reference(Counted()).slope == 2.0


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), MemoryError(), SystemExit(1)])
def test_interrupted_write_leaves_nothing(cache, monkeypatch, function, failure):
    def fail(*arguments):
        raise failure

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(failure)):
        load_reference(Counted())
    assert left_in(cache) == []
    monkeypatch.undo()
    monkeypatch.setenv("DPINN_CACHE", str(cache.parent))
    load_reference(Counted())
    assert left_in(cache) == [reference_path(Counted()).name]


def test_failed_write_over_a_damaged_file_leaves_the_damaged_file(cache, monkeypatch):
    load_reference(Counted())
    path = reference_path(Counted())
    path.write_bytes(b"damaged")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.warns(DpinnWarning),
        pytest.raises(DpinnError, match=r"\(No space left on device\); set DPINN_CACHE to"),
    ):
        load_reference(Counted())
    assert left_in(cache) == [path.name]
    assert path.read_bytes() == b"damaged"


def test_really_full_disk_is_told_in_a_sentence(tmp_path, monkeypatch):
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        monkeypatch.setenv("DPINN_CACHE", str(folder))
        with pytest.raises(DpinnError, match=r"No space left on device.*set DPINN_CACHE"):
            load_reference(Counted())
        assert left_in(folder / "references") == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_folder_that_cannot_be_made_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DPINN_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DpinnError, match=r"\(Not a directory\); set DPINN_CACHE to a writable"):
        load_reference(Counted())
    assert Counted.solved == []


def test_cached_solution_is_read_without_a_right_to_write(monkeypatch):
    load_reference(Counted())

    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    for owner, name in [(fcntl, "flock"), (os, "replace"), (Path, "mkdir")]:
        monkeypatch.setattr(owner, name, refuse)
    load_reference(Counted())
    assert Counted.solved == [False]


def test_file_that_may_not_be_read_is_told_in_a_sentence():
    reference_path(Counted()).mkdir(parents=True)
    with pytest.raises(DpinnError, match=r"cannot be read \(Is a directory\); remove it, or set"):
        load_reference(Counted())


def test_file_system_without_locks_works_with_a_warning(monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.warns(DpinnWarning, match="has no file locks"):
        load_reference(Counted())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_reference(Counted())
    assert Counted.solved == [False]


def test_error_of_the_solver_is_passed_on_and_leaves_nothing(cache, monkeypatch):
    def fail(self, quick, progress):
        raise OSError("the solver's own")

    monkeypatch.setattr(Counted, "solve", fail)
    with pytest.raises(OSError, match="the solver's own"):
        load_reference(Counted())
    assert left_in(cache) == []


def test_two_processes_at_once_compute_once_and_agree(tmp_path):
    first = start_slow(tmp_path)
    wait_until_solving(tmp_path)
    second = start_slow(tmp_path, progress=True)
    assert second.stderr is not None
    assert second.stderr.readline().startswith(
        "waiting for another process that computes slow-full-"
    )
    (tmp_path / "release").touch()
    (sum_1, error_1), (sum_2, error_2) = first.communicate(), second.communicate()
    assert (first.returncode, second.returncode) == (0, 0), error_1 + error_2
    assert sum_1 == sum_2
    assert (tmp_path / "log").read_text() == "solving\n"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_killed_process_leaves_no_file_and_no_lock(tmp_path, cache, end):
    killed = start_slow(tmp_path)
    wait_until_solving(tmp_path)
    killed.send_signal(end)
    killed.communicate()
    assert killed.returncode != 0
    assert left_in(cache) == []
    (tmp_path / "release").touch()
    following = start_slow(tmp_path)
    _, error = following.communicate(timeout=60)
    assert following.returncode == 0, error
    assert len(left_in(cache)) == 1


def test_what_a_process_killed_while_writing_left_is_removed_by_the_next(cache):
    path = reference_path(Counted())
    cache.mkdir(parents=True)
    (cache / f".{path.stem}-4242-0a0b0c0d.part").write_bytes(b"half")
    (cache / ".other-full-000000000000-4242-0a0b0c0d.part").write_bytes(b"of another solution")
    load_reference(Counted())
    assert left_in(cache) == [".other-full-000000000000-4242-0a0b0c0d.part", path.name]


def test_a_subclass_that_solves_otherwise_is_another_solution():
    class Doubled(Counted):
        def solve(self, quick=False, progress=True):
            return 2 * super().solve(quick, progress)

    with xr.set_options(keep_attrs=True):
        single, double = load_reference(Counted()), load_reference(Doubled())
    assert reference_path(Counted()) != reference_path(Doubled())
    np.testing.assert_array_equal(double.u, 2 * single.u)
