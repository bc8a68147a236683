import pytest

from dpinn.doctor.job import job, job_layout

TWO_NODES = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_NODEID": "1",
}


def test_outside_of_a_job_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert job("SLURM job").state == "absent"


def test_a_task_a_gpu_is_as_it_should_be() -> None:
    found = job_layout("job", TWO_NODES, visible_gpus=4)
    assert found.state == "ok"
    assert found.text == "job 17, 2 nodes, tasks per node 4, GPUs on this node 4"


@pytest.mark.parametrize(
    ("changes", "visible", "state", "fragments"),
    [
        (
            {"SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_GPUS_ON_NODE": ""},
            0,
            "problem",
            ["tasks per node 3 1", "unevenly", "--ntasks-per-node"],
        ),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 1, "problem", ["1 are visible", "--gpus-per-node"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, "problem", ["of which 0", "leave CUDA_VISIBLE_DEVICES"]),
        ({"SLURM_GPUS_ON_NODE": "2"}, 2, "problem", ["too few GPUs", "--ntasks-per-node 2"]),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, 4, "warning", ["idle", "--ntasks-per-node 4"]),
        ({"SLURM_NTASKS_PER_NODE": None}, 4, "warning", ["another", "--ntasks-per-node"]),
        ({"SLURM_GPUS_ON_NODE": None}, 0, "ok", ["GPUs on this node 0"]),
    ],
)  # fmt: skip
def test_the_usual_mistakes_are_told(
    changes: dict[str, str | None], visible: int, state: str, fragments: list[str]
) -> None:
    variables = {k: v for k, v in (TWO_NODES | changes).items() if v is not None}
    found = job_layout("job", variables, visible)
    assert found.state == state
    assert bool(found.remedy) == (state != "ok")
    said = f"{found.text} | {found.remedy}"
    assert [f for f in fragments if f not in said] == [], said


def test_in_a_batch_script_a_torchrun_to_come_may_use_all_gpus() -> None:
    variables = TWO_NODES | {"SLURM_TASKS_PER_NODE": "1(x2)"}
    del variables["SLURM_STEP_TASKS_PER_NODE"]
    assert job_layout("job", variables, visible_gpus=4).state == "ok"
