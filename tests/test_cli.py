import json
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

from dpinn import cli
from dpinn.cli import USAGE, main
from dpinn.errors import DpinnWarning

from .track.experiments import log_run


@pytest.mark.parametrize(
    "command",
    [[str(Path(sys.executable).with_name("dpinn"))], [sys.executable, "-m", "dpinn"]],
    ids=["dpinn", "python -m dpinn"],
)
def test_the_version_is_that_of_the_package(command: list[str]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"dpinn {version('dpinn')}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=str)
def test_help_lists_the_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments)
    assert capsys.readouterr().out == USAGE
    assert all(command in USAGE for command in ("fit", "evaluate", "report", "reference", "doctor"))


def test_an_unknown_command_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train"])
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "dpinn: there is no command 'train'; "
        "use one of fit, submit, jobs, evaluate, results, report, reference, plan, bench, doctor\n"
    )


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from dpinn.cli import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{USAGE}False\n"


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an experiment with two seeds, in a store in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for seed, error in enumerate((0.1, 0.3)):
        rows = [
            (50, {"error/u": 0.5, "loss/pde": 1.0, "time/elapsed_s": 2.0}),
            (100, {"error/u": error, "loss/pde": 0.1, "time/elapsed_s": 5.0}),
            (100, {"final_error/u": error, "reference_error": 1e-9}),
        ]
        log_run("study", rows, seed=seed)
    return "study"


def test_report_writes_a_page_and_an_image(
    experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["report", experiment])
    assert capsys.readouterr().out == (
        "study: medians over the finished seeds\n"
        "  burgers  SOAP        100 steps  2 of 2 runs   u 2.00e-01\n"
        "  page     reports/study/report.html\n"
        "  figures  reports/study/report.png\n"
    )
    text = Path("reports/study/report.html").read_text()
    assert "<code>dpinn report study</code>" in text
    assert Path("reports/study/report.png").read_bytes().startswith(b"\x89PNG")

    main(["report", experiment, "--output", "else where", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert (result["page"], result["picture"]) == (
        "else where/report.html", "else where/report.png"
    )  # fmt: skip
    [row] = result["rows"]
    assert row["errors"]["u"]["median"] == pytest.approx(0.2)
    assert (row["seeds"], row["seconds"]["median"]) == (["0", "1"], 5.0)
    assert "dpinn report study --output &#x27;else where&#x27; --json" in (
        Path(result["page"]).read_text()
    )

    with pytest.raises(SystemExit) as end:
        main(["report", "stud"])
    assert end.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("dpinn: there is no experiment 'stud' in sqlite:///")
    assert said.err.endswith("there is study, Default\n")


def test_report_without_a_store_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["report", "study"])
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        f"dpinn: there is no experiment 'study': {tmp_path}/mlflow.db does not exist; "
        "set MLFLOW_TRACKING_URI or go to the folder where it was trained\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_warning_of_ours_is_shown_once_whatever_libraries_do_to_the_filters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(given: list[str]) -> None:
        warnings.simplefilter("always")
        for text in ("slow", "slow", "other", "slow"):
            warnings.warn(text, DpinnWarning, stacklevel=1)

    monkeypatch.setattr(cli, "_run", command)
    for _ in range(2):
        with warnings.catch_warnings():
            main([])
        shown = capsys.readouterr().err.splitlines()
        assert shown == ["dpinn: warning: slow", "dpinn: warning: other"]
