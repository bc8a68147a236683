"""The tables of an experiment's page: what each group has reached, and every run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from dpinn.track.drawing import Look
from dpinn.track.experiment import TrackedRun
from dpinn.track.groups import SCORES, Group, Spread
from dpinn.track.style import COLOURS

HEADINGS = (
    "optimizer", "lr", "seeds", "steps", "relative L² error", "alignment:<br>intra",
    "alignment:<br>preconditioned", "training time", "ms / step", "device", "status",
)  # fmt: skip

RUN_HEADINGS = (
    "problem", "optimizer", "lr", "seed", "steps", "relative L² error", "training time",
    "ms / step", "status", "run id and folder",
)  # fmt: skip

TEXT_COLUMNS = frozenset({"optimizer", "problem", "device", "status", "run id and folder"})


def ranked(groups: Iterable[Group]) -> list[Group]:
    """The groups of a problem with the smallest error first, in the field that is worst."""

    def error(group: Group) -> float:
        return max((spread.median for spread in group.errors.values()), default=math.inf)

    return sorted(groups, key=lambda group: (not group.finished, error(group)))


def group_table(problems: Mapping[str, Sequence[Group]], looks: Mapping[str, Look]) -> str:
    """What each group has reached, below the name of its problem.

    Args:
        problems: groups by problem.
        looks: by label, those of the figures.
    """
    rows = []
    for problem, groups in problems.items():
        remarks = _remarks(groups)
        rows.append(
            f'<tr class="problem"><th colspan="{len(HEADINGS)}" scope="rowgroup">'
            f"<b>{escape(problem)}</b> {remarks}</th></tr>"
        )
        best = _best(groups)
        rows += [_group_row(group, best, _swatch(looks[group.label])) for group in ranked(groups)]
    return _table(HEADINGS, rows) + (
        '<p class="quiet">Medians over the finished seeds, lowest and highest below; the smallest '
        "error of a problem is bold. An error of less than five times the reference's own "
        "is given as that bound. Alignment is the mean over the last half of the training.</p>"
    )


def _remarks(groups: Sequence[Group]) -> str:
    own = max(
        (g.reference_error for g in groups if not math.isnan(g.reference_error)), default=None
    )
    if any(group.errors for group in groups):
        stated = "not stated" if own is None else f"{own:.1e}"
        text = f'<span class="quiet">the reference\'s own error: {stated}</span>'
    else:
        text = '<span class="quiet">no reference: root mean square of each residual</span>'
    budgets = sorted({group.budget for group in groups})
    if len(budgets) > 1:
        listed = ", ".join(f"{budget:,}" for budget in budgets)
        text += f' <span class="mark">different numbers of steps: {listed}</span>'
    return text


def _group_row(group: Group, best: Mapping[str, float], swatch: str) -> str:
    statuses = [f"{count} {escape(status)}" for status, count in group.statuses.items()]
    rate = group.learning_rate
    cells = [
        f'<th scope="row">{swatch}{escape(group.label)}</th>',
        _cell("—" if rate is None else f"{rate:g}"),
        _cell(escape(", ".join(group.seeds))),
        _cell(f"{group.budget:,}"),
        _cell(_errors(group, best)),
        *(_cell(_score(group.alignment[name])) for name in SCORES),
        _cell(_spread(group.seconds, duration)),
        _cell(_spread(group.step_ms, lambda ms: f"{ms:.3g}")),
        _cell(escape("; ".join(group.devices)), "wrap"),
        _cell(_lines(statuses), "text"),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _errors(group: Group, best: Mapping[str, float]) -> str:
    """The error of each field, or each residual where there is no reference."""
    if not group.errors:
        norms = {k: _spread(v, lambda norm: f"{norm:.2e}") for k, v in group.residuals.items()}
        return _lines(f"{escape(term)} {norm}" for term, norm in norms.items())
    parts = []
    for field, spread in group.errors.items():
        text = _spread(spread, lambda error: escape(group.statement(error)))
        finite = math.isfinite(spread.median)
        if finite and group.statement(spread.median) == group.statement(best[field]):
            text = f'<span class="best">{text}</span>'
        parts.append(text if len(group.errors) == 1 else f"{escape(field)} {text}")
    return _lines(parts)


def _best(groups: Iterable[Group]) -> dict[str, float]:
    """The smallest error of each field."""
    best: dict[str, float] = {}
    for group in groups:
        for field, spread in group.errors.items():
            best[field] = min(spread.median, best.get(field, math.inf))
    return best


def notes(problems: Mapping[str, Sequence[Group]]) -> str:
    """What makes runs differ that stand in one row; nothing where it is the seed alone."""
    items = [
        f"<li>{escape(problem)}, {escape(group.label)}: <code>{escape(name)}</code> is "
        f"{escape(', '.join(values))}</li>"
        for problem, groups in problems.items()
        for group in groups
        for name, values in group.differing.items()
    ]
    if not items:
        return ""
    return f"<p>Runs in one row differ by more than the seed:</p><ul>{''.join(items)}</ul>"


def run_table(problems: Mapping[str, Sequence[Group]]) -> str:
    """Every single run, with where to find it."""
    rows = [
        _run_row(group, run)
        for groups in problems.values()
        for group in groups
        for run in group.runs
    ]
    return _table(RUN_HEADINGS, rows)


def _run_row(group: Group, run: TrackedRun) -> str:
    rate, seconds, step_ms = run.learning_rate, run.seconds, run.step_ms
    done = f"{run.steps:,}" if run.finished else f"{run.steps:,} of {run.budget:,}"
    cells = [
        f'<th scope="row">{escape(run.problem)}</th>',
        _cell(escape(run.optimizer), "text"),
        _cell("—" if rate is None else f"{rate:g}"),
        _cell(escape(run.seed)),
        _cell(done),
        _cell(_run_errors(group, run)),
        _cell("—" if seconds is None else duration(seconds)),
        _cell("—" if step_ms is None else f"{step_ms:.3g}"),
        _cell(escape(run.status), "text"),
        _cell(f"<code>{escape(run.run_id)}<small>{escape(run.folder)}</small></code>", "text"),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _run_errors(group: Group, run: TrackedRun) -> str:
    """Final errors; of a run that has none, the last ones on the way."""
    finals = {f: group.statement(error) for f, error in run.final_errors.items()}
    watched = {
        name.removeprefix("error/"): f"{series.values[-1]:.2e} at step {int(series.steps[-1]):,}"
        for name, series in run.histories.items()
        if name.startswith("error/")
    }
    shown = finals or watched
    return _lines(
        escape(text if len(shown) == 1 else f"{field} {text}") for field, text in shown.items()
    )


# --- cells ---------------------------------------------------------------------------------------


def _table(headings: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(
        f'<th scope="col"{" class=text" if heading in TEXT_COLUMNS else ""}>{heading}</th>'
        for heading in headings
    )
    body = "\n".join(rows)
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _cell(content: str, kind: str = "") -> str:
    return f'<td class="{kind}">{content}</td>' if kind else f"<td>{content}</td>"


def _lines(parts: Iterable[str]) -> str:
    """A cell's content in lines of its own."""
    return "".join(f"<div>{part}</div>" for part in parts) or "—"


def _swatch(look: Look) -> str:
    """The line that a group has in the figures."""
    dashes = {"-": "", "--": "5 2", ":": "2 2", "-.": "5 2 2 2"}[look.line]
    line = f'stroke="var({COLOURS[look.colour][0]})" stroke-width="4" stroke-dasharray="{dashes}"'
    return (
        '<svg class="swatch" viewBox="0 0 24 10" aria-hidden="true">'
        f'<path d="M0 6H24" {line}/></svg>'
    )


def _spread(spread: Spread | None, shown: Callable[[float], str]) -> str:
    """The median with its range, where there is one to be seen."""
    if spread is None:
        return "—"
    median, lowest, highest = map(shown, (spread.median, spread.lowest, spread.highest))
    return median if lowest == highest else f"{median}<small>{lowest} – {highest}</small>"


def _score(spread: Spread | None) -> str:
    return _spread(spread, lambda score: f"{score:.2f}".replace("-", "−"))


def duration(seconds: float) -> str:
    """A time as it is said: ``42 s``, ``5 min 03 s``, ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
