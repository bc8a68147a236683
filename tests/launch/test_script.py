import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dpinn.errors import DpinnError
from dpinn.launch.script import Resources, batch_script, body
from dpinn.launch.tasks import Task, sweep_tasks

REPOSITORY = Path(__file__).parents[2]
BASE: dict[str, Any] = {"job_name": "wave", "nodes": 2, "gpus_per_node": 4, "tasks_per_node": 4}


def script(tasks: list[Task] | None = None, run: str = "/runs/a", **changes: Any) -> str:
    array = f"0-{len(tasks) - 1}" if tasks else None
    return batch_script(
        Resources(**BASE | changes), Path(run), Path("/work"), Path("/env/bin"), tasks or [], array
    )


def options(text: str) -> list[str]:
    """What sbatch is told, as a shell would split it."""
    lines = re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)
    return [word for line in lines for word in shlex.split(line)]


def parsed(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_job_asks_for_tasks_and_gpus_of_each_node() -> None:
    given = options(script())
    assert given == [
        "--job-name=wave",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gpus-per-node=4",
        "--signal=USR1@120",
        "--requeue",
        "--open-mode=append",
        "--output=/runs/a/slurm-%j.log",
        "--chdir=/work",
    ]


def test_a_job_without_gpus_asks_for_none() -> None:
    assert not [o for o in options(script(gpus_per_node=0, tasks_per_node=3)) if "gpu" in o]


def test_what_is_given_stands_among_the_options_and_nothing_else() -> None:
    more = {
        "time": "2-12", "partition": "gpu", "account": "a", "qos": "q", "constraint": "h100&ib",
        "mem": "64G", "cpus_per_task": 8, "grace": 300, "further": ("--exclusive", "--nice=3"),
    }  # fmt: skip
    added = set(options(script(**more))) - set(options(script()))
    assert added == {
        "--time=2-12", "--partition=gpu", "--account=a", "--qos=q", "--constraint=h100&ib",
        "--mem=64G", "--cpus-per-task=8", "--signal=USR1@300", "--exclusive", "--nice=3",
    }  # fmt: skip


def test_every_script_is_one_that_bash_reads() -> None:
    parsed(script())
    parsed(script(sweep_tasks(["data.points={initial: 8},{initial: 16}", "model.clip=1,2"])))
    parsed(script(run="/runs/it's a 'folder'", job_name="a b"))


def test_the_command_survives_spaces_and_quotes() -> None:
    run = "/runs/it's a folder"
    tasks = sweep_tasks(["data.points={initial: 8},{initial: 16}"])
    text = script(tasks, run).split("# --- what follows")[0]
    told = subprocess.run(
        ["bash", "-c", text + '\nprintf "%s\\n" "${command[@]}"'],
        env={"SLURM_ARRAY_TASK_ID": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert told.stdout.splitlines() == [
        "dpinn", "fit", "--config", f"{run}/config.yaml", "--run", f"{run}/{tasks[1].name}",
        "--data.points", "{initial: 16}",
    ]  # fmt: skip
    assert f"--output={run}/slurm-%A_%a.log" in options(text)


def test_a_task_that_the_array_does_not_have_is_refused() -> None:
    text = script(sweep_tasks(["model.clip=1,2"]))
    done = subprocess.run(
        ["bash", "-c", text],
        env={"SLURM_ARRAY_TASK_ID": "9", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "task 9" in done.stderr


def ended(tmp_path: Path, code: int, preempted: bool = False, **variables: str) -> list[str]:
    """What a job's body asks SLURM when its training ends so; ``srun`` and ``scontrol`` note it."""
    noted, time = tmp_path / "noted", "2026-01-01T00:00:00" if preempted else "None"
    noted.write_text("")
    stand_ins = {
        "srun": f'echo "srun $1 $2, meeting at $MASTER_ADDR:$MASTER_PORT" >> {noted}; exit {code}',
        "scontrol": f"""case "$1 $2" in
            "show hostnames") printf "n1\\nn2\\n" ;;
            "show job") echo "JobId=$3 PreemptTime={time}" ;;
            *) echo "scontrol $*" >> {noted} ;;
        esac""",
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    told = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}
    done = subprocess.run(
        ["bash", "-c", "set -u\ncommand=(dpinn fit)\n" + body()],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", **told, **variables},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    lines = noted.read_text().splitlines()
    assert done.returncode == (0 if "scontrol requeue" in lines[-1] else code)
    return lines


@pytest.mark.parametrize("code", [143, 137, 1], ids=["saved", "killed", "before its first step"])
def test_a_preempted_job_is_queued_again_however_its_ranks_end(tmp_path: Path, code: int) -> None:
    assert ended(tmp_path, code, preempted=True)[1:] == ["scontrol requeue 7"]
    assert ended(tmp_path, code)[1:] == []


def test_a_job_comes_back_that_has_saved_and_not_one_that_is_done(tmp_path: Path) -> None:
    assert ended(tmp_path, 75)[1:] == ["scontrol requeue 7"]
    assert ended(tmp_path, 0, preempted=True)[1:] == []
    task = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}
    assert ended(tmp_path, 75, **task)[1:] == ["scontrol requeue 5_2"]


def test_a_job_meets_at_its_own_place_and_lets_rank_0_report(tmp_path: Path) -> None:
    stale = {"MASTER_ADDR": "elsewhere", "MASTER_PORT": "29500"}
    (line,) = ended(tmp_path, 0, **stale)
    assert line == "srun --wait=0 --kill-on-bad-exit=1, meeting at n1:10007"
    (line,) = ended(tmp_path, 0, DPINN_MASTER_ADDR="10.0.0.1")
    assert line.endswith("meeting at 10.0.0.1:10007")


def test_a_percent_sign_of_a_folder_is_no_placeholder_of_slurm() -> None:
    assert "--output=/runs/50%%j/slurm-%j.log" in options(script(run="/runs/50%j"))


def test_the_script_to_edit_by_hand_does_the_same() -> None:
    text = (REPOSITORY / "launch/slurm.sbatch").read_text()
    parsed(text)
    assert text.endswith("\n\n" + body())
    kept = ("--signal", "--requeue", "--open-mode")
    for option in options(script()):
        if option.startswith(kept):
            assert option in options(text)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nodes": 0}, "--nodes 0 must be at least 1"),
        ({"gpus_per_node": -1}, "--gpus-per-node -1 must be at least 0"),
        ({"gpus_per_node": 0, "tasks_per_node": 0}, "--tasks-per-node 0 must be at least 1"),
        ({"cpus_per_task": 0}, "--cpus-per-task 0 must be at least 1"),
        ({"grace": 29}, "--grace 29 must be at least 30"),
        ({"tasks_per_node": 3}, "one GPU"),
        ({"time": "soon"}, "time 'soon'"),
        ({"time": "00:02:00"}, "--time 00:02:00 is 120 s, no longer than --grace 120"),
        ({"further": ("exclusive",)}, "'exclusive' is no option"),
    ],
    ids=str,
)
def test_impossible_resources_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DpinnError) as refusal:
        Resources(**BASE | changes)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--comment=two words", ["--comment=two words"]),
        ("--comment two words", ["--comment", "two words"]),
        ('--comment="two words"', ["--comment=two words"]),
        ("--comment='two words'", ["--comment=two words"]),
        ('--comment=a "b" \\ #c', ['--comment=a "b" \\ #c']),
        ("--comment=it's", ["--comment=it's"]),
        ("-p gpu", ["-p", "gpu"]),
        ("--nice=3", ["--nice=3"]),
        ("--comment=", ["--comment="]),
    ],
)
def test_what_the_user_quoted_stays_one_word(given: str, words: list[str]) -> None:
    script = batch_script(
        Resources("j", 1, 0, 1, further=(given,)), Path("/run"), Path("/here"), Path("/python")
    )
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert shlex.split(lines[-1].removeprefix("#SBATCH")) == words


def test_several_options_in_one_are_refused() -> None:
    with pytest.raises(DpinnError, match="repeat --sbatch"):
        Resources("j", 1, 0, 1, further=("--exclusive --nice=3",))
