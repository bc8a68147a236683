"""The scripts of ``launch/``: what they start, and what they say of mistakes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
BINARIES = Path(sys.executable).parent
TRAINERS = ("local.sh", "torchrun.sh", "deepspeed.sh")
ALL = (*TRAINERS, "mlflow.sh")
TWO_RANKS = {"NPROC_PER_NODE": "2", "DS_ACCELERATOR": "cpu"}

STAND_IN = """\
#!/bin/sh
[ "$1" = -c ] && exec {python} "$@"
echo "$$ $OMP_NUM_THREADS $MLFLOW_SERVER_ALLOWED_HOSTS"
echo "$(basename "$0") $@"
exit 7
"""
"""A program that tells how it was started, but for the questions that a script asks Python."""


def start(work: Any, script: str, *arguments: Any, **environment: str) -> Any:
    path = {"PATH": f"{BINARIES}:{os.environ['PATH']}"}
    return work.start_real(LAUNCH / script, *arguments, **{**path, **environment})


def run(work: Any, script: str, *arguments: Any, **environment: str) -> Any:
    return start(work, script, *arguments, **environment).wait()


def mistake(work: Any, script: str, *arguments: Any, **environment: str) -> str:
    """The one sentence that the script says of wrong usage, before it starts anything."""
    outcome = run(work, script, *arguments, **environment)
    assert outcome.returncode == 2, outcome
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"{script}: ")
    return line.removeprefix(f"{script}: ")


@pytest.fixture
def stand_ins(work: Any) -> str:
    """A PATH on which the programs only tell how they were started."""
    folder = work.folder / "bin"
    folder.mkdir()
    for name in ("dpinn", "python", "deepspeed", "mlflow", "pdsh"):
        (folder / name).write_text(STAND_IN.format(python=sys.executable))
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


@pytest.fixture
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="no shellcheck here (apt-get install shellcheck)"
)
def test_shellcheck_finds_nothing() -> None:
    scripts = sorted(LAUNCH.glob("*.sh"))
    done = subprocess.run(
        ["shellcheck", "--external-sources", *scripts],
        cwd=LAUNCH.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


# --- what they start ------------------------------------------------------------------------


@pytest.mark.parametrize("script", ALL)
def test_help_is_the_comment_at_the_top(script: str, work: Any) -> None:
    outcome = run(work, script, "--help")
    assert outcome.returncode == 0
    assert f"  launch/{script} " in outcome.stdout
    assert "set -euo" not in outcome.stdout


@pytest.mark.parametrize("script", TRAINERS)
def test_without_a_configuration_the_usage_is_shown_as_a_mistake(script: str, work: Any) -> None:
    outcome = run(work, script)
    assert outcome.returncode == 2
    assert outcome.stdout == ""
    assert f"  launch/{script} CONFIG [options" in outcome.stderr


@pytest.mark.parametrize("script", TRAINERS)
def test_the_script_becomes_what_it_said_it_would_start(
    script: str, work: Any, stand_ins: str
) -> None:
    work.config()
    options = ("--trainer.max_steps", "10", "--problem.speed", "a b")
    running = start(
        work, script, "tiny.yaml", *options, PATH=stand_ins, NPROC_PER_NODE="2", OMP_NUM_THREADS="3"
    )
    outcome = running.wait()
    assert outcome.returncode == 7
    said, how, command = outcome.stdout.splitlines()
    assert how.split() == [str(running.pid), "3"]
    given = "fit --config tiny.yaml --trainer.max_steps 10 --problem.speed a b"
    assert given in command
    assert said.strip().replace("\\", "").startswith(f"OMP_NUM_THREADS=3 {command}")
    assert r"a\ b" in said


def test_a_run_is_resumed_by_options_alone(work: Any, stand_ins: str) -> None:
    outcome = run(work, "local.sh", "--resume", "runs/x", PATH=stand_ins)
    assert outcome.stdout.splitlines()[-1] == "dpinn fit --resume runs/x"


@pytest.mark.parametrize(("ranks", "share"), [(1, 1), (2, 2), (1000, 1000)])
def test_the_ranks_of_a_node_share_its_cores(
    ranks: int, share: int, work: Any, stand_ins: str
) -> None:
    work.config()
    environment = {"PATH": stand_ins, "OMP_NUM_THREADS": "", "NPROC_PER_NODE": str(ranks)}
    outcome = run(work, "torchrun.sh", "tiny.yaml", **environment)
    threads = max(1, len(os.sched_getaffinity(0)) // share)
    assert outcome.stdout.splitlines()[1].split()[1:] == [str(threads)]


def test_several_nodes_meet_at_the_first(work: Any, stand_ins: str) -> None:
    work.config()
    environment = {
        "NNODES": "2",
        "NODE_RANK": "1",
        "MASTER_ADDR": "localhost",
        "NPROC_PER_NODE": "4",
    }
    outcome = run(work, "torchrun.sh", "tiny.yaml", PATH=stand_ins, **environment)
    command = outcome.stdout.splitlines()[-1]
    assert "--nnodes 2 --node-rank 1 --master-addr localhost --master-port 29500" in command
    assert "--nproc-per-node 4 --max-restarts 0" in command


def test_deepspeed_reaches_the_nodes_of_a_hostfile(work: Any, stand_ins: str) -> None:
    work.config()
    work.file("hosts", "node0 slots=4\nnode1 slots=4\n")
    outcome = run(work, "deepspeed.sh", "tiny.yaml", PATH=stand_ins, HOSTFILE="hosts")
    command = outcome.stdout.splitlines()[-1]
    assert command.startswith("deepspeed --hostfile hosts --force_multi --master_port 29500 ")
    assert "--module --no_local_rank" in command


def test_deepspeed_takes_the_visible_gpus(work: Any, stand_ins: str) -> None:
    work.config()
    environment = {"PATH": stand_ins, "NPROC_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": "4,6,7"}
    command = run(work, "deepspeed.sh", "tiny.yaml", **environment).stdout.splitlines()[-1].split()
    world = command[command.index("--world_info") + 1]
    decoded = subprocess.run(["base64", "-d"], input=world, capture_output=True, text=True)
    assert decoded.stdout == '{"localhost": ["4", "6"]}'


def test_mlflow_listens_to_this_machine_alone_unless_told_otherwise(
    work: Any, stand_ins: str
) -> None:
    port = {"PATH": stand_ins, "MLFLOW_PORT": free_port()}
    said, uri, how, command = run(work, "mlflow.sh", **port).stdout.splitlines()
    assert command == f"mlflow server --host 127.0.0.1 --port {port['MLFLOW_PORT']}"
    assert "MLFLOW_BACKEND_STORE_URI=sqlite:///mlflow.db" in said
    assert uri == f"export MLFLOW_TRACKING_URI=http://127.0.0.1:{port['MLFLOW_PORT']}"
    assert len(how.split()) == 2
    tls = ("--uvicorn-opts", "--ssl-keyfile key --ssl-certfile cert")
    outcome = run(work, "mlflow.sh", *tls, MLFLOW_HOST="0.0.0.0", **port)
    _, uri, how, command = outcome.stdout.splitlines()
    assert command.startswith("mlflow server --host 0.0.0.0 ")
    assert uri.startswith("export MLFLOW_TRACKING_URI=https://")
    assert f"{socket.gethostname()}:*" in how


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:s3cr3t@db:5432/mlflow",
        "postgresql+psycopg://me:s3cr3t:@s3cr3t@db/mlflow",
        "mysql://db/mlflow?user=me&password=s3cr3t&ssl=1",
    ],
)
def test_the_password_of_the_database_is_not_shown(uri: str, work: Any, stand_ins: str) -> None:
    environment = {"PATH": stand_ins, "MLFLOW_PORT": free_port()}
    outcome = run(work, "mlflow.sh", MLFLOW_BACKEND_STORE_URI=uri, **environment)
    assert "s3cr3t" not in outcome.stdout + outcome.stderr
    assert "***" in outcome.stdout.splitlines()[0]
    outcome = run(work, "mlflow.sh", "--backend-store-uri", uri, **environment)
    assert "s3cr3t" not in outcome.stdout.splitlines()[0]


# --- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize("script", TRAINERS)
def test_a_configuration_that_does_not_exist(script: str, work: Any) -> None:
    sentence = mistake(work, script, "no.yaml", **TWO_RANKS)
    assert sentence.startswith(f"there is no configuration no.yaml in {work.folder}; give the path")


@pytest.mark.parametrize("script", ALL)
def test_programs_that_are_not_there(script: str, work: Any) -> None:
    work.config()
    environment = TWO_RANKS | {"PATH": "/usr/bin:/bin", "MLFLOW_PORT": free_port()}
    sentence = mistake(work, script, *(["tiny.yaml"] if script in TRAINERS else []), **environment)
    assert "activate the virtual environment in which" in sentence


@pytest.mark.parametrize("script", ["torchrun.sh", "deepspeed.sh"])
@pytest.mark.parametrize("count", ["0", "two", "-1", "1.5"])
def test_numbers_of_processes_that_are_none(script: str, count: str, work: Any) -> None:
    work.config()
    port = free_port()
    sentence = mistake(work, script, "tiny.yaml", NPROC_PER_NODE=count, MASTER_PORT=port)
    assert sentence == f"NPROC_PER_NODE is '{count}'; it must be a whole number from 1 on"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"NNODES": "0"}, "NNODES is '0'; it must be a whole number from 1 on"),
        ({"NNODES": "1:2"}, "NNODES is '1:2'; it must be a whole number from 1 on"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set; with 2 nodes it must be the name or address "
         "of node 0"),
        ({"MASTER_ADDR": "node.invalid"}, f"{socket.gethostname()} does not know the address of "
         "MASTER_ADDR, node.invalid; give a name or address that all nodes can reach"),
        ({"NODE_RANK": ""}, "NODE_RANK is ''; it must be a whole number from 0 to 1"),
        ({"NODE_RANK": "2"}, "NODE_RANK is '2'; it must be a whole number from 0 to 1"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is '65536'; it must be a whole number from 1 to "
         "65535"),
    ],
    ids=lambda v: " ".join("=".join(p) for p in v.items()) if isinstance(v, dict) else "",
)  # fmt: skip
def test_nodes_that_cannot_meet(given: dict[str, str], sentence: str, work: Any) -> None:
    work.config()
    right = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1", "NPROC_PER_NODE": "1"}
    assert mistake(work, "torchrun.sh", "tiny.yaml", **{**right, **given}) == sentence


def test_a_port_that_is_in_use(work: Any, taken_port: str) -> None:
    work.config()
    nodes = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    port = {"MASTER_PORT": taken_port, "MLFLOW_PORT": taken_port}
    for script in ("torchrun.sh", "deepspeed.sh", "mlflow.sh"):
        arguments = () if script == "mlflow.sh" else ("tiny.yaml",)
        sentence = mistake(work, script, *arguments, **TWO_RANKS, **nodes, **port)
        assert f"port {taken_port} " in sentence
        assert "is in use; set M" in sentence


def test_a_hostfile_that_does_not_exist(work: Any) -> None:
    work.config()
    sentence = mistake(work, "deepspeed.sh", "tiny.yaml", HOSTFILE="hosts")
    assert sentence.startswith("there is no hostfile hosts; give a file with a line NAME slots=")


def test_more_processes_than_visible_gpus(work: Any) -> None:
    work.config()
    environment = {"NPROC_PER_NODE": "3", "CUDA_VISIBLE_DEVICES": "4,6", "MASTER_PORT": free_port()}
    sentence = mistake(work, "deepspeed.sh", "tiny.yaml", **environment)
    assert sentence == (
        "NPROC_PER_NODE is 3, but CUDA_VISIBLE_DEVICES names 2 GPUs, 4,6; make them fit"
    )


def test_a_node_without_a_gpu_asks_for_the_number_of_processes(work: Any) -> None:
    work.config()
    environment = {"CUDA_VISIBLE_DEVICES": "", "NPROC_PER_NODE": ""}
    sentence = mistake(work, "torchrun.sh", "tiny.yaml", **environment)
    assert f"there is no GPU on {socket.gethostname()}; set NPROC_PER_NODE" in sentence


def sentence_of_the_ranks(outcome: Any) -> str:
    """What the ranks said, once, and nothing of the launcher beside it."""
    assert outcome.returncode == 1, outcome
    assert len(outcome.stdout.splitlines()) == 1, outcome.stdout
    return outcome.sentence


@pytest.mark.slow
@pytest.mark.parametrize("script", TRAINERS)
def test_an_output_folder_that_cannot_be_written_is_told_once(script: str, work: Any) -> None:
    # Nobody can create anything there, root neither.
    config = work.config({"tracking.output": "/proc/runs"})
    port = {"MASTER_PORT": free_port()}
    outcome = run(work, script, config, **TWO_RANKS, **port)
    sentence = sentence_of_the_ranks(outcome)
    assert sentence.startswith("cannot create /proc/runs/wave-")
    assert sentence.endswith("choose another --tracking.output")


@pytest.mark.slow
def test_a_mistake_that_all_ranks_find_is_told_once(work: Any) -> None:
    config = work.config({"trainer.strategy": "fsdp"})
    outcome = run(work, "torchrun.sh", config, **TWO_RANKS)
    assert "trainer.strategy is 'fsdp'; it must be auto" in sentence_of_the_ranks(outcome)


@pytest.mark.slow
def test_a_node_that_waits_in_vain_for_the_others_says_so(work: Any) -> None:
    given = ("--nnodes", 2, "--node-rank", 1, "--master-addr", "127.0.0.1")
    where = ("--master-port", free_port(), "--rdzv-conf", "timeout=3")
    command = (sys.executable, "-m", "dpinn.launch.torchrun", *given, *where, "-m", "dpinn", "fit")
    outcome = work.real(*command)
    assert outcome.returncode == 1
    assert outcome.sentence.startswith("the nodes did not meet (The client socket has timed out")
    assert "start the same command on each" in outcome.sentence


# --- MLflow ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_mlflow_serves_runs_and_files_and_ends_on_sigterm(
    work: Any, wait_until: Callable[..., None]
) -> None:
    port = free_port()
    server = start(work, "mlflow.sh", "--workers", "1", MLFLOW_PORT=port)
    uri = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        time.sleep(0.2)
        try:
            return urllib.request.urlopen(f"{uri}/health", timeout=5).status == 200
        except OSError:
            return False

    wait_until(answers, "the server")
    config = work.config({"tracking.mlflow": True, "tracking.figures": True})
    outcome = work("fit", "--config", config, MLFLOW_TRACKING_URI=uri)
    assert outcome.returncode == 0, outcome.stderr
    assert uri in outcome.stdout
    server.kill(signal.SIGTERM)
    outcome = server.wait()
    assert outcome.stdout.splitlines()[1] == f"export MLFLOW_TRACKING_URI={uri}"
    assert (work.folder / "mlflow.db").is_file()
    assert list((work.folder / "mlartifacts").rglob("*.png"))
