"""The command ``dpinn``."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
import traceback
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from dpinn.errors import DpinnError, DpinnWarning
from dpinn.launch.launched import forget_empty

USAGE = """\
usage: dpinn [--version] [--debug] COMMAND ...

  fit        train a PINN: dpinn fit --config C, or go on: dpinn fit --resume [RUN]
  submit     queue a training with SLURM: dpinn submit --config C --nodes N --gpus-per-node G
  jobs       the submitted trainings below a folder of runs, and how they go
  evaluate   errors and figures of a trained run against the reference
  results    the table of errors of all problems in a folder of runs
  report     the runs of an MLflow experiment side by side: dpinn report EXPERIMENT
  reference  compute and cache the reference solution of a problem
  plan       what sharding SOAP over N ranks would cost: dpinn plan --config C --ranks N
  bench      time a step, the optimizer, or this device: dpinn bench step|optimizer|constants
  doctor     what a training needs of this machine, and what to do where it is missing

`dpinn COMMAND --help` lists the options of a command.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a mistake of the user's ends with one sentence and exit code 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [a for a in given if a != "--debug"]
    warnings.showwarning = partial(_show_warning, set())
    try:
        _run(given)
    except DpinnError as error:
        if debug:
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted", code=130)
    except Exception as error:
        if debug:
            raise
        _fail(_cause(error))


def _run(given: list[str]) -> None:
    forget_empty(os.environ)
    commands: dict[str, Callable[[list[str]], None]] = {
        "fit": _fit,
        "submit": _submit,
        "jobs": _jobs,
        "evaluate": _evaluate,
        "results": _results,
        "report": _report,
        "reference": _reference,
        "plan": _plan,
        "bench": _bench,
        "doctor": _doctor,
    }
    if given[:1] == ["--version"]:
        from importlib.metadata import version

        print(f"dpinn {version('dpinn')}")
    elif not given or given[0] in ("-h", "--help"):
        print(USAGE, end="")
    elif given[0] in commands:
        commands[given[0]](given[1:])
    else:
        raise DpinnError(f"there is no command {given[0]!r}; use one of {', '.join(commands)}")


def _fit(arguments: list[str]) -> None:
    from dpinn.train.cli import fit

    fit(arguments)


def _submit(arguments: list[str]) -> None:
    from dpinn.launch.submit import submit_command

    _answer_to(submit_command, arguments)


def _jobs(arguments: list[str]) -> None:
    from dpinn.launch.jobs import jobs_command

    _answer_to(jobs_command, arguments)


