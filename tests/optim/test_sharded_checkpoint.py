"""SOAP's state in a folder of shards, saved and loaded on any numbers of ranks."""

import resource
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from dpinn.optim import SOAP, StateError
from dpinn.optim.sharded_checkpoint import load_shards, save_shards

SHAPES = {"a": (16, 16), "b": (16,), "c": (7, 7), "d": (5, 3), "late": (4, 4)}


def made(group=None):
    generator = torch.Generator().manual_seed(0)
    named = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator))
        for name, shape in SHAPES.items()
    }
    return named, SOAP(list(named.items()), lr=1e-3, process_group=group)


def take(named, optimizer, step):
    generator = torch.Generator().manual_seed(step)
    for name, parameter in named.items():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if name == "late" else gradient
    optimizer.step()


def saved(folder):
    """The state after four steps, as a whole and in a folder."""
    group = dist.group.WORLD if dist.is_initialized() else None
    named, optimizer = made(group)
    for step in range(4):
        take(named, optimizer, step)
    save_shards(optimizer, folder)
    optimizer.consolidate_state_dict()
    return optimizer.state_dict() if group is None or dist.get_rank() == 0 else None


def loaded(folder):
    group = dist.group.WORLD if dist.is_initialized() else None
    _, optimizer = made(group)
    load_shards(optimizer, folder)
    optimizer.consolidate_state_dict()
    return optimizer.state_dict() if group is None or dist.get_rank() == 0 else None


def assert_same(a, b):
    assert a["param_groups"] == b["param_groups"]
    assert a["counters"] == b["counters"]
    assert a["state"].keys() == b["state"].keys()
    for key, entry in b["state"].items():
        assert a["state"][key].keys() == entry.keys()
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(a["state"][key][name]), torch.as_tensor(value))


@pytest.mark.parametrize("saved_on", [1, 2, 3, 4])
def test_shards_saved_on_some_ranks_are_the_same_state_on_any_other(on_ranks, tmp_path, saved_on):
    folder = tmp_path / "shards"
    state = on_ranks(saved_on, saved, folder)[0]
    for resumed_on in (1, 2, 3, 4):
        assert_same(on_ranks(resumed_on, loaded, folder)[0], state)
    assert_same(loaded(folder), state)


def test_one_process_without_a_group_saves_and_loads(tmp_path):
    state = saved(tmp_path / "shards")
    assert_same(loaded(tmp_path / "shards"), state)


@pytest.mark.parametrize("victim", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_partial_folder_is_refused_and_nothing_has_changed(tmp_path, victim, how):
    folder = tmp_path / "shards"
    saved(folder)
    (path,) = folder.glob(victim)
    path.unlink() if how == "missing" else path.write_bytes(path.read_bytes()[:100])
    named, optimizer = made()
    take(named, optimizer, 0)
    before = {k: {n: torch.as_tensor(v).clone() for n, v in e.items()}
              for k, e in optimizer.state_dict()["state"].items()}  # fmt: skip
    with pytest.raises(StateError, match="use an earlier checkpoint"):
        load_shards(optimizer, folder)
    for key, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(value), before[key][name])


def test_shards_of_another_model_are_refused(tmp_path):
    saved(tmp_path / "shards")
    other = SOAP([("a", torch.nn.Parameter(torch.zeros(16, 16)))])
    with pytest.raises(StateError, match="missing none, unexpected 'b'"):
        load_shards(other, tmp_path / "shards")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    _, optimizer = made()
    with pytest.raises(StateError, match="nowhere"):
        load_shards(optimizer, Path(tmp_path / "nowhere"))


def test_a_full_disk_is_told_in_plain_words(tmp_path):
    """A limit on the size of files stands for it: both end in the middle of a write."""
    weight = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = SOAP([weight])
    weight.grad = torch.ones(64, 64)
    optimizer.step()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(StateError, match=f"cannot write {tmp_path}: File too large; free some"):
            optimizer.save_shards(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
