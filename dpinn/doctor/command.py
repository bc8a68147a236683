"""``dpinn doctor``: its options, and how its findings are shown as they come."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from dpinn.doctor.finding import Finding, examine

COLORS = {"ok": "32", "absent": "2", "warning": "33", "problem": "1;31"}
STATE_WIDTH = max(map(len, COLORS))
ERASE_LINE = "\r\x1b[2K"

Answer = tuple[dict[str, Any], str, bool]
"""Result as JSON, what is left to be printed, and whether JSON was asked for."""


def doctor_command(arguments: Sequence[str]) -> Answer | None:
    """Run ``dpinn doctor``; None where another rank of the same call answers."""
    parser = ArgumentParser(
        "dpinn doctor",
        description="Look at all that a training needs of this machine, in about half a minute; "
        "exit code 1 if there is a problem. Of several ranks the first one answers.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if (os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0") != "0":
        return None

    from dpinn.doctor.checks import CHECKS

    width = max(map(len, CHECKS))
    findings = []
    for name, check in CHECKS.items():
        _announce(f"{'':{STATE_WIDTH}}  {name} ...")
        try:
            findings.append(examine(name, check))
        finally:
            _announce("")
        if not options.json:
            print(line_of(findings[-1], width, sys.stdout), flush=True)
    result, text = summary(findings)
    return result, text, options.json


def summary(findings: Iterable[Finding]) -> tuple[dict[str, Any], str]:
    """All findings as plain values, and in a few words."""
    findings = list(findings)
    count = Counter(finding.state for finding in findings)
    result = {
        "problems": count["problem"],
        "warnings": count["warning"],
        "findings": [asdict(finding) for finding in findings],
    }
    told = [
        f"{count[state] or 'no'} {state}{'s' * (count[state] != 1)}"
        for state in ("problem", "warning")
    ]
    return result, ", ".join(told)


def line_of(finding: Finding, width: int, stream: TextIO) -> str:
    """A finding as a line, and its remedy as another; folded and colored on a terminal.

    Args:
        finding: what to show.
        width: that of the longest name.
        stream: where it is going to be printed.
    """
    state = f"{finding.state:{STATE_WIDTH}}"
    indent = " " * (STATE_WIDTH + width + 4)
    text = f"{finding.name:{width}}  {finding.text}"
    remedy = f"{indent}-> {finding.remedy}" if finding.remedy else ""
    if stream.isatty():
        columns = max(shutil.get_terminal_size().columns, len(indent) + 20)
        text = _folded(" " * (STATE_WIDTH + 2) + text, columns, indent).lstrip()
        remedy = _folded(remedy, columns, indent + "   ")
        if "NO_COLOR" not in os.environ:
            state = f"\x1b[{COLORS[finding.state]}m{state}\x1b[0m"
    return f"{state}  {text}" + f"\n{remedy}" * bool(remedy)


def _folded(text: str, columns: int, indent: str) -> str:
    return textwrap.fill(
        text, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _announce(text: str) -> None:
    """What is being looked at, in place, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{ERASE_LINE}{text}")
        sys.stderr.flush()
