import errno
import json
import os
import resource
from pathlib import Path

import pytest
import torch

from dpinn import DpinnError
from dpinn.run_files import (
    History,
    new_run_folder,
    newest_run,
    read_checkpoint,
    read_history,
    write_atomically,
    write_json,
)


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")

    def half(file) -> None:
        file.write(b"ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DpinnError, match=r"cannot write .*last.ckpt: No space left on device"):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_what_torch_says_of_a_full_disk_is_told_as_well(tmp_path: Path) -> None:
    def half(file) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64\nframe")

    words = "cannot write .*last.ckpt: the disk took only a part of it, as a full one does; free"
    with pytest.raises(DpinnError, match=words):
        write_atomically(tmp_path / "last.ckpt", half)
    assert os.listdir(tmp_path) == []


def test_what_the_system_said_is_told_though_torch_says_something_else(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: both end in the middle of a write."""
    path = tmp_path / "last.ckpt"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1_000, 10_000, 4_001_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(DpinnError, match=f"^cannot write {path}: File too large; free"):
                write_atomically(path, lambda file: torch.save({"a": torch.zeros(1_000_000)}, file))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert os.listdir(tmp_path) == []


def test_a_replacement_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "a.json", {"old": 1})

    def refuse(source: object, target: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DpinnError, match="Permission denied"):
        write_json(tmp_path / "a.json", {"new": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_any_other_error_of_a_write_leaves_no_part_either(tmp_path: Path) -> None:
    def interrupted(file) -> None:
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "last.ckpt", interrupted)
    assert os.listdir(tmp_path) == []


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    folders = {new_run_folder(tmp_path / "runs", "wave") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.is_dir() for folder in folders)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(DpinnError, match=r"choose another --tracking\.output"):
        new_run_folder(tmp_path / "runs", "wave")


def test_the_newest_run_is_that_of_the_newest_checkpoint(tmp_path: Path) -> None:
    for age, name in enumerate(["b", "a", "c"]):
        checkpoint = tmp_path / name / "checkpoints/last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"")
        os.utime(checkpoint, (1000 - age, 1000 - age))
    (tmp_path / "has none").mkdir()
    assert newest_run(tmp_path).name == "b"
    with pytest.raises(DpinnError, match="there is no run below"):
        newest_run(tmp_path / "nowhere")


def test_a_history_goes_on_from_a_checkpoint_without_repeating_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    history = History(path)
    for step in (5, 10, 15, 20):
        history.append({"step": step, "loss/total": 1.0 / step})
    with path.open("a") as file:
        file.write('{"step": 25, "loss')  # cut by a kill
    assert [row["step"] for row in read_history(path)] == [5, 10, 15, 20]
    resumed = History(path, until=10)
    resumed.append({"step": 15, "loss/total": 0.5})
    assert [row["step"] for row in read_history(path)] == [5, 10, 15]


def test_a_checkpoint_may_hold_no_code(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'attacked'}",)

    torch.save({"solution": {}, "attack": Attack()}, tmp_path / "last.ckpt")
    with pytest.raises(DpinnError, match="damaged or no checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "attacked").exists()