def _evaluate(arguments: list[str]) -> None:
    parser = ArgumentParser(
        "dpinn evaluate", description="Errors and figures of a trained run against the reference."
    )
    parser.add_argument(
        "run", nargs="?", help="run folder, checkpoint or MLflow run id; the newest run if left out"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    from dpinn.report import report, summary
    from dpinn.run_files import newest_run
    from dpinn.solution import load

    run = options.run or str(newest_run())
    solution = load(run)
    result = report(solution, _folder_of(Path(run)), must_write=False)
    _answer(options, result, summary(result))


def _folder_of(run: Path) -> Path:
    """The folder for the report: the run's own, or one in the current folder for an MLflow id."""
    if run.is_dir():
        return run
    if run.is_file():
        return run.parent.parent if run.parent.name == "checkpoints" else run.parent
    return Path("runs") / f"mlflow-{run}"


def _results(arguments: list[str]) -> None:
    parser = ArgumentParser(
        "dpinn results", description="The newest run of every problem as one table of errors."
    )
    parser.add_argument("output", nargs="?", type=Path, default=Path("runs"), help="folder of runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    from dpinn.results import collect, table

    results = collect(options.output)
    _answer(options, {result["problem"]: result for result in results}, table(results))


def _report(arguments: list[str]) -> None:
    parser = ArgumentParser(
        "dpinn report", description="The runs of an MLflow experiment side by side, as one page."
    )
    parser.add_argument("experiment", help="name of the experiment")
    parser.add_argument(
        "--output", type=Path, help="folder for the page; reports/EXPERIMENT if left out"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    from dpinn.track.experiment import Experiment
    from dpinn.track.page import report_folder, report_summary, write_report

    experiment = Experiment.read(options.experiment)
    folder = options.output or report_folder(experiment.name)
    result = write_report(experiment, folder, shlex.join(["dpinn", "report", *arguments]))
    _answer(options, result, report_summary(result))


def _reference(arguments: list[str]) -> None:
    parser = ArgumentParser(
        "dpinn reference", description="Compute and cache the reference solution of a problem."
    )
    parser.add_argument("name", help="burgers, ... or a class path such as my_pde.AllenCahn")
    parser.add_argument("--quick", action="store_true", help="a coarse one, in seconds")
    parser.add_argument(
        "--study", action="store_true", help="solve it anew and print the table of convergence"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    from dpinn.problems import problem_by_name
    from dpinn.reference import Reference, reference_path, study_of, study_table
    from dpinn.report import reference_of

    problem = problem_by_name(options.name)
    source = problem.reference()
    started = time.perf_counter()
    dataset = reference_of(problem, quick=options.quick, anew=options.study)
    if dataset is None or source is None:
        raise DpinnError(f"{type(problem).__name__} has no reference solution")
    path = reference_path(source, options.quick) if isinstance(source, Reference) else Path(source)
    result = {
        "path": str(path),
        "error_estimate": float(dataset.attrs["error_estimate"]),
        "seconds": time.perf_counter() - started,
        "study": [asdict(trial) for trial in study_of(dataset)],
    }
    text = "\n".join(
        [
            f"{problem.name}: {dataset.attrs.get('solver', 'from a file')}",
            f"  grid            {' x '.join(f'{n} {d}' for d, n in dataset.sizes.items())}",
            f"  error estimate  {result['error_estimate']:.1e} (relative L2)",
            f"  path            {path}",
        ]
    )
    if options.study:
        text += "\n" + study_table(dataset)
    _answer(options, result, text)


def _plan(arguments: list[str]) -> None:
    from dpinn.bench.plan import plan_command

    _answer_to(plan_command, arguments)


def _bench(arguments: list[str]) -> None:
    from dpinn.bench.command import bench_command

    _answer_to(bench_command, arguments)


def _doctor(arguments: list[str]) -> None:
    from dpinn.doctor.command import doctor_command

    answer = doctor_command(arguments)
    if answer is None:
        return
    result, text, as_json = answer
    _answer(Namespace(json=as_json), result, text)
    if result["problems"]:
        sys.exit(1)


def _answer_to(
    command: Callable[[list[str]], tuple[dict[str, Any], str, bool]], arguments: list[str]
) -> None:
    result, text, as_json = command(arguments)
    _answer(Namespace(json=as_json), result, text)


def _answer(options: Namespace, result: dict[str, Any], text: str) -> None:
    if options.json:
        # JSON has no NaN: what is not known is null.
        plain = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in result.items()
        }
        print(json.dumps(plain))
    else:
        print(text)


def _cause(error: Exception) -> str:
    """The sentence for an error of a library, or of the user's own code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, OSError) and error.strerror:
        name = f" {error.filename}" if error.filename else ""
        return f"{error.strerror}:{name}" if name else error.strerror
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"out of memory; lower data.batch ({lines[0] if lines else 'no details'})"
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    told = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1]) or "no details"
    return (
        f"{type(error).__name__}: {told} "
        f"({place.filename}, line {place.lineno}); --debug shows the traceback"
    )


def _show_warning(
    shown: set[str], message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: Any = None, line: str | None = None,
) -> None:  # fmt: skip
    """Our own warnings are one line and shown once; those of libraries keep their place.

    Python's own filter forgets what it has shown whenever a library changes the filters.
    """
    if issubclass(category, DpinnWarning):
        sentence = f"warning: {message}"
        if sentence not in shown and _first_to_say(sentence):
            sys.stderr.write(f"dpinn: {sentence}\n")
        shown.add(sentence)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _fail(sentence: str, code: int = 1) -> None:
    if _first_to_say(sentence):
        # In one piece, as several ranks may share the stream.
        sys.stderr.write(f"dpinn: {sentence}\n")
    sys.exit(code)


def _first_to_say(sentence: str) -> bool:
    """Whether no rank of this node has said the same before; torchrun gives its ranks a folder."""
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not error_file:
        return True
    said = Path(error_file).parents[1] / f"said-{sha256(sentence.encode()).hexdigest()}"
    try:
        said.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
