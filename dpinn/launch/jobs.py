"""``dpinn jobs``: the submitted trainings below a folder, and how they go."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from dpinn.errors import DpinnError
from dpinn.launch import slurm
from dpinn.run_files import CONFIG, EVALUATION, METRICS, RUNS, read_history

SCRIPT = "job.sbatch"
JOB = "job.json"

ENDS = {0: "COMPLETED", 143: "CANCELLED"}
"""What an exit code says where SLURM has forgotten the job; any other is FAILED."""

BEGINS = re.compile(r"job \S+ begins on \S+, restarts: (\d+)")
ENDED = re.compile(r"job \S+ ended with exit code (\d+)")
SENTENCE = re.compile(r"dpinn: (?!warning: )(.*)")
"""Lines of a job's log: the first two from its script, the third from ``dpinn fit``."""


@dataclass(frozen=True)
class Status:
    """How one training goes.

    Attributes:
        job: its id in SLURM, ``12`` or ``12_3``.
        run: its folder, as seen from the one that was asked about.
        state: SLURM's word for it, or what its files say once SLURM has forgotten it.
        restarts: how often it was queued again.
        step: the last one that was logged.
        max_steps: where the training ends.
        error: the last sentence about what went wrong since it last began.
    """

    job: str
    run: str
    state: str
    restarts: int
    step: int
    max_steps: int | None
    error: str | None


def jobs_command(arguments: list[str]) -> tuple[dict[str, Any], str, bool]:
    """``dpinn jobs``: the result as JSON and as text, and which of the two was asked for."""
    parser = ArgumentParser(
        "dpinn jobs", description="The trainings submitted below a folder, and how they go."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(RUNS), help="folder of runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    jobs, why_not = statuses(options.folder)
    result = {"slurm": why_not is None, "jobs": [asdict(job) for job in jobs]}
    lines = [table(jobs)]
    if why_not is not None:
        lines.append(f"\nstates are from the runs' files: {why_not}")
    return result, "\n".join(lines), options.json


def statuses(folder: Path) -> tuple[list[Status], str | None]:
    """All submitted trainings below a folder, the oldest first; and why SLURM did not answer.

    Raises:
        DpinnError: there are none.
    """
    scripts = [*folder.glob(SCRIPT), *folder.glob(f"*/{SCRIPT}")]
    submitted = [(path.parent, _job(path.parent)) for path in scripts]
    if not submitted:
        raise DpinnError(
            f"there is no submitted run below {folder.resolve()}; submit one with `dpinn submit`"
        )
    submitted.sort(key=lambda pair: pair[1].get("submitted", ""))
    try:
        known = slurm.job_states(job["job_id"] for _, job in submitted if "job_id" in job)
        why_not = None
    except DpinnError as error:
        known, why_not = {}, str(error)
    found: list[Status] = []
    for run, job in submitted:
        number = job.get("job_id", "?")
        names = {f"{number}_{k}": run / name for k, name in job.get("tasks", {}).items()}
        for name, place in (names or {number: run}).items():
            found.append(_status(name, place, run, folder, known.get(name)))
    return found, why_not


def active_job(run: Path) -> tuple[str, str] | None:
    """The job of this run and its state, if it has one that is queued or running."""
    number = _job(run).get("job_id")
    states = slurm.job_states([number]) if number else {}
    active = [state for state in states.values() if state not in slurm.ENDED]
    return (str(number), active[0]) if active else None


def table(jobs: list[Status]) -> str:
    """A line for each training."""
    rows = [("job", "run", "state", "restarts", "step", "error"), *(_row(job) for job in jobs)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(job: Status) -> tuple[str, ...]:
    steps = str(job.step) if job.max_steps is None else f"{job.step} of {job.max_steps}"
    return job.job, job.run, job.state, str(job.restarts), steps, job.error or ""


def _job(run: Path) -> dict[str, Any]:
    path = run / JOB
    try:
        content = json.loads(path.read_text())
        return content if isinstance(content, dict) else {}
    except (OSError, json.JSONDecodeError):
        return {}  # a script that somebody copied here


def _status(job: str, place: Path, run: Path, folder: Path, state: str | None) -> Status:
    log = run / f"slurm-{job}.log"
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    begun = [(k, found) for k, line in enumerate(lines) if (found := BEGINS.match(line))]
    since = lines[begun[-1][0] :] if begun else lines
    codes = [int(found[1]) for line in since if (found := ENDED.match(line))]
    said = [found[1] for line in since if (found := SENTENCE.search(line))]
    history = read_history(place / METRICS)
    return Status(
        job=job,
        run=str(place.relative_to(folder)),
        state=state or _state(place, codes),
        restarts=int(begun[-1][1][1]) if begun else 0,
        step=history[-1]["step"] if history else 0,
        max_steps=_max_steps(place, run),
        error=said[-1] if said else None,
    )


def _state(place: Path, codes: list[int]) -> str:
    """From the files alone."""
    evaluation = place / EVALUATION
    if evaluation.is_file() and '"finished": true' in evaluation.read_text():
        return "COMPLETED"
    return ENDS.get(codes[-1], "FAILED") if codes else "UNKNOWN"


def _max_steps(*folders: Path) -> int | None:
    for folder in folders:
        try:
            steps = yaml.safe_load((folder / CONFIG).read_text())["trainer"]["max_steps"]
            return int(steps)
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
            continue
    return None
