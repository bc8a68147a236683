import pytest

from dpinn.errors import DpinnError
from dpinn.launch.tasks import array_indices, seed_tasks, sweep_tasks


@pytest.mark.parametrize(
    ("array", "seeds"),
    [
        ("0-4", [0, 1, 2, 3, 4]),
        ("7", [7]),
        ("1,3,5", [1, 3, 5]),
        ("0-9%2", list(range(10))),
        ("0-15:5,2", [0, 5, 10, 15, 2]),
    ],
)
def test_an_array_is_read_as_slurm_reads_it(array: str, seeds: list[int]) -> None:
    tasks = seed_tasks(array)
    assert [task.index for task in tasks] == seeds
    assert [task.options for task in tasks] == [("--seed_everything", str(s)) for s in seeds]
    assert [task.name for task in tasks] == [f"seed-{s}" for s in seeds]


@pytest.mark.parametrize("array", ["", "a", "4-0", "1,", "0-9%", "0-9%0", "0-9:0", "1%2%3", "-1"])
def test_other_arrays_are_refused(array: str) -> None:
    with pytest.raises(DpinnError, match="0-4"):
        seed_tasks(array)


def test_a_sweep_is_the_product_of_its_values() -> None:
    tasks = sweep_tasks(["model.clip=1,2.5", "--seed_everything=0,1"])
    assert [task.options for task in tasks] == [
        ("--model.clip", clip, "--seed_everything", seed) for clip in ("1", "2.5") for seed in "01"
    ]
    assert [task.name for task in tasks] == [
        "0-clip-1-seed-0",
        "1-clip-1-seed-1",
        "2-clip-2.5-seed-0",
        "3-clip-2.5-seed-1",
    ]
    assert array_indices(tasks, None) == "0-3"
    assert array_indices(tasks, 2) == "0-3%2"


def test_commas_within_brackets_do_not_separate() -> None:
    (one, two) = sweep_tasks(["data.points={initial: 8, ends: 4},{initial: 16, ends: 4}"])
    assert one.options == ("--data.points", "{initial: 8, ends: 4}")
    assert two.options == ("--data.points", "{initial: 16, ends: 4}")
    assert "/" not in one.name
    assert " " not in one.name


@pytest.mark.parametrize(
    "sweeps",
    [["model.clip"], ["model.clip="], ["=1,2"], ["model.clip=1,,2"], ["a=1", "a=2"], ["a=1,1"]],
    ids=str,
)
def test_other_sweeps_are_refused(sweeps: list[str]) -> None:
    with pytest.raises(DpinnError, match="KEY=VALUE"):
        sweep_tasks(sweeps)
