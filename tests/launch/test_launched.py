import pytest

from dpinn import DpinnError
from dpinn.launch.launched import (
    Launched,
    first_node,
    forget_empty,
    launched,
    tasks_per_node,
    unused_tasks,
)

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "7",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29400",
}
DEEPSPEED = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "CROSS_RANK": "1",
    "CROSS_SIZE": "2",
    "WORLD_SIZE": "8",
    "LOCAL_SIZE": "4",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29400",
}
SRUN = {
    "SLURM_JOB_ID": "12345",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[03,07]",
    "MASTER_PORT": "29400",
}
ALIKE = {
    "rank": 5,
    "local_rank": 1,
    "node_rank": 1,
    "world_size": 8,
    "local_world_size": 4,
    "port": 29400,
}


@pytest.mark.parametrize(
    ("variables", "by", "address"),
    [
        (TORCHRUN, "torchrun", "n1"),
        (DEEPSPEED, "the DeepSpeed launcher", "n1"),
        (SRUN, "srun", "gpu03"),
        (SRUN | {"MASTER_ADDR": "10.0.0.1"}, "srun", "10.0.0.1"),
        (SRUN | TORCHRUN, "torchrun", "n1"),
    ],
    ids=["torchrun", "deepspeed", "srun", "srun with an address", "torchrun in a SLURM job"],
)
def test_each_launcher_tells_the_same(variables: dict[str, str], by: str, address: str) -> None:
    found = launched(variables)
    assert found == Launched(by=by, address=address, **ALIKE)
    assert found.num_nodes == 2


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PTY_PORT": "1"},
        {"MASTER_ADDR": "localhost", "LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"},
    ],
    ids=["nothing", "a job's own shell", "a shell on a node", "a child of Lightning's launcher"],
)
def test_a_process_that_no_launcher_has_started(variables: dict[str, str]) -> None:
    assert launched(variables) is None


def test_a_single_task_is_one_rank_whatever_a_file_says() -> None:
    one = {
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_STEP_TASKS_PER_NODE": "1",
        "SLURM_STEP_NODELIST": "n1",
    }
    found = launched(one)
    assert (found.world_size, found.num_nodes, found.address) == (1, 1, "n1")


def test_tasks_that_are_started_from_a_shell_on_a_node_are_ranks() -> None:
    """They inherit the variable by which that shell is known."""
    found = launched(SRUN | {"SLURM_PTY_PORT": "1"})
    assert found == launched(SRUN)


def test_two_jobs_meet_at_two_ports() -> None:
    without = {k: v for k, v in SRUN.items() if k != "MASTER_PORT"}
    ports = [launched(without | {"SLURM_JOB_ID": job}).port for job in ("12345", "12346")]
    assert ports[0] != ports[1]
    assert all(1024 < port < 32768 for port in ports)


def test_forgotten_srun_is_noticed() -> None:
    assert unused_tasks({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) == 8
    assert unused_tasks(SRUN) == unused_tasks(TORCHRUN) == unused_tasks({}) == 0


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "RANK"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_variable_counts_as_not_set(name: str, value: str) -> None:
    assert launched({name: value}) is None
    assert unused_tasks({"SLURM_JOB_ID": "1", name: value}) == 0
    environment = {name: value, "SLURM_JOB_ID": "1", "PATH": ""}
    forget_empty(environment)
    assert environment == {"SLURM_JOB_ID": "1", "PATH": ""}


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "SLURM_JOB_NODELIST", "SLURM_JOB_ID"])
def test_an_empty_variable_beside_those_of_a_step_changes_nothing(name: str) -> None:
    without = {k: v for k, v in SRUN.items() if k != name}
    assert launched(without | {name: ""}) == launched(without)


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"])
def test_a_step_without_its_numbers_is_refused(name: str) -> None:
    with pytest.raises(DpinnError, match=f"{name} is ''"):
        launched(SRUN | {name: ""})


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "5,3"}, ["unevenly", "5,3", "--ntasks-per-node"]),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "many"}, ["tasks per node", "many"]),
        (TORCHRUN | {"WORLD_SIZE": "7"}, ["torchrun", "7 ranks", "4 on this node"]),
        (TORCHRUN | {"RANK": "8"}, ["rank 8 of 8"]),
        (TORCHRUN | {"LOCAL_RANK": "4"}, ["4 of 4 on this node"]),
        (TORCHRUN | {"MASTER_PORT": "x"}, ["MASTER_PORT", "'x'"]),
        (DEEPSPEED | {"MASTER_ADDR": ""}, ["MASTER_ADDR"]),
    ],
)
def test_contradictions_are_told(variables: dict[str, str], words: list[str]) -> None:
    with pytest.raises(DpinnError) as error:
        launched(variables)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("name", ["LOCAL_WORLD_SIZE", "MASTER_ADDR", "GROUP_RANK"])
def test_a_variable_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(DpinnError, match=f"torchrun has started this process, but {name} is not"):
        launched({k: v for k, v in TORCHRUN.items() if k != name})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-05,9],login", "gpu03"),
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("rack1-gpu[7]-ib,x", "rack1-gpu7-ib"),
        ("rack[0-1]_blade[3-4]", "rack0_blade3"),
        ("r1i[0-1]n[0-3]", "r1i0n0"),
        ("r1i[2,4]n[07-09,11]-ib0,r2i0n0", "r1i2n07-ib0"),
        ("n[001-010,012]", "n001"),
        ("a1,b[2-3]", "a1"),
        ("a[1-2],b[3-4]c[5-6]", "a1"),
        ("", ""),
    ],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


@pytest.mark.parametrize(
    ("packed", "tasks"),
    [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,2(x2)", [1, 2, 2]), ("16(x2)", [16, 16])],
)
def test_slurms_list_of_tasks_is_unfolded(packed: str, tasks: list[int]) -> None:
    assert tasks_per_node(packed) == tasks
