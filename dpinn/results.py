"""The table of what runs have reached, from the evaluations in their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpinn.analysis import statement
from dpinn.errors import DpinnError
from dpinn.problems import KNOWN
from dpinn.report import steps_of
from dpinn.run_files import CHECKPOINT, EVALUATION

HEADER = (
    "problem", "horizon", "relative L2 error", "at the start", "reference's own", "steps", "time",
    "seed", "device",
)  # fmt: skip


def collect(output: Path) -> list[dict[str, Any]]:
    """The newest evaluation of every problem below a folder of runs, benchmarks first.

    Raises:
        DpinnError: there is none.
    """
    newest: dict[str, dict[str, Any]] = {}
    for path in sorted(output.glob(f"*/{EVALUATION}"), key=_trained):
        try:
            found = json.loads(path.read_text())
            _row(found)
            newest[found["problem"]] = found
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DpinnError(f"{path} is damaged; `dpinn evaluate` writes it anew") from error
    if not newest:
        raise DpinnError(f"there is no evaluated run below {output.resolve()}; train one first")
    order = [name for name in KNOWN if name in newest]
    return [newest[name] for name in [*order, *sorted(newest.keys() - KNOWN.keys())]]


def table(results: list[dict[str, Any]]) -> str:
    """The evaluations as a table that Markdown reads too, errors field by field."""
    rows = [HEADER, *(_row(result) for result in results)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _trained(evaluation: Path) -> int:
    """When a run was trained; one may be evaluated again long after."""
    checkpoint = evaluation.parent / CHECKPOINT
    return (checkpoint if checkpoint.exists() else evaluation).stat().st_mtime_ns


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    own = result.get("reference_error")
    errors = {k[6:]: v for k, v in result.items() if k.startswith("error/")}
    starts = {k[14:]: v for k, v in result.items() if k.startswith("initial_error/")}
    horizon = result.get("horizon")
    return (
        result["problem"],
        "steady" if horizon is None else f"t = {horizon:g}",
        ", ".join(f"{name} {statement(error, own)}" for name, error in errors.items())
        or "no reference",
        ", ".join(f"{name} {statement(error, None)}" for name, error in starts.items())
        or "unknown",
        "not stated" if own is None else f"{own:.1e}",
        steps_of(result),
        f"{result['seconds']:.0f} s",
        str(result["seed"]),
        result["device"],
    )
