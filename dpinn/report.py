"""What a run has reached: errors against the reference, residuals, figures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from dpinn.analysis import (
    Array,
    Evaluation,
    axes_of,
    compare_flows,
    evaluate,
    observe,
    predict,
    statement,
    window_errors,
)
from dpinn.errors import DpinnError, DpinnWarning
from dpinn.jet.plan import TIME
from dpinn.loss import ResidualSums, TermLayout
from dpinn.problem import Problem
from dpinn.reference import FileReference, load_reference
from dpinn.reference.domain import on_domain
from dpinn.run_files import (
    ALIGNMENT,
    EVALUATION,
    FIGURES,
    METRICS,
    read_history,
    write_atomically,
    write_json,
)
from dpinn.sampling import Collocation
from dpinn.solution import Solution

RESIDUAL_POINTS = 8192
"""Interior points of the residual norms; sampling error about one percent."""

GRID = 201
"""Points along each axis of a figure where there is no reference grid to take."""

MOST_POINTS = 1_000_000
"""Of such a grid; with three axes it has fewer points along each."""

DIGITS = 4
"""Of the many numbers over time in the written result."""


def reference_of(problem: Problem, quick: bool = False, anew: bool = False) -> xr.Dataset | None:
    """The reference solution of a problem, computed where it is not cached; None without one."""
    source = problem.reference()
    if source is None:
        return None
    if isinstance(source, (str, Path)):
        free = tuple(problem.up_to_constant)
        source = FileReference(
            str(source),
            problem.domain.coordinates,
            fields=tuple(f for f in problem.fields if f not in free),
            optional=(*free, *(q.name for q in problem.quantities)),
        )
    found = load_reference(source, quick=quick, anew=anew)
    if not isinstance(source, FileReference):
        return found
    return on_domain(found, problem, f"the reference file {source.path}")


def report_axes(problem: Problem, reference: xr.Dataset | None) -> dict[str, Array]:
    """The grid of a report: that of the reference, or one for figures; {} if nothing is drawn."""
    if reference is not None:
        return axes_of(reference, problem)
    coordinates = problem.domain.coordinates
    if len(coordinates) > 3:
        return {}
    points = min(GRID, int(MOST_POINTS ** (1 / len(coordinates))))
    return {c: np.linspace(*problem.domain[c], points) for c in coordinates}


def report(
    solution: Solution,
    folder: Path,
    must_write: bool = True,
    predictions: Mapping[str, Array] | None = None,
    figures: bool = True,
) -> dict[str, Any]:
    """Evaluate a solution and write ``evaluation.json`` and figures into a run's folder.

    Args:
        solution: what was trained.
        folder: of the run.
        must_write: a folder that cannot be written is an error; else it is a warning.
        predictions: of all fields and quantities at the points of `report_axes`, one after the
            other or in the grid's shape, where several ranks have computed them together.
        figures: whether to draw them.

    Returns:
        ``problem``, ``residual/<term>`` (root mean square), ``horizon``, ``steps``,
        ``planned_steps``, ``finished``, ``seconds``,
        ``device``, ``seed``, ``run``, ``figures`` and ``mlflow_run_id``. With a reference
        ``error/<name>``, ``initial_error/<name>`` where it is known, ``reference_error``; of a
        problem in time ``error_over_time``, ``{"t": [...], name: [...]}``, and ``window_errors``,
        ``{name: [...]}``, for several windows; of a flow ``flow``, see `FlowComparison.facts`.
        None stands for a number that is not finite, and for what a file does not state.
    """
    problem, facts = solution.problem, solution.facts
    dataset = reference_of(problem)
    axes = report_axes(problem, dataset)
    evaluation = _evaluation(solution, dataset, axes, predictions)
    flow = compare_flows(problem, axes, evaluation.predictions, dataset)
    result: dict[str, Any] = {"problem": problem.name}
    if dataset is not None:
        result |= _errors(solution, evaluation, dataset)
    if flow is not None and (numbers := flow.facts()):
        result["flow"] = {name: _short(number) for name, number in numbers.items()}
    result |= {f"residual/{k}": v for k, v in residual_norms(solution).items()}
    result |= {
        "horizon": problem.domain[TIME][1] if TIME in problem.domain.coordinates else None,
        "steps": facts.steps,
        "planned_steps": facts.planned_steps,
        "finished": facts.planned_steps is None or facts.steps >= facts.planned_steps,
        "seconds": round(facts.seconds, 3),
        "device": facts.device,
        "seed": facts.seed,
        "run": str(folder),
        "figures": [],
        "mlflow_run_id": facts.mlflow_run_id,
    }
    result = _without_nan(result)
    from dpinn.track.pictures import pictures

    history = read_history(folder / METRICS) + read_history(folder / ALIGNMENT)
    drawn = pictures(problem, axes, evaluation, dataset, solution.windows, flow, history)
    try:
        for name, write in drawn if figures else ():
            write_atomically(folder / FIGURES / name, write)
            result["figures"].append(str(folder / FIGURES / name))
        write_json(folder / EVALUATION, result)
    except DpinnError as error:
        if must_write:
            raise
        reason = str(error).partition(";")[0]
        warnings.warn(
            f"figures and {EVALUATION} were not written: {reason}", DpinnWarning, stacklevel=2
        )
    return result


def steps_of(result: Mapping[str, Any]) -> str:
    """How many steps were taken, and of how many where that was not all."""
    steps = str(result["steps"])
    return steps if result["finished"] else f"{steps} of {result['planned_steps']}"


def summary(result: dict[str, Any]) -> str:
    """The result of `report` as lines for a person."""
    lines = [
        f"{result['problem']}: {steps_of(result)} steps in {result['seconds']:.0f} s "
        f"on {result['device']}"
    ]
    if not result["finished"]:
        lines.append(
            "  the training is not finished: what its later stages would train is not trained yet"
        )
    if "reference_error" in result:
        own = result["reference_error"]
        for key in (k for k in result if k.startswith("error/")):
            name = key.removeprefix("error/")
            line = f"  relative L2 error of {name:<12} {statement(result[key], own)}"
            if (initial := result.get(f"initial_{key}")) is not None:
                line += f"  (initial guess {statement(initial, own)})"
            lines.append(line)
        for name, errors in result.get("window_errors", {}).items():
            told = ["-" if e is None else statement(e, own).replace(" ", "") for e in errors]
            lines.append(f"    by window, {name:<21}{' '.join(told)}")
        lines.append(
            f"  the reference's own error         {'not stated' if own is None else f'{own:.1e}'}"
        )
    else:
        lines.append("  there is no reference solution; root mean square of each residual:")
        lines += [
            f"    {k[9:]:<12} {'not finite' if v is None else f'{v:.2e}'}"
            for k, v in result.items()
            if k.startswith("residual/")
        ]
    for path in result["figures"]:
        lines.append(f"  {'animation' if path.endswith('.gif') else 'figure':<11} {path}")
    lines.append(f"  run         {result['run']}")
    if result["mlflow_run_id"]:
        lines.append(f"  MLflow run  {result['mlflow_run_id']}")
    return "\n".join(lines)


def residual_norms(solution: Solution) -> dict[str, float]:
    """Root mean square of every term of the problem at fresh random points."""
    problem, pinn = solution.problem, solution.pinn
    parameter = next(pinn.parameters())
    collocation = Collocation(problem, RESIDUAL_POINTS, seed=12345)
    layout = TermLayout.build(collocation)
    points = collocation.batch_at(0, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad():
        held = problem.to(parameter.dtype, parameter.device)
        sums = ResidualSums(pinn, held, collocation)(points)
    means = [float(m.mean()) for m in layout.means(sums)]
    return {name: math.sqrt(m) for name, m in zip(layout.names, means, strict=True)}


def _evaluation(
    solution: Solution,
    dataset: xr.Dataset | None,
    axes: Mapping[str, Array],
    predictions: Mapping[str, Array] | None,
) -> Evaluation:
    """Errors and predictions; the latter alone without a reference."""
    if predictions is not None:
        shape = tuple(len(axis) for axis in axes.values())
        predictions = {name: values.reshape(shape) for name, values in predictions.items()}
    elif axes:
        parameter = next(solution.pinn.parameters())
        look = observe(solution.pinn, solution.problem)
        predictions = predict(look, axes, parameter.device, parameter.dtype)
    else:
        predictions = {}
    if dataset is None:
        return Evaluation({}, math.nan, dict(predictions))
    return evaluate(predictions, solution.problem, dataset)


def _errors(solution: Solution, evaluation: Evaluation, dataset: xr.Dataset) -> dict[str, Any]:
    """What the result says about the errors."""
    problem, initial = solution.problem, solution.facts.initial_errors
    found: dict[str, Any] = {f"error/{name}": e for name, e in evaluation.errors.items()}
    found |= {f"initial_error/{n}": e for n, e in initial.items() if n in evaluation.errors}
    found["reference_error"] = evaluation.reference_error
    if len(solution.windows) > 1:
        by_window = window_errors(evaluation, problem, dataset, solution.windows)
        found["window_errors"] = {n: [_short(e) for e in errors] for n, errors in by_window.items()}
    if evaluation.over_time:
        over_time = {TIME: axes_of(dataset, problem)[TIME]} | evaluation.over_time
        found["error_over_time"] = {n: [_short(e) for e in es] for n, es in over_time.items()}
    return found


def _short(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


def _without_nan(value: Any) -> Any:
    """The same with None in place of numbers that are not finite, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
