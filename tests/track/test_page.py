import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dpinn.errors import DpinnError
from dpinn.track.comparison import Picture
from dpinn.track.experiment import TrackedRun
from dpinn.track.groups import group_runs
from dpinn.track.page import (
    PAGE,
    PICTURE,
    page,
    report_folder,
    report_summary,
    write_report,
)
from dpinn.track.style import COLOURS
from dpinn.track.tables import duration

from .experiments import made_experiment, made_run, series

VOID = {"meta", "br"}
METRICS = ("error/u", "loss/pde", "loss/ic", "loss/bc", "alignment/intra", "alignment/inter")


class Document(HTMLParser):
    """The elements of a page; fails on one that is not closed where it should be."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag in ("br", "div", "small") and self._in_cell and self.rows[-1][-1]:
            self.rows[-1][-1] += " "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data

    @property
    def _in_cell(self) -> bool:
        return "td" in self._open or "th" in self._open

    @property
    def ids(self) -> list[str]:
        return [a["id"] or "" for _, a in self.elements if "id" in a]

    def row(self, *beginning: str) -> list[str]:
        [row] = [row for row in self.rows if row[: len(beginning)] == list(beginning)]
        return row


def full_runs() -> list[TrackedRun]:
    histories = {name: series(0.9, 0.2) for name in METRICS}
    histories["alignment/preconditioned_by/Kron"] = series(0.1, 0.5)
    histories["time/step_ms"] = series(12.0, 12.0)
    return [
        made_run(optimizer, seed, problem, lr=lr, histories=histories)
        for problem in ("burgers", "wave")
        for optimizer, lr in (("SOAP", 3e-3), ("Adam", 1e-3))
        for seed in range(2)
    ]


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of an experiment with every figure there is."""
    folder = tmp_path_factory.mktemp("full")
    write_report(made_experiment(*full_runs()), folder, "dpinn report study")
    return (folder / PAGE).read_text()


def without_figures(*runs: TrackedRun, name: str = "study") -> tuple[str, Document]:
    """A page of tables, which takes no time."""
    problems = group_runs(runs)
    nothing: dict[str, list[Picture]] = {problem: [] for problem in problems}
    text = page(made_experiment(*runs, name=name), problems, nothing, "dpinn report study")
    return text, Document(text)


def test_the_page_is_whole_and_its_ids_are_its_own(full_page: str) -> None:
    document = Document(full_page)
    assert len(document.ids) > 100
    assert len(document.ids) == len(set(document.ids))
    pointed = {
        (a.get("href") or a.get("xlink:href") or "#").removeprefix("#")
        for _, a in document.elements
    }
    assert pointed - {""} <= set(document.ids)
    figures = [a for tag, a in document.elements if tag == "svg" and a.get("role") == "img"]
    assert len(figures) == 2 * 4
    assert all(a["aria-label"] for a in figures)


def test_clip_paths_point_to_what_is_there(full_page: str) -> None:
    text, document = full_page, Document(full_page)
    clips = set(re.findall(r"url\(#([^)]*)\)", text))
    assert clips
    assert clips <= set(document.ids)


def test_the_page_needs_nothing_else(full_page: str) -> None:
    text, document = full_page, Document(full_page)
    assert not re.search(r"""(src|href|srcset|action)\s*=\s*["']?(https?:|//|data:)""", text)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in document.elements)
    [policy] = [a for _, a in document.elements if a.get("http-equiv")]
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_figures_have_their_colours_from_the_page(full_page: str) -> None:
    style, _, body = full_page.partition("</style>")
    assert not re.search(r"#[0-9a-fA-F]{6}\b", body)
    for light, (variable, dark) in COLOURS.items():
        assert f"{variable}: {light};" in style
        assert f"{variable}: {dark};" in style
        assert dark.lower() not in body
    assert "@media screen and (prefers-color-scheme: dark)" in style  # so paper is always light
    assert "var(--blue)" in body


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    nasty = "<b>\"&'</b>"
    runs = [
        made_run(nasty, seed, problem=nasty, **{"data.<i>": value})
        for seed, value in enumerate(("1", "<script>alert(1)</script>"))
    ]
    write_report(made_experiment(*runs, name=nasty), tmp_path, f"dpinn report {nasty}")
    text = (tmp_path / PAGE).read_text()
    document = Document(text)
    tags = [tag for tag, _ in document.elements]
    assert (tags.count("b"), tags.count("i"), tags.count("script")) == (1, 0, 0)  # b is our own
    headings = [row[0] for row in document.rows]
    assert headings.count(nasty) == 2  # the problem of each run; the groups say more
    assert headings.count(f"{nasty}, <i> <script>alert(1)</script>") == 1
    assert unescape(text).count(f"<title>{nasty}: runs side by side</title>") == 1


