"""``dpinn submit``: a training becomes a job of SLURM, checked before it is queued."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpinn.bench.configured import Configured, configured
from dpinn.errors import DpinnError
from dpinn.launch import slurm
from dpinn.launch.checks import require_partition, require_points, soap_summary
from dpinn.launch.jobs import JOB, SCRIPT, active_job
from dpinn.launch.script import Resources, batch_script
from dpinn.launch.tasks import Task, array_indices, seed_tasks, sweep_tasks
from dpinn.run_files import (
    CHECKPOINT,
    CONFIG,
    PREVIOUS,
    RUN_ID,
    new_run_folder,
    write_atomically,
    write_json,
)
from dpinn.track import MLflowRun, schedule_run

DESCRIPTION = """\
Submit a training to SLURM. It is requeued when its time is over or it is preempted, and goes on
from its last checkpoint. Every option of `dpinn fit` is allowed as well.
"""


def submit_command(arguments: list[str]) -> tuple[dict[str, Any], str, bool]:
    """``dpinn submit``: the result as JSON and as text, and which of the two was asked for."""
    options, rest = _parser().parse_known_args(arguments)
    resources = _resources(options)
    tasks, array = _tasks(options)
    configs = [file for (file,) in options.config]
    if options.run and any((options.run / name).exists() for name in (CHECKPOINT, PREVIOUS)):
        configs = [str(options.run / CONFIG)]  # as `dpinn fit --run` goes on
    files = [argument for file in configs for argument in ("--config", file)]
    settings = configured([*files, *rest])
    # Seeds change nothing that could be wrong.
    variants = [configured([*files, *rest, *task.options]) for task in tasks if options.sweep]
    resources = replace(resources, job_name=options.job_name or settings.module.problem.name)
    for variant in variants or [settings]:
        variant.require_trainable(resources.ranks)
        require_points(variant, resources.ranks)
    soap = soap_summary(settings, resources)
    if not (options.dry_run and not slurm.is_here()):
        require_partition(resources, slurm.partitions())
    if options.dry_run:
        name = f"{settings.module.problem.name}-DATE-TIME"
        run = (options.run or settings.output / name).absolute()
        return {}, _script(resources, run, tasks, array).rstrip("\n"), False
    # The folder of each run, and the MLflow experiment that it belongs to.
    experiments = {
        task.name: variant.experiment
        for task, variant in zip(tasks, variants or [settings] * len(tasks), strict=True)
    } or {"": settings.experiment}
    run, job, pages = _submit(
        options.run, settings, resources, tasks, array, experiments, arguments
    )
    log = run / f"slurm-{job}{'_*' if tasks else ''}.log"
    result = {"job_id": job, "run": str(run), "log": str(log), "ranks": resources.ranks}
    lines = [
        f"job {job}: {resources.job_name} on {_count(resources.nodes, 'node')} with "
        f"{_count(resources.tasks_per_node, 'rank')} each"
        f"{f', {len(tasks)} trainings' if tasks else ''}",
        f"  run     {run}",
        f"  log     {log}",
    ]
    if pages:
        names = sorted({name for name in experiments.values() if name})
        result |= {"mlflow": pages, "experiment": ", ".join(names)}
        more = f" and {len(pages) - 1} more" if len(pages) > 1 else ""
        s = "s" if len(names) > 1 else ""
        lines.append(f"  MLflow  {pages[0]}{more}, experiment{s} {', '.join(names)}")
    if soap is not None:
        lines.append(f"  SOAP    {soap}")
    lines.append(f"`dpinn jobs {shlex.quote(str(run.parent))}` shows how it goes")
    return result, "\n".join(lines), options.json


def _parser() -> ArgumentParser:
    parser = ArgumentParser("dpinn submit", description=DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("--config", required=True, metavar="C", nargs=1, action="append", help="a configuration")
    add("--nodes", type=int, required=True, metavar="N", help="number of nodes")
    gpus = "GPUs on each node, one rank each; 0 for nodes without any"
    add("--gpus-per-node", type=int, required=True, metavar="G", help=gpus)
    tasks = "ranks on each node; as many as GPUs, 1 without any, if left out"
    add("--tasks-per-node", type=int, metavar="T", help=tasks)
    add("--cpus-per-task", type=int, metavar="N", help="CPUs and threads of each rank")
    add("--mem", metavar="M", help="memory of each node, such as 64G")
    add("--time", metavar="T", help="such as 24:00:00; the partition's own if left out")
    grace = "seconds before the end of the time in which to save and requeue"
    add("--grace", type=int, default=120, metavar="S", help=grace)
    for name in ("partition", "account", "qos", "constraint"):
        add(f"--{name}", metavar=name[0].upper(), help=f"{name} of SLURM")
    further = "any other option of sbatch, such as --sbatch=--exclusive; may be repeated"
    add("--sbatch", action="append", default=[], metavar="OPTION", help=further)
    add("--array", metavar="SEEDS", help="a training for each of these seeds: 0-4, 1,3, 0-9%%2")
    sweep = "a training for each value, such as model.clip=1,2; repeated: each combination"
    add("--sweep", action="append", default=[], metavar="KEY=V,V", help=sweep)
    add("--array-limit", type=int, metavar="N", help="so many trainings of a sweep at a time")
    add("--job-name", metavar="NAME", help="the problem's name if left out")
    run = "folder of the run, gone on with where it has a checkpoint; a new one if left out"
    add("--run", type=Path, metavar="FOLDER", help=run)
    add("--dry-run", action="store_true", help="print the script; write and submit nothing")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def _resources(options: Namespace) -> Resources:
    given = vars(options)
    names = ("nodes", "gpus_per_node", "cpus_per_task", "grace", "time", "mem", "partition")
    return Resources(
        job_name="dpinn",
        tasks_per_node=options.gpus_per_node or 1
        if options.tasks_per_node is None
        else options.tasks_per_node,
        **{name: given[name] for name in (*names, "account", "qos", "constraint")},
        further=tuple(options.sbatch),
    )


def _tasks(options: Namespace) -> tuple[list[Task], str | None]:
    """The tasks of an array, and their indices as sbatch takes them."""
    if options.array_limit is not None and not (options.sweep and options.array_limit > 0):
        raise DpinnError(
            f"--array-limit {options.array_limit} must be at least 1 and goes with --sweep; "
            "with seeds write --array 0-9%2"
        )
    if options.array is not None and options.sweep:
        raise DpinnError(
            f"--array {options.array} gives seeds; in a sweep write them as "
            "--sweep seed_everything=0,1,2"
        )
    if options.array is not None:
        return seed_tasks(options.array), options.array
    if options.sweep:
        tasks = sweep_tasks(options.sweep)
        return tasks, array_indices(tasks, options.array_limit)
    return [], None


def _script(resources: Resources, run: Path, tasks: list[Task], array: str | None) -> str:
    return batch_script(
        resources, run, Path.cwd(), Path(sys.executable).absolute().parent, tasks, array
    )


def _submit(
    given: Path | None,
    settings: Configured,
    resources: Resources,
    tasks: list[Task],
    array: str | None,
    experiments: dict[str, str | None],
    arguments: list[str],
) -> tuple[Path, str, list[str]]:
    """Write the run's folder and queue its script; if that fails, all is as it was before.

    Returns:
        The folder, the job's id, and where the MLflow runs are seen.
    """
    output = (given or settings.output).absolute()
    if given is not None and (busy := active_job(given)):
        raise DpinnError(
            f"{given} belongs to job {busy[0]}, which is {busy[1]}; `scancel {busy[0]}` it first, "
            "or choose another --run"
        )
    missing = [folder for folder in (output, *output.parents) if not folder.exists()]
    run = _folder(output) if given else new_run_folder(output, settings.module.problem.name)
    made = [run / name for name in experiments if not (run / name).exists()]
    made += missing if given else [run, *missing]
    scheduled: list[MLflowRun] = []
    files = [run / n for n in (CONFIG, SCRIPT, JOB)] + [run / n / RUN_ID for n in experiments]
    before = {file: file.read_bytes() if file.is_file() else None for file in files}
    try:
        _write(run / CONFIG, settings.text.encode())
        _write(run / SCRIPT, _script(resources, run, tasks, array).encode())
        job = slurm.sbatch(run / SCRIPT)
        try:
            content = {
                "job_id": job,
                "submitted": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": shlex.join(["dpinn", "submit", *arguments]),
                "tasks": {str(task.index): task.name for task in tasks},
            }
            write_json(run / JOB, content)
            # Begun here, so that a job needs no MLflow server at its start.
            for name, experiment in experiments.items():
                if experiment:
                    scheduled.append(schedule_run(experiment, run / name))
            slurm.release(job)
        except BaseException:
            slurm.scancel(job)
            raise
    except BaseException:
        for begun in scheduled:
            begun.take_back()
        for file, was in before.items():
            _put_back(file, was)
        for folder in made:
            with contextlib.suppress(OSError):  # another run may be there by now
                folder.rmdir()
        raise
    return run, job, [begun.url for begun in scheduled]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _folder(run: Path) -> Path:
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DpinnError(f"cannot create {run}: {error.strerror}; choose another --run") from error
    return run


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


def _put_back(path: Path, content: bytes | None) -> None:
    if content is None:
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        path.write_bytes(content)