def test_the_table_has_the_medians_of_the_seeds() -> None:
    def run(seed: int, error: float, score: float) -> TrackedRun:
        last = {"final_error/u": error, "reference_error": 1e-9}
        histories = {
            "error/u": series(1.0, error),
            "alignment/intra": series(-1.0, score),
            "time/step_ms": series(12.0, 14.0),
        }
        return made_run(seed=seed, last=last, histories=histories)

    runs = [run(0, 0.3, 0.2), run(1, 0.1, 0.4), run(2, 0.25, -0.5)]
    failed = made_run(seed=3, status="failed", last={}, histories={"error/u": series(0.7)})
    text, document = without_figures(*runs, failed)
    assert document.row("SOAP") == [
        "SOAP", "0.003", "0, 1, 2", "20", "2.50e-01 1.00e-01 – 3.00e-01",
        "0.20 −0.50 – 0.40", "—", "10 s", "13", "CPU", "3 finished 1 failed",
    ]  # fmt: skip
    assert "the reference's own error: 1.0e-09" in text
    runs_of_seed_3 = document.row("burgers", "SOAP", "0.003", "3")
    assert runs_of_seed_3[4:9] == ["10 of 20", "7.00e-01 at step 10", "5 s", "—", "failed"]
    assert runs_of_seed_3[9:] == [f"{failed.run_id} runs/3"]
    assert "4 runs of 1 problem with 1 optimizer side by side; 3 finished" in text
    assert "<code>dpinn report study</code>" in text


def test_the_best_of_a_problem_is_first_and_bold() -> None:
    def run(optimizer: str, error: float) -> TrackedRun:
        return made_run(optimizer, last={"final_error/u": error, "reference_error": 1e-3})

    runs = [run("Adam", 0.5), run("Kron", 1e-3), run("SOAP", 2e-3), made_run("ZZ", status="failed")]
    text, document = without_figures(*runs)
    firsts = [row[0] for row in document.rows if len(row) == 11]
    assert firsts[1:5] == ["Kron", "SOAP", "Adam", "ZZ"]
    # Both are below what the reference resolves, so neither is better.
    assert text.count('class="best"') == 2
    assert document.row("SOAP")[4] == "< 5.0e-03"


def test_different_numbers_of_steps_are_marked() -> None:
    longer = {"error/u": series(1.0, 0.1, 0.1)}
    text, _ = without_figures(made_run("SOAP"), made_run("Adam", histories=longer))
    assert "different numbers of steps: 20, 30" in text
    text, _ = without_figures(made_run("SOAP"), made_run("Adam"))
    assert "different numbers of steps" not in text


def test_several_fields_are_told_apart() -> None:
    last = {"final_error/u": 0.1, "final_error/v": 0.2, "reference_error": 1e-9}
    _, document = without_figures(made_run(last=last))
    assert document.row("SOAP")[4] == "u 1.00e-01 v 2.00e-01"


def test_without_a_reference_the_residuals_are_shown() -> None:
    text, document = without_figures(made_run(last={"residual/pde": 1e-3, "residual/ic": 2e-4}))
    assert document.row("SOAP")[4] == "pde 1.00e-03 ic 2.00e-04"
    assert "no reference: root mean square of each residual" in text


def test_runs_in_a_row_that_differ_by_more_than_the_seed_are_named() -> None:
    runs = [made_run(seed=s, **{"trainer.devices": str(s + 1)}) for s in range(2)]
    text, _ = without_figures(*runs)
    assert "burgers, SOAP: <code>trainer.devices</code> is 1, 2" in text


def test_runs_without_curves_have_their_table_and_no_image(tmp_path: Path) -> None:
    result = write_report(made_experiment(made_run(histories={})), tmp_path, "")
    assert result["picture"] is None
    assert [path.name for path in tmp_path.iterdir()] == [PAGE]
    assert "No curves were logged." in (tmp_path / PAGE).read_text()
    assert PICTURE not in report_summary(result)


def test_the_result_is_json_with_paths_and_rows(tmp_path: Path) -> None:
    result = write_report(made_experiment(*full_runs()), tmp_path / "new" / "folder", "")
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert Path(result["page"]).is_file()
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
    assert [(row["problem"], row["optimizer"]) for row in result["rows"]] == [
        ("burgers", "Adam"), ("burgers", "SOAP"), ("wave", "Adam"), ("wave", "SOAP"),
    ]  # fmt: skip
    summary = report_summary(result).splitlines()
    assert len(summary) == 1 + 4 + 2
    assert summary[-1] == f"  figures  {result['picture']}"


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DpinnError, match=r"cannot write .*report.html: .*; choose another --output"
    ):
        write_report(made_experiment(made_run()), tmp_path / "file", "")


@pytest.mark.parametrize(
    ("name", "folder"),
    [("study", "study"), ("../../etc/x", "etc_x"), ("/Users/me/a b", "Users_me_a_b"), ("..", None)],
)
def test_a_report_lies_below_reports_whatever_its_name(name: str, folder: str | None) -> None:
    assert report_folder(name) == Path("reports") / (folder or "experiment")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.512, "0.512 s"), (42.4, "42 s"), (59.7, "1 min 00 s"), (303, "5 min 03 s"),
     (3599.9, "1 h 00 min"), (7629, "2 h 07 min"), (360000, "100 h 00 min")],
)  # fmt: skip
def test_times_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said
